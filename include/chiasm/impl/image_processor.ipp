#pragma once

#include <chiasm/io/image_processor.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

struct ImageProcessorClass {
  std::string_view type;
  ImageSize size;
  bool square;  // a plain number for `size` means both sides, not the shortest
  int crop;     // 0: the class does not crop
  Resample resample;
  bool openai_colours;  // CLIP's mean and deviation; otherwise 0.5
  enum { one, padded, anyres, patches, tiles } layout = one;
  bool convert_rgb = true;
};

// Defaults of the classes in transformers 5.23.
inline constexpr ImageProcessorClass image_processor_classes[] = {
    {"CLIPImageProcessor", {.shortest_edge = 224}, false, 224, Resample::bicubic, true},
    {"LlavaImageProcessor", {.shortest_edge = 224}, false, 224, Resample::bicubic, true, ImageProcessorClass::padded},
    {"LlavaNextImageProcessor", {.shortest_edge = 224}, false, 224, Resample::bicubic, true, ImageProcessorClass::anyres},
    {"SiglipImageProcessor", {.height = 224, .width = 224}, false, 0, Resample::bicubic, false},
    {"BlipImageProcessor", {.height = 384, .width = 384}, true, 0, Resample::bicubic, true},
    {"IdeficsImageProcessor", {.height = 224, .width = 224}, true, 0, Resample::bicubic, true},
    {"Idefics3ImageProcessor", {.longest_edge = 4 * 364}, true, 0, Resample::lanczos, false, ImageProcessorClass::tiles},
    {"SmolVLMImageProcessor", {.longest_edge = 4 * 364}, true, 0, Resample::lanczos, false, ImageProcessorClass::tiles},
    {"Qwen2VLImageProcessor", {.shortest_edge = 56 * 56, .longest_edge = 28 * 28 * 1280}, false, 0, Resample::bicubic, true, ImageProcessorClass::patches},
    {"ViTImageProcessor", {.height = 224, .width = 224}, true, 0, Resample::bilinear, false, ImageProcessorClass::one, false},
};

CHIASM_INLINE int image_side(const Json& value, int largest = 1 << 14) {
  const int side = value.as<int>();
  if (side < 1 || side > largest) value.fail("is " + std::to_string(side) + ", expected 1 to " + std::to_string(largest));
  return side;
}

CHIASM_INLINE ImageSize image_size(const Json& value, bool square, int largest_edge = 1 << 14) {
  if (value.is_integer()) {
    const int side = image_side(value, square ? 1 << 14 : largest_edge);
    return square ? ImageSize{.height = side, .width = side} : ImageSize{.shortest_edge = side};
  }
  if (value.is_array() && value.size() == 2) return {.height = image_side(value.at(0)), .width = image_side(value.at(1))};
  if (!value.is_object()) value.fail("is no size: expected a number, [height, width] or an object");
  const auto side = [&](std::string_view key, int largest = 1 << 14) {
    const Json member = value.find(key);
    return member.is_null() ? 0 : image_side(member, largest);
  };
  return {side("height"), side("width"), side("shortest_edge", largest_edge), side("longest_edge", largest_edge), side("max_height"), side("max_width")};
}

CHIASM_INLINE std::array<double, 3> image_channels(const Json& value) {
  if (value.is_number()) {
    const double all = value.as_double();
    return {all, all, all};
  }
  const auto values = value.as_vector<double>();
  if (values.size() != 3) value.fail("has " + std::to_string(values.size()) + " values, expected 3");
  return {values[0], values[1], values[2]};
}

