/// Bytes of a sound file: numbers of any width and either order.
#pragma once

#include <chiasm/impl/file_bytes.hpp>

#include <cstddef>
#include <cstdint>

namespace chiasm::inline CHIASM_ABI::detail {

struct AudioBytes : FileBytes {
  bool big_endian = false;

  std::uint64_t number(std::size_t offset, std::size_t count) const { return number(at(offset, count), count); }
  /// `count` bytes as one unsigned number; the caller has checked that they are there.
  std::uint64_t number(const std::uint8_t* p, std::size_t count) const noexcept {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value |= std::uint64_t{p[i]} << 8 * (big_endian ? count - 1 - i : i);
    return value;
  }
};

}  // namespace chiasm
