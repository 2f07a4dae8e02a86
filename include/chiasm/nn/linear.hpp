/// Linear: y = activation(x Wᵀ + b) + residual. Several named weights that read the same x may be one Linear.
#pragma once

#include <chiasm/core/pack.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/nn/matmul.hpp>

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Linear {
 public:
  static constexpr std::size_t max_parts = 8;

  Linear() = default;

  /// `weight` (out, in) and, where asked for, `bias` (out) below `w`. Throws WeightError.
  Linear(const Weights& w, std::size_t in, std::size_t out, bool bias = true) : in_(in), out_(out) { add(w, out, bias); }

  /// The outputs of several projections side by side, (in) -> (sum of outs): `Linear qkv{w, {"q_proj", "k_proj", "v_proj"}, ...}`.
  struct Projection {
    std::string_view name;
    std::size_t out;
    bool bias = true;
  };
  Linear(const Weights& w, std::initializer_list<Projection> projections, std::size_t in) : in_(in) {
    if (projections.size() > max_parts) throw ArgumentError("Linear: " + std::to_string(projections.size()) + " projections, at most " + std::to_string(max_parts));
    for (const Projection& p : projections) {
      add(w / p.name, p.out, p.bias);
      out_ += p.out;
    }
  }

  /// From a weight of one's own (a tied embedding, a convolution seen as a matrix) and an optional bias. Throws ShapeError.
  Linear(Weight weight, Tensor bias) : in_(weight.shape()[1]), out_(weight.shape()[0]) {
    if (weight.shape().rank() != 2 || (!bias.empty() && bias.size() != out_))
      throw ShapeError("Linear", "weight " + weight.shape().to_string() + ", bias " + bias.shape().to_string());
    parts_.push_back({pack(weight), std::move(bias)});
  }

  /// (T, in) -> (T, out); any leading dimensions. Throws ShapeError.
  Tensor operator()(Context& ctx, const Operand& x, Activation activation = Activation::none, View residual = {}) const {
    Tensor y = ctx.empty(x.shape().with_columns(out_));
    (*this)(ctx, x, y.view(), activation, residual);
    return y;
  }

  /// As above, into `y`, whose rows may lie apart; `residual` may be `y` itself.
  void operator()(Context& ctx, const Operand& x, MutView y, Activation activation = Activation::none, View residual = {}) const {
    if (x.columns() != in_ || y.columns() != out_ || x.rows() != y.rows())
      throw ShapeError("Linear", x.shape().to_string() + " into " + y.shape().to_string() + ", weight (" + std::to_string(out_) + ", " +
                                     std::to_string(in_) + ")");
    // One call for all parts: x is packed once. The list lives on the stack: a decode step allocates nothing.
    Product products[max_parts];
    std::size_t begin = 0, count = 0;
    for (const Part& part : parts_) {
      const std::size_t width = part.weight.shape()[0];
      Product& product = products[count++];
      product.weight = &part.weight;
      product.y = y.column_slice(begin, width);
      product.epilogue.bias = part.bias.empty() ? nullptr : part.bias.data();
      product.epilogue.activation = activation;
      if (!residual.empty()) product.epilogue.residual = residual.column_slice(begin, width);
      begin += width;
    }
    matmul(ctx, x, std::span<const Product>(products, count));
  }

  /// The result as the x of the next product: activation(x Wᵀ + b), or, of two projections of one width, of which the first is a gate,
  /// activation(x W1ᵀ + b1) * (x W2ᵀ + b2). Throws ShapeError.
  Operand operand(Context& ctx, const Operand& x, Activation activation) const {  // (T, in) -> (T, out), of a gate (T, out / 2)
    if (parts_.empty() || parts_.size() > 2 || x.columns() != in_ || parts_.front().weight.shape()[0] != parts_.back().weight.shape()[0])
      throw ShapeError("Linear::operand", x.shape().to_string() + ", weight (" + std::to_string(out_) + ", " + std::to_string(in_) + ") in " + std::to_string(parts_.size()) + " parts");
    const auto factor = [](const Part& part) { return Factor{&part.weight, part.bias.empty() ? nullptr : part.bias.data()}; };
    return matmul_operand(ctx, x, factor(parts_.back()), activation, parts_.size() == 2 ? factor(parts_.front()) : Factor());
  }

  /// Whether write_heads() can serve so many rows, and `kinds` (queries, keys, values: 3) equal shares of the outputs.
  bool writes_heads(Context& ctx, std::size_t rows, std::size_t kinds) const {
    const bool whole = out_ % (kinds * panel_outputs) == 0 && (parts_.size() == 1 || parts_.size() == kinds);
    return whole && std::all_of(parts_.begin(), parts_.end(), [&](const Part& part) {
      return part.weight.shape()[0] * parts_.size() == out_ && chiasm::writes_heads(ctx, rows, part.weight);
    });
  }
  /// Writes the outputs where an attention reads them: an equal share to each of `to`.
  void write_heads(Context& ctx, const Operand& x, std::span<const kernels::HeadsOutput* const> to) const {
    Product products[max_parts];
    Weight slices[max_parts];
    const std::size_t width = out_ / to.size();
    for (std::size_t i = 0; i < to.size(); ++i) {
      const Part& part = parts_.size() == 1 ? parts_[0] : parts_[i];
      const std::size_t first = parts_.size() == 1 ? i * width : 0;
      slices[i] = part.weight.slice(first, width);
      products[i].weight = &slices[i];
      products[i].epilogue.bias = part.bias.empty() ? nullptr : part.bias.data() + first;
      products[i].heads = to[i];
    }
    matmul(ctx, x, std::span<const Product>(products, to.size()));
  }

  std::size_t in_features() const noexcept { return in_; }
  std::size_t out_features() const noexcept { return out_; }

 private:
  struct Part {
    Weight weight;
    Tensor bias;
  };
  void add(const Weights& w, std::size_t out, bool bias) {
    Part part;
    part.weight = w.packed("weight", Shape{out, in_});
    if (bias) part.bias = w.tensor("bias", Shape{out});
    parts_.push_back(std::move(part));
  }

  std::vector<Part> parts_;
  std::size_t in_ = 0, out_ = 0;
};

}  // namespace chiasm
