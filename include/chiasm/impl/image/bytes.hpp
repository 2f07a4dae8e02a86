/// Bytes of an image file, and what its decoder makes of them.
#pragma once

#include <chiasm/impl/file_bytes.hpp>
#include <chiasm/io/image.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

struct ImageBytes : FileBytes {
  std::uint32_t u8(std::size_t offset) const { return *at(offset, 1); }
  std::uint32_t be16(std::size_t offset) const {
    const std::uint8_t* p = at(offset, 2);
    return static_cast<std::uint32_t>(p[0] << 8 | p[1]);
  }
  std::uint32_t le16(std::size_t offset) const {
    const std::uint8_t* p = at(offset, 2);
    return static_cast<std::uint32_t>(p[1] << 8 | p[0]);
  }
  std::uint32_t be32(std::size_t offset) const { return be16(offset) << 16 | (at(offset, 4), be16(offset + 2)); }
  std::uint32_t le32(std::size_t offset) const { return le16(offset) | (at(offset, 4), le16(offset + 2)) << 16; }
  ImageBytes part(std::size_t offset, std::size_t count) const { return {{at(offset, count), count, name, base + offset}}; }

  /// Refuses a size found at `offset` before anything is allocated for it.
  void check_size(std::size_t offset, std::int64_t width, std::int64_t height) const {
    if (width < 1 || height < 1) fail(offset, "picture of " + std::to_string(width) + " x " + std::to_string(height) + " pixels");
    if (width > Image::max_pixels || height > Image::max_pixels || width * height > Image::max_pixels)
      fail(offset, "picture of " + std::to_string(width) + " x " + std::to_string(height) + " pixels, the limit is " +
                       std::to_string(Image::max_pixels) + " pixels");
  }
};

struct DecodedImage {
  Image image;
  int orientation = 1;              // EXIF tag 274
  std::vector<std::uint8_t> alpha;  // a byte per pixel; empty where the file has no such channel
};

}  // namespace chiasm
