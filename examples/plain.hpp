/// How answers are compared: in lower case, without white space around and without a final full stop.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>

namespace examples {

inline std::string plain(std::string text) {
  const auto blank = [](unsigned char c) { return std::isspace(c) != 0; };
  while (!text.empty() && blank(static_cast<unsigned char>(text.back()))) text.pop_back();
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), [&](char c) { return blank(static_cast<unsigned char>(c)); }));
  if (text.ends_with('.')) text.pop_back();
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace examples
