#pragma once

#include <chiasm/core/conversion.hpp>
#include <chiasm/core/mapped_file.hpp>
#include <chiasm/core/pack.hpp>
#include <chiasm/core/quantize.hpp>
#include <chiasm/impl/pack.ipp>

#include <algorithm>
#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// To f16 or bf16.
inline void round_to_half(DType type, const float* from, std::size_t count, std::uint16_t* to) noexcept {
  if (type == DType::f16)
    for (std::size_t i = 0; i < count; ++i) to[i] = f16::from(from[i]).bits;
  else
    for (std::size_t i = 0; i < count; ++i) to[i] = bf16::from(from[i]).bits;
}

}  // namespace detail

CHIASM_INLINE DType converted_type(const Weight& stored, WeightKind kind, WeightUse use) noexcept {
  const DType type = stored.dtype();
  const DType kept = static_cast<std::size_t>(type) < weight_kinds ? type : DType::f32;
  const bool matrix = stored.shape().rank() >= 2;
  switch (kind) {
    case WeightKind::keep: return kept;
    case WeightKind::f32: return DType::f32;
    case WeightKind::bf16: return matrix ? DType::bf16 : DType::f32;
    case WeightKind::q8: case WeightKind::q4: case WeightKind::i8: break;
  }
  if (!matrix) return DType::f32;
  if ((is_block_format(type) && kind != WeightKind::i8) || use == WeightUse::rows) return kept;
  if (stored.shape().rank() > 2 || stored.shape().columns() < 32) return DType::bf16;
  // iq4_nl leaves 18 % less squared error of weights than q4_0 does in as many bytes, and products read it as fast; q4_1 leaves another 10 % less, and is
  // 11 % larger.
  return kind == WeightKind::i8 ? DType::q8_row : kind == WeightKind::q8 ? DType::q8_0 : DType::iq4_nl;
}

CHIASM_INLINE Weight convert(const Weight& stored, DType type, Layout layout, ThreadPool* threads, const CancelToken& cancel, const std::vector<std::uint32_t>* order) {
  if (cancel.cancelled()) throw Cancelled();
  const bool panels = layout == Layout::panels && has_panels(type) && stored.shape().rank() == 2;
  if (stored.dtype() == type && panels && stored.layout() == Layout::rows) return to_panels(stored, threads, order);
  if (order != nullptr) return convert(stored.gather(*order), type, layout, threads, cancel);
  if (stored.dtype() == type) return stored;
  if (type != DType::f32 && type != DType::f16 && type != DType::bf16 && !can_quantize(type))
    throw UnsupportedError("conversion of weights to " + std::string(name(type)));
  if (stored.dtype() == DType::boolean) throw UnsupportedError(stored.file() + ": '" + stored.name() + "' is bool, a number was expected");

  const std::size_t columns = stored.shape().columns(), rows = stored.shape().rows();
  const std::size_t from_row = row_bytes(stored.dtype(), columns), to_row = row_bytes(type, columns);
  // Rows are converted by the panel, whatever the layout.
  const std::size_t units = (rows + panel_outputs - 1) / panel_outputs, unit = panels ? panel_bytes(type, columns) : panel_outputs * to_row;
  const std::shared_ptr<std::byte> memory = detail::weight_memory(panels ? units * unit : rows * to_row);
  const Weight converted(stored.name(), type, stored.shape(), memory.get(), memory, stored.file(), panels ? Layout::panels : Layout::rows);
  if (columns == 0) {
    std::memset(memory.get(), 0, converted.bytes());  // the scales of empty rows
    return converted;
  }
  const std::size_t piece = type == DType::q8_row ? columns : std::min<std::size_t>(columns, 4096);  // whole blocks
  const auto some = [&](std::size_t begin, std::size_t end) {
    std::vector<float> numbers(type == DType::f32 ? 0 : piece);
    std::vector<std::byte> blocks(panels ? panel_outputs * to_row : 0);
    // In pieces of about a megabyte: the source's pages come and go.
    const std::size_t together = (std::size_t{1} << 20) / (panel_outputs * from_row) + 1;
    for (std::size_t g = begin; g < end; g += together) {
      if (cancel.cancelled()) throw Cancelled();
      const std::size_t last = std::min(end, g + together), first_row = g * panel_outputs, last_row = std::min(rows, last * panel_outputs);
      const bool in_rows = stored.layout() == Layout::rows;
      const detail::MappedRange source(in_rows ? stored.owner() : std::shared_ptr<const void>(), stored.data() + first_row * from_row, (last_row - first_row) * from_row);
      for (std::size_t u = g; u < last; ++u) {
        const std::size_t first = u * panel_outputs, count = std::min(rows - first, panel_outputs);
        std::byte* const to = panels ? blocks.data() : memory.get() + first * to_row;
        for (std::size_t r = 0; r < count; ++r)
          for (std::size_t c = 0; c < columns; c += piece) {
            const std::size_t n = std::min(piece, columns - c);
            std::byte* const at = to + r * to_row + c / block_size(type) * size_of(type);
            float* const read = type == DType::f32 ? reinterpret_cast<float*>(at) : numbers.data();
            stored.read(first + r, c, n, read);
            if (can_quantize(type)) quantize(type, read, n, at);
            else if (type != DType::f32) detail::round_to_half(type, read, n, reinterpret_cast<std::uint16_t*>(at));
          }
        if (!panels) continue;
        const std::byte* of_panel[panel_outputs] = {};
        for (std::size_t r = 0; r < count; ++r) of_panel[r] = blocks.data() + r * to_row;
        pack_panel(type, of_panel, columns, memory.get() + u * unit);
      }
    }
  };
  if (threads == nullptr || rows * columns < (std::size_t{1} << 14)) some(0, units);
  else threads->parallel(units, 1, some);
  if (stored.layout() == Layout::rows) detail::release_pages(stored.owner(), stored.data(), stored.bytes());  // what a thread's pages brought along
  return converted;
}

}  // namespace chiasm
