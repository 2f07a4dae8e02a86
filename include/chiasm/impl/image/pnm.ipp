/// PNM: PBM, PGM and PPM, plain and raw (P1 to P6). netpbm's pnm(5).
#pragma once

#include <chiasm/impl/image/bytes.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

struct PnmText {
  const ImageBytes& file;
  std::size_t at;

  static bool blank(std::uint32_t c) noexcept { return c == ' ' || (c >= '\t' && c <= '\r'); }
  void skip() {
    for (;; ++at) {
      const std::uint32_t c = file.u8(at);
      if (c == '#')
        while (file.u8(at) != '\n' && file.u8(at) != '\r') ++at;
      else if (!blank(c))
        return;
    }
  }
  std::uint32_t number() {
    skip();
    const std::size_t start = at;
    std::uint32_t value = 0;
    for (; at < file.size && file.data[at] >= '0' && file.data[at] <= '9'; ++at) {
      if (at - start == 9) file.fail(start, "number too long in PNM");
      value = value * 10 + (file.data[at] - '0');
    }
    if (at == start) file.fail(at, "a number was expected in PNM");
    return value;
  }
};

inline DecodedImage decode_pnm(const ImageBytes& file) {
  const char kind = static_cast<char>(file.u8(1));
  const bool plain = kind <= '3', bitmap = kind == '1' || kind == '4', gray = kind == '2' || kind == '5';
  PnmText text{file, 2};
  const std::int64_t width = text.number(), height = text.number();
  file.check_size(2, width, height);
  const std::size_t top_at = text.at;
  const std::uint32_t top = bitmap ? 1 : text.number();
  if (top < 1 || top > 65535) file.fail(top_at, "largest value of PNM is " + std::to_string(top));
  if (!plain && !PnmText::blank(file.u8(text.at++))) file.fail(text.at - 1, "white space expected in PNM");

  const auto columns = static_cast<std::size_t>(width), rows = static_cast<std::size_t>(height);
  const std::size_t channels = bitmap || gray ? 1 : 3, sample = top > 255 ? 2 : 1;
  const std::size_t stride = bitmap ? (columns + 7) / 8 : columns * channels * sample;
  // Plain text spends at least a character per bit, two per number.
  const std::uint8_t* raw = file.at(text.at, plain ? columns * rows * channels * (bitmap ? 1 : 2) - 1 : stride * rows);
  // Gray above 8 bits is scaled to 16 and clipped at 255, everything else scaled to 8: Pillow's modes I and L, RGB.
  const double limit = gray && top > 255 ? 65535.0 : 255.0;
  std::vector<std::uint8_t> scaled(std::size_t{top} + 1);
  for (std::size_t value = 0; value <= top; ++value)
    scaled[value] = static_cast<std::uint8_t>(std::min(std::nearbyint(static_cast<double>(value) / top * limit), 255.0));
  if (bitmap) scaled = {255, 0};

  Image image(static_cast<int>(width), static_cast<int>(height));
  for (std::size_t y = 0; y < rows; ++y) {
    const std::uint8_t* from = raw + stride * y;
    std::uint8_t* to = image.row(static_cast<int>(y));
    for (std::size_t x = 0; x < columns * channels; ++x) {
      std::uint32_t value;
      if (plain && bitmap) {
        text.skip();
        value = file.u8(text.at++) - '0';
      } else if (plain) {
        value = text.number();
      } else if (bitmap) {
        value = from[x / 8] >> (7 - x % 8) & 1u;
      } else {
        value = sample == 1 ? from[x] : static_cast<std::uint32_t>(from[2 * x] << 8 | from[2 * x + 1]);
      }
      if (plain && value > top) file.fail(text.at, "value above " + std::to_string(top) + " in PNM");
      const std::uint8_t level = scaled[std::min(value, top)];
      if (channels == 3)
        to[x] = level;
      else
        std::fill_n(to + 3 * x, 3, level);
    }
  }
  image.set_indexed(bitmap);
  return {std::move(image), 1, {}};
}

}  // namespace chiasm
