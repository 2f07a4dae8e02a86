#pragma once

#include <chiasm/core/mapped_file.hpp>

#include <cstdint>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace chiasm::inline CHIASM_ABI {
namespace detail {

CHIASM_INLINE void Unmap::operator()([[maybe_unused]] void* begin) const noexcept {
#if defined(__unix__) || defined(__APPLE__)
  ::munmap(begin, length);
#endif
}

#if defined(__linux__)
/// Advice is a wish: where the system does not know it, pages come and go as they did.
inline void advise(const std::byte* data, std::size_t bytes, int advice) noexcept {
  constexpr std::uintptr_t page = 4096;
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(data) / page * page;
  ::madvise(reinterpret_cast<void*>(first), reinterpret_cast<std::uintptr_t>(data) + bytes - first, advice);
}
#endif

CHIASM_INLINE void release_pages([[maybe_unused]] const std::shared_ptr<const void>& owner, [[maybe_unused]] const std::byte* data, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__)
  // Whole pages, and the neighbours' parts of the first and the last.
  if (std::get_deleter<Unmap>(owner) != nullptr && bytes != 0) advise(data, bytes, MADV_DONTNEED);
#endif
}

CHIASM_INLINE MappedRange::MappedRange(const std::shared_ptr<const void>& owner, const std::byte* data, std::size_t bytes) noexcept : owner_(owner), data_(data), bytes_(bytes) {
#if defined(__linux__) && defined(MADV_POPULATE_READ)
  if (std::get_deleter<Unmap>(owner) != nullptr && bytes != 0) advise(data, bytes, MADV_POPULATE_READ);  // Linux 5.14; before that pages come one by one
#endif
}

CHIASM_INLINE MappedRange::~MappedRange() { release_pages(owner_, data_, bytes_); }

}  // namespace detail
}  // namespace chiasm
