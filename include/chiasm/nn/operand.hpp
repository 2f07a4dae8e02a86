/// Operand: activations on their way into a product. Rows of floats, or the packed form that the kernels multiply, which whatever made them has
/// written at once: a norm, an activation, attention. So a row goes to memory once, in bf16 or in eight bits where Context::compute() allows it.
#pragma once

#include <chiasm/core/context.hpp>

namespace chiasm::inline CHIASM_ABI {

namespace kernels {
struct Gemm;
}
struct Factor;
enum class Activation : std::uint8_t;

class Operand {
 public:
  /// Rows that somebody else keeps, as long as the operand is used.
  Operand(View rows) : rows_(rows), shape_(rows.shape()) {}  // NOLINT: implicit, so that a View can be multiplied as it stands
  Operand(const Tensor& rows) : Operand(rows.view()) {}      // NOLINT
  Operand(MutView rows) : Operand(View(rows)) {}             // NOLINT
  /// Rows that it keeps.
  explicit Operand(Tensor&& rows) : kept_(std::move(rows)), rows_(kept_), shape_(rows_.shape()) {}

  /// Room for x (..., D), to be written by its maker: packed, if products with so many rows read it packed, else rows; which includes Compute::i8,
  /// whose packed form wants whole rows.
  static Operand room(Context& ctx, Shape shape);
  /// Made row by row: `make(i, y)` writes row i to y (D).
  static Operand of_rows(Context& ctx, Shape shape, FunctionRef<void(std::size_t i, float* y)> make);

  const Shape& shape() const noexcept { return shape_; }
  std::size_t rows() const { return shape_.rows(); }
  std::size_t columns() const noexcept { return shape_.columns(); }

  /// Whether it is packed, as kernels::Gemm::pack of the context's compute does it.
  bool packed() const noexcept { return !packed_.empty(); }
  /// Whether products of this kind read it as it is: packed as `gemm` packs, or not at all.
  bool suits(const kernels::Gemm& gemm) const noexcept;
  /// The rows of a packed operand. Throws UnsupportedError where it was packed for good.
  Tensor unpacked(Context& ctx) const;
  const std::byte* packed_data() const noexcept { return packed_.data(); }
  std::byte* packed_data() noexcept { return packed_.data(); }
  /// The rows of an operand that is not packed.
  View view() const noexcept { return rows_; }
  /// The same, of one that keeps them.
  MutView kept() noexcept { return kept_; }

 private:
  friend Operand matmul_operand(Context& ctx, const Operand& x, const Factor& factor, Activation activation, const Factor& gate);
  Operand() = default;
  /// Room for x as `gemm` packs it.
  Operand(Context& ctx, Shape shape, const kernels::Gemm& gemm);
  const kernels::Gemm* gemm_ = nullptr;  // that packs it
  Tensor kept_;
  View rows_;
  BasicTensor<std::byte> packed_;
  Shape shape_{0};
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/operand.ipp>
#endif
