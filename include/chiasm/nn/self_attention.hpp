/// Self-attention without a cache: queries, keys and values of sequences from one projection, and what these read of each other. Vaswani et al.,
/// arXiv:1706.03762.
#pragma once

#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/linear.hpp>

namespace chiasm::inline CHIASM_ABI {

/// x (N, T, D) or (T, D) -> (.., T, heads * v_dim), for the product that comes next. `qkv` makes queries, keys and values of the same width, side by side.
/// `mask`: empty, or (N, T, T), added to the scores. Where the products are done in tiles, queries, keys and values never are rows of floats; the
/// result is the same. Throws ShapeError, Cancelled.
Operand self_attention(Context& ctx, const Linear& qkv, const Operand& x, const Attend& attend, View mask = {});

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/self_attention.ipp>
#endif
