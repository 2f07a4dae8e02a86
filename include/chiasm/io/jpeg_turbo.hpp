/// JPEG by libjpeg-turbo, with the settings that Pillow has (accurate DCT, smooth chroma): the same pixels to the last bit.
/// Comes in with the target chiasm::jpeg, which defines CHIASM_HAS_JPEG and links the library; load_image() then uses it.
#pragma once

#include <chiasm/io/image.hpp>

#include <cstddef>
#include <span>
#include <string>

namespace chiasm::inline CHIASM_ABI {

/// Decodes a JPEG, baseline, progressive or arithmetic; gray, YCbCr, RGB, CMYK and YCCK become RGB. EXIF is not looked at.
/// Throws FormatError, UnsupportedError.
Image decode_jpeg_turbo(std::span<const std::byte> bytes, const std::string& name);

}  // namespace chiasm

#include <chiasm/impl/image/jpeg_turbo.ipp>
