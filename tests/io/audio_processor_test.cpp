/// Log-mel spectrograms against WhisperFeatureExtractor of transformers 5.23.
#include <chiasm/io/audio_processor.hpp>
#include <chiasm/io/resample.hpp>
#include <chiasm/io/safetensors.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

using namespace chiasm;

namespace {

AudioProcessor processor(const std::string& json) { return AudioProcessor::from_json(Json::parse(json)); }

/// tests/golden/audio/make.py has the same sounds.
Audio sound(const std::string& kind, std::size_t frames, int volume, int rate) {
  std::vector<std::int64_t> out(frames);
  std::uint32_t state = 1, phase = 0, step = 8000000;
  for (std::size_t i = 0; i < frames; ++i) {
    state = state * 1664525u + 1013904223u;
    if (kind == "noise" || kind == "both") out[i] += (static_cast<std::int64_t>(state >> 16) - 32768) >> (volume + (kind == "both" ? 6 : 0));
    if (kind == "chirp" || kind == "both") out[i] += (std::abs(static_cast<std::int64_t>(phase >> 16) - 32768) * 2 - 32768) >> (volume + 1);
    if (kind == "impulse" && i == frames / 3) out[i] = 20000;
    step += 40009u;
    phase += step;
  }
  std::vector<float> samples(frames);
  for (std::size_t i = 0; i < frames; ++i) samples[i] = static_cast<float>(out[i]) / 32768;
  return Audio(rate, std::move(samples));
}

/// A .npy of f2 or f4, two dimensions at most, as rows.
std::vector<float> npy(const std::string& path, std::size_t& columns) {
  std::ifstream stream(path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(stream), {}};
  const std::size_t header = 10 + static_cast<unsigned char>(file.at(8)) + 256u * static_cast<unsigned char>(file.at(9));
  const std::string text = file.substr(10, header - 10);
  const bool half = text.find("'<f2'") != text.npos;
  std::size_t rows = 0;
  REQUIRE(std::sscanf(text.c_str() + text.find("("), "(%zu, %zu)", &rows, &columns) >= 1);
  std::vector<float> values;
  for (std::size_t at = header; at < file.size(); at += half ? 2 : 4) {
    float value;
    if (half) {
      std::uint16_t bits;
      std::memcpy(&bits, file.data() + at, 2);
      const int exponent = bits >> 10 & 31;
      value = static_cast<float>(exponent ? std::ldexp((bits & 1023) + 1024, exponent - 25) : std::ldexp(bits & 1023, -24));
      if (bits >> 15) value = -value;
    } else {
      std::memcpy(&value, file.data() + at, 4);
    }
    values.push_back(value);
  }
  if (text.find("'fortran_order': True") != text.npos) {
    std::vector<float> transposed(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) transposed[i % rows * columns + i / rows] = values[i];
    return transposed;
  }
  return values;
}

}  // namespace

TEST_CASE("transformers' features") {
  std::ifstream lines(test_data("audio/features.jsonl"));
  int cases = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    const Json wanted = Json::parse(line);
    const std::string kind = wanted["sound"].as<std::string>();
    INFO(wanted["config"].dump(300) << " " << kind << " " << wanted["frames"].as_int());
    const AudioProcessor process = AudioProcessor::from_json(wanted["config"]);
    const AudioInputs inputs = process(sound(kind, wanted["frames"].as<std::size_t>(), wanted["volume"].as<int>(), process.config().sampling_rate));
    const auto shape = wanted["shape"].as_vector<std::size_t>();
    REQUIRE(inputs.input_features.shape() == Shape{shape[0], shape[1]});
    CHECK(process.frames() == shape[1]);
    REQUIRE(inputs.attention_mask.size() == shape[1]);
    std::int64_t sounding = 0;
    for (const std::int32_t mark : inputs.attention_mask) sounding += mark;
    CHECK(sounding == wanted["mask"].as_int());
    CHECK(std::is_sorted(inputs.attention_mask.begin(), inputs.attention_mask.end(), [&](int a, int b) { return process.config().padding_left ? a < b : a > b; }));

    const std::span<const float> values = inputs.input_features.values();
    double mean = 0, top = -9, difference = 0;
    for (const float value : values) mean += static_cast<double>(value), top = std::max(top, static_cast<double>(value));
    CHECK(mean / static_cast<double>(values.size()) == Approx(wanted["mean"].as_double()).margin(1e-5));
    CHECK(top == Approx(wanted["max"].as_double()).margin(1e-5));
    const auto samples = wanted["samples"].as_vector<double>();
    REQUIRE(samples.size() == 61 + shape[0]);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const std::size_t at = i == 60  ? values.size() - 1
                             : i < 60 ? static_cast<std::size_t>(static_cast<double>(i) * (static_cast<double>(values.size() - 1) / 60))
                                    : (i - 61) * shape[1] + (i - 61) % static_cast<std::size_t>(std::max<std::int64_t>(1, sounding));
      difference = std::max(difference, std::abs(static_cast<double>(values[at]) - samples[i]));
    }
    CHECK(difference < 2e-4);
  }
  CHECK(cases == 64);
}

