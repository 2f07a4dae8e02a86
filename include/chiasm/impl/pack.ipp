#pragma once

#include <chiasm/core/mapped_file.hpp>
#include <chiasm/core/pack.hpp>
#include <chiasm/core/panel.hpp>
#include <chiasm/impl/weight.ipp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

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

/// body(begin, end) on all of [0, count), at most `piece` at a time. Each thread begins at a place of its own and helps the others when it is done there:
/// next to each other they would wait for one another at every page, those of the file that they map and those of memory that they are the first to touch.
inline void parallel_apart(ThreadPool& pool, std::size_t count, std::size_t piece, FunctionRef<void(std::size_t, std::size_t)> body) {
  const std::size_t parts = pool.size();
  std::vector<std::atomic<std::size_t>> taken(parts);
  pool.parallel(parts, 1, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first * parts; i < last * parts; ++i) {
      const std::size_t part = (i / parts + i % parts) % parts, end = count * (part + 1) / parts, begin = count * part / parts;
      for (std::size_t at; (at = begin + taken[part].fetch_add(piece)) < end;) body(at, std::min(at + piece, end));
    }
  });
}

}  // namespace detail

CHIASM_INLINE Weight pack(const Weight& weight, ThreadPool* pool, const std::vector<std::uint32_t>* order) {
  if (is_block_format(weight.dtype()) && weight.layout() == Layout::rows) return to_panels(weight, pool, order);
  return order == nullptr ? weight : weight.gather(*order);
}

CHIASM_INLINE Weight to_panels(const Weight& weight, ThreadPool* pool, const std::vector<std::uint32_t>* order) {
  if (!has_panels(weight.dtype()) || weight.layout() == Layout::panels) throw ArgumentError("to_panels: " + weight.describe() + " '" + weight.name() + "', rows of blocks or bf16 expected");
  if (weight.shape().rank() != 2) throw ShapeError("to_panels", weight.describe() + " '" + weight.name() + "', a matrix expected");
  const std::size_t rows = weight.shape()[0], columns = weight.shape()[1], panels = (rows + panel_outputs - 1) / panel_outputs;
  if (order != nullptr) detail::expect_order(weight, *order);
  const std::size_t bytes = panel_bytes(weight.dtype(), columns), row = row_bytes(weight.dtype(), columns);
  const std::shared_ptr<std::byte> memory = detail::weight_memory(panels * bytes);
  const auto some = [&](std::size_t begin, std::size_t end) {
    const std::size_t first_row = begin * panel_outputs, last_row = std::min(rows, end * panel_outputs);
    const detail::MappedRange source(weight.owner(), weight.data() + first_row * row, (last_row - first_row) * row);
    for (std::size_t p = begin; p < end; ++p) {
      const std::byte* from[panel_outputs] = {};
      for (std::size_t o = 0, i = p * panel_outputs; o < panel_outputs && i < rows; ++o, ++i) from[o] = weight.data() + (order == nullptr ? i : (*order)[i]) * row;
      pack_panel(weight.dtype(), from, columns, memory.get() + p * bytes);
    }
  };
  // In pieces of about two megabytes: the source's pages come and go.
  const std::size_t piece = (std::size_t{2} << 20) / std::max<std::size_t>(bytes, 1) + 1;
  if (pool == nullptr || panels * bytes < (std::size_t{1} << 18))
    for (std::size_t p = 0; p < panels; p += piece) some(p, std::min(p + piece, panels));
  else
    detail::parallel_apart(*pool, panels, piece, some);
  detail::release_pages(weight.owner(), weight.data(), weight.bytes());  // what a thread's pages brought along
  return Weight(weight.name(), weight.dtype(), weight.shape(), memory.get(), memory, weight.file(), Layout::panels);
}

CHIASM_INLINE Weight to_rows(const Weight& weight) {
  if (weight.dtype() != DType::bf16 || weight.layout() == Layout::rows) return weight;
  const std::size_t rows = weight.shape()[0], columns = weight.shape()[1], bytes = panel_bytes(DType::bf16, columns);
  constexpr std::size_t line = unit_depth * 2;
  const std::shared_ptr<std::byte> memory = detail::weight_memory(weight.shape().size() * 2);
  for (std::size_t i = 0; i < rows; ++i) {
    const std::byte* from = weight.data() + i / panel_outputs * bytes + i % panel_outputs * line;
    for (std::size_t k = 0; k < columns; k += unit_depth, from += panel_outputs * line)
      std::memcpy(memory.get() + (i * columns + k) * 2, from, std::min(columns - k, unit_depth) * 2);
  }
  return Weight(weight.name(), weight.dtype(), weight.shape(), memory.get(), memory, weight.file());
}

}  // namespace chiasm
