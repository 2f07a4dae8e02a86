/// Attention: softmax(scale q kᵀ + bias) v over all heads, without the matrix of scores ever being in memory.
/// Vaswani et al., arXiv:1706.03762; grouped heads: arXiv:2305.13245; linear biases: arXiv:2108.12409; sliding window:
/// arXiv:2004.05150.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/nn/kv_view.hpp>
#include <chiasm/nn/operand.hpp>

#include <cmath>
#include <span>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

struct Attend {
  std::size_t heads = 1, kv_heads = 1;  // heads / kv_heads queries share a key
  std::size_t head_dim = 0, v_dim = 0;
  float scale = 1.0f;
  bool causal = false;     // key j is visible to query i iff j <= offset + i
  std::size_t offset = 0;  // position of the first query among the keys
  std::size_t window = 0;  // and iff j > offset + i - window; 0: no window
  View mask = {};          // (queries, keys), added to the scores; -inf hides. A query that sees no key at all becomes 0
  const float* alibi_slopes = nullptr;  // (heads): slope * (j - (offset + i)) is added to the scores
  // Head h's bias of a key j, distance_bias[h * distance_bias_head + j - (offset + i)], is added to the scores: a pointer into the middle of a row
  // that reaches from -(offset + queries - 1) to keys - 1 - offset. T5, arXiv:1910.10683.
  const float* distance_bias = nullptr;
  std::size_t distance_bias_head = 0;
  // What ContextOptions::on_attention is told, see AttentionWeights; without a name it is told nothing.
  std::string_view name = {};
  std::size_t layer = 0, first_query = 0, first_key = 0;

  /// Heads with keys and values of their own, whose scores are divided by the root of head_dim.
  static Attend scaled(std::size_t heads, std::size_t head_dim, bool causal = false) {
    Attend attend;
    attend.heads = attend.kv_heads = heads;
    attend.head_dim = attend.v_dim = head_dim;
    attend.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    attend.causal = causal;
    return attend;
  }
};

/// q (T, heads * head_dim) -> (T, heads * v_dim). The same result, bit for bit, for any number of threads.
/// Throws ShapeError, Cancelled.
Tensor attention(Context& ctx, View q, const KvView& kv, const Attend& attend);
/// As above, into `y`; rows of q and y may lie apart, and they may not overlap.
void attention(Context& ctx, View q, const KvView& kv, MutView y, const Attend& attend);

/// One of several attentions that share the threads: of each sequence of a batch, for one. Each gets, bit for bit, what it gets alone.
struct AttentionPart {
  View q;
  KvView kv;
  MutView y;
  Attend attend;
  // What attention_operand() and self_attention() have written in place of y, and read in place of q's numbers.
  Operand* operand = nullptr;  // packed: its rows from `first_row` on
  std::size_t first_row = 0;
  const std::byte* queries = nullptr;  // head h's at queries + h * query_head_bytes, as kernels::HeadsOutput has them
  std::size_t query_head_bytes = 0;
};
void attention(Context& ctx, std::span<const AttentionPart> parts);

/// The results of all parts, one below the other, as (.., heads * v_dim) of that shape for the product that comes next. The parts' y is of no account. Where both
/// are done in bf16 tiles, attention writes what the product reads.
Operand attention_operand(Context& ctx, Shape shape, std::span<AttentionPart> parts);

/// The probabilities by which attention() weighs the values: (heads, queries, keys), 0 where a key is not visible. Throws ShapeError.
Tensor attention_weights(Context& ctx, View q, const KvView& kv, const Attend& attend);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/attention.ipp>
#endif
