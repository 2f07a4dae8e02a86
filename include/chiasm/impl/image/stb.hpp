/// stb_image: its JPEG decoder and its inflate, private to this translation unit, or the user's own copy if that came first.
#pragma once

#ifndef STBI_INCLUDE_STB_IMAGE_H
#define CHIASM_OWN_STB_IMAGE

// What stb_image includes comes first, so that only its own names land in our namespace.
#include <cassert>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_SUPPORT_ZLIB
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
// A broken invariant must not end the user's program.
#define STBI_ASSERT(condition) ((condition) ? void() : throw std::logic_error("stb_image: " #condition))
#if defined(__ARM_NEON)
#define STBI_NEON
#endif

// Its functions are extern "C", so their names are the same in every namespace: ours are called otherwise.
#define stbi_convert_iphone_png_to_rgb chiasm_stbi_convert_iphone_png_to_rgb
#define stbi_convert_iphone_png_to_rgb_thread chiasm_stbi_convert_iphone_png_to_rgb_thread
#define stbi_failure_reason chiasm_stbi_failure_reason
#define stbi_hdr_to_ldr_gamma chiasm_stbi_hdr_to_ldr_gamma
#define stbi_hdr_to_ldr_scale chiasm_stbi_hdr_to_ldr_scale
#define stbi_image_free chiasm_stbi_image_free
#define stbi_info_from_callbacks chiasm_stbi_info_from_callbacks
#define stbi_info_from_memory chiasm_stbi_info_from_memory
#define stbi_is_16_bit_from_callbacks chiasm_stbi_is_16_bit_from_callbacks
#define stbi_is_16_bit_from_memory chiasm_stbi_is_16_bit_from_memory
#define stbi_is_hdr_from_callbacks chiasm_stbi_is_hdr_from_callbacks
#define stbi_is_hdr_from_memory chiasm_stbi_is_hdr_from_memory
#define stbi_load_16_from_callbacks chiasm_stbi_load_16_from_callbacks
#define stbi_load_16_from_memory chiasm_stbi_load_16_from_memory
#define stbi_load_from_callbacks chiasm_stbi_load_from_callbacks
#define stbi_load_from_memory chiasm_stbi_load_from_memory
#define stbi_load_gif_from_memory chiasm_stbi_load_gif_from_memory
#define stbi_set_flip_vertically_on_load chiasm_stbi_set_flip_vertically_on_load
#define stbi_set_flip_vertically_on_load_thread chiasm_stbi_set_flip_vertically_on_load_thread
#define stbi_set_unpremultiply_on_load chiasm_stbi_set_unpremultiply_on_load
#define stbi_set_unpremultiply_on_load_thread chiasm_stbi_set_unpremultiply_on_load_thread
#define stbi_zlib_decode_buffer chiasm_stbi_zlib_decode_buffer
#define stbi_zlib_decode_malloc chiasm_stbi_zlib_decode_malloc
#define stbi_zlib_decode_malloc_guesssize chiasm_stbi_zlib_decode_malloc_guesssize
#define stbi_zlib_decode_malloc_guesssize_headerflag chiasm_stbi_zlib_decode_malloc_guesssize_headerflag
#define stbi_zlib_decode_noheader_buffer chiasm_stbi_zlib_decode_noheader_buffer
#define stbi_zlib_decode_noheader_malloc chiasm_stbi_zlib_decode_noheader_malloc

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
namespace chiasm_stb {
#if __has_include(<stb_image.h>)
#include <stb_image.h>
#else
#include <stb/stb_image.h>
#endif
}  // namespace chiasm_stb
#pragma GCC diagnostic pop

