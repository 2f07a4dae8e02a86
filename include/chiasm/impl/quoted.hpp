/// A name from a file, for a message: hostile ones may have megabytes.
#pragma once

#include <chiasm/version.hpp>

#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

inline std::string quoted(std::string_view name) {
  constexpr std::size_t limit = 200;
  return "'" + std::string(name.substr(0, limit)) + (name.size() > limit ? "...'" : "'");
}

}  // namespace detail
}  // namespace chiasm
