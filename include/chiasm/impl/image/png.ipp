/// PNG: every colour type and depth, interlaced or not, to RGB as Pillow does it. W3C PNG, third edition.
#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/exif.ipp>
#include <chiasm/impl/image/stb.hpp>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

inline std::uint32_t png_crc(const std::uint8_t* data, std::size_t size) noexcept {
  static constexpr std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
      entries[i] = c;
    }
    return entries;
  }();
  std::uint32_t c = 0xFFFFFFFFu;
  for (std::size_t i = 0; i < size; ++i) c = table[(c ^ data[i]) & 0xFF] ^ c >> 8;
  return ~c;
}

/// The palette of a PNG, GIF or BMP. Entries that the file leaves out are black.
struct ImagePalette {
  std::array<std::array<std::uint8_t, 3>, 256> colours{};

  static ImagePalette gray() {
    ImagePalette ramp;
    for (std::size_t i = 0; i < 256; ++i) ramp.colours[i].fill(static_cast<std::uint8_t>(i));
    return ramp;
  }
  /// Where the first `count` entries are their own numbers, Pillow takes the picture as gray: no entry is left out then. Whether it is so.
  bool complete_gray(std::size_t count) {
    const ImagePalette ramp = gray();
    const bool is_gray = std::equal(colours.begin(), colours.begin() + static_cast<std::ptrdiff_t>(count), ramp.colours.begin());
    if (is_gray) *this = ramp;
    return is_gray;
  }
};

struct PngHeader {
  std::uint32_t width, height, depth, colour;
  bool interlaced;
  std::uint32_t channels() const noexcept { return colour == 2 ? 3 : colour == 4 ? 2 : colour == 6 ? 4 : 1; }
  std::size_t row_bytes(std::size_t pixels) const noexcept { return (pixels * depth * channels() + 7) / 8; }
};

