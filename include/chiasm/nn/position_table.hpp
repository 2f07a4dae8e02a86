/// A learned table of positions over a grid of patches, resized where an image has another grid than the model was trained with.
#pragma once

#include <chiasm/core/context.hpp>

#include <cmath>

namespace chiasm::inline CHIASM_ABI {

/// Bicubic (a = -0.75, half-pixel centres, borders repeated, no antialiasing), as interpolate_pos_encoding of transformers.
/// Throws ShapeError if `table` has not from_rows * from_columns rows.
inline Tensor resize_positions(Context& ctx, View table, std::size_t from_rows, std::size_t from_columns, std::size_t rows, std::size_t columns) {
  if (table.rows() != from_rows * from_columns || table.empty()) throw ShapeError("resize_positions", table.shape().to_string());
  struct Taps {
    std::size_t index[4];
    float weight[4];
  };
  const auto taps = [](std::size_t i, std::size_t to, std::size_t from) {
    constexpr double a = -0.75;
    const double centre = (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const double floor = std::floor(centre), t = centre - floor;
    const auto near = [](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
    const auto far = [](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
    const double weights[4] = {far(t + 1), near(t), near(1 - t), far(2 - t)};
    Taps result;
    for (int k = 0; k < 4; ++k) {
      const auto at = static_cast<std::ptrdiff_t>(floor) - 1 + k;
      result.index[k] = static_cast<std::size_t>(std::min(std::max<std::ptrdiff_t>(at, 0), static_cast<std::ptrdiff_t>(from) - 1));
      result.weight[k] = static_cast<float>(weights[k]);
    }
    return result;
  };
  const std::size_t width = table.columns();
  Tensor resized = ctx.zeros(Shape{rows * columns, width});  // (rows * columns, D)
  for (std::size_t y = 0; y < rows; ++y) {
    const Taps vertical = taps(y, rows, from_rows);
    for (std::size_t x = 0; x < columns; ++x) {
      const Taps horizontal = taps(x, columns, from_columns);
      float* to = resized.row(y * columns + x);
      for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 4; ++i) {
          const float* from = table.row(vertical.index[j] * from_columns + horizontal.index[i]);
          const float weight = vertical.weight[j] * horizontal.weight[i];
          for (std::size_t d = 0; d < width; ++d) to[d] += weight * from[d];
        }
    }
  }
  return resized;
}

}  // namespace chiasm
