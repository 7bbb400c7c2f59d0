# Cross-compiles for 64-bit ARM with Debian's g++-aarch64-linux-gnu. The target's CPython and its headers are in CMAKE_SYSROOT; what
# aarch64-sysroot.sh lays out is taken where it isn't given.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
if(NOT CMAKE_SYSROOT)
  get_filename_component(CMAKE_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64/sysroot ABSOLUTE)
endif()