/// Undoes the filter of one row in place; `above` is the row before it, or null. `step` is the bytes of a whole pixel.
/// False for an unknown filter.
inline bool png_unfilter(int filter, std::uint8_t* row, const std::uint8_t* above, std::size_t size, std::size_t step) noexcept {
  const auto add = [](std::uint8_t& value, int prediction) { value = static_cast<std::uint8_t>(value + prediction); };
  switch (filter) {
    case 0: return true;
    case 1:
      for (std::size_t i = step; i < size; ++i) add(row[i], row[i - step]);
      return true;
    case 2:
      if (above)
        for (std::size_t i = 0; i < size; ++i) add(row[i], above[i]);
      return true;
    case 3:
      for (std::size_t i = 0; i < size; ++i) add(row[i], ((i < step ? 0 : row[i - step]) + (above ? above[i] : 0)) / 2);
      return true;
    case 4:
      for (std::size_t i = 0; i < size; ++i) {
        const int a = i < step ? 0 : row[i - step], b = above ? above[i] : 0, c = i < step || !above ? 0 : above[i - step];
        const int pa = std::abs(b - c), pb = std::abs(a - c), pc = std::abs(a + b - 2 * c);
        add(row[i], pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
      }
      return true;
    default: return false;
  }
}

/// One row of samples to RGB, each pixel `step` bytes after the last.
inline void png_to_rgb(const PngHeader& png, const ImagePalette& palette, const std::uint8_t* row, std::size_t pixels, std::uint8_t* to,
                              std::size_t step) noexcept {
  const std::size_t sample = png.depth / 8, stride = sample * png.channels();
  if (png.colour == 2 || png.colour == 6) {  // 16 bits: the high byte
    for (std::size_t i = 0; i < pixels; ++i, row += stride, to += step) to[0] = row[0], to[1] = row[sample], to[2] = row[2 * sample];
    return;
  }
  for (std::size_t i = 0; i < pixels; ++i, to += step) {
    std::uint32_t value;
    if (png.depth == 8 || png.colour == 4) {
      value = row[i * stride];
    } else if (png.depth == 16) {  // Pillow's mode I;16: clipped, not scaled
      value = row[2 * i] ? 255u : row[2 * i + 1];
    } else {
      const std::size_t bit = i * png.depth;
      const std::uint32_t top = (1u << png.depth) - 1;
      value = row[bit / 8] >> (8 - png.depth - bit % 8) & top;
      if (png.colour == 0) value *= 255 / top;
    }
    if (png.colour == 3)
      std::copy_n(palette.colours[value].data(), 3, to);
    else
      std::fill_n(to, 3, static_cast<std::uint8_t>(value));
  }
}

/// Orientation out of a text chunk, tEXt, zTXt or iTXt as the first letter of `kind` says: XMP, or EXIF in ImageMagick's hexadecimal.
inline void png_text_orientation(const ImageBytes& chunk, std::uint8_t kind, std::optional<int>& profile, std::optional<int>& xmp) {
  const std::string_view all(reinterpret_cast<const char*>(chunk.data), chunk.size);
  const std::size_t end = all.find('\0');
  if (end == all.npos) return;
  const std::string_view key = all.substr(0, end);
  const bool is_profile = key == "Raw profile type exif";
  if (!is_profile && key != "XML:com.adobe.xmp") return;
  std::string_view text = all.substr(end + 1);
  bool packed = kind == 'z';
  if (kind == 'i') {  // compressed or not, method, language, translated key
    packed = !text.empty() && text[0] == 1;
    text.remove_prefix(std::min<std::size_t>(text.size(), 2));
    for (int i = 0; i < 2; ++i) text.remove_prefix(std::min(text.size(), std::min(text.find('\0'), text.size()) + 1));
  } else if (packed) {
    text.remove_prefix(std::min<std::size_t>(text.size(), 1));
  }
  std::vector<char> unpacked;
  if (packed) {
    constexpr std::size_t longest = 1 << 20, most_ratio = 1032;  // Pillow's limit, deflate's limit
    unpacked.resize(std::min(longest, text.size() * most_ratio) + 1);
    if (text.size() > longest) return;
    const int size = stb::zlib_decode_buffer(unpacked.data(), static_cast<int>(unpacked.size()), text.data(), static_cast<int>(text.size()));
    if (size < 0) return;
    text = {unpacked.data(), static_cast<std::size_t>(size)};
  }
  if (!is_profile) {
    xmp = xmp_orientation({reinterpret_cast<const std::uint8_t*>(text.data()), text.size(), chunk.name});
    return;
  }
  // An empty line, the name, the length; then the digits.
  for (int line = 0; line < 3; ++line) text.remove_prefix(std::min(text.size(), std::min(text.find('\n'), text.size()) + 1));
  std::vector<std::uint8_t> bytes;
  int high = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) continue;
    if (high >= 0) bytes.push_back(static_cast<std::uint8_t>(high << 4 | digit));
    high = high >= 0 ? -1 : digit;
  }
  profile = exif_orientation({bytes.data(), bytes.size(), chunk.name});
}

inline PngHeader png_header(const ImageBytes& file) {
  constexpr std::size_t at = 16;  // IHDR's data
  if (!file.starts_with("IHDR", 12) || file.be32(8) != 13) file.fail(8, "PNG does not begin with IHDR");
  if (png_crc(file.at(at - 4, 17), 17) != file.be32(at + 13)) file.fail(8, "checksum of IHDR is wrong (CRC)");
  const PngHeader png{file.be32(at), file.be32(at + 4), file.u8(at + 8), file.u8(at + 9), file.u8(at + 12) != 0};
  file.check_size(at, png.width, png.height);
  const std::uint32_t depths = png.colour == 0 ? 0x10116u : png.colour == 3 ? 0x116u : png.colour == 2 || png.colour == 4 || png.colour == 6 ? 0x10100u : 0u;
  if (png.depth > 16 || !(depths >> png.depth & 1))
    file.fail(at + 8, "PNG of colour type " + std::to_string(png.colour) + " with " + std::to_string(png.depth) + " bits");
  if (file.u8(at + 10) || file.u8(at + 11) || file.u8(at + 12) > 1) file.fail(at + 10, "unknown compression, filter or interlace method of PNG");
  return png;
}

