#pragma once

#include <chiasm/io/resample.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

// soxr's HQ is flat up to 0.9137 of the lower Nyquist frequency and stops at 1, by 126 dB: a sinc cut off in the middle between them
// under a Kaiser window. Its impulse responses differ from this one by 1e-4 of their peak, and as much from each other.
inline constexpr double resample_cutoff = 0.9568, resample_reach = 100, resample_kaiser = 13.5;

/// The low-pass filter at time `t`, in samples of the lower rate.
class ResampleFilter {
 public:
  ResampleFilter() {
    // The Kaiser window is I0(kaiser * sqrt(u)) / I0(kaiser), u = 1 - (t / reach)^2: a power series in u.
    double term = 1, sum = 0;
    for (std::size_t k = 0; k < series_.size(); ++k) {
      series_[k] = term;
      sum += term;
      const double next = 2 * static_cast<double>(k + 1);
      term *= resample_kaiser * resample_kaiser / (next * next);
    }
    for (double& coefficient : series_) coefficient *= resample_cutoff / sum;
  }
  double operator()(double t) const noexcept {
    const double u = 1 - t * t / (resample_reach * resample_reach), uu = u * u;
    if (u <= 0) return 0;
    double even = 0, odd = 0;
    for (std::size_t k = series_.size(); k > 0; k -= 2) {
      even = even * uu + series_[k - 2];
      odd = odd * uu + series_[k - 1];
    }
    const double angle = std::numbers::pi * resample_cutoff * t;
    return (even + odd * u) * (std::abs(angle) < 1e-9 ? 1 : std::sin(angle) / angle);
  }

 private:
  std::array<double, 36> series_;
};

CHIASM_INLINE float resample_dot(const float* a, const float* b, std::size_t count) {
  constexpr std::size_t lanes = 16;
  float sums[lanes] = {};
  for (std::size_t i = 0; i < count; i += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  return std::accumulate(sums, sums + lanes, 0.0f);
}

}  // namespace detail

CHIASM_INLINE Audio resample(const Audio& audio, int rate, std::size_t frames) {
  if (rate < 1 || rate < audio.rate() / 64) throw ArgumentError("resampling from " + std::to_string(audio.rate()) + " to " + std::to_string(rate) + " Hz");
  const auto channels = static_cast<std::size_t>(audio.channels());
  const double ratio = static_cast<double>(rate) / audio.rate();
  const double wanted = std::min(std::floor(static_cast<double>(audio.frames()) * ratio + 0.5), static_cast<double>(frames));
  if (wanted * static_cast<double>(channels) > 0x1p31) throw ArgumentError("resampling to " + std::to_string(rate) + " Hz gives more than 2^31 samples");
  frames = static_cast<std::size_t>(wanted);
  if (rate == audio.rate()) return Audio(rate, {audio.samples().begin(), audio.samples().begin() + static_cast<std::ptrdiff_t>(frames * channels)}, audio.channels());

  // Output m lies at m * step / phases in the input: a whole sample and one of `phases` fractions. Each fraction has its row of
  // the filter; where they are too many, the rows stand closer than a sample by `rows` and two of them are mixed.
  const auto divisor = static_cast<std::size_t>(std::gcd(rate, audio.rate()));
  const std::size_t phases = static_cast<std::size_t>(rate) / divisor, step = static_cast<std::size_t>(audio.rate()) / divisor;
  const std::size_t rows = std::min<std::size_t>(phases, 1024);
  const double scale = std::min(ratio, 1.0);
  const auto reach = static_cast<std::size_t>(std::ceil(detail::resample_reach / scale));
  const std::size_t taps = (2 * reach + 15) / 16 * 16;
  std::vector<float> filter((rows + (rows < phases)) * taps);
  const detail::ResampleFilter lowpass;
  for (std::size_t row = 0; row * taps < filter.size(); ++row) {
    float* const to = filter.data() + row * taps;
    if (2 * row > rows) {  // the same backwards
      const float* const mirror = filter.data() + (rows - row) * taps;
      std::reverse_copy(mirror, mirror + 2 * reach, to);
      continue;
    }
    for (std::size_t tap = 0; tap < 2 * reach; ++tap) {
      const double t = static_cast<double>(tap) - static_cast<double>(reach - 1) - static_cast<double>(row) / static_cast<double>(rows);
      to[tap] = static_cast<float>(scale * lowpass(t * scale));
    }
  }

  const std::size_t used = std::min(audio.frames(), static_cast<std::size_t>(wanted / ratio) + reach + 2);
  std::vector<float> input(reach - 1 + used + taps + 1), output(frames * channels);
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::size_t i = 0; i < used; ++i) input[reach - 1 + i] = audio.samples()[i * channels + c];
    for (std::size_t m = 0, whole = 0, fraction = 0; m < frames; ++m) {
      const float* const from = input.data() + std::min(whole, reach - 1 + used);
      const std::size_t position = fraction * rows, row = position / phases;
      const float* const at = filter.data() + row * taps;
      float sample = detail::resample_dot(from, at, taps);
      if (const std::size_t between = position % phases)
        sample += (detail::resample_dot(from, at + taps, taps) - sample) * (static_cast<float>(between) / static_cast<float>(phases));
      output[m * channels + c] = sample;
      whole += step / phases;
      if ((fraction += step % phases) >= phases) fraction -= phases, ++whole;
    }
  }
  return Audio(rate, std::move(output), audio.channels());
}

CHIASM_INLINE Audio resample(const Audio& audio, int rate) { return resample(audio, rate, std::numeric_limits<std::size_t>::max()); }

}  // namespace chiasm
