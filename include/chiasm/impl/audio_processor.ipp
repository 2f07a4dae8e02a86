#pragma once

#include <chiasm/io/audio_processor.hpp>
#include <chiasm/io/resample.hpp>

#include <unsupported/Eigen/FFT>

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numbers>
#include <optional>
#include <random>
#include <span>
#include <utility>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// Slaney's mel scale: linear up to 1000 Hz, logarithmic above.
CHIASM_INLINE double mel_from_hertz(double hertz) { return hertz < 1000 ? hertz * 3 / 200 : 15 + std::log(hertz / 1000) * 27 / std::log(6.4); }
CHIASM_INLINE double hertz_from_mel(double mel) { return mel < 15 ? mel * 200 / 3 : 1000 * std::exp((mel - 15) * std::log(6.4) / 27); }

/// What a transform of n points costs for each of them: the sum of n's prime factors.
CHIASM_INLINE std::int64_t fft_cost(std::int64_t n) {
  std::int64_t cost = 0;
  for (std::int64_t factor = 2; n > 1; ++factor) {
    if (factor * factor > n) factor = n;
    for (; n % factor == 0; n /= factor) cost += factor;
  }
  return cost;
}

}  // namespace detail

CHIASM_INLINE AudioProcessorConfig AudioProcessorConfig::from(const Json& file, const std::string& type) {
  const Json nested = file.find("feature_extractor");
  const Json& json = nested.is_object() ? nested : file;
  const std::string name = json.get<std::string>("feature_extractor_type", type);
  if (name.empty()) json.fail("names no feature_extractor_type");
  if (name != "WhisperFeatureExtractor") throw UnsupportedError(json.file() + ": feature extractor " + name);
  AudioProcessorConfig config;
  const auto positive = [&](std::string_view key, int& value) {
    constexpr int largest = 1 << 24;
    const Json member = json.find(key);
    if (member.is_null()) return;
    value = member.as<int>();
    if (value < 1 || value > largest) member.fail("is " + std::to_string(value) + ", expected 1 to " + std::to_string(largest));
  };
  const auto finite = [&](std::string_view key, double& value) {
    value = json.get(key, value);
    if (!std::isfinite(static_cast<float>(value))) json.find(key).fail("is no finite number");
  };
  positive("feature_size", config.feature_size);
  positive("sampling_rate", config.sampling_rate);
  positive("hop_length", config.hop_length);
  positive("chunk_length", config.chunk_length);
  positive("n_fft", config.n_fft);
  finite("padding_value", config.padding_value);
  finite("dither", config.dither);
  const auto side = json.get<std::string>("padding_side", "right");
  if (side != "right" && side != "left") json.find("padding_side").fail("is '" + side + "', expected 'left' or 'right'");
  config.padding_left = side == "left";
  return config;
}

CHIASM_INLINE AudioProcessor::AudioProcessor(AudioProcessorConfig config) : config_(std::move(config)) {
  const std::int64_t mels = config_.feature_size, rate = config_.sampling_rate, hop = config_.hop_length, n = config_.n_fft;
  const auto refuse = [&](const std::string& what) { throw ConfigError("WhisperFeatureExtractor", "", what); };
  if (mels < 1 || rate < 2 || hop < 1 || n < 2 || config_.chunk_length < 1) refuse("feature_size, sampling_rate, hop_length, chunk_length or n_fft is too small");
  const std::int64_t samples = config_.chunk_length * rate;
  if (samples <= n / 2) refuse("n_fft of " + std::to_string(n) + " is too long for a chunk of " + std::to_string(samples) + " samples");
  const std::int64_t frames = (samples + n / 2 * 2 - n) / hop;
  if (frames < 1) refuse("hop_length of " + std::to_string(hop) + " is longer than the chunk of " + std::to_string(samples) + " samples");
  constexpr std::int64_t most = std::int64_t{1} << 27;
  if (samples > most || mels > most / frames || n * detail::fft_cost(n) > 64 * most / frames || mels > most / n)
    refuse("a spectrogram of " + std::to_string(mels) + " x " + std::to_string(frames) + " from transforms of " + std::to_string(n) + " points");
  samples_ = static_cast<std::size_t>(samples), frames_ = static_cast<std::size_t>(frames);

  window_.resize(static_cast<std::size_t>(n));  // Hann, periodic
  for (std::size_t i = 0; i < window_.size(); ++i) window_[i] = static_cast<float>(0.5 - 0.5 * std::cos(2 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(n)));

  // Triangles whose corners are equally spaced in mels from 0 to 8000 Hz, whatever the rate; each of the same area.
  const double top = detail::mel_from_hertz(8000);
  const auto corner = [&](std::size_t i) { return detail::hertz_from_mel(top * static_cast<double>(i) / static_cast<double>(mels + 1)); };
  const auto bins = static_cast<std::size_t>(n / 2 + 1);
  const double spacing = static_cast<double>(rate / 2) / static_cast<double>(bins - 1);
  for (std::size_t m = 0; m < static_cast<std::size_t>(mels); ++m) {
    const double left = corner(m), centre = corner(m + 1), right = corner(m + 2);
    Filter filter{std::min(bins, static_cast<std::size_t>(left / spacing)), 0, weights_.size()};
    for (std::size_t bin = filter.first; bin < bins && static_cast<double>(bin) * spacing < right; ++bin, ++filter.count) {
      const double hertz = static_cast<double>(bin) * spacing;
      const double height = std::min((hertz - left) / (centre - left), (right - hertz) / (right - centre));
      weights_.push_back(static_cast<float>(std::max(height, 0.0) * 2 / (right - left)));
    }
    filters_.push_back(filter);
  }
}

