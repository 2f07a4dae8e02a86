#pragma once
#include <string>

/// A plugin's interface: nothing of chiasm in it.
__attribute__((visibility("default"))) std::string see(const char* model, const char* picture, const char* question);
