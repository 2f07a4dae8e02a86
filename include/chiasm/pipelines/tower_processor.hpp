/// TowerProcessor: a checkpoint's image processor, held to the size of picture that its vision tower takes.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/image_processor.hpp>

#include <string>

namespace chiasm::inline CHIASM_ABI {

class TowerProcessor {
 public:
  /// `type` is the class for files that do not name one; `side` the tower's, in pixels. Throws FileError, FormatError, ConfigError, UnsupportedError.
  TowerProcessor(const Checkpoint& checkpoint, const std::string& type, std::size_t side)
      : processor_(ImageProcessor::from_json(checkpoint.image_processor_config(), type)), file_(checkpoint.image_processor_config().file()), side_(side) {}

  const ImageProcessor& processor() const noexcept { return processor_; }

  /// Throws what ImageProcessor throws, and ConfigError: pictures of another size than the tower's.
  ImageInputs operator()(Context& ctx, const Image& image) const {
    ImageInputs inputs = processor_(image);
    ctx.observe("pixel_values", inputs.pixel_values);
    const Shape& shape = inputs.pixel_values.shape();
    if (shape[2] != side_ || shape[3] != side_)
      throw ConfigError(file_, "", "makes pictures of " + std::to_string(shape[3]) + " x " + std::to_string(shape[2]) + " pixels for a vision tower of " +
                                       std::to_string(side_) + " x " + std::to_string(side_));
    return inputs;
  }

 private:
  ImageProcessor processor_;
  std::string file_;
  std::size_t side_;
};

}  // namespace chiasm
