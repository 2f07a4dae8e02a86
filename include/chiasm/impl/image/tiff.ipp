/// TIFF: its baseline, the first picture of a file, in strips: bilevel, gray, palette, RGB and alpha of up to 8 bits a sample; plain, LZW,
/// deflate or PackBits. TIFF 6.0.
#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/png.ipp>
#include <chiasm/impl/image/stb.hpp>

#include <algorithm>
#include <array>
#include <climits>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

/// Unpacks LZW codes, most significant bit first, of 9 to 12 bits; how many bytes there were, at most `size`.
inline std::size_t tiff_unpack_lzw(const ImageBytes& strip, std::uint8_t* to, std::size_t size) {
  constexpr int clear = 256, end = 257, table_size = 4096;
  std::vector<std::uint16_t> prefix(table_size);
  std::array<std::uint8_t, table_size> last{}, stack{};
  for (int i = 0; i < clear; ++i) last[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i);
  std::uint32_t held = 0;
  int bits = 0, width = 9, next = end + 1, previous = -1;
  std::uint8_t first = 0;
  std::size_t at = 0, written = 0;
  while (written < size) {
    for (; bits < width && at < strip.size; bits += 8) held = held << 8 | strip.data[at++];
    if (bits < width) break;
    const int code = static_cast<int>(held >> (bits - width) & ((1u << width) - 1));
    bits -= width;
    if (code == end) break;
    if (code == clear) {
      width = 9, next = end + 1, previous = -1;
      continue;
    }
    if (previous < 0 ? code > end : code > next || (code == next && next == table_size)) strip.fail(at, "LZW code out of range in TIFF");
    std::size_t depth = 0;
    int walk = code;
    if (code == next) stack[depth++] = first, walk = previous;
    while (walk > end) {
      stack[depth++] = last[static_cast<std::size_t>(walk)];
      walk = prefix[static_cast<std::size_t>(walk)];
    }
    first = static_cast<std::uint8_t>(walk);
    if (previous >= 0 && next < table_size) {
      prefix[static_cast<std::size_t>(next)] = static_cast<std::uint16_t>(previous);
      last[static_cast<std::size_t>(next)] = first;
      if (++next > (1 << width) - 2 && width < 12) ++width;  // one code earlier than GIF
    }
    previous = code;
    to[written++] = first;
    while (depth > 0 && written < size) to[written++] = stack[--depth];
  }
  return written;
}

inline std::size_t tiff_unpack_bits(const ImageBytes& strip, std::uint8_t* to, std::size_t size) {
  std::size_t at = 0, written = 0;
  while (written < size && at < strip.size) {
    const std::uint32_t head = strip.data[at++];
    if (head == 128) continue;
    if (head < 128) {
      const std::size_t count = std::min<std::size_t>({head + 1, size - written, strip.size - at});
      std::copy_n(strip.data + at, count, to + written);
      at += count, written += count;
    } else if (at < strip.size) {
      const std::size_t count = std::min<std::size_t>(257 - head, size - written);
      std::fill_n(to + written, count, strip.data[at++]);
      written += count;
    }
  }
  return written;
}

struct TiffFile {
  enum : std::uint32_t { plain = 1, lzw = 5, deflate = 8, old_deflate = 32946, pack_bits = 32773 };
  std::int64_t width = 0, height = 0, rows_per_strip = 0;
  std::uint32_t bits = 1, compression = plain, photometric = 0, samples = 1, predictor = 1, extra = 0;
  bool has_extra = false;
  int orientation = 1;
  std::vector<std::uint32_t> offsets, sizes, colours;
};

