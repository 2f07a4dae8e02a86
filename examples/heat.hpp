/// A picture under the heat map of where an answer came from, as a PNG file.
#pragma once

#include <chiasm/chiasm.hpp>

#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace examples {

/// The picture in gray, from violet over red to yellow where the answer came from. Throws FileError.
inline void write_heat(const std::string& path, const chiasm::Image& image, const chiasm::HeatMap& map) {
  constexpr std::array<std::array<double, 3>, 4> colours = {{{60, 20, 110}, {190, 40, 90}, {250, 130, 30}, {255, 240, 110}}};
  const float highest = map.values.empty() ? 0.0f : *std::max_element(map.values.begin(), map.values.end());
  const std::size_t height = static_cast<std::size_t>(image.height()), width = static_cast<std::size_t>(image.width());
  std::vector<std::uint8_t> painted(height * width * 3);
  for (std::size_t y = 0; y < height; ++y)
    for (std::size_t x = 0; x < width; ++x) {
      const std::uint8_t* const from = image.row(static_cast<int>(y)) + 3 * x;
      const double gray = 0.299 * from[0] + 0.587 * from[1] + 0.114 * from[2];
      const chiasm::HeatMap::Point point{(static_cast<double>(x) + 0.5) / static_cast<double>(width), (static_cast<double>(y) + 0.5) / static_cast<double>(height)};
      const double heat = highest > 0 ? std::min(1.0, static_cast<double>(map.at(point) / highest)) : 0.0;
      const double along = heat * (colours.size() - 1);
      const std::size_t low = std::min(static_cast<std::size_t>(along), colours.size() - 2);
      const double share = along - static_cast<double>(low), cover = 0.8 * std::min(1.0, 2 * heat);
      for (std::size_t c = 0; c < 3; ++c) {
        const double colour = colours[low][c] * (1 - share) + colours[low + 1][c] * share;
        painted[(y * width + x) * 3 + c] = static_cast<std::uint8_t>(gray * (1 - cover) + colour * cover);
      }
    }
  if (stbi_write_png(path.c_str(), image.width(), image.height(), 3, painted.data(), image.width() * 3) == 0) throw chiasm::FileError(path, "cannot be written");
}

}  // namespace examples
