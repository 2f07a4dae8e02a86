/// Relative position bias: a learned number per head and bucket of distances, added to the scores of attention. T5, arXiv:1910.10683.
#pragma once

#include <chiasm/core/weights.hpp>
#include <chiasm/nn/attention.hpp>

#include <cmath>

namespace chiasm::inline CHIASM_ABI {

/// The biases of the distances from `-back` on, a row per head.
struct DistanceBias {
  Tensor rows;  // (H, back + 1 + ahead)
  std::size_t back = 0;

  void add_to(Attend& attend) const noexcept {
    attend.distance_bias = rows.data() + back;
    attend.distance_bias_head = rows.columns();
  }
};

class RelativePositionBias {
 public:
  RelativePositionBias() = default;
  /// `weight` (buckets, heads) below `w`. Near distances have a bucket each; the farther ones share, on a logarithmic scale that ends at
  /// `max_distance`. `bidirectional`: keys behind and keys ahead have half of the buckets each; otherwise all that are ahead count as here.
  /// Throws WeightError, ArgumentError where the buckets are too few, or max_distance lies among the near distances.
  RelativePositionBias(const Weights& w, std::size_t buckets, std::size_t max_distance, std::size_t heads, bool bidirectional)
      : weight_(w.tensor("weight", Shape{buckets, heads})), side_(bidirectional ? buckets / 2 : buckets), near_(side_ / 2), max_distance_(max_distance),
        bidirectional_(bidirectional) {
    if (near_ == 0 || max_distance <= near_)
      throw ArgumentError("RelativePositionBias: distances up to " + std::to_string(max_distance) + " in " + std::to_string(buckets) + " buckets");
    scale_ = static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(near_)));
  }

  /// Of all distances between a key and a query from -back to ahead: once for all layers, as long as the longest sequence.
  DistanceBias operator()(Context& ctx, std::size_t back, std::size_t ahead) const {
    DistanceBias bias{ctx.empty(Shape{weight_.columns(), back + 1 + ahead}), back};
    for (std::size_t i = 0; i <= back + ahead; ++i) {
      const float* const of_heads = weight_.row(bucket(i > back ? i - back : back - i, i > back));
      for (std::size_t h = 0; h < weight_.columns(); ++h) bias.rows.row(h)[i] = of_heads[h];
    }
    return bias;
  }

  /// Of keys `distance` positions behind a query, or ahead of it.
  std::size_t bucket(std::size_t distance, bool ahead) const noexcept {
    if (ahead && !bidirectional_) return 0;
    const std::size_t base = ahead ? side_ : 0;
    if (distance < near_) return base + distance;
    if (distance >= max_distance_) return base + side_ - 1;
    // In f32 and in this order, as the reference: where a bucket begins depends on the rounding.
    const float share = std::log(static_cast<float>(distance) / static_cast<float>(near_)) / scale_;
    const std::size_t far = near_ + static_cast<std::size_t>(share * static_cast<float>(side_ - near_));
    return base + (far < side_ ? far : side_ - 1);
  }

 private:
  Tensor weight_;  // (buckets, H)
  std::size_t side_ = 0, near_ = 0, max_distance_ = 0;
  float scale_ = 1;
  bool bidirectional_ = false;
};

}  // namespace chiasm
