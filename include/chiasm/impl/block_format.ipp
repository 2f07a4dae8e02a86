#pragma once

#include <chiasm/core/block_format.hpp>

#include <cstring>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

using Byte = std::uint8_t;

inline float half_at(const Byte* p) noexcept {
  f16 half;
  std::memcpy(&half.bits, p, 2);
  return static_cast<float>(half);
}

/// What the four bits of iq4_nl and iq4_xs stand for.
inline constexpr std::int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// q4_k's and q5_k's scale and minimum of sub-block k (8 of them), six bits each, in 12 bytes.
struct ScaleMin {
  Byte scale, min;
};
inline ScaleMin scale_min(const Byte* s, int k) noexcept {
  if (k < 4) return {static_cast<Byte>(s[k] & 63), static_cast<Byte>(s[k + 4] & 63)};
  return {static_cast<Byte>((s[k + 4] & 15) | (s[k - 4] >> 6 << 4)), static_cast<Byte>(s[k + 4] >> 4 | (s[k] >> 6 << 4))};
}

// One block each. Products in the order written: to the bit ggml's.

inline void read_q4_0(const Byte* b, float* y) noexcept {  // scale, 16 x 2 codes: j and j + 16
  const float d = half_at(b);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((b[2 + j] & 15) - 8);
    y[j + 16] = d * static_cast<float>((b[2 + j] >> 4) - 8);
  }
}

inline void read_q4_1(const Byte* b, float* y) noexcept {  // scale, minimum, codes
  const float d = half_at(b), m = half_at(b + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>(b[4 + j] & 15) + m;
    y[j + 16] = d * static_cast<float>(b[4 + j] >> 4) + m;
  }
}

/// Code j of q5_0 and q5_1, whose fifth bits lie in `high`, by their number.
inline int code_q5(const Byte* codes, std::uint32_t high, int j) noexcept {
  const int low = j < 16 ? codes[j] & 15 : codes[j - 16] >> 4;
  return low | static_cast<int>(high >> j & 1) << 4;
}

inline void read_q5_0(const Byte* b, float* y) noexcept {  // scale, fifth bits, codes
  std::uint32_t high;
  std::memcpy(&high, b + 2, 4);
  const float d = half_at(b);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(code_q5(b + 6, high, j) - 16);
}

inline void read_q5_1(const Byte* b, float* y) noexcept {  // scale, minimum, fifth bits, codes
  std::uint32_t high;
  std::memcpy(&high, b + 4, 4);
  const float d = half_at(b), m = half_at(b + 2);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(code_q5(b + 8, high, j)) + m;
}

inline void read_q8_0(const Byte* b, float* y) noexcept {  // scale, codes
  const float d = half_at(b);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(static_cast<std::int8_t>(b[2 + j]));
}

inline void read_q2_k(const Byte* b, float* y) noexcept {  // scales and minima of 16, codes, scale of scales, of minima
  const Byte* const codes = b + 16;
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int n = 0; n < 256; n += 16) {
    const int half = n / 128, shift = n % 128 / 32 * 2, part = n % 32;
    const float scale = d * static_cast<float>(b[n / 16] & 15), min = dmin * static_cast<float>(b[n / 16] >> 4);
    for (int l = 0; l < 16; ++l) y[n + l] = scale * static_cast<float>(codes[32 * half + part + l] >> shift & 3) - min;
  }
}