// Height and width of a picture resized by `size`; transformers' rounding.
CHIASM_INLINE std::array<std::int64_t, 2> resized(const ImageSize& size, int height, int width) {
  const double shortest = std::min(height, width), longest = std::max(height, width);
  if (size.shortest_edge && size.longest_edge) {
    double edge = size.shortest_edge;  // of the short side; cut down where the long one would be too long
    if (longest / shortest * edge > size.longest_edge) edge = size.longest_edge * shortest / longest;
    const auto whole = static_cast<std::int64_t>(std::nearbyint(edge));
    if (whole == std::min(height, width)) return {height, width};
    const auto other = static_cast<std::int64_t>(edge * longest / shortest);
    return width < height ? std::array{other, whole} : std::array{whole, other};
  }
  if (size.shortest_edge) {
    const auto other = static_cast<std::int64_t>(size.shortest_edge * longest / shortest);
    return width <= height ? std::array<std::int64_t, 2>{other, size.shortest_edge} : std::array<std::int64_t, 2>{size.shortest_edge, other};
  }
  if (size.max_height && size.max_width) {
    const double scale = std::min(static_cast<double>(size.max_height) / height, static_cast<double>(size.max_width) / width);
    return {static_cast<std::int64_t>(height * scale), static_cast<std::int64_t>(width * scale)};
  }
  return {size.height, size.width};
}

// Idefics3: the long side becomes `longest`, the other one even; then none longer than 4096.
CHIASM_INLINE std::array<std::int64_t, 2> resized_to_longest(int longest, int height, int width) {
  double ratio = static_cast<double>(width) / height;
  std::int64_t rows = longest, columns = longest;
  if (width >= height)
    rows = static_cast<std::int64_t>(longest / ratio), rows += rows % 2;
  else
    columns = static_cast<std::int64_t>(longest * ratio), columns += columns % 2;
  rows = std::max<std::int64_t>(rows, 1), columns = std::max<std::int64_t>(columns, 1);
  constexpr std::int64_t limit = 4096;
  ratio = static_cast<double>(columns) / static_cast<double>(rows);
  if (columns >= rows && columns > limit)
    columns = limit, rows = static_cast<std::int64_t>(static_cast<double>(limit) / ratio);
  else if (rows > columns && rows > limit)
    rows = limit, columns = static_cast<std::int64_t>(static_cast<double>(limit) * ratio);
  return {std::max<std::int64_t>(rows, 1), std::max<std::int64_t>(columns, 1)};
}

// Qwen2-VL: both sides multiples of `factor`, between `least` and `most` pixels, the shape kept as well as that goes.
CHIASM_INLINE std::array<std::int64_t, 2> resized_to_patches(int factor, double least, double most, int height, int width) {
  const double pixels = static_cast<double>(height) * width;
  double rows = std::nearbyint(static_cast<double>(height) / factor) * factor, columns = std::nearbyint(static_cast<double>(width) / factor) * factor;
  if (rows * columns > most) {
    const double shrink = std::sqrt(pixels / most);
    rows = std::max<double>(factor, std::floor(height / shrink / factor) * factor);
    columns = std::max<double>(factor, std::floor(width / shrink / factor) * factor);
  } else if (rows * columns < least) {
    const double grow = std::sqrt(least / pixels);
    rows = std::ceil(height * grow / factor) * factor;
    columns = std::ceil(width * grow / factor) * factor;
  }
  return {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns)};
}

CHIASM_INLINE int floor_half(std::int64_t value) { return static_cast<int>(value >> 1); }

// Where a crop begins that leaves out so many pixels.
CHIASM_INLINE int crop_begin(const ImageProcessorConfig& config, std::int64_t rest) {
  const int begin = floor_half(rest);
  return config.crop_rounds && rest % 2 != 0 && begin % 2 != 0 ? begin + 1 : begin;
}

}  // namespace detail

