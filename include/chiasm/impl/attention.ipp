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

/// A view in f32 of a cache of another kind, and what it views.
struct KvNumbers {
  Tensor keys, values;
  KvView view;
};
inline KvNumbers numbers_of(Context& ctx, const KvView& kv, const Attend& a) {
  KvNumbers n;
  n.view = kv;
  if (kv.kind == KvKind::f32) return n;
  n.keys = ctx.empty(Shape{a.kv_heads, kv.length, a.head_dim});
  n.values = ctx.empty(Shape{a.kv_heads, kv.length, a.v_dim});
  const auto blocks = [](const std::byte* p) { return reinterpret_cast<unsigned char*>(const_cast<std::byte*>(p)); };  // only read
  for (std::size_t h = 0; h < a.kv_heads; ++h) {
    ctx.kernels().kv.read_keys(
        {kv.kind, a.head_dim, 0, kv.length, blocks(kv.key_blocks + h * kv.key_block_stride), nullptr, n.keys.data() + h * kv.length * a.head_dim, a.head_dim});
    ctx.kernels().kv.read_values(
        {kv.kind, a.v_dim, 0, kv.length, blocks(kv.value_blocks + h * kv.value_block_stride), nullptr, n.values.data() + h * kv.length * a.v_dim, a.v_dim});
  }
  n.view = KvView{n.keys.data(), n.values.data(), kv.length, a.head_dim, kv.length * a.head_dim, a.v_dim, kv.length * a.v_dim};
  return n;
}

inline void tell_observer(Context& ctx, View q, const KvView& stored, const Attend& a) {
  const KvNumbers numbers = numbers_of(ctx, stored, a);
  const KvView& kv = numbers.view;
  const Tensor weights = attention_weights(ctx, q, kv, a);
  Tensor norms = ctx.empty(Shape{a.heads, kv.length});
  for (std::size_t head = 0; head < a.heads; ++head)
    for (std::size_t j = 0; j < kv.length; ++j) {
      const float* const value = kv.values + head / (a.heads / a.kv_heads) * kv.value_head_stride + j * kv.value_stride;
      norms.row(head)[j] = std::sqrt(ctx.kernels().dot(value, value, a.v_dim));
    }
  ctx.observe_attention({a.name, a.layer, weights, norms, a.first_query, a.first_key});
}

inline kernels::AttentionCall call_of(const AttentionPart& part) noexcept {
  const KvView& kv = part.kv;
  const Attend& a = part.attend;
  kernels::AttentionCall call;
  call.q = part.q.data();
  call.q_row = part.q.stride();
  call.q_rows = part.queries;
  call.q_head = part.query_head_bytes;
  if (part.operand != nullptr) {
    call.packed = part.operand->packed_data();
    call.packed_first = part.first_row;
    call.packed_tokens = part.operand->rows();
    call.packed_depth = part.operand->columns();
  }
  call.kind = kv.kind;
  if (kv.kind == KvKind::f32) {
    call.k = kv.keys;
    call.k_row = kv.key_stride;
    call.k_head = kv.key_head_stride;
    call.v = kv.values;
    call.v_row = kv.value_stride;
    call.v_head = kv.value_head_stride;
  } else {
    call.k = kv.key_blocks;
    call.k_head = kv.key_block_stride;
    call.v = kv.value_blocks;
    call.v_head = kv.value_block_stride;
  }
  call.y = part.y.data();
  call.y_row = part.y.stride();
  call.queries = part.q.rows();
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
  return call;
}

/// How a part is cut, which depends on nothing but itself: key-value heads, blocks of rows, stretches of keys.
struct AttentionCut {
  std::size_t rows = 0, row_blocks = 0, block_rows = 0, stretches = 1, stretch = 0, tasks = 0;
  std::size_t partials = 0;  // floats before this part's, in the memory of all partial results
};
inline constexpr std::size_t few_attention_rows = 32;
inline AttentionCut cut_of(const AttentionPart& part, const kernels::Attention& kernel) noexcept {
  const Attend& a = part.attend;
  AttentionCut cut;
  cut.rows = part.q.rows() * (a.heads / a.kv_heads);
  if (cut.rows == 0 || a.v_dim == 0) return cut;
  cut.row_blocks = (cut.rows + kernel.rows - 1) / kernel.rows;
  cut.block_rows = kernel.rows;
  constexpr std::size_t stretch = 1024;  // of few rows that read many keys: 10 us and more
  if (cut.rows <= few_attention_rows && part.kv.length >= 2 * stretch) {
    cut.stretches = (part.kv.length + stretch - 1) / stretch;
    cut.stretch = stretch;
  }
  cut.tasks = a.kv_heads * cut.row_blocks * cut.stretches;
  return cut;
}

}  // namespace detail

