#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/exif.ipp>
#include <chiasm/io/webp.hpp>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include <webp/decode.h>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// What the container says: RFC 9649. libwebp gets the bitstream of one frame, nothing else.
struct WebpFile {
  std::int64_t width = 0, height = 0;                    // of the canvas
  std::int64_t left = 0, top = 0, columns = 0, rows = 0;  // of the frame on it
  bool has_alpha = false;
  std::size_t frame = 0, frame_size = 0;                  // chunks: the alpha, if it stands apart, and the pixels
  int orientation = 1;
};

inline std::uint32_t le24(const ImageBytes& file, std::size_t at) { return file.le16(at) | file.u8(at + 2) << 16; }

/// Finds the alpha and pixel chunks among those in [at, end). False where there are none.
inline bool find_webp_pixels(WebpFile& webp, const ImageBytes& file, std::size_t at, std::size_t end) {
  constexpr auto none = static_cast<std::size_t>(-1);
  std::size_t alpha = none;
  while (end - at >= 8) {
    const std::size_t length = file.le32(at + 4);
    if (length > end - at - 8) file.fail(at, "truncated: chunk of " + std::to_string(length) + " bytes in WebP, " + std::to_string(end - at - 8) + " left");
    const std::size_t next = at + 8 + length;
    if (file.starts_with("VP8 ", at) || file.starts_with("VP8L", at)) {
      webp.frame = alpha == none ? at : alpha;
      webp.frame_size = next - webp.frame;
      return true;
    }
    alpha = file.starts_with("ALPH", at) ? at : none;
    at = std::min(next + length % 2, end);
  }
  return false;
}

inline WebpFile scan_webp(const ImageBytes& file) {
  const std::size_t riff = file.le32(4);
  if (riff < 12 || riff > file.size - std::min<std::size_t>(file.size, 8)) file.fail(4, "truncated: WebP of " + std::to_string(riff) + " bytes, " + std::to_string(file.size) + " there");
  const std::size_t end = 8 + riff;
  WebpFile webp;
  bool pixels = false;
  if (!file.starts_with("VP8X", 12)) {
    pixels = find_webp_pixels(webp, file, 12, end);
  } else {
    if (file.le32(16) < 10) file.fail(16, "VP8X chunk of " + std::to_string(file.le32(16)) + " bytes in WebP");
    const std::uint32_t flags = file.u8(20);
    const bool animated = flags & 0x02;
    webp.has_alpha = flags & 0x10;
    webp.width = le24(file, 24) + 1, webp.height = le24(file, 27) + 1;
    file.check_size(24, webp.width, webp.height);
    if (!animated) pixels = find_webp_pixels(webp, file, 12, end);
    std::optional<int> exif, xmp;
    for (std::size_t at = 12; end - at >= 8;) {
      const std::size_t length = file.le32(at + 4);
      if (length > end - at - 8) {
        if (pixels) break;
        file.fail(at, "truncated: chunk of " + std::to_string(length) + " bytes in WebP, " + std::to_string(end - at - 8) + " left");
      }
      const ImageBytes chunk = file.part(at + 8, length);
      if (animated && !pixels && file.starts_with("ANMF", at)) {
        webp.left = std::int64_t{2} * le24(chunk, 0), webp.top = std::int64_t{2} * le24(chunk, 3);
        webp.columns = le24(chunk, 6) + 1, webp.rows = le24(chunk, 9) + 1;
        chunk.at(0, 16);
        if (webp.left + webp.columns > webp.width || webp.top + webp.rows > webp.height) file.fail(at, "frame reaches beyond the canvas of WebP");
        pixels = find_webp_pixels(webp, file, at + 24, at + 8 + length);
        if (!pixels) file.fail(at, "frame without pixels in WebP");
      } else if (!exif && file.starts_with("EXIF", at)) {
        exif = exif_orientation(chunk);
      } else if (!xmp && file.starts_with("XMP ", at)) {
        xmp = xmp_orientation(chunk);
      }
      at = std::min(at + 8 + length + length % 2, end);
    }
    webp.orientation = exif.value_or(xmp.value_or(1));
  }
  if (!pixels) file.fail(12, "WebP without pixels");
  WebPBitstreamFeatures features;
  if (const VP8StatusCode status = WebPGetFeatures(file.at(webp.frame, webp.frame_size), webp.frame_size, &features); status != VP8_STATUS_OK)
    file.fail(webp.frame, status == VP8_STATUS_NOT_ENOUGH_DATA ? "truncated WebP" : "header of WebP is damaged");
  if (webp.columns == 0) webp.columns = webp.width ? webp.width : features.width, webp.rows = webp.width ? webp.height : features.height;
  if (webp.width == 0) webp.width = features.width, webp.height = features.height, webp.has_alpha = features.has_alpha != 0;
  if (features.width != webp.columns || features.height != webp.rows)
    file.fail(webp.frame, "pixels of " + std::to_string(features.width) + " x " + std::to_string(features.height) + " in a WebP of " +
                           std::to_string(webp.columns) + " x " + std::to_string(webp.rows));
  file.check_size(12, webp.width, webp.height);
  // One colour packs to nothing at any size; but a small file must not make us allocate hundreds of megabytes.
  constexpr std::int64_t always = 1 << 25, pixels_per_byte = 1024;
  const std::int64_t area = webp.width * webp.height;
  if (area > always && area / pixels_per_byte > static_cast<std::int64_t>(file.size))
    file.fail(12, "truncated: " + std::to_string(file.size) + " bytes of WebP for " + std::to_string(area) + " pixels");
  return webp;
}

