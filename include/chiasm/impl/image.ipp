#pragma once

#include <chiasm/io/image.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <string>
#include <utility>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

// Pixels times three, after a check that leaves no room for overflow.
CHIASM_INLINE std::size_t image_bytes(int width, int height) {
  if (width < 1 || height < 1 || std::int64_t{width} * height > Image::max_pixels)
    throw ArgumentError("Image: " + std::to_string(width) + " x " + std::to_string(height) + " pixels: sides start at 1, and " +
                        std::to_string(Image::max_pixels) + " pixels are the limit");
  return static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
}

}  // namespace detail

CHIASM_INLINE Image::Image(int width, int height) : width_(width), height_(height), rgb_(detail::image_bytes(width, height)) {}

CHIASM_INLINE Image::Image(int width, int height, std::vector<std::uint8_t> rgb)
    : width_(width), height_(height), rgb_(std::move(rgb)) {
  if (const std::size_t want = detail::image_bytes(width, height); rgb_.size() != want)
    throw ArgumentError("Image: " + std::to_string(rgb_.size()) + " bytes for " + std::to_string(width) + " x " +
                        std::to_string(height) + " RGB pixels, expected " + std::to_string(want));
}

CHIASM_INLINE Image crop(const Image& image, Rect window, std::array<std::uint8_t, 3> fill) {
  Image out(window.width, window.height);
  const std::int64_t first = std::clamp<std::int64_t>(window.left, 0, image.width());
  const std::int64_t last = std::clamp<std::int64_t>(std::int64_t{window.left} + window.width, 0, image.width());
  const bool covered = first == window.left && last - first == window.width && window.top >= 0 &&
                       std::int64_t{window.top} + window.height <= image.height();
  if (!covered && fill != std::array<std::uint8_t, 3>{}) {
    std::uint8_t* pixel = out.pixels().data();
    for (std::size_t i = 0; i < out.pixels().size(); i += 3) std::copy(fill.begin(), fill.end(), pixel + i);
  }
  if (first >= last) return out;
  for (int y = 0; y < window.height; ++y) {
    const std::int64_t from = std::int64_t{window.top} + y;
    if (from < 0 || from >= image.height()) continue;
    std::memcpy(out.row(y) + (first - window.left) * 3, image.row(static_cast<int>(from)) + first * 3,
                static_cast<std::size_t>(last - first) * 3);
  }
  return out;
}

