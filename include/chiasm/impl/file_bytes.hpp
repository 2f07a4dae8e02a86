/// FileBytes: the bytes of a file of foreign make, read with checked bounds and errors that name the offset.
#pragma once

#include <chiasm/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI::detail {

struct FileBytes {
  const std::uint8_t* data;
  std::size_t size;
  const std::string& name;
  std::size_t base = 0;  // where data[0] stands in the file

  [[noreturn]] void fail(std::size_t offset, const std::string& what) const { throw FormatError(name, base + offset, what); }

  /// Bytes [offset, offset + count), or FormatError.
  const std::uint8_t* at(std::size_t offset, std::size_t count) const {
    if (offset > size || count > size - offset)
      fail(offset, "truncated: " + std::to_string(count) + " bytes expected, " + std::to_string(offset > size ? 0 : size - offset) + " left");
    return data + offset;
  }
  bool starts_with(std::string_view magic, std::size_t offset = 0) const noexcept {
    return offset <= size && std::string_view(reinterpret_cast<const char*>(data) + offset, size - offset).starts_with(magic);
  }
};

}  // namespace chiasm
