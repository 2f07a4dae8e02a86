/// KvLayout: how a cache keeps the keys and the values of a head: in blocks of 32 positions, each one stretch of memory.
///   f32   keys (32, head_dim), values (32, v_dim)
///   bf16  as the tiles of a product take them, keys [16 positions twice][32 of head_dim][pair of them][position][2],
///         values [16 of v_dim][pair of positions][v_dim][2]; what head_dim and v_dim lack of whole tiles is there
///   q8    32 scales, then keys [16 positions twice][head_dim][position], values [16 of v_dim][position][v_dim]: a number is its position's scale times an int8
/// One position adds to a block what others have left free; nothing is moved. Values of positions that were never
/// written are 0.
#pragma once

#include <chiasm/core/kv_kind.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {
namespace kernels {

inline constexpr std::size_t kv_block = 32;

constexpr std::size_t kv_key_bytes(KvKind kind, std::size_t head_dim) noexcept {
  if (kind == KvKind::bf16) return (head_dim + 31) / 32 * 32 * kv_block * 2;
  if (kind == KvKind::q8) return kv_block * sizeof(float) + (head_dim + 1) / 2 * 2 * kv_block;
  return head_dim * kv_block * sizeof(float);
}
constexpr std::size_t kv_value_bytes(KvKind kind, std::size_t v_dim) noexcept {
  if (kind == KvKind::bf16) return (v_dim + 15) / 16 * 16 * kv_block * 2;
  if (kind == KvKind::q8) return kv_block * sizeof(float) + (v_dim + 15) / 16 * 16 * kv_block;
  return v_dim * kv_block * sizeof(float);
}

/// Rows of one head that go into a cache or come out of it: positions [first, first + count), `width` numbers each.
struct KvRows {
  KvKind kind = KvKind::f32;
  std::size_t width = 0, first = 0, count = 0;
  unsigned char* blocks = nullptr;  // of the head, 64-byte aligned
  const float* from = nullptr;      // a row each `stride` floats, to be written
  float* to = nullptr;              // or to be read
  std::size_t stride = 0;
};

/// Makes the values of positions [in, kv_block) of a block 0, of kinds other than f32.
inline void clear_values(KvKind kind, std::size_t v_dim, std::size_t in, unsigned char* block) noexcept {
  const std::size_t tiles = (v_dim + 15) / 16;
  if (kind == KvKind::q8) {
    for (std::size_t i = in * sizeof(float); i < kv_block * sizeof(float); ++i) block[i] = 0;  // the scales
  } else {
    for (std::size_t i = 0; i < tiles * 16; ++i)
      for (std::size_t at = in; at < kv_block; ++at) {
        unsigned char* const number = block + i / 16 * 1024 + at / 2 * 64 + i % 16 * 4 + at % 2 * 2;
        number[0] = number[1] = 0;
      }
  }
}

}  // namespace kernels
}  // namespace chiasm