inline TiffFile scan_tiff(const ImageBytes& file) {
  const bool little = file.starts_with("II");
  const auto u16 = [&](std::size_t at) { return little ? file.le16(at) : file.be16(at); };
  const auto u32 = [&](std::size_t at) { return little ? file.le32(at) : file.be32(at); };
  TiffFile tiff;
  struct List {
    std::size_t at = 0, count = 0, size = 0;
  } offsets, sizes, colours;  // read once, however often a hostile file names them
  bool uneven = false, odd = false;
  std::uint32_t planar = 1;
  const std::size_t directory = u32(4), entries = u16(directory);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    const std::uint32_t tag = u16(entry), type = u16(entry + 2), count = u32(entry + 4);
    const std::size_t size = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;
    if (size == 0 || count == 0) continue;  // text, fractions: nothing that the pixels need
    const std::size_t values = count * size <= 4 ? entry + 8 : u32(entry + 8);
    const auto value = [&](std::size_t k) { return size == 1 ? file.u8(values + k) : size == 2 ? u16(values + 2 * k) : u32(values + 4 * k); };
    switch (tag) {
      case 256: tiff.width = value(0); break;
      case 257: tiff.height = value(0); break;
      case 258:
        tiff.bits = value(0);
        for (std::size_t k = 1; k < std::min<std::size_t>(count, 8); ++k) uneven |= value(k) != tiff.bits;
        break;
      case 259: tiff.compression = value(0); break;
      case 262: tiff.photometric = value(0); break;
      case 266: odd |= value(0) != 1; break;   // bits of a byte backwards
      case 273: offsets = {values, count, size}; break;
      case 274: tiff.orientation = static_cast<int>(value(0)); break;
      case 277: tiff.samples = value(0); break;
      case 278: tiff.rows_per_strip = value(0); break;
      case 279: sizes = {values, count, size}; break;
      case 284: planar = value(0); break;
      case 317: tiff.predictor = value(0); break;
      case 320: colours = {values, count, size}; break;
      case 322: odd = true; break;             // tiles
      case 338: tiff.extra = value(0), tiff.has_extra = true; break;
      case 339: odd |= value(0) != 1; break;   // signed or floating
      default: break;
    }
  }
  const auto read = [&](const List& list) {
    file.at(list.at, list.count * list.size);
    std::vector<std::uint32_t> numbers(list.count);
    for (std::size_t k = 0; k < list.count; ++k) numbers[k] = list.size == 1 ? file.u8(list.at + k) : list.size == 2 ? u16(list.at + 2 * k) : u32(list.at + 4 * k);
    return numbers;
  };
  tiff.offsets = read(offsets), tiff.sizes = read(sizes), tiff.colours = read(colours);
  file.check_size(directory, tiff.width, tiff.height);
  if (tiff.rows_per_strip < 1 || tiff.rows_per_strip > tiff.height) tiff.rows_per_strip = tiff.height;
  const bool gray = tiff.photometric <= 1, rgb = tiff.photometric == 2, palette = tiff.photometric == 3;
  const bool small = tiff.bits == 1 || tiff.bits == 2 || tiff.bits == 4;
  const bool known = (tiff.bits == 8 || (small && tiff.samples == 1)) && !uneven && !odd && (planar == 1 || tiff.samples == 1) &&
                     ((gray && (tiff.samples == 1 || tiff.samples == 2)) || (rgb && (tiff.samples == 3 || tiff.samples == 4)) || (palette && tiff.samples == 1)) &&
                     !(tiff.has_extra && tiff.extra == 1) && (tiff.predictor == 1 || (tiff.predictor == 2 && tiff.bits == 8));
  if (!known)
    throw UnsupportedError(file.name + ": TIFF beyond the baseline (" + std::to_string(tiff.samples) + " samples of " + std::to_string(tiff.bits) + " bits, photometric " +
                           std::to_string(tiff.photometric) + ", predictor " + std::to_string(tiff.predictor) + (odd ? ", tiled, signed or bits backwards)" : ")"));
  if (palette && tiff.colours.size() < std::size_t{3} << tiff.bits) file.fail(directory, "palette of " + std::to_string(tiff.colours.size()) + " values in TIFF");
  const auto strips = static_cast<std::size_t>((tiff.height + tiff.rows_per_strip - 1) / tiff.rows_per_strip);
  if (tiff.offsets.size() < strips || tiff.sizes.size() < strips) file.fail(directory, "truncated: " + std::to_string(tiff.offsets.size()) + " strips in TIFF, expected " + std::to_string(strips));
  return tiff;
}