/// Alpha of one row of samples, each pixel `step` bytes after the last; `entries` is the tRNS chunk of a palette.
inline void png_to_alpha(const PngHeader& png, const std::array<std::uint8_t, 256>& entries, const std::uint8_t* row, std::size_t pixels, std::uint8_t* to,
                         std::size_t step) noexcept {
  const std::size_t sample = png.depth / 8, stride = sample * png.channels();
  for (std::size_t i = 0; i < pixels; ++i, to += step) {
    const std::size_t bit = i * png.depth;
    *to = png.colour == 3 ? entries[row[bit / 8] >> (8 - png.depth - bit % 8) & ((1u << png.depth) - 1)] : row[i * stride + stride - sample];
  }
}

/// The one transparent colour that a tRNS chunk names, read as Pillow reads it: for gray below 8 bits the number is not
/// scaled, of 16 bits the low byte counts. None where alpha differs by entry. Once the picture is RGB (`late`), gray of 1 or 16
/// bits can only lose its black.
inline std::optional<std::array<std::uint8_t, 3>> png_transparent(const PngHeader& png, const ImagePalette& palette, const ImageBytes& chunk, bool late) {
  const auto low = [&](std::size_t i) { return static_cast<std::uint8_t>(chunk.be16(2 * i)); };
  if (png.colour == 2) return std::array{low(0), low(1), low(2)};
  if (png.colour == 0) {
    const std::uint8_t gray = png.depth == 1 ? (chunk.be16(0) ? 255 : 0) : png.depth == 16 ? low(0) : static_cast<std::uint8_t>(std::min(chunk.be16(0), 255u));
    if (late && gray != 0 && (png.depth == 1 || png.depth == 16)) return std::nullopt;
    return std::array{gray, gray, gray};
  }
  if (png.colour != 3) return std::nullopt;
  const std::uint8_t* end = chunk.data + std::min<std::size_t>(chunk.size, 256);
  const std::uint8_t* entry = std::find(chunk.data, end, 0);
  const auto opaque = [](std::uint8_t alpha) { return alpha == 255; };
  if (entry == end || !std::all_of(chunk.data, entry, opaque) || !std::all_of(entry + 1, end, opaque)) return std::nullopt;
  return palette.colours[static_cast<std::size_t>(entry - chunk.data)];
}

