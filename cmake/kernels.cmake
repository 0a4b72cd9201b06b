# One source of inner loops, compiled once per instruction set; core/kernels.c picks at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(core/kernels/avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    set_source_files_properties(core/kernels/avx512.c PROPERTIES
        COMPILE_OPTIONS "-mavx512f;-mavx2;-mfma;-mf16c")
endif()

# Loops over numbers, which no parser enters: what libFuzzer wants takes minutes to compile there. Of
# the others, what AddressSanitizer would see at the access is checked once, and scopes, which take as
# long to compile as all else, are not watched; nor is what this processor cannot run.
set(sources core/kernels/baseline.c core/kernels/avx2.c)
set(others core/kernels/avx512.c)
file(STRINGS /proc/cpuinfo has_avx512 REGEX "avx512f" LIMIT_COUNT 1)
if(has_avx512)
    list(APPEND sources ${others})
    set(others)
endif()
set(none -fno-sanitize=all)
if(NIBBLE_SANITIZE MATCHES "fuzzer")
    list(APPEND none -fno-sanitize-coverage=trace-pc-guard)
    list(APPEND others ${sources})
    set(sources)
endif()
if(NIBBLE_SANITIZE)
    set_property(SOURCE ${others} APPEND PROPERTY COMPILE_OPTIONS "${none}")
endif()
if(NIBBLE_SANITIZE MATCHES "address" AND sources)
    set_property(SOURCE ${sources} APPEND PROPERTY COMPILE_OPTIONS
        -fno-sanitize=null,pointer-overflow,object-size -fno-sanitize-address-use-after-scope)
endif()
# Whole suites run with the second; the others are a third of the time to compile.
if(NIBBLE_SANITIZE)
    set_property(SOURCE core/kernels/baseline.c core/kernels/avx512.c APPEND PROPERTY
        COMPILE_OPTIONS -O1)
    set_property(SOURCE core/kernels/avx2.c APPEND PROPERTY COMPILE_OPTIONS -O3)
endif()
