cmake_minimum_required(VERSION 3.21)

# Runs at installation: the headers that other programs may include, in their folders.
#   SOURCE, LAYERS: where they are; DESTINATION: where they go.
# A door's header, which shows a third party's, stays inside; so does one that only its own folder
# asks for, unless an installed one includes it.
foreach(layer ${LAYERS})
    file(GLOB_RECURSE found RELATIVE ${SOURCE}
        ${SOURCE}/${layer}/*.c ${SOURCE}/${layer}/*.h ${SOURCE}/${layer}/*.def ${SOURCE}/${layer}/*.inc)
    list(APPEND files ${found})
endforeach()

foreach(file ${files})
    get_filename_component(folder ${file} DIRECTORY)
    string(REGEX REPLACE "\\.c$" ".h" own ${file})
    file(STRINGS ${SOURCE}/${file} lines REGEX "^#include \"")
    foreach(line ${lines})
        string(REGEX REPLACE "^#include \"([^\"]*)\".*" "\\1" header ${line})
        get_filename_component(home ${header} DIRECTORY)
        list(APPEND includes_of_${file} ${header})
        if(NOT header STREQUAL own)
            list(APPEND asked ${header})
        endif()
        if(NOT home STREQUAL folder)
            list(APPEND public ${header})
        endif()
    endforeach()
endforeach()
foreach(file ${files})
    if(file MATCHES "\\.h$" AND NOT file IN_LIST asked)
        list(APPEND public ${file})
    endif()
endforeach()

list(FILTER public EXCLUDE REGEX "_door\\.h$")
while(public)
    list(POP_FRONT public header)
    if(NOT header IN_LIST installed)
        list(APPEND installed ${header})
        list(APPEND public ${includes_of_${header}})
        get_filename_component(folder ${header} DIRECTORY)
        file(INSTALL ${SOURCE}/${header} DESTINATION ${DESTINATION}/${folder})
    endif()
endwhile()
