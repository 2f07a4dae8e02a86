/// Audio: samples as floats with their rate, read from WAV and FLAC files as libsndfile reads them.
#pragma once

#include <chiasm/core/error.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A piece of sound. Owns its samples; copies are deep. It may be empty.
class Audio {
 public:
  /// No sound has more channels than this (libsndfile's limit too).
  static constexpr int max_channels = 1024;

  /// `samples` are interleaved: (frames, channels). `rate` is in frames per second. Full scale is -1 to 1, more is allowed.
  /// Throws ArgumentError: a rate below 1, channels not 1 to max_channels, or samples that are no whole number of frames.
  Audio(int rate, std::vector<float> samples, int channels = 1);

  int rate() const noexcept { return rate_; }
  int channels() const noexcept { return channels_; }
  std::size_t frames() const noexcept { return samples_.size() / static_cast<std::size_t>(channels_); }
  double seconds() const noexcept { return static_cast<double>(frames()) / rate_; }

  std::span<const float> samples() const noexcept { return samples_; }
  std::span<float> samples() noexcept { return samples_; }

  bool operator==(const Audio&) const = default;

 private:
  int rate_, channels_;
  std::vector<float> samples_;
};

/// One channel: the mean of all.
Audio mono(const Audio& audio);

/// Reads a sound from a file: WAV (RIFF, RIFX, RF64; PCM of 8 to 32 bits, float of 32 and 64 bits, WAVE_FORMAT_EXTENSIBLE) and FLAC.
/// The format is found from the bytes, not from the name. Integers are scaled so that full scale is 1: 16 bits by 1/32768.
///
/// As in libsndfile, a WAV whose data ends early gives the frames that are there, and what follows the data is ignored. A FLAC that
/// ends early is an error.
///
/// Throws FileError (cannot be read), FormatError (damaged, or no sound at all), UnsupportedError (MP3, Ogg, AIFF, ..., and encodings
/// of WAV other than those above).
Audio load_audio(const std::string& path);

/// Reads a sound from memory; `name` is what errors call it.
Audio load_audio(std::span<const std::byte> bytes, std::string name = "<memory>");

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/audio.ipp>
#endif