CHIASM_INLINE ImageProcessorConfig ImageProcessorConfig::from(const Json& file, const std::string& type) {
  const Json nested = file.find("image_processor");
  const Json& json = nested.is_object() ? nested : file;
  ImageProcessorConfig config;
  std::string name = json.get<std::string>("image_processor_type", json.get<std::string>("feature_extractor_type", type));
  const auto replace_end = [&](std::string_view end, std::string_view by) {
    if (std::string_view(name).ends_with(end)) name.replace(name.size() - end.size(), end.size(), by);
  };
  replace_end("Fast", "");
  replace_end("Pil", "");
  replace_end("FeatureExtractor", "ImageProcessor");
  if (name.empty()) json.fail("names no image_processor_type");
  const auto* known = std::find_if(std::begin(detail::image_processor_classes), std::end(detail::image_processor_classes),
                                   [&](const detail::ImageProcessorClass& entry) { return entry.type == name; });
  if (known == std::end(detail::image_processor_classes)) throw UnsupportedError(json.file() + ": image processor " + name);

  config.image_processor_type = name;
  // A step that is null in the file is left out; one that is missing is what the class does.
  const auto step = [&](std::string_view key, bool fallback) { return json.contains(key) ? json.get(key, false) : fallback; };
  config.do_convert_rgb = step("do_convert_rgb", known->convert_rgb);
  config.do_resize = step("do_resize", true);
  config.do_rescale = step("do_rescale", true);
  config.do_normalize = step("do_normalize", true);
  const bool has_patches = known->layout == detail::ImageProcessorClass::patches, has_tiles = known->layout == detail::ImageProcessorClass::tiles;
  config.do_center_crop = !has_patches && !has_tiles && step("do_center_crop", known->crop > 0);
  config.rescale_factor = json.get("rescale_factor", 1.0 / 255.0);

  const Json size = json.find("size"), crop = json.find("crop_size"), image_size = json.find("image_size"), resample = json.find("resample");
  constexpr int most_pixels = std::numeric_limits<int>::max();
  // Pixel bounds that stand beside `size` or inside it under their old names count as its edges.
  const bool old_bounds = has_patches && size.is_object() && !size.contains("shortest_edge") && !size.contains("longest_edge");
  config.size = size.is_null() || (old_bounds && (size.contains("min_pixels") || size.contains("max_pixels")))
                    ? known->size
                    : detail::image_size(size, step("default_to_square", known->square), has_patches ? most_pixels : 1 << 14);
  if (has_patches)
    for (const Json& from : {old_bounds ? size : Json(), json}) {
      if (!from.is_object()) continue;
      if (const Json least = from.find("min_pixels"); !least.is_null()) config.size.shortest_edge = detail::image_side(least, most_pixels);
      if (const Json most = from.find("max_pixels"); !most.is_null()) config.size.longest_edge = detail::image_side(most, most_pixels);
    }
  if (name == "IdeficsImageProcessor" && !image_size.is_null()) config.size = detail::image_size(image_size, true);
  // KOSMOS-2's old spelling; transformers 5.23 takes the class's own size then, whatever the file's is.
  if (name == "CLIPImageProcessor" && step("use_square_size", false))
    config.size = {.height = known->size.shortest_edge, .width = known->size.shortest_edge};
  const ImageSize& s = config.size;
  if (has_patches ? !s.shortest_edge || !s.longest_edge : has_tiles ? config.do_resize && !s.longest_edge && !(s.height && s.width)
                  : config.do_resize && !(s.height && s.width) && !s.shortest_edge && !(s.max_height && s.max_width))
    size.fail(has_patches ? "is no size to resize to: expected shortest_edge and longest_edge, in pixels"
              : has_tiles ? "is no size to resize to: expected longest_edge, or height and width"
                          : "is no size to resize to: expected height and width, shortest_edge, or max_height and max_width");
  config.crop_size = crop.is_null() ? ImageSize{.height = known->crop, .width = known->crop} : detail::image_size(crop, true);
  if (config.do_center_crop && !(config.crop_size.height && config.crop_size.width)) json.fail("do_center_crop needs crop_size with height and width");

  config.resample = known->resample;
  if (!resample.is_null()) {
    const auto filter = resample.as<int>();
    if (filter < 0 || filter > static_cast<int>(Resample::hamming)) resample.fail("is " + std::to_string(filter) + ", expected a filter 0 to 5");
    config.resample = static_cast<Resample>(filter);
  }

  const Json mean = json.find("image_mean"), deviation = json.find("image_std");
  constexpr std::array<double, 3> half{0.5, 0.5, 0.5};
  config.image_mean = !mean.is_null() ? detail::image_channels(mean) : known->openai_colours ? std::array{0.48145466, 0.4578275, 0.40821073} : half;
  config.image_std = !deviation.is_null() ? detail::image_channels(deviation) : known->openai_colours ? std::array{0.26862954, 0.26130258, 0.27577711} : half;
  for (const double value : config.image_std)
    if (!(value > 0)) deviation.fail("holds " + std::to_string(value) + ", expected values above 0");

  config.do_pad = step("do_pad", has_tiles);
  if (config.do_pad && known->layout == detail::ImageProcessorClass::one) {
    if (!json.find("pad_size").is_null()) throw UnsupportedError(json.file() + ": pad_size with " + name);
    config.do_pad = false;  // to the largest picture of a batch: one alone is left as it is
  }
  if (known->layout != detail::ImageProcessorClass::padded && !has_tiles) config.do_pad = false;
  // Not more views than a model could ever read: a file must not make a million of one picture.
  constexpr std::int64_t most_views = 4096;
  const auto check_views = [&](const Json& at, std::int64_t height, std::int64_t width, std::int64_t tile) {
    if (((height + tile - 1) / tile) * ((width + tile - 1) / tile) > most_views)
      at.fail("gives more than " + std::to_string(most_views) + " tiles of " + std::to_string(tile) + " x " + std::to_string(tile) + " pixels");
  };
  if (known->layout == detail::ImageProcessorClass::anyres) {
    const int tile = config.crop_size.height ? config.crop_size.height : s.height ? s.height : s.shortest_edge;
    const Json pinpoints = json.find("image_grid_pinpoints");
    if (pinpoints.is_null()) config.image_grid_pinpoints = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
    for (const Json pinpoint : pinpoints) {
      const ImageSize canvas = detail::image_size(pinpoint, true);
      config.image_grid_pinpoints.push_back({canvas.height, canvas.width});
    }
    if (config.image_grid_pinpoints.empty()) pinpoints.fail("is empty");
    for (const auto& canvas : config.image_grid_pinpoints) check_views(pinpoints, canvas[0], canvas[1], std::max(tile, 1));
  }
  if (has_tiles) {
    const Json tile = json.find("max_image_size");
    config.max_image_size = tile.is_null() ? 364 : detail::image_side(tile.is_object() ? tile["longest_edge"] : tile);
    config.do_image_splitting = step("do_image_splitting", true);
    check_views(tile, s.longest_edge ? s.longest_edge : s.height, s.longest_edge ? s.longest_edge : s.width, config.max_image_size);
  }
  if (has_patches) {
    const auto extent = [&](std::string_view key, int fallback) {
      const Json value = json.find(key);
      return value.is_null() ? fallback : detail::image_side(value, 1024);
    };
    config.patch_size = extent("patch_size", 14), config.temporal_patch_size = extent("temporal_patch_size", 2), config.merge_size = extent("merge_size", 2);
  }
  return config;
}

