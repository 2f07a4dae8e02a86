/// Projector: image features into the language model's width. One layer in LLaVA 1.0 (arXiv:2304.08485), two with GELU between in 1.5 (2310.03744).
#pragma once

#include <chiasm/nn/mlp.hpp>

namespace chiasm::inline CHIASM_ABI {

class Projector {
 public:
  Projector() = default;
  /// `linear_1` and, unless the checkpoint is a LLaVA 1.0, `linear_2`.
  Projector(const Weights& w, std::size_t in, std::size_t out, Activation activation, bool bias)
      : linear_1_(w / "linear_1", in, out, bias), activation_(activation) {
    if (w.contains("linear_2")) linear_2_ = Linear(w / "linear_2", out, out, bias);
  }

  Tensor operator()(Context& ctx, View x) const {  // (..., in) -> (..., out)
    if (linear_2_.in_features() == 0) return linear_1_(ctx, x);
    return linear_2_(ctx, linear_1_.operand(ctx, x, activation_));
  }

 private:
  Linear linear_1_, linear_2_;
  Activation activation_ = Activation::gelu;
};

}  // namespace chiasm