CHIASM_INLINE Tensor AudioProcessor::mel_filters() const {
  Tensor bank({window_.size() / 2 + 1, filters_.size()});
  for (std::size_t m = 0; m < filters_.size(); ++m)
    for (std::size_t i = 0; i < filters_[m].count; ++i) bank.row(filters_[m].first + i)[m] = weights_[filters_[m].weights + i];
  return bank;
}

// The chunk, mirrored at both ends by half a window. `sound` becomes the number of samples that are not padding.
CHIASM_INLINE std::vector<float> AudioProcessor::waveform(const Audio& audio, std::size_t& sound) const {
  const std::size_t half = window_.size() / 2;
  std::vector<float> wave(samples_ + 2 * half, static_cast<float>(config_.padding_value));
  const auto chunk = wave.begin() + static_cast<std::ptrdiff_t>(half);
  const bool as_it_is = audio.channels() == 1 && audio.rate() == config_.sampling_rate;
  std::optional<Audio> converted;
  if (!as_it_is) converted = resample(mono(audio), config_.sampling_rate, samples_);
  const std::span<const float> samples = (as_it_is ? audio : *converted).samples();
  sound = std::min(samples.size(), samples_);
  for (std::size_t i = 0; i < sound; ++i)
    if (!std::isfinite(samples[i])) throw ArgumentError("sample " + std::to_string(i) + " of the sound is no finite number");
  std::copy_n(samples.begin(), sound, chunk + static_cast<std::ptrdiff_t>(config_.padding_left ? samples_ - sound : 0));
  if (config_.dither != 0) {
    std::mt19937 bits(1);  // the same noise each time: the same sound gives the same features
    const auto uniform = [&] { return (static_cast<double>(bits()) + 0.5) * 0x1p-32; };
    for (std::size_t i = 0; i < samples_; ++i) {  // Box and Muller
      const double radius = std::sqrt(-2 * std::log(uniform()));
      wave[half + i] += static_cast<float>(config_.dither * radius * std::cos(2 * std::numbers::pi * uniform()));
    }
  }
  for (std::size_t i = 0; i < half; ++i) {
    wave[half - 1 - i] = wave[half + 1 + i];
    wave[half + samples_ + i] = wave[half + samples_ - 2 - i];
  }
  return wave;
}

CHIASM_INLINE AudioInputs AudioProcessor::operator()(const Audio& audio) const {
  const std::size_t n = window_.size(), half = n / 2, hop = static_cast<std::size_t>(config_.hop_length);
  std::size_t sound = 0;
  const std::vector<float> wave = waveform(audio, sound);

  AudioInputs inputs;
  inputs.attention_mask.resize(frames_);
  const std::size_t begin = config_.padding_left ? samples_ - sound : 0;
  for (std::size_t t = 0; t < frames_; ++t) inputs.attention_mask[t] = t * hop >= begin && t * hop < begin + sound;

  inputs.input_features = Tensor({filters_.size(), frames_});
  float* const features = inputs.input_features.data();
  // From here on there is nothing but padding, and one column is like the other.
  const bool uniform_tail = !config_.padding_left && config_.dither == 0 && sound + half < samples_;
  const std::size_t tail = uniform_tail ? (sound + half + hop - 1) / hop : frames_;
  const std::size_t columns = std::min(tail + 1, frames_);
  Eigen::FFT<float> fft;
  fft.SetFlag(Eigen::FFT<float>::HalfSpectrum);
  std::vector<float> frame(n), power(half + 1);
  std::vector<std::complex<float>> spectrum(n);
  for (std::size_t t = 0; t < columns; ++t) {
    for (std::size_t i = 0; i < n; ++i) frame[i] = wave[t * hop + i] * window_[i];
    fft.fwd(spectrum.data(), frame.data(), static_cast<Eigen::Index>(n));
    for (std::size_t i = 0; i <= half; ++i) power[i] = std::norm(spectrum[i]);
    for (std::size_t m = 0; m < filters_.size(); ++m) {
      const Filter& filter = filters_[m];
      float sum = 0;
      for (std::size_t i = 0; i < filter.count; ++i) sum += weights_[filter.weights + i] * power[filter.first + i];
      features[m * frames_ + t] = sum;
    }
  }

  float top = -std::numeric_limits<float>::infinity();
  for (std::size_t m = 0; m < filters_.size(); ++m) {
    float* const row = features + m * frames_;
    for (std::size_t t = 0; t < columns; ++t) {
      row[t] = std::log10(std::max(row[t], 1e-10f));
      top = std::max(top, row[t]);
    }
  }
  for (std::size_t m = 0; m < filters_.size(); ++m) {
    float* const row = features + m * frames_;
    for (std::size_t t = 0; t < columns; ++t) row[t] = (std::max(row[t], top - 8.0f) + 4.0f) / 4.0f;
    std::fill(row + columns, row + frames_, row[columns - 1]);
  }
  return inputs;
}

}  // namespace chiasm
