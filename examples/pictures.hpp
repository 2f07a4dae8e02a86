/// Pictures on the command line: files, and folders of them.
#pragma once

#include <chiasm/core/error.hpp>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>
#include <vector>

namespace examples {

inline bool is_picture(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr const char* endings[] = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".tif", ".tiff",
#ifdef CHIASM_HAS_WEBP
                                     ".webp",
#endif
  };
  return std::find(std::begin(endings), std::end(endings), ending) != std::end(endings);
}

/// Files as they are given, folders by the pictures in them (not below), in the order of their names. Throws chiasm::FileError.
inline std::vector<std::string> pictures(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      if (!std::filesystem::exists(path)) throw chiasm::FileError(path, "there is no such file or folder");
      files.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.is_regular_file() && is_picture(entry.path())) found.push_back(entry.path().string());
    if (found.empty()) throw chiasm::FileError(path, "there is no picture in this folder");
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

}  // namespace examples
