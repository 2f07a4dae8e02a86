/// Image: 8-bit RGB pixels, and the geometry that image processors need, bit for bit as Pillow has it (resize, crop).
#pragma once

#include <chiasm/core/error.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A picture: 8-bit RGB, row-major, interleaved (height, width, 3). Owns its pixels; copies are deep.
class Image {
 public:
  /// No picture has more pixels than this (Pillow's limit too): sizes read from files are checked before anything is allocated.
  static constexpr std::int64_t max_pixels = 178'956'970;

  /// A black picture. Throws ArgumentError: a side below 1, or more than max_pixels.
  Image(int width, int height);
  /// A picture of these pixels. Throws ArgumentError also where `rgb` does not hold width * height * 3 bytes.
  Image(int width, int height, std::vector<std::uint8_t> rgb);

  int width() const noexcept { return width_; }
  int height() const noexcept { return height_; }

  std::span<const std::uint8_t> pixels() const noexcept { return rgb_; }
  std::span<std::uint8_t> pixels() noexcept { return rgb_; }

  /// First pixel of row `y`; the row is width() * 3 bytes.
  const std::uint8_t* row(int y) const noexcept { return rgb_.data() + stride() * static_cast<std::size_t>(y); }
  std::uint8_t* row(int y) noexcept { return rgb_.data() + stride() * static_cast<std::size_t>(y); }

  /// The colour that the file declares transparent, where it names one (GIF, PNG's tRNS). The pixels hold it all the same;
  /// ImageProcessor paints it white, as transformers does.
  const std::optional<std::array<std::uint8_t, 3>>& transparent() const noexcept { return transparent_; }
  void set_transparent(std::optional<std::array<std::uint8_t, 3>> colour) noexcept { transparent_ = colour; }

  /// Opacity of each pixel, row-major, where the file has a channel of its own for it and not all is opaque; otherwise empty. The pixels hold
  /// the colour under it.
  std::span<const std::uint8_t> alpha() const noexcept { return alpha_; }
  /// Throws ArgumentError where there is not a byte for each pixel; none at all takes the channel away.
  void set_alpha(std::vector<std::uint8_t> alpha);

  /// Whether the file's pixels are indices into a palette, or black and white alone: Pillow's modes P and 1.
  bool indexed() const noexcept { return indexed_; }
  void set_indexed(bool indexed) noexcept { indexed_ = indexed; }

  bool operator==(const Image&) const = default;

 private:
  std::size_t stride() const noexcept { return static_cast<std::size_t>(width_) * 3; }
  int width_, height_;
  std::vector<std::uint8_t> rgb_;
  std::optional<std::array<std::uint8_t, 3>> transparent_;
  std::vector<std::uint8_t> alpha_;
  bool indexed_ = false;
};

/// Resampling filters, numbered as Pillow and preprocessor_config.json number them.
enum class Resample : std::uint8_t { nearest = 0, lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5 };

/// A window on a picture. `left` and `top` may be negative and the window may reach beyond the picture.
struct Rect {
  int left = 0, top = 0, width = 0, height = 0;
  bool operator==(const Rect&) const = default;
};

/// Antialiased resize to width x height, equal to Pillow 13 on 8-bit pixels to the last bit. Throws ArgumentError.
Image resize(const Image& image, int width, int height, Resample filter);

/// The part `window` of resize(image, width, height, filter), without computing the rest of it. Here width x height itself
/// may exceed Image::max_pixels. Throws ArgumentError where the window is empty or not inside.
Image resize(const Image& image, int width, int height, Resample filter, Rect window);

/// As above, but as Pillow resizes the file's picture before it is made RGB: an indexed() one by Resample::nearest, and one with an alpha channel with its
/// colours weighed by their opacity. Gray of 16 bits and CMYK are RGB when they come here, and are resized as such.
Image resize_in_mode(const Image& image, int width, int height, Resample filter, Rect window);

/// What the window shows; outside of the picture it shows `fill`. Cropping and padding in one. Throws ArgumentError.
Image crop(const Image& image, Rect window, std::array<std::uint8_t, 3> fill = {0, 0, 0});

/// The picture turned upright: `orientation` is EXIF's tag 274 (1 to 8); any other value leaves it as it is.
Image orient(const Image& image, int orientation);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/image.ipp>
#endif