CHIASM_INLINE Image orient(const Image& image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool swapped = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;   // x of the source runs backwards
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;  // y of the source runs backwards
  Image out(swapped ? image.height() : image.width(), swapped ? image.width() : image.height());
  for (int y = 0; y < out.height(); ++y) {
    std::uint8_t* to = out.row(y);
    for (int x = 0; x < out.width(); ++x, to += 3) {
      const int u = swapped ? y : x, v = swapped ? x : y;
      const std::uint8_t* from = image.row(from_bottom ? image.height() - 1 - v : v) + std::ptrdiff_t{3} * (from_right ? image.width() - 1 - u : u);
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  }
  out.set_transparent(image.transparent());
  return out;
}

namespace detail {

CHIASM_INLINE double resample_support(Resample filter) {
  switch (filter) {
    case Resample::box: return 0.5;
    case Resample::bicubic: return 2.0;
    case Resample::lanczos: return 3.0;
    default: return 1.0;
  }
}

CHIASM_INLINE double resample_weight(Resample filter, double x) {
  constexpr double pi = std::numbers::pi;
  const auto sinc = [](double t) { return t == 0.0 ? 1.0 : std::sin(t * pi) / (t * pi); };
  switch (filter) {
    case Resample::box: return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case Resample::bicubic: {
      constexpr double a = -0.5;
      x = std::fabs(x);
      if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
      if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
      return 0.0;
    }
    case Resample::lanczos: return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
    case Resample::hamming:
      x = std::fabs(x);
      if (x == 0.0) return 1.0;
      if (x >= 1.0) return 0.0;
      x *= pi;
      return std::sin(x) / x * (0.54 + 0.46 * std::cos(x));
    default: return std::fabs(x) < 1.0 ? 1.0 - std::fabs(x) : 0.0;
  }
}

// One axis of a separable resize: output i is the sum over t of weights[i * taps + t] * source[first[i] + t], in fixed point.
struct ResampleAxis {
  static constexpr int precision = 22;
  int taps = 0;
  std::vector<int> first, count;
  std::vector<std::int32_t> weights;  // (outputs, taps), zero beyond count
};

CHIASM_INLINE ResampleAxis resample_axis(int in, int out, int begin, int outputs, Resample filter) {
  const double scale = static_cast<double>(in) / out;
  const double stretch = std::max(scale, 1.0);
  const double support = resample_support(filter) * stretch;
  const double inverse = 1.0 / stretch;
  ResampleAxis axis;
  axis.taps = static_cast<int>(std::min(std::ceil(support) * 2 + 1, static_cast<double>(in)));
  axis.first.resize(static_cast<std::size_t>(outputs));
  axis.count.resize(static_cast<std::size_t>(outputs));
  axis.weights.resize(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(axis.taps));
  std::vector<double> exact(static_cast<std::size_t>(axis.taps));
  for (int i = 0; i < outputs; ++i) {
    const double center = (begin + i + 0.5) * scale;
    const int first = static_cast<int>(std::max(center - support + 0.5, 0.0));
    const int count = static_cast<int>(std::min(center + support + 0.5, static_cast<double>(in))) - first;
    double sum = 0.0;
    for (int t = 0; t < count; ++t) sum += exact[static_cast<std::size_t>(t)] = resample_weight(filter, (t + first - center + 0.5) * inverse);
    std::int32_t* weights = axis.weights.data() + static_cast<std::size_t>(i) * static_cast<std::size_t>(axis.taps);
    for (int t = 0; t < count; ++t) {
      const double weight = (sum != 0.0 ? exact[static_cast<std::size_t>(t)] / sum : exact[static_cast<std::size_t>(t)]) * (1 << ResampleAxis::precision);
      weights[t] = static_cast<std::int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    axis.first[static_cast<std::size_t>(i)] = first;
    axis.count[static_cast<std::size_t>(i)] = count;
  }
  return axis;
}

CHIASM_INLINE std::uint8_t resample_round(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp((sum + (1 << (ResampleAxis::precision - 1))) >> ResampleAxis::precision, 0, 255));
}

// The weights of an axis in two exact float parts, high * 256 + low, each repeated for red, green and blue and filled up with
// zeros to whole blocks of four pixels. Every sum below is of integers under 2^24, so float arithmetic is exact, and twelve
// lanes of it vectorise on any machine; products of 32-bit integers do not on baseline x86-64.
struct ResampleLanes {
  static constexpr std::size_t block = 12;
  static constexpr int most_taps = 2048;
  std::vector<std::size_t> first, blocks;  // of each output
  std::vector<float> high, low;

  explicit ResampleLanes(const ResampleAxis& axis) {
    std::size_t total = 0;
    for (const int count : axis.count) total += static_cast<std::size_t>(count + 3) / 4;
    high.reserve(total * block), low.reserve(total * block);
    for (std::size_t i = 0; i < axis.first.size(); ++i) {
      first.push_back(static_cast<std::size_t>(axis.first[i]) * 3);
      blocks.push_back(static_cast<std::size_t>(axis.count[i] + 3) / 4);
      for (int t = 0; t < (axis.count[i] + 3) / 4 * 4; ++t) {
        const std::int32_t weight = t < axis.count[i] ? axis.weights[i * static_cast<std::size_t>(axis.taps) + static_cast<std::size_t>(t)] : 0;
        const std::int32_t rest = ((weight + 128) & 255) - 128;
        high.insert(high.end(), 3, static_cast<float>((weight - rest) / 256));
        low.insert(low.end(), 3, static_cast<float>(rest));
      }
    }
  }
};

// Two rows of pixels as floats to two rows of output.
CHIASM_INLINE void resample_two_rows(const ResampleLanes& lanes, const float* a, const float* b, std::uint8_t* to_a, std::uint8_t* to_b) {
  using Lanes = float __attribute__((vector_size(16)));
  constexpr std::size_t block = ResampleLanes::block, vectors = block / 4;
  const auto load = [](const float* from) {
    Lanes value;
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  const auto finish = [](const Lanes (&high)[vectors], const Lanes (&low)[vectors], std::uint8_t* to) {
    float lane[2 * block];
    std::memcpy(lane, high, sizeof high);
    std::memcpy(lane + block, low, sizeof low);
    for (std::size_t c = 0; c < 3; ++c) {
      const auto sum = [&](std::size_t i) { return static_cast<std::int32_t>(lane[i] + lane[i + 3] + lane[i + 6] + lane[i + 9]); };
      to[c] = resample_round(sum(c) * 256 + sum(c + block));
    }
  };
  const float *high = lanes.high.data(), *low = lanes.low.data();
  for (std::size_t x = 0; x < lanes.first.size(); ++x, to_a += 3, to_b += 3) {
    const float *pa = a + lanes.first[x], *pb = b + lanes.first[x];
    Lanes high_a[vectors] = {}, low_a[vectors] = {}, high_b[vectors] = {}, low_b[vectors] = {};
    for (std::size_t n = lanes.blocks[x]; n > 0; --n, pa += block, pb += block, high += block, low += block)
      for (std::size_t v = 0; v < vectors; ++v) {
        const Lanes va = load(pa + 4 * v), vb = load(pb + 4 * v), vh = load(high + 4 * v), vl = load(low + 4 * v);
        high_a[v] += vh * va;
        low_a[v] += vl * va;
        high_b[v] += vh * vb;
        low_b[v] += vl * vb;
      }
    finish(high_a, low_a, to_a);
    finish(high_b, low_b, to_b);
  }
}

// Rows [from, from + rows) of `in` become rows [0, rows) of the result.
CHIASM_INLINE Image resample_horizontal(const Image& in, const ResampleAxis& axis, int from, int rows) {
  Image out(static_cast<int>(axis.first.size()), rows);
  if (axis.taps > ResampleLanes::most_taps) {
    for (int y = 0; y < rows; ++y)
      for (std::size_t x = 0; x < axis.first.size(); ++x)
        for (std::size_t c = 0; c < 3; ++c) {
          const std::int32_t* weights = axis.weights.data() + x * static_cast<std::size_t>(axis.taps);
          const std::uint8_t* pixel = in.row(from + y) + std::ptrdiff_t{3} * axis.first[x] + c;
          std::int32_t sum = 0;
          for (int t = 0; t < axis.count[x]; ++t) sum += weights[t] * pixel[3 * t];
          out.row(y)[3 * x + c] = resample_round(sum);
        }
    return out;
  }
  const ResampleLanes lanes(axis);
  const std::size_t size = static_cast<std::size_t>(in.width()) * 3, padded = size + ResampleLanes::block;
  std::vector<float> pixels(2 * padded);
  std::vector<std::uint8_t> beyond(static_cast<std::size_t>(out.width()) * 3);  // the second of two rows where there is only one
  for (int y = 0; y < rows; y += 2) {
    const bool two = y + 1 < rows;
    const std::uint8_t *a = in.row(from + y), *b = in.row(two ? from + y + 1 : from + y);
    for (std::size_t i = 0; i < size; ++i) pixels[i] = a[i];
    for (std::size_t i = 0; i < size; ++i) pixels[padded + i] = b[i];
    resample_two_rows(lanes, pixels.data(), pixels.data() + padded, out.row(y), two ? out.row(y + 1) : beyond.data());
  }
  return out;
}

// Row first[y] of the axis stands in row first[y] - from of `in`; columns [left, left + width) are taken.
CHIASM_INLINE Image resample_vertical(const Image& in, const ResampleAxis& axis, int from, int left, int width) {
  Image out(width, static_cast<int>(axis.first.size()));
  constexpr std::size_t lanes = 32;
  const std::size_t size = static_cast<std::size_t>(width) * 3, stride = static_cast<std::size_t>(in.width()) * 3;
  for (int y = 0; y < out.height(); ++y) {
    const auto i = static_cast<std::size_t>(y);
    const std::int32_t* weights = axis.weights.data() + i * static_cast<std::size_t>(axis.taps);
    const std::uint8_t* source = in.row(axis.first[i] - from) + std::ptrdiff_t{3} * left;
    std::uint8_t* to = out.row(y);
    std::size_t k = 0;
    for (; k + lanes <= size; k += lanes) {
      std::int32_t sums[lanes] = {};
      const std::uint8_t* column = source + k;
      for (int t = 0; t < axis.count[i]; ++t, column += stride)
        for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += weights[t] * column[lane];
      for (std::size_t lane = 0; lane < lanes; ++lane) to[k + lane] = resample_round(sums[lane]);
    }
    for (; k < size; ++k) {
      std::int32_t sum = 0;
      for (int t = 0; t < axis.count[i]; ++t) sum += weights[t] * source[stride * static_cast<std::size_t>(t) + k];
      to[k] = resample_round(sum);
    }
  }
  return out;
}

// Pillow steps through the source by adding the scale up, so its rounding adds up too.
CHIASM_INLINE std::vector<int> nearest_sources(int in, int out, int begin, int outputs) {
  std::vector<int> sources(static_cast<std::size_t>(outputs));
  const double scale = static_cast<double>(in) / out;
  double position = scale * 0.5;
  for (int i = 0; i < begin + outputs; ++i, position += scale)
    if (i >= begin) sources[static_cast<std::size_t>(i - begin)] = std::min(static_cast<int>(position), in - 1);
  return sources;
}

}  // namespace detail

CHIASM_INLINE Image resize(const Image& image, int width, int height, Resample filter, Rect window) {
  if (width < 1 || height < 1 || window.width < 1 || window.height < 1 || window.left < 0 || window.top < 0 ||
      window.left > width - window.width || window.top > height - window.height)
    throw ArgumentError("resize: window " + std::to_string(window.width) + " x " + std::to_string(window.height) + " at (" +
                        std::to_string(window.left) + ", " + std::to_string(window.top) + ") of a picture of " + std::to_string(width) +
                        " x " + std::to_string(height));
  if (filter > Resample::hamming) throw ArgumentError("resize: filter " + std::to_string(static_cast<int>(filter)));
  if (width == image.width() && height == image.height()) return crop(image, window);
  if (filter == Resample::nearest) {
    const std::vector<int> columns = detail::nearest_sources(image.width(), width, window.left, window.width);
    const std::vector<int> rows = detail::nearest_sources(image.height(), height, window.top, window.height);
    Image out(window.width, window.height);
    for (int y = 0; y < window.height; ++y)
      for (int x = 0; x < window.width; ++x)
        std::memcpy(out.row(y) + std::ptrdiff_t{3} * x,
                    image.row(rows[static_cast<std::size_t>(y)]) + std::ptrdiff_t{3} * columns[static_cast<std::size_t>(x)], 3);
    return out;
  }
  if (width == image.width()) {
    const detail::ResampleAxis rows = detail::resample_axis(image.height(), height, window.top, window.height, filter);
    return detail::resample_vertical(image, rows, 0, window.left, window.width);
  }
  const detail::ResampleAxis columns = detail::resample_axis(image.width(), width, window.left, window.width, filter);
  if (height == image.height()) return detail::resample_horizontal(image, columns, window.top, window.height);
  const detail::ResampleAxis rows = detail::resample_axis(image.height(), height, window.top, window.height, filter);
  // Each pass rounds to 8 bits, so the order shows. Pillow 13 begins with the rows where that saves more than the columns
  // cost; the rule was found by experiment (200 random sizes), Pillow before 13 always begins with the columns.
  if (height < image.height() && image.height() - height > 2 * (std::int64_t{image.width()} - width)) {
    const int left = columns.first.front(), right = columns.first.back() + columns.count.back();
    const Image narrow = detail::resample_vertical(image, rows, 0, left, right - left);
    detail::ResampleAxis shifted = columns;
    for (int& first : shifted.first) first -= left;
    return detail::resample_horizontal(narrow, shifted, 0, window.height);
  }
  const int top = rows.first.front(), bottom = rows.first.back() + rows.count.back();
  return detail::resample_vertical(detail::resample_horizontal(image, columns, top, bottom - top), rows, top, 0, window.width);
}

CHIASM_INLINE Image resize(const Image& image, int width, int height, Resample filter) {
  detail::image_bytes(width, height);
  return resize(image, width, height, filter, {0, 0, width, height});
}

}  // namespace chiasm
