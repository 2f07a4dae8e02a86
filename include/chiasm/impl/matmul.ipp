/// Matmul: body. Chooses the kernel by the number of tokens and splits the work.
#pragma once

#include <chiasm/core/pack.hpp>
#include <chiasm/impl/operand.ipp>
#include <chiasm/kernels/dispatch.hpp>
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

/// Which of the tables' kernels read a weight.
inline std::size_t kind_of(const Weight& w) noexcept {
  return w.dtype() == DType::bf16 && w.layout() == Layout::panels ? kernels::bf16_panels : static_cast<std::size_t>(w.dtype());
}

/// Whether no kernel of the context's reads the weight in its layout: blocks in rows, as a file has them; bf16 in panels, but not in AMX tiles. It is laid out
/// for one product alone then: a layer that is used again packs its weights once.
inline bool lies_otherwise(const Context& ctx, const Weight& w) noexcept {
  if (is_block_format(w.dtype())) return w.layout() == Layout::rows;
  return w.layout() == Layout::panels && ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][kernels::bf16_panels].run == nullptr;
}
inline Weight laid_out(Context& ctx, const Weight& w) {
  if (!lies_otherwise(ctx, w)) return w;
  return w.layout() == Layout::rows ? pack(w, ctx.pool().get()) : to_rows(w);
}

/// Bytes from row to row, or from panel to panel.
inline std::size_t stride_of(const Weight& w) noexcept {
  const std::size_t depth = w.shape().columns();
  return w.layout() == Layout::panels ? panel_bytes(w.dtype(), depth) : depth * size_of(w.dtype());
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
  if (static_cast<std::size_t>(w.dtype()) >= weight_kinds || detail::lies_otherwise(ctx, w)) return false;
  if (detail::form_of(ctx, rows, w.dtype()) != detail::Form::packed) return false;
  return ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][detail::kind_of(w)].writes_heads;
}

CHIASM_INLINE bool reads_bf16_panels(Compute compute, std::string_view isa) {
  return kernels::active(isa).gemm[static_cast<std::size_t>(compute)][kernels::bf16_panels].run != nullptr;
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
  if (any_product([&](const Weight& w) { return detail::lies_otherwise(ctx, w); })) {
    std::vector<Weight> weights;
    std::vector<Product> packed(products.begin(), products.end());
    weights.reserve(packed.size());
    for (Product& p : packed) p.weight = &weights.emplace_back(detail::laid_out(ctx, *p.weight));
    return matmul(ctx, x, packed);
  }
  const kernels::Table& table = ctx.kernels();
  const auto& gemms = table.gemm[static_cast<std::size_t>(ctx.compute())];
  const kernels::Gemm& any = gemms[detail::kind_of(*products.front().weight)];  // kinds differ in `run` only, or else go one by one
  if (any_product([&](const Weight& w) { return gemms[detail::kind_of(w)].pack != any.pack; })) {
    for (const Product& p : products) matmul(ctx, x, std::span(&p, 1));
    return;
  }
  if (!x.suits(any)) return matmul(ctx, x.unpacked(ctx), products);

  using detail::Form;
  const auto form = [&](const Weight& w) { return detail::form_of(ctx, tokens, w.dtype()); };
  const auto any_reads = [&](Form wanted) { return any_product([&](const Weight& w) { return form(w) == wanted; }); };
  if (!x.packed() && !any_reads(Form::packed)) {
    const View rows = x.view();
    BasicTensor<std::byte> bytes, halves;  // x in these forms
    if (any_reads(Form::bytes)) {
      bytes = ctx.empty<std::byte>(Shape{table.quantized_bytes(tokens, depth)});
      const std::size_t row = table.quantized_bytes(1, depth);
      ctx.parallel(tokens, detail::least_work / 8 / std::max<std::size_t>(depth, 1) + 1, [&](std::size_t begin, std::size_t end) {
        table.quantize(rows.row(begin), rows.stride(), end - begin, depth, bytes.data() + begin * row);
      });
    }
    if (any_reads(Form::halves)) {
      halves = ctx.empty<std::byte>(Shape{table.few.packed_bytes(tokens, depth)});
      table.few.pack(rows.data(), rows.stride(), tokens, depth, halves.data());
    }
    const std::size_t grain = (detail::least_work / std::max<std::size_t>(depth * tokens, 1) + panel_outputs) / panel_outputs * panel_outputs;
    return ctx.parallel(outputs, grain, [&](std::size_t begin, std::size_t end) {
      detail::each_part(products, begin, end, [&](const Product& p, std::size_t first, std::size_t last) {
        const std::size_t kind = detail::kind_of(*p.weight);
        const std::size_t stride = detail::stride_of(*p.weight);
        if (form(*p.weight) == Form::bytes)
          table.gemv_i8[kind]({bytes.data(), tokens, depth, p.weight->data(), stride, first, last, detail::output_of(p)});
        else if (form(*p.weight) == Form::halves)
          (kind == kernels::bf16_panels ? table.few.run_panels : table.few.run)({halves.data(), tokens, depth, p.weight->data(), stride, first, last, detail::output_of(p)});
        else
          table.gemv[kind]({rows.data(), rows.stride(), tokens, depth, p.weight->data(), stride, first, last, detail::output_of(p)});
      });
    });
  }

  const detail::PackedOperand packed(ctx, x, any);
  detail::split_product(ctx, any, any.step, tokens, depth, outputs, [&](std::size_t panel_begin, std::size_t panel_end, std::size_t output_begin, std::size_t output_end) {
    auto scratch = ctx.empty<std::byte>(Shape{any.scratch_bytes});
    detail::each_part(products, output_begin, output_end, [&](const Product& p, std::size_t first, std::size_t last) {
      gemms[detail::kind_of(*p.weight)].run({packed.data(), tokens, depth, p.weight->data(), detail::stride_of(*p.weight), panel_begin,
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
  if (detail::lies_otherwise(ctx, *factor.weight) || (gated && detail::lies_otherwise(ctx, *gate.weight))) {
    const Weight packed[2] = {detail::laid_out(ctx, *factor.weight), gated ? detail::laid_out(ctx, *gate.weight) : Weight()};
    return matmul_operand(ctx, x, {packed, factor.bias}, activation, gated ? Factor{packed + 1, gate.bias} : Factor());
  }
  const std::size_t kind = detail::kind_of(*factor.weight);

  const kernels::Gemm* const packing = detail::packing(ctx, tokens);
  const kernels::Gemm& gemm = ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][kind];
  if (packing == nullptr || packing->pack != gemm.pack || (gated && detail::kind_of(*gate.weight) != kind)) {
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
