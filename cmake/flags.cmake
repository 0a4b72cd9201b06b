# Compiler flags of every layer. No fast-math and no contraction: the same source gives the same
# bits on every build, so results may be compared with memcmp.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release)
endif()

add_library(nibble_flags INTERFACE)
target_compile_features(nibble_flags INTERFACE c_std_11)
target_compile_definitions(nibble_flags INTERFACE _GNU_SOURCE NIBBLE_VERSION="${PROJECT_VERSION}")
target_compile_options(nibble_flags INTERFACE
    -fno-fast-math -ffp-contract=off -fno-math-errno -fvisibility=hidden
    -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wpointer-arith -Wvla
    -Wwrite-strings -Wno-missing-field-initializers
    $<$<BOOL:${NIBBLE_WERROR}>:-Werror>)
# With sanitizers, compiling less saves more than running longer loses; the whole suite runs with
# AddressSanitizer alone.
set(level -O3)
if(NIBBLE_SANITIZE MATCHES "fuzzer|thread")
    set(level -O1)
elseif(NIBBLE_SANITIZE)
    set(level -O2)
endif()
string(REPLACE "-O2" "${level}" CMAKE_C_FLAGS_RELWITHDEBINFO "${CMAKE_C_FLAGS_RELWITHDEBINFO}")
string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_RELWITHDEBINFO "${CMAKE_C_FLAGS_RELWITHDEBINFO}")

if(NIBBLE_SANITIZE)
    target_compile_options(nibble_flags INTERFACE
        -fsanitize=${NIBBLE_SANITIZE} -fno-omit-frame-pointer -g1) # lines are enough for a report
    target_link_options(nibble_flags INTERFACE -fsanitize=${NIBBLE_SANITIZE})
    if(NIBBLE_SANITIZE MATCHES "fuzzer")
        target_compile_definitions(nibble_flags INTERFACE NIBBLE_FUZZ)
    endif()
    if(NIBBLE_SANITIZE MATCHES "undefined")
        target_compile_options(nibble_flags INTERFACE -fno-sanitize-recover=undefined)
    endif()
endif()