CHIASM_INLINE ImageProcessor::ImageProcessor(ImageProcessorConfig config) : config_(std::move(config)) {
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t value = 0; value < 256; ++value) {
      // NumPy's steps: rescaled in double, then rounded to float before the mean is taken off.
      float level = static_cast<float>(static_cast<double>(value) * (config_.do_rescale ? config_.rescale_factor : 1.0));
      if (config_.do_normalize) level = (level - static_cast<float>(config_.image_mean[c])) / static_cast<float>(config_.image_std[c]);
      level_[c][value] = level;
    }
}

CHIASM_INLINE std::array<int, 2> ImageProcessor::best_canvas(int height, int width) const {
  std::array<int, 2> best{};
  std::int64_t most = 0, least_waste = std::numeric_limits<std::int64_t>::max();
  for (const auto& canvas : config_.image_grid_pinpoints) {
    const double scale = std::min(static_cast<double>(canvas[1]) / width, static_cast<double>(canvas[0]) / height);
    const auto kept = std::min(static_cast<std::int64_t>(width * scale) * static_cast<std::int64_t>(height * scale), std::int64_t{width} * height);
    const auto waste = std::int64_t{canvas[0]} * canvas[1] - kept;
    if (kept > most || (kept == most && waste < least_waste)) most = kept, least_waste = waste, best = canvas;
  }
  return best;
}