inline DecodedImage decode_webp(const ImageBytes& file) {
  const WebpFile webp = scan_webp(file);
  Image image(static_cast<int>(webp.width), static_cast<int>(webp.height));
  std::vector<std::uint8_t> alpha, rgba;
  const auto columns = static_cast<std::size_t>(webp.columns), rows = static_cast<std::size_t>(webp.rows);
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) throw UnsupportedError(file.name + ": WebP: libwebp is not the one that chiasm was compiled with");
  config.output.is_external_memory = 1;
  WebPRGBABuffer& buffer = config.output.u.RGBA;
  if (webp.has_alpha) {
    rgba.resize(columns * rows * 4);
    config.output.colorspace = MODE_RGBA;
    buffer = {rgba.data(), static_cast<int>(columns * 4), rgba.size()};
  } else {
    config.output.colorspace = MODE_RGB;
    const std::size_t stride = static_cast<std::size_t>(image.width()) * 3;
    std::uint8_t* first = image.row(static_cast<int>(webp.top)) + 3 * webp.left;
    buffer = {first, static_cast<int>(stride), stride * (rows - 1) + 3 * columns};
  }
  if (const VP8StatusCode status = WebPDecode(file.at(webp.frame, webp.frame_size), webp.frame_size, &config); status != VP8_STATUS_OK) {
    if (status == VP8_STATUS_OUT_OF_MEMORY) throw std::bad_alloc();
    if (status == VP8_STATUS_UNSUPPORTED_FEATURE) throw UnsupportedError(file.name + ": a kind of WebP that libwebp does not know");
    file.fail(webp.frame, status == VP8_STATUS_NOT_ENOUGH_DATA ? "truncated WebP" : "pixels of WebP are damaged");
  }
  if (!rgba.empty()) {
    alpha.resize(image.pixels().size() / 3);
    const std::uint8_t* from = rgba.data();
    for (std::size_t y = 0; y < rows; ++y) {
      const std::size_t row = static_cast<std::size_t>(webp.top) + y;
      std::uint8_t* to = image.row(static_cast<int>(row)) + 3 * webp.left;
      std::uint8_t* opacity = alpha.data() + row * static_cast<std::size_t>(webp.width) + static_cast<std::size_t>(webp.left);
      for (std::size_t x = 0; x < columns; ++x, from += 4, to += 3) {
        std::copy_n(from, 3, to);
        opacity[x] = from[3];
      }
    }
  }
  return {std::move(image), webp.orientation, std::move(alpha)};
}

}  // namespace detail

inline Image decode_webp(std::span<const std::byte> bytes, const std::string& name) {
  detail::DecodedImage decoded = detail::decode_webp({{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), name}});
  decoded.image.set_alpha(std::move(decoded.alpha));
  return std::move(decoded.image);
}

}  // namespace chiasm
