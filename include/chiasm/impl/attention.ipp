/// Attention: body. One task is a key-value head and a block of the rows (queries times the heads that share it).
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/attention.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

inline void check_attention(View q, const KvView& kv, const Shape& y, const Attend& a) {
  if (a.kv_heads == 0 || a.heads % a.kv_heads != 0 || q.columns() != a.heads * a.head_dim)
    throw ShapeError("attention", q.shape().to_string() + " into " + y.to_string() + " with " + std::to_string(a.heads) +
                                      " heads of " + std::to_string(a.head_dim) + " over " + std::to_string(a.kv_heads) +
                                      " of keys and values of " + std::to_string(a.v_dim));
  if (a.mask.data() != nullptr && (a.mask.rows() != q.rows() || a.mask.columns() != kv.length))
    throw ShapeError("attention", "mask " + a.mask.shape().to_string() + " for " + std::to_string(q.rows()) + " queries and " +
                                      std::to_string(kv.length) + " keys");
}

}  // namespace detail

CHIASM_INLINE Tensor attention_weights(Context& ctx, View q, const KvView& kv, const Attend& a) {
  const Shape shape{a.heads, q.rows(), kv.length};
  detail::check_attention(q, kv, shape, a);
  Tensor weights = ctx.empty(shape);
  ctx.parallel(weights.rows(), 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t head = row / q.rows(), query = row % q.rows(), position = a.offset + query;
      const float* const keys = kv.keys + head / (a.heads / a.kv_heads) * kv.key_head_stride;
      const float* const distances = a.distance_bias == nullptr ? nullptr : a.distance_bias + head * a.distance_bias_head;
      float* const scores = weights.row(row);
      for (std::size_t j = 0; j < kv.length; ++j) {
        const std::ptrdiff_t distance = static_cast<std::ptrdiff_t>(j) - static_cast<std::ptrdiff_t>(position);
        float score = a.scale * ctx.kernels().dot(q.row(query) + head * a.head_dim, keys + j * kv.key_stride, a.head_dim);
        if (a.mask.data() != nullptr) score += a.mask.row(query)[j];
        if (a.alibi_slopes != nullptr) score += a.alibi_slopes[head] * static_cast<float>(distance);
        if (distances != nullptr) score += distances[distance];
        const bool hidden = (a.causal && distance > 0) || (a.window != 0 && j + a.window <= position);
        scores[j] = hidden ? -std::numeric_limits<float>::infinity() : score;
      }
      ctx.kernels().softmax(scores, scores, kv.length);
    }
  });
  return weights;
}

CHIASM_INLINE void attention(Context& ctx, View q, const KvView& kv, MutView y, const Attend& a) {
  ctx.check_cancelled();
  const std::size_t queries = q.rows();
  detail::check_attention(q, kv, y.shape(), a);
  if (y.rows() != queries || y.columns() != a.heads * a.v_dim)
    throw ShapeError("attention", q.shape().to_string() + " into " + y.shape().to_string() + " with " + std::to_string(a.heads) + " heads of values of " +
                                      std::to_string(a.v_dim));
  if (!a.name.empty() && ctx.attention_observed()) {
    const Tensor weights = attention_weights(ctx, q, kv, a);
    Tensor norms = ctx.empty(Shape{a.heads, kv.length});
    for (std::size_t head = 0; head < a.heads; ++head)
      for (std::size_t j = 0; j < kv.length; ++j) {
        const float* const value = kv.values + head / (a.heads / a.kv_heads) * kv.value_head_stride + j * kv.value_stride;
        norms.row(head)[j] = std::sqrt(ctx.kernels().dot(value, value, a.v_dim));
      }
    ctx.observe_attention({a.name, a.layer, weights, norms, a.first_query, a.first_key});
  }
  if (queries == 0 || a.heads == 0 || a.v_dim == 0) return;

  kernels::AttentionCall call;
  call.q = q.data();
  call.q_row = q.stride();
  call.k = kv.keys;
  call.k_row = kv.key_stride;
  call.k_head = kv.key_head_stride;
  call.v = kv.values;
  call.v_row = kv.value_stride;
  call.v_head = kv.value_head_stride;
  call.y = y.data();
  call.y_row = y.stride();
  call.queries = queries;
  call.keys = kv.length;
  call.heads = a.heads;
  call.kv_heads = a.kv_heads;
  call.head_dim = a.head_dim;
  call.v_dim = a.v_dim;
  call.scale = a.scale;
  call.causal = a.causal;
  call.offset = a.offset;
  call.window = a.window;
  call.mask = a.mask.data();
  call.mask_row = a.mask.data() != nullptr ? a.mask.stride() : 0;
  call.alibi_slopes = a.alibi_slopes;
  call.distance_bias = a.distance_bias;
  call.distance_bias_head = a.distance_bias_head;

  const kernels::Attention& kernel = ctx.kernels().attention[static_cast<std::size_t>(ctx.compute())];
  const std::size_t rows = queries * (a.heads / a.kv_heads), blocks = (rows + kernel.rows - 1) / kernel.rows;
  const std::size_t work = std::min(rows, kernel.rows) * kv.length * (a.head_dim + a.v_dim);  // of one task, in multiply-adds
  ctx.parallel(a.kv_heads * blocks, (std::size_t{1} << 15) / std::max<std::size_t>(work, 1) + 1,
               [&](std::size_t begin, std::size_t end) {
                 auto scratch = ctx.empty<std::byte>(Shape{kernel.scratch_bytes(a.head_dim, a.v_dim)});
                 kernels::AttentionCall part = call;
                 part.scratch = scratch.data();
                 for (std::size_t task = begin; task < end; ++task) {
                   part.kv_head = task / blocks;
                   part.row_begin = task % blocks * kernel.rows;
                   part.row_end = std::min(rows, part.row_begin + kernel.rows);
                   kernel.run(part);
                 }
               });
}

CHIASM_INLINE Tensor attention(Context& ctx, View q, const KvView& kv, const Attend& a) {
  Tensor y = ctx.empty(Shape{q.rows(), a.heads * a.v_dim});
  attention(ctx, q, kv, y, a);
  return y;
}

}  // namespace chiasm
