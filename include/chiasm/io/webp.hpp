/// WebP by libwebp, as Pillow has it: lossy, lossless, and the first frame of an animation on its canvas. Comes in with the target
/// chiasm::webp, which defines CHIASM_HAS_WEBP and links the library; load_image() then reads WebP.
#pragma once

#include <chiasm/io/image.hpp>

#include <cstddef>
#include <span>
#include <string>

namespace chiasm::inline CHIASM_ABI {

/// Decodes a WebP. Alpha is dropped, the colour under it stays; what a frame does not cover is black. EXIF is not looked at.
/// Throws FormatError, UnsupportedError.
Image decode_webp(std::span<const std::byte> bytes, const std::string& name);

}  // namespace chiasm

#include <chiasm/impl/image/webp.ipp>
