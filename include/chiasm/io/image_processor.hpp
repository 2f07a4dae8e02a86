/// Image processor: from a picture to what a vision tower takes, as preprocessor_config.json tells. The PIL classes of
/// Hugging Face transformers (CLIP, SigLIP, LLaVA, LLaVA-NeXT, BLIP, IDEFICS, ViT).
#pragma once

#include <chiasm/core/tensor.hpp>
#include <chiasm/io/image.hpp>
#include <chiasm/io/json.hpp>

#include <array>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A size as preprocessor_config.json spells it; 0 is a key that is not there.
struct ImageSize {
  int height = 0, width = 0;
  int shortest_edge = 0, longest_edge = 0;
  int max_height = 0, max_width = 0;
  bool operator==(const ImageSize&) const = default;
};

/// preprocessor_config.json, with the class's defaults for what the file leaves out. Members are the file's keys.
struct ImageProcessorConfig {
  std::string image_processor_type;  // "CLIPImageProcessor": without the suffixes Fast and Pil
  bool do_convert_rgb = true;  // paint what the file declares transparent white (Image::transparent)
  bool do_resize = true;
  ImageSize size;
  Resample resample = Resample::bicubic;
  bool do_center_crop = false;
  ImageSize crop_size;  // height, width
  bool do_rescale = true;
  double rescale_factor = 1.0 / 255.0;
  bool do_normalize = true;
  std::array<double, 3> image_mean{}, image_std{};
  bool do_pad = false;                                  // LLaVA: to a square, in the colour of the mean, before the resize
  std::vector<std::array<int, 2>> image_grid_pinpoints;  // LLaVA-NeXT: (height, width) of the canvases to choose from

  /// Reads preprocessor_config.json, old and new spellings, or processor_config.json where it holds `image_processor`.
  /// `type` is the class for files that do not name one. Throws ConfigError for what makes no sense, UnsupportedError for
  /// classes not listed above.
  static ImageProcessorConfig from(const Json& file, const std::string& type = {});
};

/// One picture, ready for the vision tower.
struct ImageInputs {
  Tensor pixel_values;                          // (views, 3, height, width)
  int original_height = 0, original_width = 0;  // of the picture; `image_sizes` of LLaVA-NeXT
  int grid_rows = 0, grid_columns = 0;          // LLaVA-NeXT: views[1 + row * grid_columns + column] is a tile; views[0] is the whole picture
};

class ImageProcessor {
 public:
  explicit ImageProcessor(ImageProcessorConfig config);

  static ImageProcessor from_json(const Json& file, const std::string& type = {}) {
    return ImageProcessor(ImageProcessorConfig::from(file, type));
  }
  /// Throws FileError, FormatError, and what ImageProcessorConfig::from throws.
  static ImageProcessor from_file(const std::string& path, const std::string& type = {}) { return from_json(Json::read(path), type); }

  const ImageProcessorConfig& config() const noexcept { return config_; }

  /// The views of the picture after resize, pad and crop, still in 8 bits: what the model is going to see. All of one size.
  /// Throws ArgumentError for a picture so thin that nothing of it is left.
  std::vector<Image> views(const Image& image) const;

  /// views(), rescaled and normalised: (value * rescale_factor - mean) / std.
  ImageInputs operator()(const Image& image) const;

  /// The canvas (height, width) that LLaVA-NeXT lays a picture out on: the one that keeps most of its pixels, then the one that
  /// wastes least.
  std::array<int, 2> best_canvas(int height, int width) const;

 private:
  Image resized_and_cropped(const Image& image) const;
  ImageProcessorConfig config_;
  std::array<std::array<float, 256>, 3> level_;  // channel, 8-bit value -> float
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/image_processor.ipp>
#endif
