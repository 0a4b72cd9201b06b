# One source of inner loops, compiled once per instruction set; core/kernels.c picks at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(core/kernels/avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    set_source_files_properties(core/kernels/avx512.c PROPERTIES
        COMPILE_OPTIONS "-mavx512f;-mavx2;-mfma;-mf16c")
endif()

# With sanitizers. No parser enters these loops over numbers, and what libFuzzer wants takes minutes to
# compile here. Of the others, what AddressSanitizer would see at the access is checked once, and
# scopes, which take as long to compile as all else, are not watched. Whole suites run with AVX2. What
# this processor cannot run is only compiled.
if(NIBBLE_SANITIZE)
    set(plain -fno-sanitize=all)
    set(options)
    if(NIBBLE_SANITIZE MATCHES "fuzzer")
        list(APPEND plain -fno-sanitize-coverage=trace-pc-guard)
        set(options ${plain})
    elseif(NIBBLE_SANITIZE MATCHES "address")
        set(options -fno-sanitize=null,pointer-overflow,object-size
            -fno-sanitize-address-use-after-scope)
    endif()
    file(STRINGS /proc/cpuinfo has_avx512 REGEX "avx512f" LIMIT_COUNT 1)
    set(baseline ${options} -O1)
    set(avx2 ${options} -O3)
    set(avx512 ${options} -O1)
    if(NOT has_avx512)
        set(avx512 ${plain} -O0)
    endif()
    foreach(instructions baseline avx2 avx512)
        set_property(SOURCE core/kernels/${instructions}.c APPEND PROPERTY
            COMPILE_OPTIONS "${${instructions}}")
    endforeach()
endif()