// Height and width after the resize.
CHIASM_INLINE std::array<std::int64_t, 2> ImageProcessor::resized_size(int height, int width) const {
  if (!config_.do_resize) return {height, width};
  const ImageSize& size = config_.size;
  const auto target = config_.patch_size ? detail::resized_to_patches(config_.patch_size * config_.merge_size, size.shortest_edge, size.longest_edge, height, width)
                      : config_.max_image_size && size.longest_edge ? detail::resized_to_longest(size.longest_edge, height, width)
                                                                    : detail::resized(size, height, width);
  constexpr std::int64_t longest = 1 << 30;
  if (target[0] < 1 || target[1] < 1 || target[0] > longest || target[1] > longest)
    throw ArgumentError("picture of " + std::to_string(width) + " x " + std::to_string(height) + " pixels is too thin to be resized to " +
                        std::to_string(target[1]) + " x " + std::to_string(target[0]));
  return target;
}

// Resize, then centre crop; only the part that the crop keeps is computed.
CHIASM_INLINE Image ImageProcessor::resized_and_cropped(const Image& image) const {
  const auto [height, width] = resized_size(image.height(), image.width());
  Rect window{0, 0, static_cast<int>(width), static_cast<int>(height)};
  if (config_.do_center_crop) {
    const ImageSize& crop_size = config_.crop_size;
    window = {detail::crop_begin(config_, width - crop_size.width), detail::crop_begin(config_, height - crop_size.height), crop_size.width, crop_size.height};
  }
  if (!config_.do_resize) return crop(image, window);
  const int left = std::max(window.left, 0), top = std::max(window.top, 0);
  const int right = std::min(window.left + window.width, static_cast<int>(width)), bottom = std::min(window.top + window.height, static_cast<int>(height));
  const auto resized = config_.resize_in_mode ? chiasm::resize_in_mode : static_cast<Image (*)(const Image&, int, int, Resample, Rect)>(chiasm::resize);
  Image inside = resized(image, static_cast<int>(width), static_cast<int>(height), config_.resample, {left, top, right - left, bottom - top});
  if (inside.width() == window.width && inside.height() == window.height) return inside;
  return crop(inside, {window.left - left, window.top - top, window.width, window.height});
}

CHIASM_INLINE FieldOfView ImageProcessor::field_of_view(const Image& image) const {
  FieldOfView view;
  if (config_.max_image_size || config_.patch_size) return view;
  const bool squashed = !config_.image_grid_pinpoints.empty(), padded = config_.do_pad && !squashed;
  int width = image.width(), height = image.height();
  if (padded) width = height = std::max(width, height);
  if (config_.do_center_crop) {
    const ImageSize& size = config_.size;
    const int base = size.height && size.width ? 0 : size.shortest_edge;
    const auto [down, across] = squashed ? resized_size(base ? base : size.height, base ? base : size.width) : resized_size(height, width);
    const auto share = [](std::int64_t part, std::int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); };
    const std::int64_t left = detail::crop_begin(config_, across - config_.crop_size.width), top = detail::crop_begin(config_, down - config_.crop_size.height);
    view = {share(left, across), share(top, down), share(left + config_.crop_size.width, across), share(top + config_.crop_size.height, down)};
  }
  if (padded) {  // from shares of the padded square to shares of the picture
    const auto inside = [&](double at, int side) { return (at * width - (width - side) / 2) / side; };
    view = {inside(view.left, image.width()), inside(view.top, image.height()), inside(view.right, image.width()), inside(view.bottom, image.height())};
  }
  return view;
}

