/// Attention: body. One task is a key-value head and a block of the rows (queries times the heads that share it).
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/attention.hpp>

#include <algorithm>
#include <cstddef>
#include <string>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE void attention(Context& ctx, View q, const KvView& kv, MutView y, const Attend& a) {
  ctx.check_cancelled();
  const std::size_t queries = q.rows();
  if (a.kv_heads == 0 || a.heads % a.kv_heads != 0 || q.columns() != a.heads * a.head_dim || y.rows() != queries ||
      y.columns() != a.heads * a.v_dim)
    throw ShapeError("attention", q.shape().to_string() + " into " + y.shape().to_string() + " with " + std::to_string(a.heads) +
                                      " heads of " + std::to_string(a.head_dim) + " over " + std::to_string(a.kv_heads) +
                                      " of keys and values of " + std::to_string(a.v_dim));
  const bool masked = a.mask.data() != nullptr;
  if (masked && (a.mask.rows() != queries || a.mask.columns() != kv.length))
    throw ShapeError("attention", "mask " + a.mask.shape().to_string() + " for " + std::to_string(queries) + " queries and " +
                                      std::to_string(kv.length) + " keys");
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
  call.mask_row = masked ? a.mask.stride() : 0;
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
