/// Resampling against soxr's HQ, against what it should be, and its limits.
#include <chiasm/io/json.hpp>
#include <chiasm/io/resample.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/sha256.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <numbers>

using namespace chiasm;

namespace {

constexpr double pi = std::numbers::pi;

/// tests/golden/audio/make.py has the same sounds.
Audio sines(int rate, std::size_t frames, double highest) {
  std::vector<float> samples(frames);
  for (std::size_t i = 0; i < frames; ++i) {
    double sum = 0;
    for (int k = 1; k <= 5; ++k) sum += 0.15 * std::sin(2 * pi * highest * k / 5 * static_cast<double>(i) / rate + k);
    const double window = std::sin(pi * (static_cast<double>(i) + 0.5) / static_cast<double>(frames));
    samples[i] = static_cast<float>(window * window * sum);
  }
  return Audio(rate, std::move(samples));
}

Audio sine(int rate, std::size_t frames, double hertz) {
  std::vector<float> samples(frames);
  for (std::size_t i = 0; i < frames; ++i) samples[i] = static_cast<float>(std::sin(2 * pi * hertz * static_cast<double>(i) / rate));
  return Audio(rate, std::move(samples));
}

/// Largest difference from the sine of `hertz`, away from both ends.
double worst(const Audio& audio, double hertz, double volume) {
  double difference = 0;
  for (std::size_t i = audio.frames() / 4; i < audio.frames() * 3 / 4; ++i)
    difference = std::max(difference, std::abs(static_cast<double>(audio.samples()[i]) - volume * std::sin(2 * pi * hertz * static_cast<double>(i) / audio.rate())));
  return difference;
}

}  // namespace

TEST_CASE("soxr's HQ: the same length, no delay, the same samples in the pass band") {
  std::ifstream lines(test_data("audio/resample.jsonl"));
  int cases = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    const Json wanted = Json::parse(line);
    const auto rate = wanted["rate"].as<int>(), to = wanted["to"].as<int>();
    INFO(rate << " to " << to);
    const Audio audio = resample(sines(rate, wanted["frames"].as<std::size_t>(), wanted["highest"].as_double()), to);
    const std::vector<std::byte> bytes = base64(wanted["samples"].as_string());
    std::vector<float> reference(bytes.size() / sizeof(float));
    std::memcpy(reference.data(), bytes.data(), bytes.size());
    CHECK(audio.rate() == to);
    REQUIRE(audio.frames() == reference.size());
    double difference = 0;
    for (std::size_t i = 0; i < reference.size(); ++i) difference = std::max(difference, static_cast<double>(std::abs(audio.samples()[i] - reference[i])));
    // Where the ratio is no whole number, soxr itself is no better than 70 dB.
    CHECK(difference < (rate % to == 0 || to % rate == 0 ? 2e-6 : 2.5e-4));
  }
  CHECK(cases == 12);
}

TEST_CASE("sines below the pass band's end stay, above Nyquist they vanish") {
  for (const auto& [from, to] : {std::pair{8000, 16000}, {11025, 16000}, {22050, 16000}, {44100, 16000}, {48000, 16000}, {44099, 16000}, {16001, 16000}, {96000, 16000}, {16000, 44100}, {1000, 16000}, {1000000, 16000}}) {
    INFO(from << " to " << to);
    const double nyquist = std::min(from, to) / 2.0;
    const auto frames = static_cast<std::size_t>(400.0 * from / std::min(from, to));
    for (const double part : {0.01, 0.3, 0.7, 0.9}) CHECK(worst(resample(sine(from, frames, part * nyquist), to), part * nyquist, 1) < 3e-6);
    for (const double part : {1.0, 1.05, 1.6})
      if (part * nyquist < from / 2.0) CHECK(worst(resample(sine(from, frames, part * nyquist), to), 0, 0) < 3e-6);
  }
}

TEST_CASE("lengths, channels and parts") {
  const Audio audio = sines(44100, 3000, 5000);
  CHECK(resample(audio, 44100) == audio);
  CHECK(resample(audio, 44100, 7).frames() == 7);
  CHECK(resample(audio, 16000).frames() == 1088);  // 1088.4
  CHECK(resample(Audio(22050, std::vector<float>(50091)), 16000).frames() == 36347);
  CHECK(resample(Audio(44100, {}), 16000).frames() == 0);
  CHECK(resample(Audio(44100, {1}), 16000).frames() == 0);
  CHECK(resample(Audio(8000, {1}), 16000).frames() == 2);

  // A part is the beginning of the whole, and channels do not touch each other.
  const Audio whole = resample(audio, 16000), part = resample(audio, 16000, 500);
  REQUIRE(part.frames() == 500);
  CHECK(std::equal(part.samples().begin(), part.samples().end(), whole.samples().begin()));
  std::vector<float> both;
  for (const float sample : audio.samples()) both.insert(both.end(), {sample, -2 * sample, 0});
  const Audio three = resample(Audio(44100, both, 3), 16000);
  REQUIRE(three.frames() == whole.frames());
  bool apart = true;
  for (std::size_t i = 0; i < whole.frames(); ++i)
    apart = apart && three.samples()[3 * i] == whole.samples()[i] && three.samples()[3 * i + 1] == -2 * whole.samples()[i] && three.samples()[3 * i + 2] == 0;
  CHECK(apart);
}

TEST_CASE("rates out of all proportion") {
  CHECK_THROWS_AS(resample(Audio(16000, {1}), 0), ArgumentError);
  CHECK_THROWS_AS(resample(Audio(2147483647, {1}), 16000), ArgumentError);
  CHECK_THROWS_AS(resample(Audio(1, std::vector<float>(100)), 2147483647), ArgumentError);
  CHECK(resample(Audio(1, std::vector<float>(100)), 2147483647, 10).frames() == 10);
}

TEST_CASE("the reference collection's sounds at 16 kHz") {
  const auto facts = shared_data("io/audio/features.json");
  if (!facts) return;
  for (const Json fact : Json::read(*facts)["files"])
    if (fact.contains("resample")) {
      INFO(fact["file"].as<std::string>());
      const Audio audio = resample(mono(load_audio(*shared_data("io/audio/" + fact["file"].as<std::string>()))), 16000);
      CHECK(static_cast<std::int64_t>(audio.frames()) == fact["resample"]["n_soxr_hq"].as_int());
    }
}
