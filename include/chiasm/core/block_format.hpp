/// Block formats: weights of two to eight bits in blocks that share scales, as ggml defines them (ggml-quants.c; k-quants: llama.cpp pull
/// request 1684).
#pragma once

#include <chiasm/core/dtype.hpp>

namespace chiasm::inline CHIASM_ABI {

/// Writes the first `count` numbers of these blocks; of the last block fewer may be wanted. Equal to ggml's to the bit. For block formats only; of q8_row,
/// whose scale stands behind the row, `count` is the whole row.
void dequantize(DType type, const std::byte* blocks, float* values, std::size_t count) noexcept;

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/block_format.ipp>
#endif
