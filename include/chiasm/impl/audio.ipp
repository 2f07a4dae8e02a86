#pragma once

#include <chiasm/impl/audio/flac.ipp>
#include <chiasm/impl/audio/wav.ipp>
#include <chiasm/io/audio.hpp>
#include <chiasm/io/file_map.hpp>

#include <utility>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE Audio::Audio(int rate, std::vector<float> samples, int channels) : rate_(rate), channels_(channels), samples_(std::move(samples)) {
  if (rate < 1) throw ArgumentError("sound of " + std::to_string(rate) + " Hz");
  if (channels < 1 || channels > max_channels) throw ArgumentError("sound of " + std::to_string(channels) + " channels, expected 1 to " + std::to_string(max_channels));
  if (samples_.size() % static_cast<std::size_t>(channels) != 0)
    throw ArgumentError(std::to_string(samples_.size()) + " samples are no whole number of frames of " + std::to_string(channels) + " channels");
}

CHIASM_INLINE Audio mono(const Audio& audio) {
  if (audio.channels() == 1) return audio;
  const auto channels = static_cast<std::size_t>(audio.channels());
  std::vector<float> mean(audio.frames());
  const float* from = audio.samples().data();
  for (float& sample : mean) {
    float sum = 0;
    for (std::size_t c = 0; c < channels; ++c) sum += *from++;
    sample = sum / static_cast<float>(channels);
  }
  return Audio(audio.rate(), std::move(mean));
}

CHIASM_INLINE Audio load_audio(std::span<const std::byte> bytes, std::string name) {
  using namespace std::string_view_literals;
  const detail::AudioBytes file{{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), name}};
  if (file.size == 0) file.fail(0, "empty");
  if ((file.starts_with("RIFF") || file.starts_with("RIFX") || file.starts_with("RF64")) && file.starts_with("WAVE", 8)) return detail::decode_wav(file);
  if (file.starts_with("fLaC")) return detail::decode_flac(file);
  constexpr std::pair<std::string_view, const char*> others[] = {
      {"OggS", "Ogg"}, {"ID3", "MP3"}, {"\xff\xfb", "MP3"}, {"\xff\xf3", "MP3"}, {"\xff\xf2", "MP3"}, {"\xff\xf1", "AAC"}, {"\xff\xf9", "AAC"}, {"FORM", "AIFF"}, {"caff", "CAF"}, {"riff", "Wave64"}, {".snd", "AU"}, {"\x1a\x45\xdf\xa3", "WebM or Matroska"}};
  for (const auto& [magic, format] : others)
    if (file.starts_with(magic)) throw UnsupportedError(file.name + ": " + format);
  if (file.starts_with("ftyp", 4)) throw UnsupportedError(file.name + ": MP4");
  file.fail(0, "is no WAV or FLAC");
}

CHIASM_INLINE Audio load_audio(const std::string& path) { return load_audio(FileMap::open(path).bytes(), path); }

}  // namespace chiasm
