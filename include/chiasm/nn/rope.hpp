/// Rotary position embedding, the rotate-half form: pairs (x_i, x_{i + d/2}) turn by position * inv_freq_i. RoFormer,
/// arXiv:2104.09864; its stretched forms: linear (2306.15595), dynamic NTK, YaRN (2309.00071), Llama 3.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/table.hpp>

#include <cmath>
#include <span>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

enum class RopeType : std::uint8_t { standard, linear, dynamic, yarn, llama3 };

struct RopeConfig {
  RopeType type = RopeType::standard;
  std::size_t dim = 0;  // dimensions of a head that turn; the others pass (partial rotary)
  double theta = 10000.0;
  double factor = 1.0;                                     // linear, dynamic, yarn, llama3
  std::size_t max_position_embeddings = 2048;              // dynamic: where the stretching begins
  double original_max_position_embeddings = 2048;          // yarn, llama3: the length of pre-training
  double low_freq_factor = 1.0, high_freq_factor = 4.0;    // llama3
  double beta_fast = 32.0, beta_slow = 1.0;                // yarn
  bool truncate = true;                                    // yarn
  double attention_factor = 1.0;                           // yarn: multiplies cos and sin
};

class Rope {
 public:
  Rope() = default;
  /// `divisors`, one for each pair or none: each pair turns so much slower than the rest of the configuration says (`rope_freqs` of GGUF files, which
  /// have Llama 3's form in it).
  explicit Rope(const RopeConfig& config, std::span<const float> divisors = {})
      : config_(config), divisors_(divisors.begin(), divisors.end()), inv_freq_(frequencies(config.max_position_embeddings)) {}

  /// cos and sin of the positions first, first + 1, ... of one sequence, each (count, pairs()), into rows of `cos` and `sin`.
  void angles(std::size_t first, std::size_t count, MutView cos, MutView sin) const {
    // Dynamic NTK: the base grows with the length reached so far; keys in the cache keep the angles they were given.
    const bool stretched = config_.type == RopeType::dynamic && first + count > config_.max_position_embeddings;
    const std::vector<float> grown = stretched ? frequencies(first + count) : std::vector<float>();
    const std::vector<float>& inv_freq = stretched ? grown : inv_freq_;
    const auto scale = static_cast<float>(config_.attention_factor);
    for (std::size_t t = 0; t < count; ++t)
      for (std::size_t i = 0; i < inv_freq.size(); ++i) {
        const float angle = static_cast<float>(first + t) * inv_freq[i];
        cos.row(t)[i] = std::cos(angle) * scale;
        sin.row(t)[i] = std::sin(angle) * scale;
      }
  }

  /// Turns the heads of x (T, heads * head_dim) in place by the angles of its rows.
  void apply(Context& ctx, MutView x, std::size_t head_dim, View cos, View sin) const {
    ctx.parallel(x.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t t = begin; t < end; ++t)
        ctx.kernels().rope(x.row(t), x.columns() / head_dim, head_dim, cos.row(t), sin.row(t), pairs());
    });
  }

  std::size_t dim() const noexcept { return config_.dim; }
  /// That turn together. Of an odd number of dimensions the last one takes the next along, as in the reference.
  std::size_t pairs() const noexcept { return (config_.dim + 1) / 2; }
  /// The length up to which a position's angles do not depend on how many follow.
  std::size_t stable_length() const noexcept {
    return config_.type == RopeType::dynamic ? config_.max_position_embeddings : static_cast<std::size_t>(-1);
  }

 private:
  std::vector<float> frequencies(std::size_t length) const {
    const double dim = static_cast<double>(config_.dim);
    double theta = config_.theta;
    if (config_.type == RopeType::dynamic) {
      const double longest = static_cast<double>(std::max(length, config_.max_position_embeddings));
      const double stretch = config_.factor * longest / static_cast<double>(config_.max_position_embeddings) - (config_.factor - 1);
      theta *= std::pow(stretch, dim / (dim - 2));
    }
    std::vector<float> inv_freq(pairs());
    for (std::size_t i = 0; i < inv_freq.size(); ++i) {
      // In float and in this order, as the reference computes it: a last-bit difference grows with the position.
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(config_.dim);
      const float power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
      inv_freq[i] = scaled(1.0f / power, i, theta);
      if (!divisors_.empty()) inv_freq[i] /= divisors_[i];
    }
    return inv_freq;
  }

  float scaled(float inv_freq, std::size_t i, double theta) const {
    const auto factor = static_cast<float>(config_.factor);
    switch (config_.type) {
      case RopeType::standard:
      case RopeType::dynamic: break;
      case RopeType::linear: return inv_freq / factor;
      case RopeType::llama3: {
        const double wavelength = 2 * pi / static_cast<double>(inv_freq), length = config_.original_max_position_embeddings;
        if (wavelength < length / config_.high_freq_factor) return inv_freq;
        if (wavelength > length / config_.low_freq_factor) return inv_freq / factor;
        const double smooth = (length / wavelength - config_.low_freq_factor) / (config_.high_freq_factor - config_.low_freq_factor);
        return static_cast<float>((1 - smooth) * static_cast<double>(inv_freq) / config_.factor + smooth * static_cast<double>(inv_freq));
      }
      case RopeType::yarn: {
        const double dim = static_cast<double>(config_.dim);
        const auto correction = [&](double rotations) {
          return dim * std::log(config_.original_max_position_embeddings / (rotations * 2 * pi)) / (2 * std::log(theta));
        };
        double low = correction(config_.beta_fast), high = correction(config_.beta_slow);
        if (config_.truncate) low = std::floor(low), high = std::ceil(high);
        low = std::max(low, 0.0);
        high = std::min(high, dim - 1);
        if (low == high) high += 0.001;
        const auto ramp = static_cast<float>(std::min(std::max((static_cast<double>(i) - low) / (high - low), 0.0), 1.0));
        return inv_freq / factor * ramp + inv_freq * (1 - ramp);
      }
    }
    return inv_freq;
  }

  static constexpr double pi = 3.14159265358979323846;
  RopeConfig config_;
  std::vector<float> divisors_;
  std::vector<float> inv_freq_;
};

}  // namespace chiasm
