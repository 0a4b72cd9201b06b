# The installed tree: headers, static library, CMake package, pkg-config file.
