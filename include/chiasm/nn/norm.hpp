/// Layer norm (arXiv:1607.06450) and RMS norm (arXiv:1910.07467), over the innermost dimension.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/operand.hpp>

namespace chiasm::inline CHIASM_ABI {

/// y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance.
class LayerNorm {
 public:
  LayerNorm() = default;
  LayerNorm(const Weights& w, std::size_t width, float eps, bool bias = true)
      : weight_(w.tensor("weight", Shape{width})), bias_(bias ? w.tensor("bias", Shape{width}) : Tensor()), eps_(eps) {}
  /// Without parameters.
  LayerNorm(std::size_t width, float eps) : weight_(Shape{width}), eps_(eps) {
    for (float& one : weight_.values()) one = 1.0f;
  }

  Tensor operator()(Context& ctx, View x) const {  // (..., D) -> (..., D)
    if (x.columns() != weight_.size()) throw ShapeError("LayerNorm", x.shape().to_string() + ", weight " + weight_.shape().to_string());
    Tensor y = ctx.empty(x.shape());
    const float* bias = bias_.empty() ? nullptr : bias_.data();
    ctx.parallel(x.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ctx.kernels().layer_norm(x.row(i), weight_.data(), bias, eps_, y.row(i), x.columns());
    });
    return y;
  }

  /// The same, as the x of the next product.
  Operand operand(Context& ctx, View x) const {  // (..., D) -> (..., D)
    if (x.columns() != weight_.size()) throw ShapeError("LayerNorm", x.shape().to_string() + ", weight " + weight_.shape().to_string());
    const float* bias = bias_.empty() ? nullptr : bias_.data();
    return Operand::of_rows(ctx, x.shape(), [&](std::size_t i, float* y) { ctx.kernels().layer_norm(x.row(i), weight_.data(), bias, eps_, y, x.columns()); });
  }

  /// Normalises each head of every row by itself, in place; D is the width of a head, rows may lie apart.
  void heads(Context& ctx, MutView x) const {  // (T, heads * D)
    const std::size_t width = weight_.size();
    if (width == 0 || x.columns() % width != 0) throw ShapeError("LayerNorm", x.shape().to_string() + ", weight " + weight_.shape().to_string());
    const float* bias = bias_.empty() ? nullptr : bias_.data();
    ctx.parallel(x.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i)
        for (float *head = x.row(i), *last = head + x.columns(); head != last; head += width) ctx.kernels().layer_norm(head, weight_.data(), bias, eps_, head, width);
    });
  }

 private:
  Tensor weight_, bias_;
  float eps_ = 1e-5f;
};

/// y = x / sqrt(mean(x^2) + eps) * weight
class RmsNorm {
 public:
  RmsNorm() = default;
  RmsNorm(const Weights& w, std::size_t width, float eps) : weight_(w.tensor("weight", Shape{width})), eps_(eps) {}

  Tensor operator()(Context& ctx, View x) const {  // (..., D) -> (..., D)
    if (x.columns() != weight_.size()) throw ShapeError("RmsNorm", x.shape().to_string() + ", weight " + weight_.shape().to_string());
    Tensor y = ctx.empty(x.shape());
    ctx.parallel(x.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ctx.kernels().rms_norm(x.row(i), weight_.data(), eps_, y.row(i), x.columns());
    });
    return y;
  }

  /// The same, as the x of the next product.
  Operand operand(Context& ctx, View x) const {  // (..., D) -> (..., D)
    if (x.columns() != weight_.size()) throw ShapeError("RmsNorm", x.shape().to_string() + ", weight " + weight_.shape().to_string());
    return Operand::of_rows(ctx, x.shape(), [&](std::size_t i, float* y) { ctx.kernels().rms_norm(x.row(i), weight_.data(), eps_, y, x.columns()); });
  }

  /// Normalises each head of every row by itself, in place; D is the width of a head, rows may lie apart.
  void heads(Context& ctx, MutView x) const {  // (T, heads * D)
    const std::size_t width = weight_.size();
    if (width == 0 || x.columns() % width != 0) throw ShapeError("RmsNorm", x.shape().to_string() + ", weight " + weight_.shape().to_string());
    ctx.parallel(x.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i)
        for (float *head = x.row(i), *last = head + x.columns(); head != last; head += width) ctx.kernels().rms_norm(head, weight_.data(), eps_, head, width);
    });
  }

 private:
  Tensor weight_;
  float eps_ = 1e-6f;
};

}  // namespace chiasm
