/// Image processor: from a picture to what a vision tower takes, as preprocessor_config.json tells. The PIL classes of
/// Hugging Face transformers (CLIP, SigLIP, LLaVA, LLaVA-NeXT, BLIP, IDEFICS, Idefics3, SmolVLM, Qwen2-VL, ViT).
#pragma once

#include <chiasm/core/tensor.hpp>
#include <chiasm/io/image.hpp>
#include <chiasm/io/json.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A size as preprocessor_config.json spells it; 0 is a key that is not there. Qwen2-VL's edges count pixels of the whole picture:
/// at least shortest_edge, at most longest_edge (min_pixels and max_pixels of older files).
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
  bool do_pad = false;  // LLaVA: to a square, in the colour of the mean, before the resize. Idefics3: a batch has a pixel_attention_mask
  std::vector<std::array<int, 2>> image_grid_pinpoints;          // LLaVA-NeXT: (height, width) of the canvases to choose from
  int patch_size = 0, temporal_patch_size = 0, merge_size = 0;  // Qwen2-VL; 0 for all other classes
  bool do_image_splitting = false;                              // Idefics3: into tiles of max_image_size, and the whole picture
  int max_image_size = 0;                                       // Idefics3: height and width of a view; 0 for all other classes
  bool resize_in_mode = false;  // open_clip converts to RGB after the resize (chiasm::resize_in_mode), transformers before it
  bool crop_rounds = false;     // torchvision's centre crop, open_clip's: an offset that ends in .5 is rounded to the even pixel; transformers' is rounded down

  /// Reads preprocessor_config.json, old and new spellings, or processor_config.json where it holds `image_processor`.
  /// `type` is the class for files that do not name one. Throws ConfigError for what makes no sense, UnsupportedError for
  /// classes not listed above.
  static ImageProcessorConfig from(const Json& file, const std::string& type = {});
};

/// One picture, ready for the vision tower.
struct ImageInputs {
  /// (views, 3, height, width). Qwen2-VL: (grid_rows * grid_columns, 3 * temporal_patch_size * patch_size * patch_size), the patches in
  /// blocks of merge_size x merge_size, each one as often as a moment has frames: image_grid_thw is (1, grid_rows, grid_columns).
  Tensor pixel_values;
  int original_height = 0, original_width = 0;  // of the picture; `image_sizes` of LLaVA-NeXT
  /// LLaVA-NeXT: views[1 + row * grid_columns + column] is a tile; views[0] is the whole picture. Idefics3 (`rows`, `cols`):
  /// views[row * grid_columns + column] is a tile, the whole picture comes last; 0 where the picture is not split. No view has
  /// padding, so its pixel_attention_mask is all ones.
  int grid_rows = 0, grid_columns = 0;
};

/// A part of a picture, in shares of its width and height; beyond 0 and 1 there is padding.
struct FieldOfView {
  double left = 0, top = 0, right = 1, bottom = 1;
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
  /// Throws ArgumentError for a picture so thin that nothing of it is left, or too thin for its class (Qwen2-VL: 200 to 1).
  std::vector<Image> views(const Image& image) const;

  /// views(), rescaled and normalised: (value * rescale_factor - mean) / std.
  ImageInputs operator()(const Image& image) const;

  /// What the view of the whole picture shows of it: less than all where it is cropped, more where it is padded.
  FieldOfView field_of_view(const Image& image) const;

  /// The canvas (height, width) that LLaVA-NeXT lays a picture out on: the one that keeps most of its pixels, then the one that
  /// wastes least.
  std::array<int, 2> best_canvas(int height, int width) const;

 private:
  Image resized_and_cropped(const Image& image) const;
  std::array<std::int64_t, 2> resized_size(int height, int width) const;
  std::array<int, 2> tiles(const Image& image) const;
  std::vector<Image> split(const Image& image) const;
  Tensor patches(const Image& image) const;
  ImageProcessorConfig config_;
  std::array<std::array<float, 256>, 3> level_;  // channel, 8-bit value -> float
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/image_processor.ipp>
#endif
