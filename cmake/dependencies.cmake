# Dependencies: an installed package first, else fetched. All that the library itself needs are headers and threads.
include(FetchContent)

# Warnings are errors for this project's code, not for what is fetched.
set(chiasm_warning_as_error ${CMAKE_COMPILE_WARNING_AS_ERROR})
set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)

# Headers of a source tree, without running its own CMakeLists.txt.
macro(chiasm_fetch_headers name target include_dir url)
  message(STATUS "${name} is not installed: fetching ${url}")
  FetchContent_Declare(${name} URL ${url} SOURCE_SUBDIR no-cmake DOWNLOAD_EXTRACT_TIMESTAMP OFF)
  FetchContent_MakeAvailable(${name})
  string(TOLOWER ${name} chiasm_fetched)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE ${${chiasm_fetched}_SOURCE_DIR}/${include_dir})
endmacro()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 3.4 QUIET NO_MODULE)
endif()
if(NOT TARGET Eigen3::Eigen)
  chiasm_fetch_headers(eigen Eigen3::Eigen .
    https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz)
endif()

if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3.11 QUIET)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  chiasm_fetch_headers(nlohmann_json nlohmann_json::nlohmann_json include
    https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz)
endif()

if(NOT TARGET stb::stb)
  find_package(stb QUIET MODULE)
endif()
if(NOT TARGET stb::stb)
  chiasm_fetch_headers(stb stb::stb .
    https://github.com/nothings/stb/archive/8b5f1f37b5b75829fc72d38e7b5d4bcbf8a26d55.tar.gz)
endif()

# Only libjpeg-turbo gives Pillow's pixels; other libjpegs are left alone.
find_package(JPEG QUIET)
if(JPEG_FOUND AND NOT DEFINED CHIASM_LIBJPEG_TURBO)
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_LIBRARIES JPEG::JPEG)
  check_cxx_source_compiles("
    #include <cstdio>
    #include <jpeglib.h>
    #ifndef LIBJPEG_TURBO_VERSION
    #error not libjpeg-turbo
    #endif
    int main() { jpeg_error_mgr errors; return jpeg_std_error(&errors) == nullptr; }" CHIASM_LIBJPEG_TURBO)
  unset(CMAKE_REQUIRED_LIBRARIES)
endif()

if(NOT TARGET WebP::webp)
  find_package(WebP QUIET MODULE)
endif()

if(NOT TARGET hnswlib::hnswlib)
  find_package(hnswlib QUIET MODULE)
endif()

if(CHIASM_BUILD_TESTS)
  find_package(Catch2 QUIET)
  if(NOT Catch2_FOUND)
    message(STATUS "Catch2 is not installed: fetching it")
    FetchContent_Declare(Catch2 URL https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz
      SYSTEM DOWNLOAD_EXTRACT_TIMESTAMP OFF)
    FetchContent_MakeAvailable(Catch2)
  endif()
endif()

if(CHIASM_BUILD_EXAMPLES)
  find_package(CLI11 QUIET)
  if(NOT TARGET CLI11::CLI11)
    chiasm_fetch_headers(cli11 CLI11::CLI11 include https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz)
  endif()
endif()

if(CHIASM_BUILD_BENCH)
  find_package(benchmark QUIET)
  if(NOT TARGET benchmark::benchmark)
    message(STATUS "Google Benchmark is not installed: fetching it")
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    FetchContent_Declare(benchmark URL https://github.com/google/benchmark/archive/refs/tags/v1.8.5.tar.gz
      SYSTEM DOWNLOAD_EXTRACT_TIMESTAMP OFF)
    FetchContent_MakeAvailable(benchmark)
  endif()
endif()

set(CMAKE_COMPILE_WARNING_AS_ERROR ${chiasm_warning_as_error})
