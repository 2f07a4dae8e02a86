/// Matmul: body. Chooses the kernel by the number of tokens and splits the work.
#pragma once

#include <chiasm/core/pack.hpp>
#include <chiasm/impl/operand.ipp>
#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/matmul.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Throws ShapeError and UnsupportedError.
inline void check_factor(const Operand& x, const Weight& w) {
  if (w.shape().columns() != x.columns())
    throw ShapeError("matmul", x.shape().to_string() + " times the transpose of " + w.shape().to_string());
  if (static_cast<std::size_t>(w.dtype()) >= weight_kinds) throw UnsupportedError("a product with " + w.describe() + " '" + w.name() + "'");
}

inline void check_product(const Operand& x, const Product& p) {
  const Shape &w = p.weight->shape(), &y = p.y.shape();
  if (p.heads != nullptr) return check_factor(x, *p.weight);
  if (w.columns() != x.columns() || p.y.rows() != x.rows() || p.y.columns() != w.rows())
    throw ShapeError("matmul", x.shape().to_string() + " times the transpose of " + w.to_string() + " into " + y.to_string());
  const View& residual = p.epilogue.residual;
  if (residual.data() != nullptr && (residual.rows() != x.rows() || residual.columns() != w.rows()))
    throw ShapeError("matmul", "residual " + residual.shape().to_string() + " to " + y.to_string());
  check_factor(x, *p.weight);
}

inline kernels::Output output_of(const Product& p) noexcept {
  const Epilogue& e = p.epilogue;
  kernels::Output out{p.y.data(), p.y.stride(), e.bias, e.residual.data(), e.residual.data() == nullptr ? 0 : e.residual.stride(), e.activation};
  out.heads = p.heads;
  return out;
}

inline std::size_t outputs_of(const Product& p) noexcept { return p.weight->shape().rows(); }

/// Blocks in rows, as a file has them, are packed for this product alone: a layer that is used again packs them once.
inline bool needs_packing(const Weight& w) noexcept { return is_block_format(w.dtype()) && w.layout() == Layout::rows; }

/// Bytes from row to row; of blocks, from panel to panel.
inline std::size_t stride_of(const Weight& w) noexcept {
  const std::size_t depth = w.shape().columns();
  return is_block_format(w.dtype()) ? panel_bytes(w.dtype(), depth) : depth * size_of(w.dtype());
}

/// Calls f(product, begin, end) for the products' parts of [begin, end) of all their outputs side by side.
template <class F>
void each_part(std::span<const Product> products, std::size_t begin, std::size_t end, F f) {
  std::size_t first = 0;
  for (const Product& p : products) {
    const std::size_t outputs = outputs_of(p), last = first + outputs;
    if (begin < last && end > first) f(p, begin > first ? begin - first : 0, end < last ? end - first : outputs);
    first = last;
  }
}

// A piece of less than this many multiply-adds costs more to hand over than to do.
inline constexpr std::size_t least_work = 1 << 16;

/// x in the form that Gemm::run takes.
class PackedOperand {
 public:
  PackedOperand(Context& ctx, const Operand& x, const kernels::Gemm& gemm) : data_(x.packed_data()) {
    if (x.packed()) return;
    const std::size_t tokens = x.rows(), depth = x.columns(), panels = (tokens + gemm.panel - 1) / gemm.panel;
    const View rows = x.view();
    own_ = ctx.empty<std::byte>(Shape{gemm.packed_bytes(tokens, depth)});
    data_ = own_.data();
    ctx.parallel(panels, least_work / 8 / std::max<std::size_t>(depth * gemm.panel, 1) + 1, [&](std::size_t begin, std::size_t end) {
      gemm.pack(rows.row(begin * gemm.panel), rows.stride(), tokens, depth, begin, end, own_.data());
    });
  }
  const std::byte* data() const noexcept { return data_; }

 private:
  BasicTensor<std::byte> own_;
  const std::byte* data_;
};

/// Calls run(panel_begin, panel_end, output_begin, output_end) for pieces of a product, on all threads; outputs begin at multiples of `step`.
template <class F>
void split_product(Context& ctx, const kernels::Gemm& gemm, std::size_t step, std::size_t tokens, std::size_t depth, std::size_t outputs, F run) {
  const std::size_t panels = (tokens + gemm.panel - 1) / gemm.panel;
  // Outputs are the better cut: every weight is converted once. Few outputs and many tokens (a narrow projection) go by tokens.
  if (outputs >= 2 * step * ctx.threads() || panels < 2 * ctx.threads()) {
    std::size_t grain = (least_work / std::max<std::size_t>(depth * tokens, 1) / step + 1) * step;
    // Of large products two equal pieces a thread: every piece reads x anew.
    const std::size_t pieces = 2 * ctx.threads();
    if (outputs >= gemm.block * pieces) grain = std::max(grain, outputs / pieces / step * step);
    ctx.parallel(outputs, grain, [&](std::size_t begin, std::size_t end) { run(0, panels, begin, end); });
  } else {
    const std::size_t grain = least_work / std::max<std::size_t>(depth * outputs * gemm.panel, 1) + 1;
    ctx.parallel(panels, grain, [&](std::size_t begin, std::size_t end) { run(begin, end, 0, outputs); });
  }
}

}  // namespace detail

