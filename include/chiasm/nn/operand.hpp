/// Operand: the activations x of a product x Wᵀ. Rows of floats, or already in the packed form that kernels multiply, if what made them (a norm, an
/// activation, attention) has written that in place of rows. So x goes to memory once, in bf16 or in eight bits where Context::compute() allows it.
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
  /// Borrowed rows, which must outlive the operand.
  Operand(View rows) : rows_(rows), shape_(rows.shape()) {}  // NOLINT: implicit, so that a View can be multiplied as it stands
  Operand(const Tensor& rows) : Operand(rows.view()) {}      // NOLINT
  Operand(MutView rows) : Operand(View(rows)) {}             // NOLINT
  /// Rows that it owns.
  explicit Operand(Tensor&& rows) : kept_(std::move(rows)), rows_(kept_), shape_(rows_.shape()) {}

  /// Memory for x (..., D) that the caller writes: packed, where products of so many rows read it so; else rows. Rows also in Compute::i8, whose packed form
  /// is made of whole rows only.
  static Operand room(Context& ctx, Shape shape);
  /// x (..., D), made row by row, on all threads: `make(i, y)` writes row i to y (D).
  static Operand of_rows(Context& ctx, Shape shape, FunctionRef<void(std::size_t i, float* y)> make);

  const Shape& shape() const noexcept { return shape_; }
  std::size_t rows() const { return shape_.rows(); }
  std::size_t columns() const noexcept { return shape_.columns(); }

  /// Whether it is packed, as kernels::Gemm::pack of the context's compute() packs.
  bool packed() const noexcept { return !packed_.empty(); }
  /// Whether `gemm` can read it as it is: it is packed as `gemm` packs, or not at all.
  bool suits(const kernels::Gemm& gemm) const noexcept;
  /// The rows of a packed operand. Throws UnsupportedError where the packed form has no way back (kernels::Gemm::unpack).
  Tensor unpacked(Context& ctx) const;
  const std::byte* packed_data() const noexcept { return packed_.data(); }
  std::byte* packed_data() noexcept { return packed_.data(); }
  /// The rows of an operand that is not packed.
  View view() const noexcept { return rows_; }
  /// The same, to be written, of an operand that owns them.
  MutView kept() noexcept { return kept_; }

 private:
  friend Operand matmul_operand(Context& ctx, const Operand& x, const Factor& factor, Activation activation, const Factor& gate);
  Operand() = default;
  /// Room for x as `gemm` packs it.
  Operand(Context& ctx, Shape shape, const kernels::Gemm& gemm);
  const kernels::Gemm* gemm_ = nullptr;  // whose packed form it has; null: rows
  Tensor kept_;
  View rows_;
  BasicTensor<std::byte> packed_;
  Shape shape_{0};
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/operand.ipp>
#endif
