/// Audio processor: from a sound to the log-mel spectrogram that an audio encoder takes, as preprocessor_config.json tells.
/// WhisperFeatureExtractor of Hugging Face transformers (Whisper, arXiv:2212.04356; Qwen-Audio).
#pragma once

#include <chiasm/core/tensor.hpp>
#include <chiasm/io/audio.hpp>
#include <chiasm/io/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// preprocessor_config.json, with the class's defaults for what the file leaves out. Members are the file's keys.
struct AudioProcessorConfig {
  int feature_size = 80;  // mels
  int sampling_rate = 16000;
  int hop_length = 160;   // samples from one frame of the spectrogram to the next
  int chunk_length = 30;  // seconds: every sound is cut or padded to them
  int n_fft = 400;
  double padding_value = 0.0;
  bool padding_left = false;  // padding_side
  double dither = 0.0;        // deviation of the noise added to every sample

  /// Reads preprocessor_config.json, or processor_config.json where it holds `feature_extractor`. `type` is the class for files that
  /// do not name one. As in transformers, keys that follow from others (n_samples, nb_max_frames, mel_filters) are not read, nor is
  /// do_normalize, which is an argument of the call there. Throws ConfigError for what makes no sense, UnsupportedError for classes
  /// other than WhisperFeatureExtractor.
  static AudioProcessorConfig from(const Json& file, const std::string& type = {});
};

/// One sound, ready for the encoder.
struct AudioInputs {
  Tensor input_features;                     // (feature_size, frames)
  std::vector<std::int32_t> attention_mask;  // (frames): 1 for sound, 0 for padding
};

class AudioProcessor {
 public:
  /// Throws ConfigError where the numbers do not go together, or ask for a spectrogram out of all proportion.
  explicit AudioProcessor(AudioProcessorConfig config);

  static AudioProcessor from_json(const Json& file, const std::string& type = {}) {
    return AudioProcessor(AudioProcessorConfig::from(file, type));
  }
  /// Throws FileError, FormatError, and what AudioProcessorConfig::from throws.
  static AudioProcessor from_file(const std::string& path, const std::string& type = {}) { return from_json(Json::read(path), type); }

  const AudioProcessorConfig& config() const noexcept { return config_; }

  /// Columns of the spectrogram: chunk_length * sampling_rate / hop_length (3000 for Whisper).
  std::size_t frames() const noexcept { return frames_; }

  /// The filter bank, Slaney's mel scale and area normalisation: (1 + n_fft / 2, feature_size).
  Tensor mel_filters() const;

  /// The spectrogram of the first chunk_length seconds. Several channels are mixed to one, and other rates resampled to sampling_rate
  /// (transformers refuses both). A sound without samples is one of padding only.
  /// Throws ArgumentError for samples that are infinite or no number, or for what resample() refuses.
  AudioInputs operator()(const Audio& audio) const;

 private:
  struct Filter {
    std::size_t first, count, weights;  // its bins, and where its weights begin
  };
  std::vector<float> waveform(const Audio& audio, std::size_t& sound) const;

  AudioProcessorConfig config_;
  std::size_t samples_, frames_;
  std::vector<float> window_;
  std::vector<Filter> filters_;
  std::vector<float> weights_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/audio_processor.ipp>
#endif
