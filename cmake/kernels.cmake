# One source of inner loops, compiled once per instruction set; core/kernels.c picks at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(core/kernels/avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    set_source_files_properties(core/kernels/avx512.c PROPERTIES
        COMPILE_OPTIONS "-mavx512f;-mavx2;-mfma;-mf16c")
endif()

# Loops over numbers, which no parser enters: what libFuzzer wants takes minutes to compile there. Of
# the others, what AddressSanitizer would see at the access is checked once, and scopes, which take as
# long to compile as all else, are not watched.
set(options)
if(NIBBLE_SANITIZE MATCHES "fuzzer")
    set(options -fno-sanitize=all -fno-sanitize-coverage=trace-pc-guard)
elseif(NIBBLE_SANITIZE MATCHES "address")
    set(options -fno-sanitize=null,pointer-overflow -fno-sanitize-address-use-after-scope)
endif()
set_property(SOURCE core/kernels/baseline.c core/kernels/avx2.c core/kernels/avx512.c APPEND PROPERTY
    COMPILE_OPTIONS "${options}")
# These two are not what whole suites run with a sanitizer: a third of the time to compile.
if(NIBBLE_SANITIZE)
    set_property(SOURCE core/kernels/baseline.c core/kernels/avx512.c APPEND PROPERTY
        COMPILE_OPTIONS -O1)
endif()
