/// BMP: OS/2 and Windows 3 to 5; 1 to 32 bits; run-length coded too.
#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/png.ipp>

#include <algorithm>
#include <bit>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

/// Unpacks RLE8 or RLE4 into one byte per pixel, rows in the file's order; pixels that the file skips are 0.
inline std::vector<std::uint8_t> bmp_unpack(const ImageBytes& file, std::size_t at, std::size_t width, std::size_t height, bool nibbles) {
  const std::size_t size = width * height;
  std::vector<std::uint8_t> pixels;
  pixels.reserve(std::min(size, (file.size - at) * 128));
  std::size_t x = 0;
  const auto skip = [&](std::size_t count) { pixels.resize(pixels.size() + std::min(count, size - pixels.size())); };
  while (pixels.size() < size) {
    const std::size_t count = file.u8(at);
    const auto value = static_cast<std::uint8_t>(file.u8(at + 1));
    at += 2;
    if (count) {
      const std::size_t run = std::min({count, width - std::min(x, width), size - pixels.size()});
      for (std::size_t i = 0; i < run; ++i) pixels.push_back(!nibbles ? value : i % 2 ? value & 15 : value >> 4);
      x += run;
    } else if (value == 0) {  // end of the row
      skip((width - pixels.size() % width) % width);
      x = 0;
    } else if (value == 1) {  // end of the picture
      break;
    } else if (value == 2) {  // skip right and up
      skip(file.u8(at) + file.u8(at + 1) * width);
      at += 2;
      x = pixels.size() % width;
    } else {
      const std::size_t run = std::min<std::size_t>(value, size - pixels.size());
      const std::size_t bytes = nibbles ? (run + 1) / 2 : run;
      const std::uint8_t* from = file.at(at, bytes);
      for (std::size_t i = 0; i < run; ++i) pixels.push_back(!nibbles ? from[i] : i % 2 ? from[i / 2] & 15 : from[i / 2] >> 4);
      x += value;
      at += bytes;
      at += at % 2;
    }
  }
  if (pixels.size() < size) file.fail(at, "truncated: " + std::to_string(pixels.size()) + " pixels in BMP, expected " + std::to_string(size));
  return pixels;
}

