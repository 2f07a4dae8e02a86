/// Image files: PNG, JPEG, BMP, GIF, PNM, WebP and baseline TIFF, as Pillow decodes them and converts them to RGB.
#pragma once

#include <chiasm/io/image.hpp>

#include <cstddef>
#include <span>
#include <string>

namespace chiasm::inline CHIASM_ABI {

/// What becomes of transparency: `drop` keeps the colour under it, as `image.convert("RGB")` and transformers' load_image() do (Image::alpha()
/// still tells it to processors that ask); `white` lays the picture on white, as transformers' processors do with a PIL image that still has its alpha.
enum class Alpha : std::uint8_t { drop, white };

/// Reads a picture from a file. PNG in all its depths, interlaced too; JPEG; BMP, also run-length coded; the first frame of a
/// GIF; PNM (P1 to P6); WebP, of an animation the first frame, where the target chiasm::webp (libwebp) is linked; TIFF's baseline: gray,
/// palette and RGB of up to 8 bits a sample, in strips, plain, LZW, deflate or PackBits. The format is found from the bytes, not from
/// the name.
///
/// The result is Pillow's `ImageOps.exif_transpose(image).convert("RGB")`: upright; alpha dropped, or laid on white;
/// 16-bit colour cut to its high byte, but 16-bit gray clipped at 255. JPEG is Pillow's to the last bit where the target
/// chiasm::jpeg (libjpeg-turbo) is linked; otherwise stb_image decodes it, up to 3 of 255 away (more in the last columns of 4:2:2
/// pictures where the program had included stb_image.h before). EXIF's orientation counts wherever Pillow looks for it: JPEG, PNG
/// (eXIf, ImageMagick's text), WebP, TIFF, and XMP.
///
/// Throws FileError (cannot be read), FormatError (damaged, truncated, more than Image::max_pixels, or no image at all),
/// UnsupportedError (AVIF; WebP without libwebp; TIFF's tiles, 16 bits, CMYK, YCbCr, JPEG and fax codings, which would take a library
/// of their own; and variants that the decoder does not know, such as arithmetic coding in stb_image).
Image load_image(const std::string& path, Alpha alpha = Alpha::drop);

/// Reads a picture from memory; `name` is what errors call it.
Image load_image(std::span<const std::byte> bytes, std::string name = "<memory>", Alpha alpha = Alpha::drop);

}  // namespace chiasm

// In both flavours: chiasm::compiled holds no decoder, it needs neither stb_image nor libjpeg-turbo.
#include <chiasm/impl/image_file.ipp>