inline DecodedImage decode_tiff(const ImageBytes& file) {
  const TiffFile tiff = scan_tiff(file);
  const auto columns = static_cast<std::size_t>(tiff.width), rows = static_cast<std::size_t>(tiff.height), samples = static_cast<std::size_t>(tiff.samples);
  const std::size_t stride = (columns * samples * tiff.bits + 7) / 8;
  // No coding packs better than LZW, whose 12 bits stand for less than 4096 bytes: a small file never makes us allocate much.
  if (stride * rows / 4096 > file.size) file.fail(0, "truncated: " + std::to_string(file.size) + " bytes of TIFF for " + std::to_string(stride * rows));
  Image image(static_cast<int>(columns), static_cast<int>(rows));
  std::vector<std::uint8_t> alpha;
  const bool has_alpha = samples % 2 == 0 && tiff.has_extra && tiff.extra != 0;
  if (has_alpha) alpha.resize(columns * rows);
  ImagePalette palette = ImagePalette::gray();
  if (tiff.photometric == 3)
    for (std::size_t i = 0; i < std::size_t{1} << tiff.bits; ++i)
      for (std::size_t c = 0; c < 3; ++c) palette.colours[i][c] = static_cast<std::uint8_t>(tiff.colours[(c << tiff.bits) + i] >> 8);
  const std::uint32_t top = (1u << tiff.bits) - 1;
  constexpr std::size_t slack = 1 << 12;
  std::vector<std::uint8_t> unpacked(stride * static_cast<std::size_t>(tiff.rows_per_strip) + slack);
  for (std::size_t strip = 0, first = 0; first < rows; ++strip, first += static_cast<std::size_t>(tiff.rows_per_strip)) {
    const std::size_t count = std::min(rows - first, static_cast<std::size_t>(tiff.rows_per_strip)), size = count * stride;
    const ImageBytes packed = file.part(tiff.offsets[strip], std::min<std::size_t>(tiff.sizes[strip], file.size));
    std::size_t written = 0;
    switch (tiff.compression) {
      case TiffFile::plain: std::copy_n(packed.data, written = std::min(packed.size, size), unpacked.data()); break;
      case TiffFile::lzw:
        if (packed.size > 1 && packed.data[0] == 0 && packed.data[1] & 1) throw UnsupportedError(file.name + ": TIFF with LZW of its first kind");
        written = tiff_unpack_lzw(packed, unpacked.data(), size);
        break;
      case TiffFile::pack_bits: written = tiff_unpack_bits(packed, unpacked.data(), size); break;
      case TiffFile::deflate:
      case TiffFile::old_deflate: {
        if (packed.size > INT_MAX || unpacked.size() > INT_MAX) throw UnsupportedError(file.name + ": TIFF of more than 2 GB");
        const int got = stb::zlib_decode_buffer(reinterpret_cast<char*>(unpacked.data()), static_cast<int>(unpacked.size()),
                                                reinterpret_cast<const char*>(packed.data), static_cast<int>(packed.size));
        if (got < 0) packed.fail(0, "packed pixels of TIFF are damaged");
        written = static_cast<std::size_t>(got);
        break;
      }
      default: throw UnsupportedError(file.name + ": TIFF of compression " + std::to_string(tiff.compression));
    }
    if (written < size) packed.fail(0, "truncated: " + std::to_string(written) + " bytes of pixels in TIFF, expected " + std::to_string(size));
    for (std::size_t y = 0; y < count; ++y) {
      std::uint8_t* row = unpacked.data() + y * stride;
      if (tiff.predictor == 2)
        for (std::size_t i = samples; i < stride; ++i) row[i] = static_cast<std::uint8_t>(row[i] + row[i - samples]);
      std::uint8_t* to = image.row(static_cast<int>(first + y));
      std::uint8_t* opacity = alpha.empty() ? nullptr : alpha.data() + (first + y) * columns;
      for (std::size_t x = 0; x < columns; ++x, to += 3) {
        if (samples >= 3) {
          std::copy_n(row + x * samples, 3, to);
        } else {
          const std::size_t bit = x * tiff.bits;
          std::uint32_t value = samples == 2 ? row[2 * x] : row[bit / 8] >> (8 - tiff.bits - bit % 8) & top;
          if (tiff.photometric <= 1) value = (tiff.photometric == 0 ? top - value : value) * 255 / top;
          std::copy_n(palette.colours[value].data(), 3, to);
        }
        if (opacity) opacity[x] = row[x * samples + samples - 1];
      }
    }
  }
  image.set_indexed(tiff.photometric == 3 || tiff.bits == 1);
  return {std::move(image), tiff.orientation, std::move(alpha)};
}

}  // namespace chiasm