TEST_CASE("what an encoder is given of sounds that transformers refuses") {
  const AudioProcessor process = processor(R"({"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 2})");
  // Another rate is resampled, several channels are mixed.
  const Audio chirp = sound("chirp", 12000, 0, 16000), faster = resample(chirp, 44100);
  std::vector<float> stereo;
  for (const float sample : faster.samples()) stereo.insert(stereo.end(), {1.5f * sample, 0.5f * sample});
  const AudioInputs direct = process(chirp), converted = process(Audio(44100, stereo, 2));
  CHECK(converted.attention_mask == direct.attention_mask);
  CHECK(std::abs(converted.input_features.row(10)[20] - direct.input_features.row(10)[20]) < 1e-2f);
  // Only what is needed of a long sound is resampled.
  CHECK(process(Audio(1, std::vector<float>(1000000))).attention_mask.back() == 1);

  CHECK_THROWS_AS(process(Audio(16000, {0, std::numeric_limits<float>::infinity()})), ArgumentError);
  CHECK_THROWS_AS(process(Audio(16000, {0, std::numeric_limits<float>::quiet_NaN()})), ArgumentError);
  CHECK_THROWS_AS(process(Audio(2000000000, {0})), ArgumentError);
}

TEST_CASE("dither is noise of the same strength every time") {
  const AudioProcessor process = processor(R"({"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 2, "dither": 0.001})");
  const Audio silence(16000, std::vector<float>(8000));
  const AudioInputs a = process(silence), b = process(silence);
  CHECK(std::equal(a.input_features.values().begin(), a.input_features.values().end(), b.input_features.values().begin()));
  double mean = 0;  // transformers: -0.386 to -0.390
  for (const float value : a.input_features.values()) mean += static_cast<double>(value) / static_cast<double>(a.input_features.size());
  CHECK(mean == Approx(-0.388).margin(0.02));
}

TEST_CASE("an audio preprocessor_config.json, old and new") {
  const auto defaults = processor(R"({"feature_extractor_type": "WhisperFeatureExtractor"})").config();
  CHECK(defaults.feature_size == 80);
  CHECK(defaults.sampling_rate == 16000);
  CHECK(defaults.hop_length == 160);
  CHECK(defaults.chunk_length == 30);
  CHECK(defaults.n_fft == 400);
  const auto nested = processor(R"({"processor_class": "WhisperProcessor", "feature_extractor": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "padding_side": "left", "padding_value": 0.5, "dither": 1e-4}})").config();
  CHECK(nested.feature_size == 128);
  CHECK(nested.padding_left);
  CHECK(nested.padding_value == 0.5);
  CHECK(nested.dither == 1e-4);
  CHECK(AudioProcessor::from_json(Json::parse("{}"), "WhisperFeatureExtractor").frames() == 3000);
}

TEST_CASE("audio processor files that make no sense") {
  CHECK_THROWS_AS(processor("{}"), ConfigError);
  CHECK_THROWS_AS(processor(R"({"feature_extractor_type": "SeamlessM4TFeatureExtractor"})"), UnsupportedError);
  CHECK_THROWS_AS(processor(R"({"feature_extractor_type": "CLIPFeatureExtractor"})"), UnsupportedError);
  for (const std::string rest : {R"("feature_size": 0)", R"("feature_size": "many")", R"("hop_length": -1)", R"("hop_length": 480001)", R"("n_fft": 1)", R"("n_fft": 1e9)", R"("n_fft": 2000000)", R"("n_fft": 65521)", R"("chunk_length": 1.5)",
                                 R"("chunk_length": 100000)", R"("sampling_rate": 0)", R"("sampling_rate": 1)", R"("sampling_rate": 16000000)", R"("padding_value": "zero")", R"("padding_value": 1e300)", R"("padding_side": "top")", R"("feature_size": 16000000)",
                                 R"("hop_length": 1, "feature_size": 1000)"}) {
    INFO(rest);
    CHECK_THROWS_AS(processor(R"({"feature_extractor_type": "WhisperFeatureExtractor", )" + rest + "}"), ConfigError);
  }
}

