/// Sound: files, resampling, and log-mel spectrograms. One thread. bench/peers/audio_peer.py runs this against transformers and soxr.
#include <chiasm/io/audio_processor.hpp>
#include <chiasm/io/resample.hpp>

#include "support/paths.hpp"

#include <benchmark/benchmark.h>

#include <cstring>

using namespace chiasm;

namespace {

Audio noise(int rate, int seconds) {
  std::vector<float> samples(static_cast<std::size_t>(rate) * static_cast<std::size_t>(seconds));
  std::uint32_t state = 1;
  for (float& sample : samples) {
    state = state * 1664525u + 1013904223u;
    sample = static_cast<float>(state >> 16) / 65536 - 0.5f;
  }
  return Audio(rate, std::move(samples));
}

void features(benchmark::State& state, int mels, int seconds) {
  const AudioProcessor process = AudioProcessor::from_json(Json::parse(R"({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": )" + std::to_string(mels) + "}"));
  const Audio audio = noise(16000, seconds);
  for (auto _ : state) benchmark::DoNotOptimize(process(audio).input_features.data());
}

void resample_to_16k(benchmark::State& state, int rate) {
  const Audio audio = noise(rate, 30);
  for (auto _ : state) benchmark::DoNotOptimize(resample(audio, 16000).samples().data());
}

void wav(benchmark::State& state) {
  constexpr std::uint32_t rate = 44100, bytes = rate * 30 * 4;
  std::vector<std::byte> file(44 + bytes);
  const auto put = [&](std::size_t at, const void* from, std::size_t size) { std::memcpy(file.data() + at, from, size); };
  const std::uint32_t words[] = {36 + bytes, 16, 0x00020001, rate, rate * 4, 0x00100004, bytes};
  put(0, "RIFF", 4), put(4, words, 4), put(8, "WAVEfmt ", 8), put(16, words + 1, 20), put(36, "data", 4), put(40, words + 6, 4);
  for (auto _ : state) benchmark::DoNotOptimize(load_audio(file).samples().data());
}

void flac(benchmark::State& state) {
  const auto path = shared_data("io/audio/ls_1272-141231-0002.flac");
  if (!path) {
    state.SkipWithError("the reference sounds are not there");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(load_audio(*path).samples().data());
}

}  // namespace

BENCHMARK_CAPTURE(features, 80_mels_30s, 80, 30)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(features, 128_mels_30s, 128, 30)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(features, 80_mels_5s, 80, 5)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resample_to_16k, 22050_30s, 22050)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resample_to_16k, 44100_30s, 44100)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resample_to_16k, 48000_30s, 48000)->Unit(benchmark::kMillisecond);
BENCHMARK(wav)->Name("wav/44100_stereo_30s")->Unit(benchmark::kMillisecond);
BENCHMARK(flac)->Name("flac/16000_13s")->Unit(benchmark::kMillisecond);
