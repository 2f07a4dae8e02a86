/// CMYK of a JPEG to RGB. Adobe stores inks inverted, and Pillow takes every CMYK JPEG as Adobe's.
#pragma once

#include <chiasm/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace chiasm::inline CHIASM_ABI::detail {

/// Red is black's lightness less cyan's share of it, and so on.
inline void inverted_cmyk_to_rgb(const std::uint8_t* inks, std::uint8_t* rgb) noexcept {
  const int light = inks[3];
  for (std::size_t c = 0; c < 3; ++c) {
    const int product = (255 - inks[c]) * light + 128;
    rgb[c] = static_cast<std::uint8_t>(std::max(light - (((product >> 8) + product) >> 8), 0));
  }
}

}  // namespace chiasm
