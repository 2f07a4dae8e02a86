/// Any bytes are a sound, a FormatError or an UnsupportedError; what is a sound can be resampled and processed.
#include <chiasm/io/audio_processor.hpp>
#include <chiasm/io/resample.hpp>

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const chiasm::AudioProcessor process =
      chiasm::AudioProcessor::from_json(chiasm::Json::parse(R"({"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 1, "feature_size": 20})"));
  try {
    const chiasm::Audio audio = chiasm::load_audio({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    if (audio.samples().size() < 1 << 16) {
      chiasm::resample(audio, 16000, 1000);
      process(audio);
    }
  } catch (const chiasm::FormatError&) {
  } catch (const chiasm::UnsupportedError&) {
  } catch (const chiasm::ArgumentError&) {  // a rate out of all proportion, or samples that are no numbers
  }
  return 0;
}
