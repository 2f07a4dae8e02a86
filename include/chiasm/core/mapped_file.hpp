/// MappedFile: how memory that shows a file is told from other memory, and how its pages come and go.
#pragma once

#include <chiasm/version.hpp>

#include <cstddef>
#include <memory>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// The deleter of a file map's owner. std::get_deleter<Unmap> tells the owner of a file map from that of other memory.
struct Unmap {
  std::size_t length = 0;
  void operator()(void* begin) const noexcept;
};

/// If the bytes are of a file map, lets their pages leave the process's memory; they come back when they are read again.
void release_pages(const std::shared_ptr<const void>& owner, const std::byte* data, std::size_t bytes) noexcept;

/// Bytes that are read once, from begin to end, while this lives. If they are of a file map, they come in one go, and leave the process's memory
/// afterwards (the system's cache of the file still has them). Of other memory nothing is touched.
class MappedRange {
 public:
  MappedRange(const std::shared_ptr<const void>& owner, const std::byte* data, std::size_t bytes) noexcept;
  MappedRange(const MappedRange&) = delete;
  MappedRange& operator=(const MappedRange&) = delete;
  ~MappedRange();

 private:
  const std::shared_ptr<const void> owner_;
  const std::byte* const data_;
  const std::size_t bytes_;
};

}  // namespace detail
}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/mapped_file.ipp>
#endif
