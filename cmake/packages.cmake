# Third-party packages, each under the short name that layer() uses. Debian's own, found through
# pkg-config or as plain headers; what is missing is named with the apt line that brings it.
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

function(package name module debian)
    pkg_check_modules(${name} QUIET IMPORTED_TARGET ${module})
    if(NOT ${name}_FOUND)
        message(FATAL_ERROR "${module} is missing: sudo apt install ${debian}")
    endif()
    add_library(nibble_${name} INTERFACE)
    target_link_libraries(nibble_${name} INTERFACE PkgConfig::${name})
    add_library(${name} ALIAS nibble_${name})
    set_property(GLOBAL APPEND PROPERTY NIBBLE_MODULES ${module}) # for the installed package
endfunction()

package(openblas openblas libopenblas-dev)
package(hdf5 hdf5-serial libhdf5-dev)
package(zlib zlib zlib1g-dev)
package(png libpng libpng-dev)
package(yaml yaml-0.1 libyaml-dev)
package(jansson jansson libjansson-dev)
package(utf8proc libutf8proc libutf8proc-dev)
package(pcre2 libpcre2-8 libpcre2-dev)
package(xxhash libxxhash libxxhash-dev)

# Random123 is headers only.
find_path(RANDOM123_INCLUDE_DIR Random123/philox.h)
if(NOT RANDOM123_INCLUDE_DIR)
    message(FATAL_ERROR "Random123 is missing: sudo apt install librandom123-dev")
endif()
add_library(random123 INTERFACE)
target_include_directories(random123 SYSTEM INTERFACE ${RANDOM123_INCLUDE_DIR})