inline void read_q3_k(const Byte* b, float* y) noexcept {  // third bits, codes, scales of 16 (six bits), scale of scales
  const Byte *const high = b, *const codes = b + 32, *const s = b + 96;
  const float d = half_at(b + 108);
  for (int n = 0; n < 256; n += 16) {
    const int i = n / 16, half = n / 128, j = n % 128 / 32, part = n % 32;
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const float scale = d * static_cast<float>((low | (s[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32);
    for (int l = 0; l < 16; ++l) {
      const int code = (codes[32 * half + part + l] >> (2 * j) & 3) - (high[part + l] >> (4 * half + j) & 1 ? 0 : 4);
      y[n + l] = scale * static_cast<float>(code);
    }
  }
}

inline void read_q4_k(const Byte* b, float* y) noexcept {  // scale of scales, of minima, scales and minima of 32, codes
  const Byte* const codes = b + 16;
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int k = 0; k < 8; ++k) {
    const ScaleMin s = scale_min(b + 4, k);
    const float scale = d * static_cast<float>(s.scale), min = dmin * static_cast<float>(s.min);
    for (int l = 0; l < 32; ++l) y[32 * k + l] = scale * static_cast<float>(codes[32 * (k / 2) + l] >> (k % 2 * 4) & 15) - min;
  }
}

inline void read_q5_k(const Byte* b, float* y) noexcept {  // as q4_k, with fifth bits before the codes
  const Byte *const high = b + 16, *const codes = b + 48;
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int k = 0; k < 8; ++k) {
    const ScaleMin s = scale_min(b + 4, k);
    const float scale = d * static_cast<float>(s.scale), min = dmin * static_cast<float>(s.min);
    for (int l = 0; l < 32; ++l) {
      const int code = (codes[32 * (k / 2) + l] >> (k % 2 * 4) & 15) + (high[l] >> k & 1) * 16;
      y[32 * k + l] = scale * static_cast<float>(code) - min;
    }
  }
}

inline void read_q6_k(const Byte* b, float* y) noexcept {  // low four bits, high two, scales of 16, scale of scales
  const float d = half_at(b + 208);
  for (int n = 0; n < 256; n += 16) {
    const int half = n / 128, t = n % 128 / 32, part = n % 32;
    const Byte *const low = b + 64 * half + t % 2 * 32 + part, *const high = b + 128 + 32 * half + part;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(b[192 + n / 16]));
    for (int l = 0; l < 16; ++l) y[n + l] = scale * static_cast<float>(((low[l] >> (t / 2 * 4) & 15) | (high[l] >> (2 * t) & 3) << 4) - 32);
  }
}

inline void read_iq4(const Byte* codes, float scale, float* y) noexcept {
  for (int j = 0; j < 16; ++j) {
    y[j] = scale * static_cast<float>(iq4_values[codes[j] & 15]);
    y[j + 16] = scale * static_cast<float>(iq4_values[codes[j] >> 4]);
  }
}

inline void read_iq4_nl(const Byte* b, float* y) noexcept { read_iq4(b + 2, half_at(b), y); }  // scale, codes

inline void read_iq4_xs(const Byte* b, float* y) noexcept {  // scale of scales, scales of 32: two high bits, four low ones; codes
  const float d = half_at(b);
  for (int k = 0; k < 8; ++k) {
    const int low = b[4 + k / 2] >> (k % 2 * 4) & 15, high = (b[2] | b[3] << 8) >> (2 * k) & 3;
    read_iq4(b + 8 + 16 * k, d * static_cast<float>((low | high << 4) - 32), y + 32 * k);
  }
}

inline void read_block(DType type, const Byte* b, float* y) noexcept {
  switch (type) {
    case DType::q4_0: return read_q4_0(b, y);
    case DType::q4_1: return read_q4_1(b, y);
    case DType::q5_0: return read_q5_0(b, y);
    case DType::q5_1: return read_q5_1(b, y);
    case DType::q8_0: return read_q8_0(b, y);
    case DType::q2_k: return read_q2_k(b, y);
    case DType::q3_k: return read_q3_k(b, y);
    case DType::q4_k: return read_q4_k(b, y);
    case DType::q5_k: return read_q5_k(b, y);
    case DType::q6_k: return read_q6_k(b, y);
    case DType::iq4_nl: return read_iq4_nl(b, y);
    case DType::iq4_xs: return read_iq4_xs(b, y);
    default: return;
  }
}

/// Of q8_row, `count` numbers of a row.
inline void read_bytes(const std::byte* codes, const std::byte* scale_at, float* values, std::size_t count) noexcept {
  float scale;
  std::memcpy(&scale, scale_at, sizeof scale);
  for (std::size_t i = 0; i < count; ++i) values[i] = scale * static_cast<float>(static_cast<std::int8_t>(codes[i]));
}

}  // namespace detail

CHIASM_INLINE void dequantize(DType type, const std::byte* blocks, float* values, std::size_t count) noexcept {
  if (type == DType::q8_row) return detail::read_bytes(blocks, blocks + count, values, count);
  const std::size_t size = block_size(type);
  const auto* block = reinterpret_cast<const detail::Byte*>(blocks);
  for (; count >= size; count -= size, values += size, block += size_of(type)) detail::read_block(type, block, values);
  if (count == 0) return;
  float last[256];
  detail::read_block(type, block, last);
  std::memcpy(values, last, count * sizeof(float));
}

}  // namespace chiasm
