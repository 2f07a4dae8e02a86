/// The lines of a corpus of texts, as JSON; raw bytes that are no UTF-8 are base64.
#pragma once

#include "support/catch.hpp"

#include <chiasm/io/json.hpp>

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

inline std::vector<chiasm::Json> json_lines(const std::string& path) {
  std::vector<chiasm::Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (!line.empty()) lines.push_back(chiasm::Json::parse(line, path));
  REQUIRE(!lines.empty());
  return lines;
}

/// A line's text.
inline std::string input(const chiasm::Json& line) {
  if (!line.contains("b64")) return line["t"].as<std::string>();
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::string_view text = line["b64"].as_string();
  std::string bytes;
  unsigned bits = 0, count = 0;
  for (const char c : text.substr(0, text.find('='))) {
    bits = bits << 6 | static_cast<unsigned>(letters.find(c));
    if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 0xFFU);
  }
  return bytes;
}