CHIASM_INLINE bool writes_heads(Context& ctx, std::size_t rows, const Weight& w) {
  const kernels::Table& table = ctx.kernels();
  return rows > std::max({ctx.most_steps(), table.i8_tokens, table.few.tokens}) && static_cast<std::size_t>(w.dtype()) < weight_kinds && !detail::needs_packing(w) &&
         table.gemm[static_cast<std::size_t>(ctx.compute())][static_cast<std::size_t>(w.dtype())].writes_heads;
}

CHIASM_INLINE void matmul(Context& ctx, const Operand& x, std::span<const Product> products) {
  ctx.check_cancelled();
  const std::size_t tokens = x.rows(), depth = x.columns();
  std::size_t outputs = 0;
  for (const Product& p : products) {
    detail::check_product(x, p);
    outputs += detail::outputs_of(p);
  }
  if (tokens == 0 || outputs == 0) return;
  const auto any_product = [&](auto condition) { return std::any_of(products.begin(), products.end(), [&](const Product& p) { return condition(*p.weight); }); };
  if (any_product(detail::needs_packing)) {
    std::vector<Weight> weights;
    std::vector<Product> packed(products.begin(), products.end());
    weights.reserve(packed.size());
    for (Product& p : packed) p.weight = &weights.emplace_back(pack(*p.weight, ctx.pool().get()));
    return matmul(ctx, x, packed);
  }
  const kernels::Table& table = ctx.kernels();
  const auto& gemms = table.gemm[static_cast<std::size_t>(ctx.compute())];
  const kernels::Gemm& any = gemms[static_cast<std::size_t>(products.front().weight->dtype())];  // kinds differ in `run` only, or else go one by one
  if (any_product([&](const Weight& w) { return gemms[static_cast<std::size_t>(w.dtype())].pack != any.pack; })) {
    for (const Product& p : products) matmul(ctx, x, std::span(&p, 1));
    return;
  }
  if (!x.suits(any)) return matmul(ctx, x.unpacked(ctx), products);

  // Of few tokens, blocks are multiplied by activations of eight bits, and bf16 by bf16, where those may be rounded.
  const bool may_round = ctx.compute() != Compute::f32 && !x.packed();
  const bool rounds_blocks = may_round && table.quantize != nullptr && tokens <= table.i8_tokens, rounds_halves = may_round && tokens <= table.few.tokens;
  const auto by_bytes = [&](const Weight& w) { return rounds_blocks && is_block_format(w.dtype()); };
  const auto by_halves = [&](const Weight& w) { return rounds_halves && w.dtype() == DType::bf16; };
  if (!x.packed() && (tokens <= ctx.most_steps() || !any_product([&](const Weight& w) { return !by_bytes(w) && !by_halves(w); }))) {
    const View rows = x.view();
    BasicTensor<std::byte> bytes, halves;  // x in these forms
    if (any_product(by_bytes)) {
      bytes = ctx.empty<std::byte>(Shape{table.quantized_bytes(tokens, depth)});
      const std::size_t row = table.quantized_bytes(1, depth);
      ctx.parallel(tokens, detail::least_work / 8 / std::max<std::size_t>(depth, 1) + 1, [&](std::size_t begin, std::size_t end) {
        table.quantize(rows.row(begin), rows.stride(), end - begin, depth, bytes.data() + begin * row);
      });
    }
    if (any_product(by_halves)) {
      halves = ctx.empty<std::byte>(Shape{table.few.packed_bytes(tokens, depth)});
      table.few.pack(rows.data(), rows.stride(), tokens, depth, halves.data());
    }
    const std::size_t grain = (detail::least_work / std::max<std::size_t>(depth * tokens, 1) + panel_outputs) / panel_outputs * panel_outputs;
    return ctx.parallel(outputs, grain, [&](std::size_t begin, std::size_t end) {
      detail::each_part(products, begin, end, [&](const Product& p, std::size_t first, std::size_t last) {
        const auto kind = static_cast<std::size_t>(p.weight->dtype());
        const std::size_t stride = detail::stride_of(*p.weight);
        if (by_bytes(*p.weight))
          table.gemv_i8[kind]({bytes.data(), tokens, depth, p.weight->data(), stride, first, last, detail::output_of(p)});
        else if (by_halves(*p.weight))
          table.few.run({halves.data(), tokens, depth, p.weight->data(), stride, first, last, detail::output_of(p)});
        else
          table.gemv[kind]({rows.data(), rows.stride(), tokens, depth, p.weight->data(), stride, first, last, detail::output_of(p)});
      });
    });
  }

  const detail::PackedOperand packed(ctx, x, any);
  detail::split_product(ctx, any, any.step, tokens, depth, outputs, [&](std::size_t panel_begin, std::size_t panel_end, std::size_t output_begin, std::size_t output_end) {
    auto scratch = ctx.empty<std::byte>(Shape{any.scratch_bytes});
    detail::each_part(products, output_begin, output_end, [&](const Product& p, std::size_t first, std::size_t last) {
      gemms[static_cast<std::size_t>(p.weight->dtype())].run({packed.data(), tokens, depth, p.weight->data(), detail::stride_of(*p.weight), panel_begin,
                                                              panel_end, first, last, detail::output_of(p), scratch.data()});
    });
  });
}

