/// WAV: RIFF, its big-endian twin RIFX, and RF64 (EBU Tech 3306). Which files are read, and how samples become floats, is libsndfile's.
#pragma once

#include <chiasm/impl/audio/bytes.hpp>
#include <chiasm/io/audio.hpp>

#include <algorithm>
#include <bit>
#include <climits>

namespace chiasm::inline CHIASM_ABI::detail {

struct WavFormat {
  bool floats = false;
  std::size_t channels = 0, bytes = 0;  // of one sample
  int rate = 0;
};

inline WavFormat wav_format(const AudioBytes& file, std::size_t at, std::size_t size) {
  if (size < 16) file.fail(at, "'fmt ' chunk of " + std::to_string(size) + " bytes, expected 16 or more");
  WavFormat format;
  std::uint64_t encoding = file.number(at, 2);
  const std::uint64_t rate = file.number(at + 4, 4), bits = file.number(at + 14, 2);
  format.channels = file.number(at + 2, 2);
  if (format.channels < 1 || format.channels > Audio::max_channels)
    file.fail(at + 2, std::to_string(format.channels) + " channels, expected 1 to " + std::to_string(Audio::max_channels));
  if (rate < 1 || rate > INT_MAX) file.fail(at + 4, "sampling rate of " + std::to_string(rate) + " Hz");
  format.rate = static_cast<int>(rate);
  if (encoding == 0xFFFE) {  // WAVE_FORMAT_EXTENSIBLE: the encoding is the first field of a GUID
    using namespace std::string_view_literals;
    if (size < 40) file.fail(at, "extensible 'fmt ' chunk of " + std::to_string(size) + " bytes, expected 40");
    encoding = file.number(at + 24, 4);
    if (!file.starts_with("\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"sv, at + 28)) throw UnsupportedError(file.name + ": WAV of an unknown encoding (GUID)");
  }
  format.floats = encoding == 3;
  if (encoding != 1 && encoding != 3) {
    const char* const name = encoding == 2 || encoding == 0x11 ? " (ADPCM)" : encoding == 6 ? " (A-law)" : encoding == 7 ? " (mu-law)" : encoding == 0x50 || encoding == 0x55 ? " (MPEG)" : "";
    throw UnsupportedError(file.name + ": WAV of encoding " + std::to_string(encoding) + name);
  }
  if (format.floats ? bits != 32 && bits != 64 : bits < 8 || bits > 32)
    throw UnsupportedError(file.name + ": WAV of " + std::to_string(bits) + "-bit " + (format.floats ? "float" : "PCM"));
  format.bytes = (bits + 7) / 8;  // fewer bits stand in the upper part
  return format;
}

inline Audio decode_wav(AudioBytes file) {
  file.big_endian = file.starts_with("RIFX");
  const bool large = file.starts_with("RF64");
  WavFormat format;
  std::uint64_t large_size = 0;
  bool has_large_size = false;
  for (std::size_t at = 12;;) {
    if (at >= file.size) file.fail(file.size, "WAV without a 'data' chunk");
    const std::string_view id(reinterpret_cast<const char*>(file.at(at, 4)), 4);
    std::uint64_t size = file.number(at + 4, 4);
    at += 8;
    if (id == "data") {
      if (format.channels == 0) file.fail(at - 8, "'data' chunk before 'fmt '");
      if (large && !has_large_size) file.fail(at - 8, "RF64 without a 'ds64' chunk");
      if (large) size = large_size;
      const std::size_t bytes = std::min<std::uint64_t>(size, file.size - at);  // writers of streams leave any size here
      const std::size_t width = format.bytes, count = bytes / (width * format.channels) * format.channels;
      std::vector<float> samples(count);
      const std::uint8_t* p = file.data + at;
      // In 32 bits, left-justified, so that the sign is where it belongs; 8-bit samples are offset instead of signed.
      const std::uint32_t offset = width == 1 ? 0x80000000u : 0;
      for (float& sample : samples) {
        const std::uint64_t bits = file.number(p, width);
        p += width;
        if (!format.floats) sample = static_cast<float>(static_cast<std::int32_t>(static_cast<std::uint32_t>(bits << (32 - 8 * width)) - offset)) * 0x1p-31f;
        else if (width == 4) sample = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
        else sample = static_cast<float>(std::bit_cast<double>(bits));
      }
      return Audio(format.rate, std::move(samples), static_cast<int>(format.channels));
    }
    if (size > file.size - at) file.fail(at - 8, "chunk of " + std::to_string(size) + " bytes, " + std::to_string(file.size - at) + " left");
    if (id == "fmt ") {
      if (format.channels != 0) file.fail(at - 8, "a second 'fmt ' chunk");
      format = wav_format(file, at, size);
    } else if (id == "ds64" && large) {
      if (size < 16) file.fail(at, "'ds64' chunk of " + std::to_string(size) + " bytes, expected 28");
      large_size = file.number(at + 8, 8);
      has_large_size = true;
    }
    at += size + size % 2;  // chunks begin at even offsets
  }
}

}  // namespace chiasm
