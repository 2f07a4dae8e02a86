/// Strings as JSON files have them.
#pragma once

#include <chiasm/version.hpp>

#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// `text` as JSON has it between quotation marks.
inline void append_json_string(std::string& to, std::string_view text) {
  to += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      to += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char digits[] = "0123456789abcdef";
      to += {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
    } else {
      to += c;
    }
  }
  to += '"';
}

}  // namespace detail
}  // namespace chiasm
