/// GIF: the first frame, on its canvas. GIF89a.
#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/png.ipp>

#include <algorithm>
#include <array>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

/// Reads a GIF's LZW codes, least significant bit first, out of blocks that begin with their length.
struct GifCodes {
  const ImageBytes& file;
  std::size_t at;
  std::size_t left = 0;  // of the present block
  std::uint32_t held = 0;
  int bits = 0;

  int next(int width) {
    while (bits < width) {
      if (left == 0) {
        left = file.u8(at++);
        if (left == 0) return -1;  // end of the data
      }
      held |= file.u8(at++) << bits;
      bits += 8, --left;
    }
    const int code = static_cast<int>(held & ((1u << width) - 1));
    held >>= width, bits -= width;
    return code;
  }
};

/// Unpacks at most `size` colour numbers; how many there were.
inline std::size_t gif_unpack(const ImageBytes& file, std::size_t at, std::uint8_t* to, std::size_t size) {
  constexpr int table_size = 4096;
  const int root_bits = static_cast<int>(file.u8(at));
  if (root_bits < 1 || root_bits > 11) file.fail(at, "LZW codes of " + std::to_string(root_bits) + " bits in GIF");
  const int clear = 1 << root_bits, end = clear + 1;
  std::array<std::uint16_t, table_size> prefix{};
  std::array<std::uint8_t, table_size> last{}, stack{};
  for (int i = 0; i < clear; ++i) last[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i);
  GifCodes codes{file, at + 1};
  int width = root_bits + 1, next = clear + 2, previous = -1;
  std::uint8_t first = 0;
  std::size_t written = 0;
  while (written < size) {
    const std::size_t code_at = codes.at;
    const int code = codes.next(width);
    if (code < 0 || code == end) break;
    if (code == clear) {
      width = root_bits + 1, next = clear + 2, previous = -1;
      continue;
    }
    if (previous < 0 ? code > clear : code > next || (code == next && next == table_size)) file.fail(code_at, "LZW code out of range in GIF");
    std::size_t depth = 0;
    int walk = code;
    if (code == next) stack[depth++] = first, walk = previous;
    while (walk >= clear) {
      stack[depth++] = last[static_cast<std::size_t>(walk)];
      walk = prefix[static_cast<std::size_t>(walk)];
    }
    first = static_cast<std::uint8_t>(walk);
    if (previous >= 0 && next < table_size) {
      prefix[static_cast<std::size_t>(next)] = static_cast<std::uint16_t>(previous);
      last[static_cast<std::size_t>(next)] = first;
      if (++next == 1 << width && width < 12) ++width;
    }
    previous = code;
    to[written++] = first;
    while (depth > 0 && written < size) to[written++] = stack[--depth];
  }
  return written;
}

/// `palette_alpha`: fill DecodedImage::alpha.
inline DecodedImage decode_gif(const ImageBytes& file, bool palette_alpha) {
  std::int64_t width = file.le16(6), height = file.le16(8);
  ImagePalette palette = ImagePalette::gray();
  std::optional<std::uint8_t> transparent;
  std::size_t at = 13;
  const auto read_palette = [&](std::uint32_t flags) {
    if (!(flags & 0x80)) return;
    palette = ImagePalette();
    const std::size_t colours = std::size_t{2} << (flags & 7);
    const std::uint8_t* rgb = file.at(at, 3 * colours);
    for (std::size_t i = 0; i < colours; ++i) std::copy_n(rgb + 3 * i, 3, palette.colours[i].data());
    palette.complete_gray(colours);
    at += 3 * colours;
  };
  read_palette(file.u8(10));
  for (;;) {
    const std::uint32_t kind = file.u8(at++);
    if (kind == ',') break;
    if (kind == ';') file.fail(at - 1, "GIF without a frame");
    if (kind != '!') continue;  // Pillow passes over stray bytes
    if (file.u8(at) == 0xF9 && file.u8(at + 1) >= 4 && file.u8(at + 2) & 1) transparent = static_cast<std::uint8_t>(file.u8(at + 5));
    ++at;
    while (const std::uint32_t size = file.u8(at)) at += 1 + size;
    ++at;
  }
  const std::size_t frame_at = at;
  const std::int64_t left = file.le16(at), top = file.le16(at + 2), columns = file.le16(at + 4), rows = file.le16(at + 6);
  const std::uint32_t flags = file.u8(at + 8);
  at += 9;
  width = std::max(width, left + columns), height = std::max(height, top + rows);
  file.check_size(6, width, height);
  file.check_size(frame_at + 4, columns, rows);
  read_palette(flags);
  // A 12-bit code stands for at most 4096 pixels.
  if (columns * rows / 4096 > static_cast<std::int64_t>(file.size)) file.fail(at, "truncated: " + std::to_string(file.size - at) + " bytes for the frame");

  const std::uint8_t fill = transparent.value_or(0);
  std::vector<std::uint8_t> numbers(static_cast<std::size_t>(columns * rows), fill);
  gif_unpack(file, at, numbers.data(), numbers.size());
  Image image(static_cast<int>(width), static_cast<int>(height));
  if (const auto& colour = palette.colours[fill]; colour != std::array<std::uint8_t, 3>{} && (columns < width || rows < height))
    for (std::size_t i = 0; i < image.pixels().size(); i += 3) std::copy_n(colour.data(), 3, image.pixels().data() + i);
  std::vector<std::uint8_t> alpha;
  if (palette_alpha && transparent) alpha.resize(static_cast<std::size_t>(width * height));
  const std::uint8_t* number = numbers.data();
  static constexpr int interlace[][2] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}};
  static constexpr int straight[][2] = {{0, 1}};
  for (const auto& [first, step] : flags & 0x40 ? std::span<const int[2]>(interlace) : std::span<const int[2]>(straight))
    for (std::int64_t y = first; y < rows; y += step) {
      std::uint8_t* to = image.row(static_cast<int>(top + y)) + 3 * left;
      for (std::int64_t x = 0; x < columns; ++x, to += 3, ++number) {
        std::copy_n(palette.colours[*number].data(), 3, to);
        if (!alpha.empty() && *number != *transparent) alpha[static_cast<std::size_t>((top + y) * width + left + x)] = 255;
      }
    }
  if (transparent && alpha.empty()) image.set_transparent(palette.colours[*transparent]);
  image.set_indexed(palette.colours != ImagePalette::gray().colours);
  return {std::move(image), 1, std::move(alpha)};
}

}  // namespace chiasm
