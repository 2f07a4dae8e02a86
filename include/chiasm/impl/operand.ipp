#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/operand.hpp>

#include <algorithm>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// The form in which a product reads x.
enum class Form {
  packed,  // many tokens: Gemm
  rows,    // few: Table::gemv
  bytes,   // few, rounded to eight bits: Table::gemv_i8
  halves,  // few, rounded to bf16: Few
};

/// The form in which so many tokens meet weights of this kind.
inline Form form_of(const Context& ctx, std::size_t tokens, DType weight) noexcept {
  const kernels::Table& table = ctx.kernels();
  if (ctx.compute() != Compute::f32) {
    if (is_block_format(weight) && tokens <= table.i8_tokens) return Form::bytes;
    if (weight == DType::bf16 && tokens <= table.few.tokens) return Form::halves;
  }
  return tokens <= table.gemv_tokens[static_cast<std::size_t>(ctx.compute())][static_cast<std::size_t>(weight)] ? Form::rows : Form::packed;
}

/// The Gemm whose packing x with so many rows gets when it is made, before its weights are known: of Compute::i8 that of weights of eight bits.
/// Null where weights of some kind want another form: x stays in rows, of which every form can be made.
inline const kernels::Gemm* packing(const Context& ctx, std::size_t rows) noexcept {
  for (std::size_t kind = 0; kind < weight_kinds; ++kind)
    if (form_of(ctx, rows, static_cast<DType>(kind)) != Form::packed) return nullptr;
  return &ctx.kernels().gemm[static_cast<std::size_t>(ctx.compute())][static_cast<std::size_t>(ctx.compute() == Compute::i8 ? DType::q8_row : DType::f32)];
}

}  // namespace detail

CHIASM_INLINE Operand::Operand(Context& ctx, Shape shape, const kernels::Gemm& gemm)
    : gemm_(&gemm), packed_(ctx.empty<std::byte>(Shape{gemm.packed_bytes(shape.rows(), shape.columns())})), shape_(shape) {}

CHIASM_INLINE Operand Operand::room(Context& ctx, Shape shape) {
  const kernels::Gemm* const gemm = detail::packing(ctx, shape.rows());
  return gemm != nullptr && gemm->unpack == nullptr ? Operand(ctx, shape, *gemm) : Operand(ctx.empty(shape));
}

CHIASM_INLINE bool Operand::suits(const kernels::Gemm& gemm) const noexcept { return gemm_ == nullptr || gemm_->pack == gemm.pack; }

CHIASM_INLINE Tensor Operand::unpacked(Context& ctx) const {
  if (gemm_ == nullptr || gemm_->unpack == nullptr) throw UnsupportedError("rows of an operand in floats");
  Tensor rows = ctx.empty(shape_);
  ctx.parallel(shape_.rows(), 16, [&](std::size_t begin, std::size_t end) {
    gemm_->unpack(packed_.data(), shape_.rows(), shape_.columns(), begin, end, rows.row(begin), shape_.columns());
  });
  return rows;
}

CHIASM_INLINE Operand Operand::of_rows(Context& ctx, Shape shape, FunctionRef<void(std::size_t, float*)> make) {
  const kernels::Gemm* const packing = detail::packing(ctx, shape.rows());
  const std::size_t rows = shape.rows(), columns = shape.columns();
  if (packing == nullptr) {
    Operand x(ctx.empty(shape));
    const std::size_t few = ctx.most_steps();
    ctx.parallel(rows, rows <= few ? rows : 4, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) make(i, x.kept_.row(i));
    });
    return x;
  }
  const kernels::Gemm& gemm = *packing;
  Operand x(ctx, shape, gemm);
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
