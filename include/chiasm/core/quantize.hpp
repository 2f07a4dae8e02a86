/// Quantise: numbers into blocks of 32 (q8_row: into a row) with a scale each, chosen by least squares. The formats are ggml's, see core/dtype.hpp.
#pragma once

#include <chiasm/core/dtype.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {

/// Whether quantize() writes `type`: q8_0, q4_0, iq4_nl, q8_row.
constexpr bool can_quantize(DType type) noexcept { return type == DType::q8_0 || type == DType::q4_0 || type == DType::iq4_nl || type == DType::q8_row; }

/// Writes row_bytes(type, count) bytes. Of some dozens of scales, each fitted to the codes that it leads to, each block takes the one with the least squared
/// error: on the numbers of trained weights within 1 % (q8_0: 2 %) of the optimum, and 11 to 25 % below what scaling by the largest number leaves. The same
/// bits on every processor. A last block that is not full ends in codes of zero, or of the number next to it. A block with NaN or infinity decodes to NaN.
/// Throws UnsupportedError for other types.
void quantize(DType type, const float* values, std::size_t count, std::byte* blocks);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/quantize.ipp>
#endif
