/// JPEG: the markers are walked here, for the size, the orientation and the end; the pixels come from libjpeg-turbo where it is
/// linked, else from stb_image. ITU-T T.81.
#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/exif.ipp>
#ifdef CHIASM_HAS_JPEG
#include <chiasm/io/jpeg_turbo.hpp>
#else
#include <chiasm/impl/image/jpeg_stb.ipp>
#endif

#include <climits>
#include <cstring>

namespace chiasm::inline CHIASM_ABI::detail {

struct JpegFrame {
  int orientation = 1;
  bool arithmetic = false;
};

/// Huffman tables hold at most 256 values; stb_image before 2.28 writes past its tables where a file claims more.
inline void check_huffman_tables(const ImageBytes& segment) {
  for (std::size_t i = 0; i < segment.size;) {
    const std::uint8_t* counts = segment.at(i, 17) + 1;
    std::size_t values = 0;
    for (int length = 0; length < 16; ++length) values += counts[length];
    if (values > 256) segment.fail(i, "Huffman table of " + std::to_string(values) + " values in JPEG");
    segment.at(i + 17, values);
    i += 17 + values;
  }
}

/// Walks all markers up to the end of the image. Throws for what no decoder should be given.
inline JpegFrame scan_jpeg(const ImageBytes& file) {
  constexpr int most_scans = 256;  // a progressive file has about ten; each one costs a pass over all pixels
  JpegFrame frame;
  std::optional<int> exif, xmp;
  std::size_t frame_at = 0;
  std::int64_t pixels = 0;
  int scans = 0;
  for (std::size_t at = 2;;) {
    const void* mark = at < file.size ? std::memchr(file.data + at, 0xFF, file.size - at) : nullptr;
    if (!mark) file.fail(file.size, "truncated JPEG: its end marker is missing");
    at = static_cast<std::size_t>(static_cast<const std::uint8_t*>(mark) - file.data) + 1;
    const std::uint32_t marker = at < file.size ? file.data[at] : 0xFFu;
    if (marker == 0xFF) continue;
    ++at;
    if (marker == 0xD9) break;
    if (marker <= 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;  // stuffing, restarts: no length follows
    const std::size_t length = file.be16(at);
    if (length < 2) file.fail(at, "JPEG segment of " + std::to_string(length) + " bytes");
    const ImageBytes segment = file.part(at + 2, (file.at(at, length), length - 2));
    const bool is_frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (is_frame && !frame_at) {
      frame_at = at;
      if (segment.size < 6) file.fail(at, "JPEG frame header of " + std::to_string(length) + " bytes");
      const std::int64_t height = segment.be16(1), width = segment.be16(3);
      const std::uint32_t bits = segment.u8(0), components = segment.u8(5);
      file.check_size(at + 3, width, height);
      if (marker != 0xC0 && marker != 0xC1 && marker != 0xC2 && marker != 0xC9 && marker != 0xCA)
        throw UnsupportedError(file.name + ": JPEG process SOF" + std::to_string(marker - 0xC0) + " (lossless or hierarchical)");
      if (bits != 8) throw UnsupportedError(file.name + ": JPEG of " + std::to_string(bits) + " bits");
      if (components != 1 && components != 3 && components != 4) throw UnsupportedError(file.name + ": JPEG of " + std::to_string(components) + " components");
      frame.arithmetic = marker >= 0xC9;
      pixels = width * height;
    } else if (marker == 0xC4) {
      check_huffman_tables(segment);
    } else if (marker == 0xDA) {
      if (!frame_at) file.fail(at, "JPEG scan before its frame");
      if (++scans > most_scans) file.fail(at, "JPEG of more than " + std::to_string(most_scans) + " scans");
    } else if (marker == 0xE1 && scans == 0) {
      using namespace std::string_view_literals;
      constexpr std::string_view exif_name = "Exif\0\0"sv, xmp_name = "http://ns.adobe.com/xap/1.0/\0"sv;
      if (!exif && segment.starts_with(exif_name)) exif = exif_orientation(segment.part(exif_name.size(), segment.size - exif_name.size()));
      if (!xmp && segment.starts_with(xmp_name)) xmp = xmp_orientation(segment);
    }
    at += length;
  }
  if (!scans) file.fail(file.size, "JPEG without pixels");
  // Huffman codes spend a bit on every block of 64 samples at the least: a small file never makes us allocate much.
  if (!frame.arithmetic && pixels / 4096 > static_cast<std::int64_t>(file.size))
    file.fail(frame_at, "truncated JPEG: " + std::to_string(file.size) + " bytes for " + std::to_string(pixels) + " pixels");
  frame.orientation = exif.value_or(xmp.value_or(1));
  return frame;
}

inline DecodedImage decode_jpeg(const ImageBytes& file) {
  const JpegFrame frame = scan_jpeg(file);
#ifdef CHIASM_HAS_JPEG
  return {decode_jpeg_turbo({reinterpret_cast<const std::byte*>(file.data), file.size}, file.name), frame.orientation, {}};
#else
  if (frame.arithmetic) throw UnsupportedError(file.name + ": arithmetic-coded JPEG (chiasm::jpeg, with libjpeg-turbo, reads it)");
  if (file.size > INT_MAX) throw UnsupportedError(file.name + ": JPEG of more than 2 GB");
  return {decode_jpeg_stb(file), frame.orientation, {}};
#endif
}

}  // namespace chiasm
