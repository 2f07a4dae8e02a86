// Catch2 v2's main; v3 brings its own in Catch2WithMain, and CMake then leaves this file out.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
