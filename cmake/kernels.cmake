# One source of inner loops, compiled once per instruction set; core/kernels.c picks at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(core/kernels/avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    set_source_files_properties(core/kernels/avx512.c PROPERTIES
        COMPILE_OPTIONS "-mavx512f;-mavx2;-mfma;-mf16c")
endif()

# Loops over numbers, which no parser enters: what libFuzzer wants takes minutes to compile there.
if(NIBBLE_SANITIZE MATCHES "fuzzer")
    foreach(kernel baseline avx2 avx512)
        set_property(SOURCE core/kernels/${kernel}.c APPEND PROPERTY
            COMPILE_OPTIONS "-fno-sanitize=all;-fno-sanitize-coverage=trace-pc-guard")
    endforeach()
endif()
