/// Where the tests find their data: tests/golden in the repository, and the larger reference collection where it is there.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#ifndef CHIASM_SOURCE_DIR
#define CHIASM_SOURCE_DIR "."
#endif

/// Root of the source tree.
inline std::string source_dir() { return CHIASM_SOURCE_DIR; }

/// A file or folder under tests/golden, committed with the tests.
inline std::string test_data(const std::string& relative) { return source_dir() + "/tests/golden/" + relative; }

/// A file or folder of the whole reference collection: CHIASM_SHARED_DIR, or `shared` beside the checkout. None if it is not there.
inline std::optional<std::string> shared_data(const std::string& relative) {
  const char* configured = std::getenv("CHIASM_SHARED_DIR");
  const std::string path = (configured ? std::string(configured) : source_dir() + "/../shared") + "/" + relative;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}
