#pragma once

#include <chiasm/impl/image/bmp.ipp>
#include <chiasm/impl/image/gif.ipp>
#include <chiasm/impl/image/jpeg.ipp>
#include <chiasm/impl/image/png.ipp>
#include <chiasm/impl/image/pnm.ipp>
#include <chiasm/impl/image/tiff.ipp>
#include <chiasm/io/image_file.hpp>
#ifdef CHIASM_HAS_WEBP
#include <chiasm/io/webp.hpp>
#endif

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

// Lays the picture on white, in Pillow's alpha_composite() arithmetic.
inline void lay_on_white(DecodedImage& decoded) {
  std::uint8_t* pixel = decoded.image.pixels().data();
  for (const std::uint8_t alpha : decoded.alpha) {
    // 7 bits below the unit; the ground is opaque, so the sum of both shares is 255 << 7.
    const std::uint32_t share = std::uint32_t{alpha} << 7, ground = 255u * ((255u << 7) - share);
    for (int c = 0; c < 3; ++c, ++pixel) {
      const std::uint32_t sum = *pixel * share + ground + (128u << 7);
      *pixel = alpha == 0 ? 255 : static_cast<std::uint8_t>(((sum >> 8) + sum) >> 8 >> 7);
    }
  }
  if (const auto key = decoded.image.transparent())
    for (std::size_t i = 0; i < decoded.image.pixels().size(); i += 3)
      if (std::equal(key->begin(), key->end(), decoded.image.pixels().data() + i)) std::fill_n(decoded.image.pixels().data() + i, 3, std::uint8_t{255});
  decoded.image.set_transparent(std::nullopt);
  decoded.image.set_indexed(false);
}

inline DecodedImage decode_image(const ImageBytes& file, bool palette_alpha) {
  using namespace std::string_view_literals;
  if (file.size == 0) file.fail(0, "empty");
  if (file.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(file, palette_alpha);
  if (file.starts_with("\xff\xd8")) return decode_jpeg(file);
  if (file.starts_with("GIF87a") || file.starts_with("GIF89a")) return decode_gif(file, palette_alpha);
  if (file.starts_with("BM")) return decode_bmp(file);
  if (file.size > 2 && file.data[0] == 'P' && file.data[1] >= '1' && file.data[1] <= '6') return decode_pnm(file);
  if (file.starts_with("RIFF") && file.starts_with("WEBP", 8)) {
#ifdef CHIASM_HAS_WEBP
    return decode_webp(file);
#else
    throw UnsupportedError(file.name + ": WebP (chiasm::webp, with libwebp, reads it)");
#endif
  }
  if (file.starts_with("II*\0"sv) || file.starts_with("MM\0*"sv)) return decode_tiff(file);
  if (file.starts_with("ftyp", 4)) throw UnsupportedError(file.name + ": AVIF or HEIF");
  if (file.starts_with("\0\0\0\x0cjP  "sv) || file.starts_with("\xff\x4f\xff\x51")) throw UnsupportedError(file.name + ": JPEG 2000");
  file.fail(0, "is no PNG, JPEG, GIF, BMP, PNM, TIFF or WebP");
}

}  // namespace detail

inline Image load_image(std::span<const std::byte> bytes, std::string name, Alpha alpha) {
  detail::DecodedImage decoded = detail::decode_image({{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), name}}, alpha == Alpha::white);
  if (alpha == Alpha::white) detail::lay_on_white(decoded);
  else decoded.image.set_alpha(std::move(decoded.alpha));
  if (decoded.orientation < 2 || decoded.orientation > 8) return std::move(decoded.image);
  return orient(decoded.image, decoded.orientation);
}

inline Image load_image(const std::string& path, Alpha alpha) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw FileError(path, "cannot be opened");
  std::vector<std::byte> bytes;
  // Read in steps rather than by the size that the file system tells: pipes and folders have none.
  constexpr std::size_t step = 1 << 20, limit = std::size_t{1} << 31;
  for (;;) {
    const std::size_t had = bytes.size();
    bytes.resize(had + step);
    stream.read(reinterpret_cast<char*>(bytes.data() + had), static_cast<std::streamsize>(step));
    bytes.resize(had + static_cast<std::size_t>(stream.gcount()));
    if (stream.bad()) throw FileError(path, "cannot be read");
    if (!stream) break;
    if (bytes.size() > limit) throw FileError(path, "is larger than 2 GB");
  }
  return load_image(bytes, path, alpha);
}

}  // namespace chiasm
