/// Sound files against libsndfile: samples to the last bit, and files that are broken.
#include <chiasm/io/audio.hpp>
#include <chiasm/io/json.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/sha256.hpp"

#include <cmath>
#include <fstream>
#include <limits>

using namespace chiasm;

namespace {

struct Case {
  std::string name;
  std::vector<std::byte> file;
  Json wanted;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  std::ifstream lines(test_data("audio/files.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json wanted = Json::parse(line);
    all.push_back({wanted["name"].as<std::string>(), base64(wanted["file"].as_string()), wanted});
  }
  REQUIRE(all.size() > 110);
  return all;
}

std::string sha256_of(std::span<const float> samples) { return sha256({reinterpret_cast<const std::uint8_t*>(samples.data()), samples.size_bytes()}); }

std::span<const std::byte> bytes(std::string_view text) { return std::span(reinterpret_cast<const std::byte*>(text.data()), text.size()); }

}  // namespace

TEST_CASE("every kind of file gives libsndfile's samples") {
  int sounds = 0;
  for (const Case& c : cases()) {
    INFO(c.name);
    if (c.wanted.contains("error")) {
      bool refused = false;
      try {
        load_audio(c.file, c.name);
      } catch (const FormatError&) {
        refused = true;
      } catch (const UnsupportedError&) {
        refused = true;
      }
      CHECK(refused);
      continue;
    }
    const Audio audio = load_audio(c.file, c.name);
    CHECK(audio.rate() == c.wanted["rate"].as_int());
    CHECK(audio.channels() == c.wanted["channels"].as_int());
    CHECK(static_cast<std::int64_t>(audio.frames()) == c.wanted["frames"].as_int());
    CHECK(sha256_of(audio.samples()) == c.wanted["sha256"].as_string());
    ++sounds;
  }
  CHECK(sounds > 80);
}

TEST_CASE("every cut of a file is its beginning or an error") {
  for (const Case& c : cases()) {
    if (c.wanted.contains("error")) continue;
    INFO(c.name);
    const Audio whole = load_audio(c.file, c.name);
    for (std::size_t keep = 0; keep < c.file.size(); keep += 1 + keep / 9) {
      const std::vector<std::byte> cut(c.file.begin(), c.file.begin() + static_cast<std::ptrdiff_t>(keep));
      try {
        const Audio part = load_audio(cut, c.name);
        REQUIRE(part.frames() <= whole.frames());
        // Bit by bit: NaN equals itself here.
        CHECK(sha256_of(part.samples()) == sha256_of(whole.samples().first(part.samples().size())));
      } catch (const FormatError&) {
      }
    }
  }
}

TEST_CASE("a damaged file is a sound or an error, nothing else") {
  std::uint32_t state = 1;
  int sounds = 0;
  const auto random = [&](std::size_t below) { return static_cast<std::size_t>((state = state * 1664525u + 1013904223u) >> 8) % below; };
  for (const Case& c : cases())
    for (int round = 0; round < 60 && !c.file.empty(); ++round) {
      std::vector<std::byte> file = c.file;
      for (std::size_t hits = 1 + random(3); hits > 0; --hits) file[random(std::min<std::size_t>(file.size(), round % 2 ? file.size() : 64))] = static_cast<std::byte>(random(4) ? random(256) : 255);
      try {
        load_audio(file, c.name);
        ++sounds;
      } catch (const FormatError&) {
      } catch (const UnsupportedError&) {
      }
    }
  CHECK(sounds > 500);
}

TEST_CASE("errors of sound files name the file, the byte and the finding") {
  CHECK_THROWS_AS(load_audio("no such sound.wav"), FileError);
  CHECK_THROWS_AS(load_audio(source_dir()), FileError);
  CHECK_THROWS_AS(load_audio(bytes("")), FormatError);
  CHECK_THROWS_AS(load_audio(bytes("hello")), FormatError);
  for (const std::string_view other : {"OggS....", "ID3.....", "\xff\xfb\x90 mpeg", "FORM....AIFF", "....ftypM4A ", "caff...."}) CHECK_THROWS_AS(load_audio(bytes(other)), UnsupportedError);
  try {
    load_audio(bytes({"RIFF\0\0\0\0WAVEfmt \4\0\0\0\1\0\1\0", 24}), "short.wav");
    FAIL("not reached");
  } catch (const FormatError& error) {
    CHECK(error.file == "short.wav");
    CHECK(error.byte == 20);
    CHECK(std::string(error.what()).find("4 bytes") != std::string::npos);
  }
}

TEST_CASE("a small FLAC cannot fill the memory") {
  const auto checksum = [](const std::string& data, int bits, unsigned polynomial) {
    unsigned sum = 0;
    for (const char c : data)
      for (int bit = 7; bit >= 0; --bit) sum = (sum << 1 ^ (((sum >> (bits - 1)) ^ (static_cast<unsigned char>(c) >> bit)) & 1u ? polynomial : 0u)) & ((1u << bits) - 1);
    std::string bytes;
    for (int shift = bits - 8; shift >= 0; shift -= 8) bytes += static_cast<char>(sum >> shift & 0xFF);
    return bytes;
  };
  // Frames of 65536 zeros in each of eight channels: 34 bytes.
  std::string frame("\xff\xf8\x70\x70\0\xff\xff", 7);
  frame += checksum(frame, 8, 0x07) + std::string(24, '\0');
  frame += checksum(frame, 16, 0x8005);
  std::string file = std::string("fLaC\x80\0\0\x22\0\x10\xff\xff\0\0\0\0\0\0\x03\xe8\x0e\xf0\0\0\0\0", 26) + std::string(16, '\0');
  file += frame + frame;
  CHECK(load_audio(bytes(file)).frames() == 2 * 65536);
  for (int i = 0; i < 1000; ++i) file += frame;
  try {
    load_audio(bytes(file));
    FAIL("not reached");
  } catch (const FormatError& error) {
    CHECK(std::string(error.what()).find("more than") != std::string::npos);
  }
}

TEST_CASE("Audio holds whole frames") {
  const Audio audio(8000, {0.5f, 1, -0.5f, 0}, 2);
  CHECK(audio.frames() == 2);
  CHECK(audio.seconds() == 2.0 / 8000);
  CHECK(mono(audio) == Audio(8000, {0.75f, -0.25f}));
  CHECK(mono(mono(audio)) == mono(audio));
  CHECK(Audio(1, {}).frames() == 0);
  CHECK(mono(Audio(44100, {}, 3)).channels() == 1);
  CHECK_THROWS_AS(Audio(0, {1}), ArgumentError);
  CHECK_THROWS_AS(Audio(8000, {1}, 0), ArgumentError);
  CHECK_THROWS_AS(Audio(8000, {1, 2, 3}, 2), ArgumentError);
  CHECK_THROWS_AS(Audio(8000, {}, 1025), ArgumentError);
}

TEST_CASE("the reference collection's sounds") {
  const auto facts = shared_data("io/audio/features.json");
  if (!facts) return;
  for (const Json fact : Json::read(*facts)["files"]) {
    const std::string name = fact["file"].as<std::string>();
    INFO(name);
    const Audio audio = load_audio(*shared_data("io/audio/" + name));
    CHECK(audio.rate() == fact["sr"].as_int());
    CHECK(audio.channels() == fact["channels"].as_int());
    CHECK(static_cast<std::int64_t>(audio.frames()) == fact["frames"].as_int());
    const Audio one = mono(audio);
    std::size_t i = 0;
    for (const double sample : fact["mono_first8"].as_vector<double>()) CHECK(one.samples()[i++] == static_cast<float>(sample));
    double sum = 0;
    for (const float sample : one.samples()) sum += static_cast<double>(sample) * static_cast<double>(sample);
    CHECK(std::sqrt(sum / static_cast<double>(one.frames())) == Approx(fact["mono_rms"].as_double()).epsilon(1e-6));
  }
}