CHIASM_INLINE Tensor attention_weights(Context& ctx, View q, const KvView& stored, const Attend& a) {
  const Shape shape{a.heads, q.rows(), stored.length};
  detail::check_attention(q, stored, shape, a);
  const detail::KvNumbers numbers = detail::numbers_of(ctx, stored, a);
  const KvView& kv = numbers.view;
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

namespace detail {

/// All parts, which fit, in one go.
inline void attend(Context& ctx, std::span<const AttentionPart> parts) {
  ctx.check_cancelled();
  const kernels::Attention& kernel = ctx.kernels().attention[static_cast<std::size_t>(ctx.compute())];
  auto cuts = ctx.empty<AttentionCut>(Shape{parts.size()});
  std::size_t tasks = 0, partials = 0, scratch_bytes = 0, most_work = 1;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Attend& a = parts[i].attend;
    AttentionCut& cut = cuts.data()[i] = cut_of(parts[i], kernel);
    cut.partials = partials;
    tasks += cut.tasks;
    if (cut.stretches > 1) partials += a.kv_heads * cut.rows * cut.stretches * (a.v_dim + 2);
    scratch_bytes = std::max(scratch_bytes, kernel.scratch_bytes(a.head_dim, a.v_dim));
    const std::size_t keys = cut.stretches > 1 ? cut.stretch : parts[i].kv.length;
    most_work = std::max(most_work, std::min(cut.rows, kernel.rows) * keys * (a.head_dim + a.v_dim));  // of one task, in multiply-adds
  }
  if (tasks == 0) return;
  Tensor partial = ctx.empty(Shape{partials});
  ctx.parallel(tasks, (std::size_t{1} << 15) / most_work + 1, [&](std::size_t begin, std::size_t end) {
    auto scratch = ctx.empty<std::byte>(Shape{scratch_bytes});
    std::size_t first = 0;  // task of part i
    for (std::size_t i = 0; i < parts.size() && first < end; first += cuts.data()[i++].tasks) {
      const AttentionCut& cut = cuts.data()[i];
      if (first + cut.tasks <= begin) continue;
      kernels::AttentionCall call = call_of(parts[i]);
      call.scratch = scratch.data();
      for (std::size_t task = std::max(begin, first) - first; task < std::min(end - first, cut.tasks); ++task) {
        const std::size_t block = task / cut.stretches, stretch = task % cut.stretches;
        call.kv_head = block / cut.row_blocks;
        call.row_begin = block % cut.row_blocks * cut.block_rows;
        call.row_end = std::min(cut.rows, call.row_begin + cut.block_rows);
        if (cut.stretches > 1) {  // of one block of rows
          call.key_begin = stretch * cut.stretch;
          call.key_end = call.key_begin + cut.stretch;
          call.partial = partial.data() + cut.partials + task * cut.rows * (call.v_dim + 2);
        }
        kernel.run(call);
      }
    }
  });
  for (std::size_t i = 0; i < parts.size() && partials > 0; ++i) {
    const AttentionCut& cut = cuts.data()[i];
    const Attend& a = parts[i].attend;
    const std::size_t group = a.heads / a.kv_heads, width = a.v_dim + 2;
    for (std::size_t row = 0; cut.stretches > 1 && row < a.kv_heads * cut.rows; ++row) {
      const std::size_t head = row / cut.rows, in = row % cut.rows;
      kernel.combine(partial.data() + cut.partials + (head * cut.stretches * cut.rows + in) * width, cut.stretches, cut.rows * width, a.v_dim,
                     parts[i].y.row(in / group) + (head * group + in % group) * a.v_dim);
    }
  }
}

/// Few queries, as the products of few tokens, are computed one by one: what each gets is, bit for bit, what it gets alone. A pass may then take several
/// steps of an answer at once (pipelines/generation.hpp).
inline bool takes_steps(const Context& ctx, const AttentionPart& part) { return part.q.rows() > 1 && part.q.rows() <= ctx.most_steps(); }

/// Query i of a part.
inline AttentionPart step_of(const AttentionPart& part, std::size_t i) {
  AttentionPart step{part.q.slice(i, 1), part.kv, part.y.slice(i, 1), part.attend};
  step.attend.offset += i;
  if (step.attend.causal) step.kv.length = std::min(part.kv.length, step.attend.offset + 1);
  if (step.attend.mask.data() != nullptr) step.attend.mask = part.attend.mask.slice(i, 1).column_slice(0, step.kv.length);
  return step;
}

}  // namespace detail

