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

CHIASM_INLINE MappedRange::MappedRange(const std::shared_ptr<const void>& owner, [[maybe_unused]] const std::byte* data, std::size_t bytes) noexcept {
  if (std::get_deleter<Unmap>(owner) == nullptr || bytes == 0) return;
#if defined(__linux__)
  constexpr std::uintptr_t page = 4096;
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(data) / page * page;
  begin_ = reinterpret_cast<void*>(first);
  bytes_ = reinterpret_cast<std::uintptr_t>(data) + bytes - first;
#if defined(MADV_POPULATE_READ)
  ::madvise(begin_, bytes_, MADV_POPULATE_READ);  // Linux 5.14; before that it fails, and pages come one by one
#endif
#endif
}

CHIASM_INLINE MappedRange::~MappedRange() {
#if defined(__linux__)
  // Whole pages, and the neighbours' parts of the first and the last: they come back when they are asked for.
  if (begin_ != nullptr) ::madvise(begin_, bytes_, MADV_DONTNEED);
#endif
}

}  // namespace detail
}  // namespace chiasm
