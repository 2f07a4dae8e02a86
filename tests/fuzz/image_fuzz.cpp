/// Any bytes are a picture, a FormatError or an UnsupportedError; what is a picture can be processed.
#include <chiasm/io/image_file.hpp>
#include <chiasm/io/image_processor.hpp>

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto processor = [](const char* json) { return chiasm::ImageProcessor::from_json(chiasm::Json::parse(json)); };
  static const chiasm::ImageProcessor processors[] = {
      processor(R"({"image_processor_type": "LlavaNextImageProcessor", "size": 14, "crop_size": 14, "image_grid_pinpoints": [[14, 28], [28, 14], [28, 28]]})"),
      processor(R"({"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 784, "max_pixels": 7840})"),
      processor(R"({"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}})")};
  try {
    const chiasm::Image image = chiasm::load_image({reinterpret_cast<const std::byte*>(data), size}, "fuzz", size % 2 ? chiasm::Alpha::white : chiasm::Alpha::drop);
    if (image.pixels().size() < 1 << 20) processors[size % 3](image);
  } catch (const chiasm::FormatError&) {
  } catch (const chiasm::UnsupportedError&) {
  } catch (const chiasm::ArgumentError&) {  // too thin for the processor
  }
  return 0;
}
