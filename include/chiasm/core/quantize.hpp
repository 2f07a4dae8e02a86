/// Quantise: numbers into blocks of 32 with a scale each, which least squares choose. The formats are ggml's, see core/dtype.hpp.
#pragma once

#include <chiasm/core/dtype.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {

/// Whether quantize() writes `type`: q8_0, q4_0, iq4_nl, q8_row.
constexpr bool can_quantize(DType type) noexcept { return type == DType::q8_0 || type == DType::q4_0 || type == DType::iq4_nl || type == DType::q8_row; }

/// Writes row_bytes(type, count) bytes: the codes and scale of each block whose squared error is least among some dozens of scales, each fitted to the codes
/// that it gives. On numbers as weights have them within 1 % (q8_0: 2 %)
/// of the least there is, and 11 to 25 % below what rounding by the largest number leaves. The same bits on every processor.
/// A last block that is not full ends in codes of zero, or of the number next to it. A block with a number that is infinite or none decodes to NaN.
/// Throws UnsupportedError for other types.
void quantize(DType type, const float* values, std::size_t count, std::byte* blocks);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/quantize.ipp>
#endif