CHIASM_INLINE void attention(Context& ctx, std::span<const AttentionPart> parts) {
  std::size_t count = 0;
  for (const AttentionPart& part : parts) {
    const View& q = part.q;
    const KvView& kv = part.kv;
    const Attend& a = part.attend;
    const Shape& y = part.operand == nullptr ? part.y.shape() : part.operand->shape();
    detail::check_attention(q, kv, y, a);
    const std::size_t rows = part.operand == nullptr ? y.rows() : std::min(y.rows() - part.first_row, q.rows());
    if (rows != q.rows() || y.columns() != a.heads * a.v_dim)
      throw ShapeError("attention", q.shape().to_string() + " into " + y.to_string() + " with " + std::to_string(a.heads) + " heads of values of " +
                                        std::to_string(a.v_dim));
    if (!a.name.empty() && ctx.attention_observed()) detail::tell_observer(ctx, q, kv, a);
    count += detail::takes_steps(ctx, part) ? q.rows() : 1;
  }
  if (count == parts.size()) return detail::attend(ctx, parts);
  auto all = ctx.empty<AttentionPart>(Shape{count});
  AttentionPart* next = all.data();
  for (const AttentionPart& part : parts) {
    if (!detail::takes_steps(ctx, part)) *next++ = part;
    else
      for (std::size_t i = 0; i < part.q.rows(); ++i) *next++ = detail::step_of(part, i);
  }
  detail::attend(ctx, all.values());
}

CHIASM_INLINE void attention(Context& ctx, View q, const KvView& kv, MutView y, const Attend& a) {
  const AttentionPart part{q, kv, y, a};
  attention(ctx, std::span<const AttentionPart>(&part, 1));
}

CHIASM_INLINE Operand attention_operand(Context& ctx, Shape shape, std::span<AttentionPart> parts) {
  // A part that is cut into stretches of keys, or done in f32, has its result in rows.
  const bool tiles = ctx.kernels().attention[static_cast<std::size_t>(ctx.compute())].operands && shape.columns() % 32 == 0;
  const bool packed = tiles && std::all_of(parts.begin(), parts.end(), [](const AttentionPart& part) {
    const Attend& a = part.attend;
    return a.v_dim % 2 == 0 && a.kv_heads != 0 && part.q.rows() * (a.heads / a.kv_heads) > detail::few_attention_rows;
  });
  Operand y = packed ? Operand::room(ctx, shape) : Operand(ctx.empty(shape));
  std::size_t row = 0;
  for (AttentionPart& part : parts) {
    const std::size_t rows = part.q.rows();
    part.operand = y.packed() ? &y : nullptr;
    part.first_row = row;
    part.y = y.packed() ? MutView() : y.kept().reshape(Shape{shape.rows(), shape.columns()}).slice(row, rows);
    row += rows;
  }
  if (row != shape.rows()) throw ShapeError("attention_operand", std::to_string(row) + " queries into " + shape.to_string());
  attention(ctx, parts);
  return y;
}

CHIASM_INLINE Tensor attention(Context& ctx, View q, const KvView& kv, const Attend& a) {
  Tensor y = ctx.empty(Shape{q.rows(), a.heads * a.v_dim});
  attention(ctx, q, kv, y, a);
  return y;
}

}  // namespace chiasm