// No macro of it leaks, and the user may still include stb_image.h, with whatever settings.
#undef STBI_INCLUDE_STB_IMAGE_H
#undef STB_IMAGE_IMPLEMENTATION
#undef STB_IMAGE_STATIC
#undef STBIDEF
#undef STBI_VERSION
#undef STBI_ASSERT
#undef STBI_MALLOC
#undef STBI_REALLOC
#undef STBI_REALLOC_SIZED
#undef STBI_FREE
#undef STBI_ONLY_JPEG
#undef STBI_SUPPORT_ZLIB
#undef STBI_NO_STDIO
#undef STBI_NO_LINEAR
#undef STBI_NO_PNG
#undef STBI_NO_BMP
#undef STBI_NO_PSD
#undef STBI_NO_TGA
#undef STBI_NO_GIF
#undef STBI_NO_HDR
#undef STBI_NO_PIC
#undef STBI_NO_PNM
#undef STBI_NEON
#undef STBI_MAX_DIMENSIONS
#undef STBI_THREAD_LOCAL
#undef STBI_EXTERN
#undef STBI_HAS_LROTL
#undef STBI_NOTUSED
#undef STBI_SIMD_ALIGN
#undef STBI_SSE2
#undef STBI__BYTECAST
#undef STBI__IDCT_1D
#undef STBI__MARKER_none
#undef STBI__RESTART
#undef STBI__X64_TARGET
#undef STBI__X86_TARGET
#undef STBI__ZFAST_BITS
#undef STBI__ZFAST_MASK
#undef STBI__ZNSYMS
#undef stbi__DNL
#undef stbi__EOI
#undef stbi__SOF
#undef stbi__SOF_progressive
#undef stbi__SOI
#undef stbi__SOS
#undef stbi__div16
#undef stbi__div4
#undef stbi__err
#undef stbi__errpf
#undef stbi__errpuc
#undef stbi__f2f
#undef stbi__float2fixed
#undef stbi__fsh
#undef stbi__vertically_flip_on_load
#undef stbi_inline
#undef stbi_lrot
#undef FAST_BITS
#undef stbi_convert_iphone_png_to_rgb
#undef stbi_convert_iphone_png_to_rgb_thread
#undef stbi_failure_reason
#undef stbi_hdr_to_ldr_gamma
#undef stbi_hdr_to_ldr_scale
#undef stbi_image_free
#undef stbi_info_from_callbacks
#undef stbi_info_from_memory
#undef stbi_is_16_bit_from_callbacks
#undef stbi_is_16_bit_from_memory
#undef stbi_is_hdr_from_callbacks
#undef stbi_is_hdr_from_memory
#undef stbi_load_16_from_callbacks
#undef stbi_load_16_from_memory
#undef stbi_load_from_callbacks
#undef stbi_load_from_memory
#undef stbi_load_gif_from_memory
#undef stbi_set_flip_vertically_on_load
#undef stbi_set_flip_vertically_on_load_thread
#undef stbi_set_unpremultiply_on_load
#undef stbi_set_unpremultiply_on_load_thread
#undef stbi_zlib_decode_buffer
#undef stbi_zlib_decode_malloc
#undef stbi_zlib_decode_malloc_guesssize
#undef stbi_zlib_decode_malloc_guesssize_headerflag
#undef stbi_zlib_decode_noheader_buffer
#undef stbi_zlib_decode_noheader_malloc
#endif

#include <chiasm/version.hpp>

namespace chiasm::inline CHIASM_ABI::detail::stb {
#ifdef CHIASM_OWN_STB_IMAGE
static constexpr auto& failure_reason = chiasm_stb::chiasm_stbi_failure_reason;
static constexpr auto& image_free = chiasm_stb::chiasm_stbi_image_free;
static constexpr auto& load_from_memory = chiasm_stb::chiasm_stbi_load_from_memory;
static constexpr auto& zlib_decode_buffer = chiasm_stb::chiasm_stbi_zlib_decode_buffer;
#else
static constexpr auto& failure_reason = ::stbi_failure_reason;
static constexpr auto& image_free = ::stbi_image_free;
static constexpr auto& load_from_memory = ::stbi_load_from_memory;
static constexpr auto& zlib_decode_buffer = ::stbi_zlib_decode_buffer;
#endif
}  // namespace chiasm