TEST_CASE("the reference collection's features") {
  const auto facts = shared_data("io/audio/features.json");
  if (!facts) return;
  const std::string folder = *shared_data("io/audio");
  for (const std::string mels : {"80", "128"}) {
    const AudioProcessor process = AudioProcessor::from_file(folder + "/processors/whisper" + mels + ".json");
    std::size_t columns = 0;
    const std::vector<float> bank = npy(folder + "/mel_filters_" + mels + ".npy", columns);
    const Tensor filters = process.mel_filters();
    REQUIRE(filters.shape() == Shape{columns, std::stoul(mels)});
    double difference = 0;
    for (std::size_t i = 0; i < bank.size(); ++i) difference = std::max(difference, std::abs(static_cast<double>(bank[i]) - static_cast<double>(filters.row(i % columns)[i / columns])));
    CHECK(difference < 1e-8);

    for (const Json fact : Json::read(*facts)["files"]) {
      const std::string path = folder + "/" + fact["file"].as<std::string>();
      INFO(path << ", " << mels << " mels");
      Audio audio = load_audio(path);
      if (audio.rate() != 16000) audio = Audio(16000, npy(path + ".16k_soxrhq_f16.npy", columns));
      const AudioInputs inputs = process(audio);
      const Json wanted = fact["whisper" + mels];
      const std::vector<float> reference = npy(path + ".whisper" + mels + "_f16.npy", columns);
      CHECK(columns == wanted["stored_frames"].as<std::size_t>());
      double worst = 0, rest = 0;
      for (std::size_t m = 0; m < filters.columns(); ++m)
        for (std::size_t t = 0; t < inputs.input_features.columns(); ++t) {
          const auto value = static_cast<double>(inputs.input_features.row(m)[t]);
          if (t < columns) worst = std::max(worst, std::abs(value - static_cast<double>(reference[m * columns + t])));
          else rest = std::max(rest, std::abs(value - wanted["rest_value"].as_double()));
        }
      CHECK(worst < 1e-3);  // the stored values are rounded to 11 bits
      CHECK(rest < 1e-5);
      CHECK(static_cast<std::int64_t>(std::count(inputs.attention_mask.begin(), inputs.attention_mask.end(), 1)) == wanted["valid_frames"].as_int());
    }
  }
}

TEST_CASE("the reference collection's models") {
  const auto folder = shared_data("golden/cases");
  if (!folder) return;
  int sounds = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    const std::string path = entry.path().string();
    if (!std::filesystem::exists(path + "/model/preprocessor_config.json")) continue;
    const Json file = Json::read(path + "/model/preprocessor_config.json");
    if (file.get<std::string>("feature_extractor_type", "") != "WhisperFeatureExtractor") continue;
    INFO(path);
    const AudioProcessor process = AudioProcessor::from_json(file);
    const Weights expected = read_safetensors(path + "/expected.safetensors");
    for (const Json input : Json::read(path + "/case.json")["inputs"]) {
      const std::string prefix = expected.contains("input_features") ? "" : input["name"].as<std::string>() + ".";
      const Tensor features = expected.get(prefix + "input_features").to_f32(), mask = expected.get(prefix + "feature_attention_mask").to_f32();
      std::size_t i = 0;
      for (const Json audio : input["audio"]) {
        const AudioInputs inputs = process(load_audio(path + "/" + audio.as<std::string>()));
        const std::span<const float> values = inputs.input_features.values();
        REQUIRE(features.size() >= (i + 1) * values.size());
        double worst = 0;
        for (std::size_t k = 0; k < values.size(); ++k) worst = std::max(worst, static_cast<double>(std::abs(values[k] - features.data()[i * values.size() + k])));
        CHECK(worst < 5e-5);
        bool same = true;
        for (std::size_t t = 0; t < process.frames(); ++t) same = same && mask.row(i)[t] == static_cast<float>(inputs.attention_mask[t]);
        CHECK(same);
        ++i, ++sounds;
      }
    }
  }
  CHECK(sounds >= 5);
}
