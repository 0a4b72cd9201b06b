# One source of inner loops, compiled once per instruction set; core/kernels.c picks at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(core/kernels/avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    set_source_files_properties(core/kernels/avx512.c PROPERTIES
        COMPILE_OPTIONS "-mavx512f;-mavx2;-mfma;-mf16c")
endif()
