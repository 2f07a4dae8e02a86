#pragma once

#include <chiasm/core/mapped_file.hpp>
#include <chiasm/core/pack.hpp>
#include <chiasm/core/panel.hpp>

#include <algorithm>
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Memory for weights, in huge pages where the system has them: a product reads all of it, and every small page costs it a walk through page tables.
inline std::shared_ptr<std::byte> weight_memory(std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t huge = std::size_t{2} << 20;
  if (bytes >= huge && bytes < SIZE_MAX - huge) {
    const std::size_t length = bytes + huge;  // whatever of it nobody touches costs nothing
    void* const map = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    std::byte* const begin = static_cast<std::byte*>(map) + (huge - reinterpret_cast<std::uintptr_t>(map) % huge) % huge;
    ::madvise(begin, bytes / huge * huge, MADV_HUGEPAGE);  // not the last one, which would be there as a whole
    return {begin, [map, length](std::byte*) { ::munmap(map, length); }};
  }
#endif
  void* const memory = ::operator new(std::max<std::size_t>(bytes, 1), std::align_val_t(64));
  return {static_cast<std::byte*>(memory), [](std::byte* p) { ::operator delete(p, std::align_val_t(64)); }};
}

}  // namespace detail

CHIASM_INLINE Weight pack(const Weight& weight, ThreadPool* pool) {
  if (!is_block_format(weight.dtype()) || weight.layout() == Layout::panels) return weight;
  if (weight.shape().rank() != 2) throw ShapeError("pack", weight.describe() + " '" + weight.name() + "', a matrix expected");
  const std::size_t rows = weight.shape()[0], columns = weight.shape()[1], panels = (rows + panel_outputs - 1) / panel_outputs;
  const std::size_t bytes = panel_bytes(weight.dtype(), columns), row = row_bytes(weight.dtype(), columns);
  const std::shared_ptr<std::byte> memory = detail::weight_memory(panels * bytes);
  const auto some = [&](std::size_t begin, std::size_t end) {
    // In pieces of about a megabyte: the source's pages come and go.
    const std::size_t piece = (std::size_t{1} << 20) / std::max<std::size_t>(bytes, 1) + 1;
    for (std::size_t p = begin; p < end; p += piece) {
      const std::size_t last = std::min(p + piece, end), first_row = p * panel_outputs, last_row = std::min(rows, last * panel_outputs);
      const detail::MappedRange source(weight.owner(), weight.data() + first_row * row, (last_row - first_row) * row);
      for (std::size_t i = p; i < last; ++i) pack_panel(weight.dtype(), weight.data(), rows, columns, i, memory.get() + i * bytes);
    }
  };
  if (pool == nullptr || panels * bytes < (std::size_t{1} << 18))
    some(0, panels);
  else
    pool->parallel(panels, 1, some);
  return Weight(weight.name(), weight.dtype(), weight.shape(), memory.get(), memory, weight.file(), Layout::panels);
}

}  // namespace chiasm
