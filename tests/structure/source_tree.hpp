/// The source tree as the structure tests see it: files, their lines, and commands run on them.
#pragma once

#include "support/paths.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// Files below include/chiasm with one of these extensions, as "core/tensor.hpp", sorted.
inline std::vector<std::string> library_files(const std::vector<std::string>& extensions) {
  const std::filesystem::path root = source_dir() + "/include/chiasm";
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root))
    if (std::find(extensions.begin(), extensions.end(), entry.path().extension().string()) != extensions.end())
      files.push_back(entry.path().lexically_relative(root).generic_string());
  std::sort(files.begin(), files.end());
  return files;
}

inline std::string read_library_file(const std::string& file) { return read_text(source_dir() + "/include/chiasm/" + file); }

/// What `#include <...>` and `#include "..."` name in a text.
inline std::vector<std::string> includes_of(const std::string& text) {
  std::vector<std::string> names;
  for (const std::string& line : lines_of(text)) {
    const std::size_t hash = line.find_first_not_of(" \t");
    if (hash == std::string::npos || line.compare(hash, 8, "#include") != 0) continue;
    const std::size_t begin = line.find_first_of("<\"", hash), end = line.find_first_of(">\"", begin + 1);
    if (begin != std::string::npos && end != std::string::npos) names.push_back(line.substr(begin + 1, end - begin - 1));
  }
  return names;
}

struct Result {
  int status;
  std::string output;
};

/// Runs a shell command; its output and errors together.
inline Result run(const std::string& command) {
  std::FILE* pipe = popen(("{ " + command + "\n} 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) return {-1, "popen failed"};
  std::string output;
  std::array<char, 4096> buffer;
  for (std::size_t size; (size = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) output.append(buffer.data(), size);
  return {pclose(pipe), output};
}
