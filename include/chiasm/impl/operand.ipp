#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/operand.hpp>

#include <algorithm>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE Operand Operand::room(Context& ctx, Shape shape) {
  const kernels::Table& table = ctx.kernels();
  // Products that round x to eight bits read rows, and round those once for all weights.
  if (shape.rows() <= std::max(table.gemv_tokens, ctx.compute() == Compute::f32 ? 0 : table.i8_tokens)) return Operand(ctx.empty(shape));
  Operand x;
  x.shape_ = shape;
  x.packed_ = ctx.empty<std::byte>(Shape{ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][0].packed_bytes(shape.rows(), shape.columns())});
  return x;
}

CHIASM_INLINE Operand Operand::of_rows(Context& ctx, Shape shape, FunctionRef<void(std::size_t, float*)> make) {
  Operand x = room(ctx, shape);
  const std::size_t rows = shape.rows(), columns = shape.columns();
  if (!x.packed()) {
    const std::size_t few = ctx.kernels().gemv_tokens;
    ctx.parallel(rows, rows <= few ? rows : 4, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) make(i, x.kept_.row(i));
    });
    return x;
  }
  const kernels::Gemm& gemm = ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][0];
  ctx.parallel((rows + gemm.panel - 1) / gemm.panel, 1, [&](std::size_t begin, std::size_t end) {
    Tensor panel = ctx.empty(Shape{gemm.panel, columns});  // stays in the cache between making and packing
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t first = p * gemm.panel, count = std::min(gemm.panel, rows - first);
      for (std::size_t i = 0; i < count; ++i) make(first + i, panel.row(i));
      gemm.pack(panel.data(), columns, rows, columns, p, p + 1, x.packed_.data());
    }
  });
  return x;
}

}  // namespace chiasm
