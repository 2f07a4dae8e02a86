/// The lines of a corpus of texts, as JSON; raw bytes that are no UTF-8 are base64.
#pragma once

#include "support/catch.hpp"
#include "support/sha256.hpp"

#include <chiasm/io/json.hpp>

#include <fstream>
#include <string>
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
  const std::vector<std::byte> bytes = base64(line["b64"].as_string());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
