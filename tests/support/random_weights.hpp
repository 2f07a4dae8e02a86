/// Weights by name from a seeded generator: models of any size without a file.
#pragma once

#include <chiasm/core/conversion.hpp>
#include <chiasm/core/weights.hpp>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// Collects tensors; hand over with weights().
class RandomWeights {
 public:
  /// With a `period`, the values come again after so many: a billion in seconds.
  explicit RandomWeights(std::uint64_t seed = 1, std::size_t period = 0) : state_(seed) {
    for (std::size_t i = 0; i < period; ++i) block_.push_back(normal());
  }

  /// Normal values of standard deviation `scale`, around `mean`.
  void add(const std::string& name, chiasm::Shape shape, double scale, double mean = 0, chiasm::DType dtype = chiasm::DType::f32) {
    auto values = std::make_shared<chiasm::Tensor>(shape);
    for (float& value : values->values()) value = static_cast<float>(mean + scale * next());
    const auto* bytes = reinterpret_cast<const std::byte*>(values->data());
    // As loading does it: a product from small pages is a twentieth slower.
    tensors_.push_back(chiasm::convert(chiasm::Weight(name, chiasm::DType::f32, shape, bytes, values, "random"), dtype));
  }
  chiasm::Weights weights() { return chiasm::Weights(std::move(tensors_), "random"); }

 private:
  double next() {
    if (block_.empty()) return normal();
    at_ = at_ + 1 < block_.size() ? at_ + 1 : 0;
    return block_[at_];
  }
  double normal() {  // Box-Muller on splitmix64
    const auto uniform = [&] {
      std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      return (static_cast<double>((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
    };
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
  std::uint64_t state_;
  std::vector<double> block_;
  std::size_t at_ = 0;
  std::vector<chiasm::Weight> tensors_;
};
