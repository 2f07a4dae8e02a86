/// The two feed-forward blocks: fc2(act(fc1 x)), and the gated down(act(gate x) * up x) of GLU Variants, arXiv:2002.05202.
#pragma once

#include <chiasm/nn/linear.hpp>

namespace chiasm::inline CHIASM_ABI {

class Mlp {
 public:
  Mlp() = default;
  /// `fc1`, `fc2` are the names of the two projections below `w`.
  Mlp(const Weights& w, std::string_view fc1, std::string_view fc2, std::size_t width, std::size_t inner, std::size_t out, Activation activation,
      bool bias = true)
      : fc1_(w / fc1, width, inner, bias), fc2_(w / fc2, inner, out, bias), activation_(activation) {}

  Tensor operator()(Context& ctx, const Operand& x, View residual = {}) const {  // (T, D) -> (T, out)
    return fc2_(ctx, fc1_.operand(ctx, x, activation_), Activation::none, residual);
  }
  /// Added to `y`.
  void add(Context& ctx, const Operand& x, MutView y) const {  // (T, D), (T, out)
    fc2_(ctx, fc1_.operand(ctx, x, activation_), y, Activation::none, y);
  }

 private:
  Linear fc1_, fc2_;
  Activation activation_ = Activation::gelu;
};

class GatedMlp {
 public:
  GatedMlp() = default;
  GatedMlp(const Weights& w, std::size_t width, std::size_t inner, Activation activation, bool bias = false)
      : GatedMlp(w, "gate_proj", "up_proj", "down_proj", width, inner, activation, bias) {}
  /// `gate`, `up`, `down` are the names of the projections below `w`.
  GatedMlp(const Weights& w, std::string_view gate, std::string_view up, std::string_view down, std::size_t width, std::size_t inner, Activation activation,
           bool bias = false)
      : gate_up_(w, {{gate, inner, bias}, {up, inner, bias}}, width), down_(w / down, inner, width, bias), activation_(activation) {}

  Tensor operator()(Context& ctx, const Operand& x, View residual = {}) const {  // (T, D) -> (T, D)
    return down_(ctx, gate_up_.operand(ctx, x, activation_), Activation::none, residual);
  }

 private:
  Linear gate_up_, down_;
  Activation activation_ = Activation::silu;
};

}  // namespace chiasm
