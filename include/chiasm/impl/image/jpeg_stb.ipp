/// JPEG by stb_image. It finds the samples; they are spread and turned into RGB here, as libjpeg does it, which leaves the cosine
/// transform as the only difference: at most 3 of 255. Where the user's own stb_image.h came first, its insides are out of reach,
/// and what it does with the last columns of 4:2:2 pictures stays.
#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/cmyk.hpp>
#include <chiasm/impl/image/stb.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

[[noreturn]] inline void fail_jpeg_stb(const ImageBytes& file) {
  file.fail(0, std::string("JPEG: ") + (stb::failure_reason() ? stb::failure_reason() : "damaged"));
}

#ifdef CHIASM_OWN_STB_IMAGE
/// The samples of one component.
struct JpegPlane {
  const std::uint8_t* data;
  std::size_t stride;
  int width, height;      // without the padding to whole blocks
  int across, down;       // pixels that a sample stands for
  const std::uint8_t* row(int y) const { return data + stride * static_cast<std::size_t>(std::clamp(y, 0, height - 1)); }
};

/// Row `y` of the picture. libjpeg's triangle filter where a sample stands for two pixels, else repetition; pictures of one or two
/// samples a row are too small for the filter across.
inline void spread_jpeg_row(const JpegPlane& plane, int y, std::vector<int>& near, std::uint8_t* to, int width) {
  const int source = y / plane.down;
  const std::uint8_t* row = plane.row(source);
  const bool smooth = plane.across == 2 && plane.down <= 2 && plane.width > 2;
  if (plane.down == 2 && (smooth || plane.across == 1)) {
    // Three parts of the nearest row, one of the next nearest.
    const std::uint8_t* other = plane.row(y % 2 ? source + 1 : source - 1);
    if (plane.across == 1) {
      const int round = y % 2 ? 2 : 1;
      for (int x = 0; x < width; ++x) to[x] = static_cast<std::uint8_t>((3 * row[x] + other[x] + round) >> 2);
      return;
    }
    for (int x = 0; x < plane.width; ++x) near[static_cast<std::size_t>(x)] = 3 * row[x] + other[x];
  } else if (smooth) {
    for (int x = 0; x < plane.width; ++x) near[static_cast<std::size_t>(x)] = 4 * row[x];
  } else {
    for (int x = 0; x < width; ++x) to[x] = row[x / plane.across];
    return;
  }
  // Quarters of samples, four of them in `near`: an even pixel leans to the left, an odd one to the right.
  const bool tall = plane.down == 2;
  for (int x = 0; x < width; ++x) {
    const int at = x / 2, beside = std::clamp(x % 2 ? at + 1 : at - 1, 0, plane.width - 1);
    const int sum = 3 * near[static_cast<std::size_t>(at)] + near[static_cast<std::size_t>(beside)];
    to[x] = static_cast<std::uint8_t>(tall ? (sum + (x % 2 ? 7 : 8)) >> 4 : (sum / 4 + (x % 2 ? 2 : 1)) >> 2);
  }
}

/// libjpeg's colour conversion, 16 bits below the unit.
inline void ycc_to_rgb(int y, int cb, int cr, std::uint8_t* rgb) noexcept {
  constexpr int half = 1 << 15;
  cb -= 128, cr -= 128;
  const auto clamp = [](int value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 255)); };
  rgb[0] = clamp(y + ((91881 * cr + half) >> 16));
  rgb[1] = clamp(y + ((-22554 * cb - 46802 * cr + half) >> 16));
  rgb[2] = clamp(y + ((116130 * cb + half) >> 16));
}

inline Image decode_jpeg_stb(const ImageBytes& file) try {
  struct Decoder {
    chiasm_stb::stbi__context source;
    std::unique_ptr<chiasm_stb::stbi__jpeg> jpeg = std::make_unique<chiasm_stb::stbi__jpeg>();
    Decoder() = default;
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    ~Decoder() { chiasm_stb::stbi__cleanup_jpeg(jpeg.get()); }
  } decoder;
  chiasm_stb::stbi__jpeg& jpeg = *decoder.jpeg;
  chiasm_stb::stbi__start_mem(&decoder.source, file.data, static_cast<int>(file.size));
  jpeg.s = &decoder.source;
  decoder.source.img_n = 0;
  chiasm_stb::stbi__setup_jpeg(&jpeg);
  if (!chiasm_stb::stbi__decode_jpeg_image(&jpeg)) fail_jpeg_stb(file);

  const auto width = static_cast<int>(decoder.source.img_x), height = static_cast<int>(decoder.source.img_y);
  const auto components = static_cast<std::size_t>(decoder.source.img_n);
  file.check_size(0, width, height);
  std::vector<JpegPlane> planes;
  for (std::size_t c = 0; c < components; ++c) {
    const auto& part = jpeg.img_comp[c];
    if (!part.data || part.h < 1 || part.v < 1 || jpeg.img_h_max % part.h || jpeg.img_v_max % part.v) throw UnsupportedError(file.name + ": JPEG with samples of uneven size");
    const int across = jpeg.img_h_max / part.h, down = jpeg.img_v_max / part.v;
    planes.push_back({part.data, static_cast<std::size_t>(part.w2), (width + across - 1) / across, (height + down - 1) / down, across, down});
  }
  const bool adobe = jpeg.app14_color_transform >= 0;
  const bool rgb = components == 3 && !jpeg.jfif && (adobe ? jpeg.app14_color_transform == 0 : jpeg.rgb == 3);
  const bool ycck = components == 4 && jpeg.app14_color_transform == 2;
  Image image(width, height);
  std::vector<std::uint8_t> rows(components * static_cast<std::size_t>(width));
  std::vector<int> near(static_cast<std::size_t>(width));
  for (int y = 0; y < height; ++y) {
    const std::uint8_t* sample[4] = {};
    for (std::size_t c = 0; c < components; ++c) {
      std::uint8_t* row = rows.data() + c * static_cast<std::size_t>(width);
      spread_jpeg_row(planes[c], y, near, row, width);
      sample[c] = row;
    }
    std::uint8_t* to = image.row(y);
    for (int x = 0; x < width; ++x, to += 3) {
      if (components == 1) {
        std::fill_n(to, 3, sample[0][x]);
      } else if (rgb) {
        for (std::size_t c = 0; c < 3; ++c) to[c] = sample[c][x];
      } else if (components == 3) {
        ycc_to_rgb(sample[0][x], sample[1][x], sample[2][x], to);
      } else {
        std::uint8_t inks[4] = {sample[0][x], sample[1][x], sample[2][x], sample[3][x]};
        if (ycck) {
          ycc_to_rgb(inks[0], inks[1], inks[2], inks);
          for (std::size_t c = 0; c < 3; ++c) inks[c] = static_cast<std::uint8_t>(255 - inks[c]);
        }
        inverted_cmyk_to_rgb(inks, to);
      }
    }
  }
  return image;
} catch (const std::logic_error& broken) {  // one of stb_image's assertions
  file.fail(0, broken.what());
}
#else
inline Image decode_jpeg_stb(const ImageBytes& file) {
  int width = 0, height = 0, components = 0;
  struct Free {
    void operator()(unsigned char* pixels) const { stb::image_free(pixels); }
  };
  const std::unique_ptr<unsigned char, Free> pixels(stb::load_from_memory(file.data, static_cast<int>(file.size), &width, &height, &components, 3));
  if (!pixels) fail_jpeg_stb(file);
  Image image(width, height);
  std::memcpy(image.pixels().data(), pixels.get(), image.pixels().size());
  return image;
}
#endif

}  // namespace chiasm
