/// EXIF and XMP: the orientation of a picture, the one tag that changes pixels. EXIF 2.3, tag 274.
#pragma once

#include <chiasm/impl/image/bytes.hpp>

#include <optional>

namespace chiasm::inline CHIASM_ABI::detail {

/// Orientation out of a TIFF block; none where the block is damaged or has no such tag.
inline std::optional<int> exif_orientation(const ImageBytes& block) noexcept try {
  std::size_t begin = 0;
  for (int i = 0; i < 2 && block.starts_with(std::string_view("Exif\0\0", 6), begin); ++i) begin += 6;  // JPEG's, which some writers put elsewhere too
  const ImageBytes tiff = block.part(begin, block.size - begin);
  const bool little = tiff.starts_with("II");
  if (!little && !tiff.starts_with("MM")) return std::nullopt;
  const auto u16 = [&](std::size_t offset) { return little ? tiff.le16(offset) : tiff.be16(offset); };
  const auto u32 = [&](std::size_t offset) { return little ? tiff.le32(offset) : tiff.be32(offset); };
  const std::size_t directory = u32(4);
  const std::size_t entries = u16(directory);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (u16(entry) != 274 || u32(entry + 4) != 1) continue;
    switch (u16(entry + 2)) {
      case 3: return static_cast<int>(u16(entry + 8));
      case 4: return static_cast<int>(u32(entry + 8));
      default: return std::nullopt;
    }
  }
  return std::nullopt;
} catch (const FormatError&) {
  return std::nullopt;
}

/// Orientation out of an XMP packet: tiff:Orientation="6" or <tiff:Orientation>6<.
inline std::optional<int> xmp_orientation(const ImageBytes& packet) noexcept {
  const std::string_view text(reinterpret_cast<const char*>(packet.data), packet.size);
  constexpr std::string_view tag = "tiff:Orientation";
  for (std::size_t at = text.find(tag); at != text.npos; at = text.find(tag, at + 1)) {
    const std::string_view rest = text.substr(at + tag.size());
    const std::size_t skip = rest.starts_with("=\"") ? 2 : rest.starts_with(">") ? 1 : 0;
    if (skip && rest.size() > skip && rest[skip] >= '0' && rest[skip] <= '9') return rest[skip] - '0';
  }
  return std::nullopt;
}

}  // namespace chiasm
