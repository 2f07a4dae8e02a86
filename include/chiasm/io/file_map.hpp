/// FileMap: the bytes of one file, read-only, without a copy: a memory map, or memory that the caller has.
#pragma once

#include <chiasm/core/error.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

/// Cheap to copy: all copies share the map, and weights made from it keep it through owner().
class FileMap {
 public:
  FileMap() = default;
  /// Bytes in memory. `name` is what errors call them; `owner` keeps them alive, and without one the caller does, as long
  /// as anything made from them lives.
  explicit FileMap(std::span<const std::byte> bytes, std::string name = "<memory>", std::shared_ptr<const void> owner = {})
      : path_(std::move(name)), bytes_(bytes), owner_(std::move(owner)) {}

  /// Maps a file. Where it is cut short by somebody else while it is mapped, the operating system ends the process with
  /// SIGBUS, as with any memory map. Throws FileError: not there, no permission, not a regular file.
  static FileMap open(const std::string& path);

  const std::string& path() const noexcept { return path_; }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  const std::byte* data() const noexcept { return bytes_.data(); }
  std::size_t size() const noexcept { return bytes_.size(); }
  /// Keeps the bytes alive.
  const std::shared_ptr<const void>& owner() const noexcept { return owner_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/file_map.ipp>
#endif