inline DecodedImage decode_bmp(const ImageBytes& file) {
  enum : std::uint32_t { plain = 0, rle8 = 1, rle4 = 2, bitfields = 3 };
  std::size_t data = file.le32(10);
  const std::size_t header = file.le32(14);
  std::int64_t width, height;
  std::uint32_t bits, compression = plain, colours = 0;
  bool top_down = false;
  if (header == 12) {
    width = file.le16(18), height = file.le16(20), bits = file.le16(24);
  } else if (header == 40 || header == 52 || header == 56 || header == 64 || header == 108 || header == 124) {
    file.at(14, header);
    top_down = file.u8(25) == 0xFF;
    width = file.le32(18);
    height = top_down ? (std::int64_t{1} << 32) - file.le32(22) : file.le32(22);
    bits = file.le16(28), compression = file.le32(30), colours = file.le32(46);
  } else {
    throw UnsupportedError(file.name + ": BMP with a header of " + std::to_string(header) + " bytes");
  }
  file.check_size(18, width, height);
  if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32) file.fail(28, "BMP of " + std::to_string(bits) + " bits");
  if (compression > bitfields) throw UnsupportedError(file.name + ": BMP compression " + std::to_string(compression));
  if (compression == rle8 && bits != 8) file.fail(30, "RLE8 with " + std::to_string(bits) + " bits");
  if (compression == rle4 && bits != 4) file.fail(30, "RLE4 with " + std::to_string(bits) + " bits");

  std::size_t at = 14 + header;
  std::uint32_t masks[3] = {0xFF0000, 0xFF00, 0xFF};
  std::uint32_t alpha_mask = 0;
  if (bits == 16) masks[0] = 0x7C00, masks[1] = 0x3E0, masks[2] = 0x1F;
  if (compression == bitfields) {
    if (bits < 16) file.fail(30, "bit fields with " + std::to_string(bits) + " bits");
    const std::size_t from = 54;  // within the header or right behind it
    if (header == 40) at += 12;
    if (header >= 56) alpha_mask = file.le32(from + 12);
    if (file.le32(from) | file.le32(from + 4) | file.le32(from + 8))
      for (std::size_t i = 0; i < 3; ++i) masks[i] = file.le32(from + 4 * i);
    else
      alpha_mask = 0xFF000000;
  }
  ImagePalette palette;
  bool indexed = false;
  if (bits <= 8) {
    const std::size_t entry = header == 12 ? 3 : 4;
    if (colours == 0) colours = 1u << bits;
    if (colours > 65536) file.fail(46, "palette of " + std::to_string(colours) + " colours");
    if (data == at) data += entry * colours;  // some writers forget the palette there
    std::size_t i = 0;
    for (; i < std::min<std::size_t>(colours, 256) && at + entry * i + 3 <= file.size; ++i)
      for (std::size_t c = 0; c < 3; ++c) palette.colours[i][c] = file.data[at + entry * i + 2 - c];
    indexed = !palette.complete_gray(i) || i == 2;
    at += entry * colours;
  }
  if (data == 0) data = at;
  file.at(data, 0);

  const auto columns = static_cast<std::size_t>(width), rows = static_cast<std::size_t>(height);
  std::vector<std::uint8_t> unpacked;
  const std::uint8_t* pixels;
  std::size_t stride;
  if (compression == rle8 || compression == rle4) {
    if (columns * rows / 256 / 256 > file.size) file.fail(data, "truncated: " + std::to_string(file.size - data) + " bytes of pixels in BMP");
    unpacked = bmp_unpack(file, data, columns, rows, compression == rle4);
    pixels = unpacked.data(), stride = columns, bits = 8;
  } else {
    stride = (columns * bits + 31) / 32 * 4;
    pixels = file.at(data, stride * (rows - 1) + (columns * bits + 7) / 8);
  }
  struct Field {
    std::uint32_t shift, top;
  } fields[3] = {};
  if (bits > 8)
    for (std::size_t c = 0; c < 3; ++c) {
      fields[c].shift = static_cast<std::uint32_t>(std::countr_zero(masks[c] | 0x80000000u));
      fields[c].top = masks[c] >> fields[c].shift;
      const bool usual = bits == 16 ? fields[c].top == 31 || fields[c].top == 63 : fields[c].top == 255 && fields[c].shift % 8 == 0;
      if (!usual || fields[c].shift >= bits) throw UnsupportedError(file.name + ": BMP with unusual bit fields");
    }
  Image image(static_cast<int>(width), static_cast<int>(height));
  std::vector<std::uint8_t> alpha;
  const std::size_t alpha_byte = static_cast<std::size_t>(std::countr_zero(alpha_mask | 0x80000000u)) / 8;
  if (bits == 32 && alpha_mask != 0 && alpha_mask == 0xFFu << 8 * alpha_byte) alpha.resize(columns * rows);
  for (std::size_t y = 0; y < rows; ++y) {
    const std::uint8_t* from = pixels + stride * y;
    std::uint8_t* to = image.row(static_cast<int>(top_down ? y : rows - 1 - y));
    if (bits <= 8) {
      for (std::size_t x = 0; x < columns; ++x, to += 3) {
        const std::size_t bit = x * bits;
        std::copy_n(palette.colours[from[bit / 8] >> (8 - bits - bit % 8) & ((1u << bits) - 1)].data(), 3, to);
      }
    } else if (bits == 16) {
      for (std::size_t x = 0; x < columns; ++x, from += 2, to += 3) {
        const auto pixel = static_cast<std::uint32_t>(from[1] << 8 | from[0]);
        for (std::size_t c = 0; c < 3; ++c) to[c] = static_cast<std::uint8_t>((pixel >> fields[c].shift & fields[c].top) * 255 / fields[c].top);
      }
    } else {
      const std::size_t r = fields[0].shift / 8, g = fields[1].shift / 8, b = fields[2].shift / 8;
      for (std::size_t x = 0; x < columns; ++x, from += bits / 8, to += 3) {
        to[0] = from[r], to[1] = from[g], to[2] = from[b];
        if (!alpha.empty()) alpha[(top_down ? y : rows - 1 - y) * columns + x] = from[alpha_byte];
      }
    }
  }
  image.set_indexed(indexed);
  return {std::move(image), 1, std::move(alpha)};
}

}  // namespace chiasm