// Idefics3: rows and columns of tiles that cover the picture, enlarged as little as whole tiles allow.
CHIASM_INLINE std::array<int, 2> ImageProcessor::tiles(const Image& image) const {
  const auto [height, width] = resized_size(image.height(), image.width());
  const auto whole = [&](double side) { return std::ceil(side / config_.max_image_size); };
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  double rows = whole(static_cast<double>(height)), columns = whole(static_cast<double>(width));
  if (width >= height)
    rows = whole(std::floor(columns * config_.max_image_size / ratio));
  else
    columns = whole(std::floor(rows * config_.max_image_size * ratio));
  constexpr double most = 4096;  // only a thin picture with do_resize off gets there
  if (rows < 1 || columns < 1 || rows * columns > most)
    throw ArgumentError("picture of " + std::to_string(image.width()) + " x " + std::to_string(image.height()) + " pixels is too thin or too large for tiles of " +
                        std::to_string(config_.max_image_size) + " x " + std::to_string(config_.max_image_size));
  return {static_cast<int>(rows), static_cast<int>(columns)};
}

// Idefics3: tiles row by row, the whole picture last.
CHIASM_INLINE std::vector<Image> ImageProcessor::split(const Image& image) const {
  const int tile = config_.max_image_size;
  Image whole = config_.do_resize ? resized_and_cropped(image) : image;
  std::vector<Image> views;
  if (config_.do_image_splitting) {
    const auto [rows, columns] = tiles(image);
    whole = resize(whole, columns * tile, rows * tile, config_.resample);
    if (rows * columns > 1)
      for (int y = 0; y < rows; ++y)
        for (int x = 0; x < columns; ++x) views.push_back(crop(whole, {x * tile, y * tile, tile, tile}));
  }
  views.push_back(resize(whole, tile, tile, config_.resample));
  return views;
}

CHIASM_INLINE std::vector<Image> ImageProcessor::views(const Image& image) const {
  if (config_.do_convert_rgb && image.transparent()) {
    Image painted = image;
    painted.set_transparent(std::nullopt);
    for (std::size_t i = 0; i < painted.pixels().size(); i += 3)
      if (std::memcmp(painted.pixels().data() + i, image.transparent()->data(), 3) == 0) std::memset(painted.pixels().data() + i, 255, 3);
    return views(painted);
  }
  if (config_.max_image_size) return split(image);
  std::vector<Image> views;
  if (config_.patch_size) {
    const int longest = std::max(image.width(), image.height()), shortest = std::min(image.width(), image.height());
    if (config_.do_resize && static_cast<double>(longest) / shortest > 200)
      throw ArgumentError("picture of " + std::to_string(image.width()) + " x " + std::to_string(image.height()) + " pixels: " + config_.image_processor_type +
                          " takes none with sides of more than 200 to 1");
    views.push_back(resized_and_cropped(image));
    return views;
  }
  if (config_.image_grid_pinpoints.empty()) {
    const int side = std::max(image.width(), image.height());
    if (!config_.do_pad || image.width() == image.height()) {
      views.push_back(resized_and_cropped(image));
      return views;
    }
    std::array<std::uint8_t, 3> mean{};
    for (std::size_t c = 0; c < 3; ++c) mean[c] = static_cast<std::uint8_t>(config_.image_mean[c] * 255);
    views.push_back(resized_and_cropped(crop(image, {-((side - image.width()) / 2), -((side - image.height()) / 2), side, side}, mean)));
    return views;
  }

  // LLaVA-NeXT: the whole picture squashed into one view, then the tiles of the best canvas, row by row.
  const ImageSize& size = config_.size;
  const bool exact = size.height && size.width;
  const int base_height = exact ? size.height : size.shortest_edge, base_width = exact ? size.width : size.shortest_edge;
  const int tile = config_.crop_size.height ? config_.crop_size.height : base_height;
  views.push_back(resized_and_cropped(resize(image, base_width, base_height, config_.resample)));

  const auto [canvas_height, canvas_width] = best_canvas(image.height(), image.width());
  const double across = static_cast<double>(canvas_width) / image.width(), down = static_cast<double>(canvas_height) / image.height();
  int height = canvas_height, width = canvas_width;
  if (across < down)
    height = static_cast<int>(std::min(std::ceil(image.height() * across), static_cast<double>(canvas_height)));
  else
    width = static_cast<int>(std::min(std::ceil(image.width() * down), static_cast<double>(canvas_width)));
  const Image fitted = resize(image, width, height, config_.resample);
  const int left = (canvas_width - width) / 2, top = (canvas_height - height) / 2;
  for (int y = 0; y < canvas_height; y += tile)
    for (int x = 0; x < canvas_width; x += tile) {
      const Rect window{x - left, y - top, std::min(tile, canvas_width - x), std::min(tile, canvas_height - y)};
      views.push_back(resized_and_cropped(crop(fitted, window)));
      if (views.back().width() != views.front().width() || views.back().height() != views.front().height())
        throw ArgumentError(config_.image_processor_type + ": tiles of " + std::to_string(views.back().width()) + " x " + std::to_string(views.back().height()) +
                            " beside a view of " + std::to_string(views.front().width()) + " x " + std::to_string(views.front().height()));
    }
  return views;
}