CHIASM_INLINE void matmul(Context& ctx, const Operand& x, const Weight& w, MutView y, const Epilogue& epilogue) {
  const Product product{&w, y, epilogue};
  matmul(ctx, x, std::span<const Product>(&product, 1));
}

CHIASM_INLINE Operand matmul_operand(Context& ctx, const Operand& x, const Factor& factor, Activation activation, const Factor& gate) {
  const std::size_t tokens = x.rows(), depth = x.columns(), outputs = factor.weight->shape()[0];
  const Shape shape = x.shape().with_columns(outputs);
  const bool gated = gate.weight != nullptr;
  if (detail::needs_packing(*factor.weight) || (gated && detail::needs_packing(*gate.weight))) {
    const Weight packed[2] = {pack(*factor.weight, ctx.pool().get()), gated ? pack(*gate.weight, ctx.pool().get()) : Weight()};
    return matmul_operand(ctx, x, {packed, factor.bias}, activation, gated ? Factor{packed + 1, gate.bias} : Factor());
  }
  const DType dtype = factor.weight->dtype();

  const kernels::Gemm* const packing = detail::packing(ctx, tokens);
  const kernels::Gemm& gemm = ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][static_cast<std::size_t>(dtype)];
  if (packing == nullptr || packing->pack != gemm.pack || (gated && gate.weight->dtype() != dtype)) {
    // Rows: the product's own, or of both factors side by side.
    Tensor both = ctx.empty(Shape{tokens, (gated ? 2 : 1) * outputs});
    Product products[2];
    products[0] = {factor.weight, both.view().column_slice(0, outputs), {factor.bias, gated ? Activation::none : activation}};
    if (gated) products[1] = {gate.weight, both.view().column_slice(outputs, outputs), {gate.bias, Activation::none}};
    matmul(ctx, x, std::span<const Product>(products, gated ? 2 : 1));
    if (!gated) return Operand(std::move(both).reshape(shape));
    return Operand::of_rows(ctx, shape, [&](std::size_t i, float* to) { ctx.kernels().gated(activation, both.row(i) + outputs, both.row(i), to, outputs); });
  }

  if (!x.suits(gemm)) return matmul_operand(ctx, x.unpacked(ctx), factor, activation, gate);
  Operand y(ctx, shape, gemm);
  ctx.check_cancelled();
  detail::check_factor(x, *factor.weight);
  if (gated) detail::check_factor(x, *gate.weight);
  if (outputs == 0) return y;
  const detail::PackedOperand packed(ctx, x, gemm);
  kernels::Output out;
  out.bias = factor.bias;
  out.gate_bias = gate.bias;
  out.activation = activation;
  out.packed = y.packed_data();
  out.packed_depth = outputs;
  const std::size_t step = gemm.packed_step == nullptr ? gemm.step : gemm.packed_step(outputs);
  detail::split_product(ctx, gemm, step, tokens, depth, outputs, [&](std::size_t panel_begin, std::size_t panel_end, std::size_t output_begin, std::size_t output_end) {
    auto scratch = ctx.empty<std::byte>(Shape{gemm.scratch_bytes});
    gemm.run({packed.data(), tokens, depth, factor.weight->data(), detail::stride_of(*factor.weight), panel_begin, panel_end, output_begin, output_end, out,
              scratch.data(), gated ? gate.weight->data() : nullptr});
  });
  return y;
}

}  // namespace chiasm
