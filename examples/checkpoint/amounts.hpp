/// Bytes, counts and lists in words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace examples {

/// "5.9 MB", in powers of ten, as download pages count.
inline std::string bytes_text(double bytes) {
  const char* const units[] = {"bytes", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1000;
  char text[40];
  std::snprintf(text, sizeof text, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}
inline std::string bytes_text(std::uint64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

/// "2.9 million"
inline std::string count_text(std::uint64_t count) {
  const double n = static_cast<double>(count);
  char text[40];
  if (count < 100'000)
    std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(count));
  else if (n < 999.5e6)
    std::snprintf(text, sizeof text, "%.1f million", n / 1e6);
  else
    std::snprintf(text, sizeof text, "%.2f billion", n / 1e9);
  return text;
}
inline std::string list_text(const std::vector<std::string>& names, std::size_t most = 6) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) text += (i == 0 ? "" : ", ") + names[i];
  return names.size() > most ? text + " and " + std::to_string(names.size() - most) + " more" : text;
}

}  // namespace examples
