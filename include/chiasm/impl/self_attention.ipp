/// Self-attention: body.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/self_attention.hpp>

#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Memory for the queries, keys or values of all heads, to be written by a product.
struct HeadsRoom {
  BasicTensor<std::byte> memory;
  kernels::HeadsOutput output;

  HeadsRoom(Context& ctx, kernels::HeadsOutput::Kind kind, std::size_t sequences, std::size_t length, std::size_t heads, std::size_t head_dim, float scale = 1.0f) {
    using kernels::HeadsOutput;
    const std::size_t query = (head_dim + 31) / 32 * 32 * 2, blocks = (length + kernels::kv_block - 1) / kernels::kv_block;
    const std::size_t block = kind == HeadsOutput::Kind::keys     ? kernels::kv_key_bytes(KvKind::bf16, head_dim)
                              : kind == HeadsOutput::Kind::values ? kernels::kv_value_bytes(KvKind::bf16, head_dim)
                                                                  : kernels::kv_block * query;  // tiles of queries are read whole
    memory = ctx.empty<std::byte>(Shape{sequences, heads, blocks * block});
    output = {kind, reinterpret_cast<unsigned char*>(memory.data()), head_dim, blocks * block, length, heads * blocks * block, scale};
    // Attention multiplies the values behind the last position of its block by 0, which must not meet a NaN.
    if (kind == HeadsOutput::Kind::values && length % kernels::kv_block != 0)
      for (std::size_t head = 0; head < sequences * heads; ++head) std::memset(memory.data() + (head + 1) * blocks * block - block, 0, block);
  }
  const std::byte* sequence(std::size_t n) const noexcept { return memory.data() + n * output.sequence_bytes; }
};

}  // namespace detail

CHIASM_INLINE Operand self_attention(Context& ctx, const Linear& qkv, const Operand& x, const Attend& how, View mask) {
  const std::size_t sequences = x.shape().rank() > 2 ? x.shape()[0] : 1, length = x.shape()[-2], width = how.heads * how.head_dim;
  if (qkv.out_features() != 3 * width || how.kv_heads != how.heads || how.v_dim != how.head_dim)
    throw ShapeError("self_attention", x.shape().to_string() + " to " + std::to_string(qkv.out_features()) + " for " + std::to_string(how.heads) + " heads of " +
                                           std::to_string(how.head_dim));
  const Shape shape = x.shape().with_columns(width);
  std::vector<AttentionPart> parts(sequences);
  for (std::size_t n = 0; n < sequences; ++n) {
    parts[n].q = View(nullptr, Shape{length, width});
    parts[n].kv.length = length;
    parts[n].attend = how;
    if (!mask.empty()) parts[n].attend.mask = mask.shape().rank() > 2 ? mask[n] : mask;
  }

  const bool tiles = ctx.kernels().attention[static_cast<std::size_t>(ctx.compute())].operands && length > detail::few_attention_rows && how.head_dim % 2 == 0;
  const bool watched = !how.name.empty() && ctx.attention_observed();
  if (!tiles || width % 32 != 0 || watched || !qkv.writes_heads(ctx, x.rows(), 3)) {
    const Tensor made = qkv(ctx, x);  // (N, T, 3 H d)
    const View rows = made.view().reshape(Shape{x.rows(), 3 * width});
    for (std::size_t n = 0; n < sequences; ++n) {
      const View own = rows.slice(n * length, length);
      parts[n].q = own.column_slice(0, width);
      parts[n].kv = {own.data() + width, own.data() + 2 * width, length, 3 * width, how.head_dim, 3 * width, how.head_dim};
    }
    return attention_operand(ctx, shape, parts);  // (N, T, H d)
  }

  using Kind = kernels::HeadsOutput::Kind;
  constexpr float log2e = 1.44269504088896341f;  // scores are in base 2
  const detail::HeadsRoom q(ctx, Kind::queries, sequences, length, how.heads, how.head_dim, how.scale * log2e);
  const detail::HeadsRoom k(ctx, Kind::keys, sequences, length, how.heads, how.head_dim), v(ctx, Kind::values, sequences, length, how.heads, how.head_dim);
  const kernels::HeadsOutput* const to[] = {&q.output, &k.output, &v.output};
  qkv.write_heads(ctx, x, to);
  for (std::size_t n = 0; n < sequences; ++n) {
    AttentionPart& part = parts[n];
    part.queries = q.sequence(n);
    part.query_head_bytes = q.output.head_bytes;
    part.kv.kind = KvKind::bf16;
    part.kv.key_blocks = k.sequence(n);
    part.kv.key_block_stride = k.output.head_bytes;
    part.kv.value_blocks = v.sequence(n);
    part.kv.value_block_stride = v.output.head_bytes;
  }
  return attention_operand(ctx, shape, parts);  // (N, T, H d)
}

}  // namespace chiasm
