# The installed tree: the program, headers in their folders under include/nibble, the static
# library, a CMake package and a pkg-config file. All of it can be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS nibble RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS libnibble ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

get_property(layers GLOBAL PROPERTY NIBBLE_LAYERS)
install(CODE "
    set(SOURCE \"${PROJECT_SOURCE_DIR}\")
    set(LAYERS \"${layers}\")
    set(DESTINATION \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_INCLUDEDIR}/nibble\")
    include(\"${PROJECT_SOURCE_DIR}/cmake/headers.cmake\")")

# What a program that links the static library must find, too.
get_property(NIBBLE_MODULES GLOBAL PROPERTY NIBBLE_MODULES)
list(JOIN NIBBLE_MODULES " " NIBBLE_MODULES)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/Nibble)
configure_package_config_file(cmake/NibbleConfig.cmake.in
    ${PROJECT_BINARY_DIR}/NibbleConfig.cmake
    INSTALL_DESTINATION ${package_folder}
    PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/NibbleConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/NibbleConfig.cmake
    ${PROJECT_BINARY_DIR}/NibbleConfigVersion.cmake DESTINATION ${package_folder})

file(RELATIVE_PATH NIBBLE_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" NIBBLE_PC_PREFIX "${NIBBLE_PC_PREFIX}")
configure_file(cmake/nibble.pc.in ${PROJECT_BINARY_DIR}/nibble.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/nibble.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
