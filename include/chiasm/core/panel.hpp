/// Panel: the layout in which kernels read weights in block formats: 16 rows (outputs) together, so that a vector holds the same k of 16 outputs.
///
/// k is the index along a row. A panel is a row of blocks, of 32 or 256 k as in the file. A block is its super-scales (f16 d[16], f16 dmin[16], in the formats
/// with 256 k) and its units of 32 k. A unit is the scales (and minima) of its 16 outputs, f16 or bytes, and then its codes in planes of 64 bytes: of 16 outputs
/// the same four successive k, the operand of VPDPBUSD. Codes are the file's, as unsigned numbers (q8_0: plus 128). Group g of a unit is k = 4 g to 4 g + 3.
///   8 bits: plane g is group g. q8_row: signed; f32 scales[16], then all planes of the row, with zeros up to a multiple of 64 k
///   4 bits: plane j is group j (low nibbles) and group j + 4 (high)
///   2 bits: plane e is groups e, 2 + e, 4 + e, 6 + e, from the low bits up
///   1 bit:  bit g of the plane's bytes is group g
/// Formats of 3, 5 and 6 bits have a second plane with the upper bits. Nothing is lost: the sizes are the file's, but for the six-bit scales of
/// q3_k (+ 3.6 %), q4_k (2.8 %), q5_k (2.3 %) and iq4_xs (1.5 %), which become bytes.
#pragma once

#include <chiasm/core/dtype.hpp>

namespace chiasm::inline CHIASM_ABI {

inline constexpr std::size_t panel_outputs = 16, unit_depth = 32;

/// Where the elements of a weight lie.
enum class Layout : std::uint8_t {
  rows,    // row after row, as in files
  panels,  // 16 rows side by side: matrices in blocks or bf16
};

/// Whether matrices of this type can lie in panels. In bf16 a unit is its 16 rows, 32 k of each: the tile that AMX loads.
constexpr bool has_panels(DType type) noexcept { return is_block_format(type) || type == DType::bf16; }

struct PanelFormat {
  std::size_t units;   // of a block; of q8_row, where the whole row is one block, more than any row has
  std::size_t header;  // bytes before the first unit
  std::size_t scales;  // bytes of a unit before its codes
  std::size_t codes;   // bytes of its codes

  constexpr std::size_t unit() const noexcept { return scales + codes; }
  constexpr std::size_t block() const noexcept { return header + units * unit(); }
  /// Bytes from the panel's begin to the block that unit u is in, and to the unit itself.
  constexpr std::size_t block_at(std::size_t u) const noexcept { return u / units * block(); }
  constexpr std::size_t unit_at(std::size_t u) const noexcept { return block_at(u) + header + u % units * unit(); }
};

constexpr PanelFormat panel_format(DType type) noexcept {
  switch (type) {
    case DType::q4_0: case DType::iq4_nl: return {1, 0, 32, 256};
    case DType::q4_1: return {1, 0, 64, 256};
    case DType::q5_0: return {1, 0, 32, 320};
    case DType::q5_1: return {1, 0, 64, 320};
    case DType::q8_0: return {1, 0, 32, 512};
    case DType::q2_k: return {8, 64, 32, 128};  // a byte: scale, and minimum in the high nibble; the first and the second 16 k
    case DType::q3_k: return {8, 32, 32, 192};
    case DType::q4_k: return {8, 64, 32, 256};
    case DType::q5_k: return {8, 64, 32, 320};
    case DType::q6_k: return {8, 32, 32, 384};
    case DType::iq4_xs: return {8, 32, 16, 256};
    case DType::bf16: return {1, 0, 0, panel_outputs * unit_depth * 2};
    case DType::q8_row: return {static_cast<std::size_t>(-1) >> 16, 64, 0, 512};
    default: return {1, 0, 0, 0};
  }
}

/// Bytes of a panel of `columns` k. A last block that is not full takes a whole block, as in the file.
constexpr std::size_t panel_bytes(DType type, std::size_t columns) noexcept {
  if (type == DType::q8_row) return panel_format(type).header + (columns + 63) / 64 * 64 * panel_outputs;
  const std::size_t block = type == DType::bf16 ? unit_depth : block_size(type);
  return (columns + block - 1) / block * panel_format(type).block();
}

/// A weight is scale * (code - offset) + minimum.
constexpr int code_offset(DType type) noexcept {
  switch (type) {
    case DType::q4_0: return 8;
    case DType::q5_0: return 16;
    case DType::q8_0: return 128;
    case DType::q3_k: return 4;
    case DType::q6_k: return 32;
    default: return 0;
  }
}
constexpr int code_bits(DType type) noexcept {
  switch (type) {
    case DType::q2_k: return 2;
    case DType::q3_k: return 3;
    case DType::q5_0: case DType::q5_1: case DType::q5_k: return 5;
    case DType::q6_k: return 6;
    case DType::q8_0: case DType::q8_row: return 8;
    default: return 4;
  }
}
constexpr bool has_minimum(DType type) noexcept {
  return type == DType::q4_1 || type == DType::q5_1 || type == DType::q2_k || type == DType::q4_k || type == DType::q5_k;
}
/// Whether the two halves of a unit have scales of their own.
constexpr bool has_half_scales(DType type) noexcept { return type == DType::q2_k || type == DType::q3_k || type == DType::q6_k; }

/// What the codes of iq4_nl and iq4_xs stand for.
inline constexpr signed char iq4_codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr bool has_codebook(DType type) noexcept { return type == DType::iq4_nl || type == DType::iq4_xs; }

/// Writes 16 rows in blocks as one panel. A null pointer, for a row that is missing, gives zeros.
void pack_panel(DType type, const std::byte* const (&rows)[panel_outputs], std::size_t columns, std::byte* to) noexcept;

/// Writes `count` numbers of row `output` (0 to 15) of a panel, as dequantize() gives them, from k = `column` on, which a block begins with.
void dequantize_panel(DType type, const std::byte* panel, std::size_t output, std::size_t column, float* values, std::size_t count) noexcept;

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/panel.ipp>
#endif