/// `palette_alpha`: DecodedImage::alpha of a palette's entries, too, and a single transparent colour as the file means it, before the change to RGB.
inline DecodedImage decode_png(const ImageBytes& file, bool palette_alpha) {
  const PngHeader png = png_header(file);
  ImagePalette palette;
  std::vector<std::uint8_t> packed;
  std::optional<int> exif, profile, xmp;
  std::optional<ImageBytes> transparency;
  std::size_t first_data = 0;
  bool data_ended = false;  // behind the pixels Pillow forgives everything
  for (std::size_t at = 8; packed.empty() || at + 12 <= file.size;) {
    const std::size_t length = file.be32(at);
    const bool is_data = file.starts_with("IDAT", at + 4);
    if (!is_data && !packed.empty()) data_ended = true;
    if (file.size - at < 12 || length > file.size - at - 12) {
      if (data_ended) break;
      file.fail(at, "truncated: chunk of " + std::to_string(length) + " bytes, " + std::to_string(file.size - at) + " left");
    }
    const ImageBytes chunk = file.part(at + 8, length);
    if (png_crc(chunk.data - 4, length + 4) != file.be32(at + 8 + length)) {
      if (data_ended) break;
      file.fail(at, "checksum of chunk is wrong (CRC)");
    }
    if (is_data && !data_ended) {
      if (packed.empty()) first_data = at;
      packed.insert(packed.end(), chunk.data, chunk.data + length);
    } else if (file.starts_with("PLTE", at + 4)) {
      for (std::size_t i = 0; i < std::min<std::size_t>(length / 3, 256); ++i) std::copy_n(chunk.data + 3 * i, 3, palette.colours[i].data());
    } else if (file.starts_with("tRNS", at + 4)) {
      transparency.emplace(chunk);
    } else if (file.starts_with("eXIf", at + 4)) {
      exif = exif_orientation(chunk);
    } else if (file.starts_with("tEXt", at + 4) || file.starts_with("zTXt", at + 4) || file.starts_with("iTXt", at + 4)) {
      png_text_orientation(chunk, file.data[at + 4], profile, xmp);
    } else if (file.starts_with("CgBI", at + 4)) {
      throw UnsupportedError(file.name + ": Apple's variant of PNG (CgBI)");
    } else if (file.starts_with("IEND", at + 4)) {
      break;
    }
    at += length + 12;
  }
  if (packed.empty()) file.fail(file.size, "PNG without pixels (IDAT)");

  struct Pass {
    std::size_t x, y, dx, dy;
  };
  static constexpr Pass whole[] = {{0, 0, 1, 1}};
  static constexpr Pass adam7[] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
  const std::span<const Pass> passes = png.interlaced ? std::span<const Pass>(adam7) : std::span<const Pass>(whole);
  const auto extent = [](std::size_t size, std::size_t from, std::size_t step) { return size > from ? (size - from + step - 1) / step : 0; };
  std::size_t size = 0;
  for (const Pass& pass : passes)
    if (const std::size_t columns = extent(png.width, pass.x, pass.dx)) size += extent(png.height, pass.y, pass.dy) * (1 + png.row_bytes(columns));

  // deflate cannot pack better than 1032 to 1: a small file never makes us allocate much.
  if (size / 1032 > packed.size()) file.fail(first_data, "truncated: " + std::to_string(packed.size()) + " bytes of packed pixels for " + std::to_string(size));
  if (packed.size() > INT_MAX) throw UnsupportedError(file.name + ": PNG of more than 2 GB");
  constexpr std::size_t slack = 1 << 16;  // some writers append padding
  std::vector<std::uint8_t> rows(size + slack);
  const int unpacked = stb::zlib_decode_buffer(reinterpret_cast<char*>(rows.data()), static_cast<int>(rows.size()),
                                                    reinterpret_cast<const char*>(packed.data()), static_cast<int>(packed.size()));
  if (unpacked < 0) file.fail(first_data, "packed pixels of PNG are damaged");
  if (static_cast<std::size_t>(unpacked) < size)
    file.fail(first_data, "truncated: " + std::to_string(unpacked) + " bytes of pixels, expected " + std::to_string(size));
  std::vector<std::uint8_t>().swap(packed);

  Image image(static_cast<int>(png.width), static_cast<int>(png.height));
  std::array<std::uint8_t, 256> entries;
  entries.fill(255);
  if (transparency) std::copy_n(transparency->data, std::min<std::size_t>(transparency->size, 256), entries.data());
  std::vector<std::uint8_t> alpha;
  if (png.colour >= 4 || (palette_alpha && png.colour == 3 && transparency)) alpha.resize(std::size_t{png.width} * png.height);
  const std::size_t pixel_bytes = std::max<std::size_t>(png.depth * png.channels() / 8, 1);
  std::uint8_t* row = rows.data();
  for (const Pass& pass : passes) {
    const std::size_t columns = extent(png.width, pass.x, pass.dx);
    if (columns == 0) continue;
    const std::size_t bytes = png.row_bytes(columns);
    const std::uint8_t* above = nullptr;
    for (std::size_t y = pass.y; y < png.height; y += pass.dy, row += 1 + bytes) {
      if (!png_unfilter(row[0], row + 1, above, bytes, pixel_bytes)) file.fail(first_data, "unknown row filter " + std::to_string(row[0]) + " in PNG");
      above = row + 1;
      png_to_rgb(png, palette, row + 1, columns, image.row(static_cast<int>(y)) + 3 * pass.x, 3 * pass.dx);
      if (!alpha.empty()) png_to_alpha(png, entries, row + 1, columns, alpha.data() + y * png.width + pass.x, pass.dx);
    }
  }
  if (transparency && alpha.empty()) image.set_transparent(png_transparent(png, palette, *transparency, !palette_alpha));
  image.set_indexed(png.colour == 3 || (png.colour == 0 && png.depth == 1));
  return {std::move(image), exif ? *exif : profile ? *profile : xmp.value_or(1), std::move(alpha)};
}

}  // namespace chiasm