CHIASM_INLINE Tensor ImageProcessor::patches(const Image& image) const {
  const int patch = config_.patch_size, block = patch * config_.merge_size;
  if (image.width() % block || image.height() % block)
    throw ArgumentError(config_.image_processor_type + ": picture of " + std::to_string(image.width()) + " x " + std::to_string(image.height()) +
                        " pixels, and do_resize is off: its sides are no multiples of " + std::to_string(block));
  const auto size = static_cast<std::size_t>(patch), frames = static_cast<std::size_t>(config_.temporal_patch_size);
  const std::size_t count = static_cast<std::size_t>(image.width() / patch) * static_cast<std::size_t>(image.height() / patch);
  Tensor out({count, 3 * frames * size * size});
  float* to = out.data();
  for (int top = 0; top < image.height(); top += block)
    for (int left = 0; left < image.width(); left += block)
      for (int y = top; y < top + block; y += patch)
        for (int x = left; x < left + block; x += patch)
          for (std::size_t c = 0; c < 3; ++c) {
            const float* first = to;
            for (int row = y; row < y + patch; ++row) {
              const std::uint8_t* from = image.row(row) + std::ptrdiff_t{3} * x + c;
              for (std::size_t i = 0; i < size; ++i) *to++ = level_[c][from[3 * i]];
            }
            for (std::size_t frame = 1; frame < frames; ++frame) to = std::copy_n(first, size * size, to);
          }
  return out;
}

CHIASM_INLINE ImageInputs ImageProcessor::operator()(const Image& image) const {
  const std::vector<Image> pictures = views(image);
  ImageInputs inputs;
  inputs.original_height = image.height(), inputs.original_width = image.width();
  if (!config_.image_grid_pinpoints.empty()) {
    const auto canvas = best_canvas(image.height(), image.width());
    const int tile = config_.crop_size.height ? config_.crop_size.height : config_.size.height ? config_.size.height : config_.size.shortest_edge;
    inputs.grid_rows = (canvas[0] + tile - 1) / tile, inputs.grid_columns = (canvas[1] + tile - 1) / tile;
  }
  if (config_.patch_size) {
    inputs.pixel_values = patches(pictures.front());
    inputs.grid_rows = pictures.front().height() / config_.patch_size, inputs.grid_columns = pictures.front().width() / config_.patch_size;
    return inputs;
  }
  if (pictures.size() > 1 && config_.max_image_size) {
    const auto [rows, columns] = tiles(image);
    inputs.grid_rows = rows, inputs.grid_columns = columns;
  }
  const std::size_t plane = pictures.front().pixels().size() / 3;
  inputs.pixel_values = Tensor({pictures.size(), 3, static_cast<std::size_t>(pictures.front().height()), static_cast<std::size_t>(pictures.front().width())});
  float* to = inputs.pixel_values.data();
  for (const Image& picture : pictures)
    for (std::size_t c = 0; c < 3; ++c, to += plane) {
      const std::uint8_t* from = picture.pixels().data() + c;
      const auto& level = level_[c];
      for (std::size_t i = 0; i < plane; ++i) to[i] = level[from[3 * i]];
    }
  return inputs;
}

}  // namespace chiasm
