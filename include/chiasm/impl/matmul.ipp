/// Matmul: body. Chooses the kernel by the number of tokens and splits the work.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/matmul.hpp>

#include <algorithm>
#include <cstddef>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Throws ShapeError and UnsupportedError.
inline void check_product(View x, const Product& p) {
  const Shape &w = p.weight->shape(), &y = p.y.shape();
  if (w.columns() != x.columns() || p.y.rows() != x.rows() || p.y.columns() != w.rows())
    throw ShapeError("matmul", x.shape().to_string() + " times the transpose of " + w.to_string() + " into " + y.to_string());
  const View& residual = p.epilogue.residual;
  if (residual.data() != nullptr && (residual.rows() != x.rows() || residual.columns() != w.rows()))
    throw ShapeError("matmul", "residual " + residual.shape().to_string() + " to " + y.to_string());
  if (static_cast<std::size_t>(p.weight->dtype()) >= float_kinds)
    throw UnsupportedError("a product with " + p.weight->describe() + " '" + p.weight->name() + "'");
}

inline kernels::Output output_of(const Product& p) noexcept {
  const Epilogue& e = p.epilogue;
  return {p.y.data(),  p.y.stride(), e.bias, e.residual.data(), e.residual.data() == nullptr ? 0 : e.residual.stride(),
          e.activation};
}

/// Calls f(product, begin, end) for the products' parts of [begin, end) of all their outputs side by side.
template <class F>
void each_part(std::span<const Product> products, std::size_t begin, std::size_t end, F f) {
  std::size_t first = 0;
  for (const Product& p : products) {
    const std::size_t outputs = p.y.columns(), last = first + outputs;
    if (begin < last && end > first) f(p, begin > first ? begin - first : 0, end < last ? end - first : outputs);
    first = last;
  }
}

}  // namespace detail

CHIASM_INLINE void matmul(Context& ctx, View x, std::span<const Product> products) {
  ctx.check_cancelled();
  const std::size_t tokens = x.rows(), depth = x.columns();
  std::size_t outputs = 0;
  for (const Product& p : products) {
    detail::check_product(x, p);
    outputs += p.y.columns();
  }
  if (tokens == 0 || outputs == 0) return;
  const kernels::Table& table = ctx.kernels();
  // A piece of less than this many multiply-adds costs more to hand over than to do.
  constexpr std::size_t least_work = 1 << 16;

  if (tokens <= table.gemv_tokens) {
    const std::size_t grain = (least_work / std::max<std::size_t>(depth * tokens, 1) + 8) / 8 * 8;
    return ctx.parallel(outputs, grain, [&](std::size_t begin, std::size_t end) {
      detail::each_part(products, begin, end, [&](const Product& p, std::size_t first, std::size_t last) {
        table.gemv[static_cast<std::size_t>(p.weight->dtype())]({x.data(), x.stride(), tokens, depth, p.weight->data(),
                                                                 depth * size_of(p.weight->dtype()), first, last,
                                                                 detail::output_of(p)});
      });
    });
  }

  const auto& gemms = table.gemm[static_cast<std::size_t>(ctx.compute())];
  const kernels::Gemm& any = gemms[0];  // kinds differ in `run` only
  const std::size_t panels = (tokens + any.panel - 1) / any.panel;
  auto packed = ctx.empty<std::byte>(Shape{any.packed_bytes(tokens, depth)});
  ctx.parallel(panels, least_work / 8 / std::max<std::size_t>(depth * any.panel, 1) + 1, [&](std::size_t begin, std::size_t end) {
    any.pack(x.data(), x.stride(), tokens, depth, begin, end, packed.data());
  });

  const auto run = [&](std::size_t panel_begin, std::size_t panel_end, std::size_t output_begin, std::size_t output_end) {
    auto scratch = ctx.empty<std::byte>(Shape{any.scratch_bytes});
    detail::each_part(products, output_begin, output_end, [&](const Product& p, std::size_t first, std::size_t last) {
      gemms[static_cast<std::size_t>(p.weight->dtype())].run({packed.data(), tokens, depth, p.weight->data(),
                                                              depth * size_of(p.weight->dtype()), panel_begin, panel_end, first,
                                                              last, detail::output_of(p), scratch.data()});
    });
  };
  // Outputs are the better cut: every weight is converted once. Few outputs and many tokens (a narrow projection) go by tokens.
  if (outputs >= 2 * any.step * ctx.threads() || panels < 2 * ctx.threads()) {
    const std::size_t grain = (least_work / std::max<std::size_t>(depth * tokens, 1) / any.step + 1) * any.step;
    ctx.parallel(outputs, grain, [&](std::size_t begin, std::size_t end) { run(0, panels, begin, end); });
  } else {
    const std::size_t grain = least_work / std::max<std::size_t>(depth * outputs * any.panel, 1) + 1;
    ctx.parallel(panels, grain, [&](std::size_t begin, std::size_t end) { run(begin, end, 0, outputs); });
  }
}

CHIASM_INLINE void matmul(Context& ctx, View x, const Weight& w, MutView y, const Epilogue& epilogue) {
  const Product product{&w, y, epilogue};
  matmul(ctx, x, std::span<const Product>(&product, 1));
}

}  // namespace chiasm
