/// DType: how the elements of a weight are stored. The kinds that kernels read come first, so that a table of kernels can be indexed by
/// them: first the floats, then the blocks of GGUF files.
#pragma once

#include <chiasm/version.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

enum class DType : std::uint8_t {
  f32, f16, bf16,                          // kernels multiply by these as they are
  q4_0, q4_1, q5_0, q5_1, q8_0,            // blocks of 32 numbers along a row, of ggml's formats: a scale, some with a minimum
  q2_k, q3_k, q4_k, q5_k, q6_k,            // blocks of 256, with scales of 16 or 32 inside
  iq4_nl, iq4_xs,                          // four bits choose from 16 values that do not lie evenly; blocks of 32 and 256
  q8_row,                                  // int8, and behind each row its scale in f32. Made while loading (WeightKind::i8), for Compute::i8
  f64, f8_e4m3, f8_e5m2, f8_e8m0,          // converted while loading
  i8, u8, i16, u16, i32, u32, i64, u64, boolean,
};
inline constexpr std::size_t float_kinds = 3;                                                          // f32, f16, bf16
inline constexpr std::size_t weight_kinds = static_cast<std::size_t>(DType::q8_row) + 1;  // those, and the blocks
constexpr bool is_block_format(DType type) noexcept { return type >= DType::q4_0 && type <= DType::q8_row; }

/// Numbers of one block; 1 where every number stands alone, and for q8_row, whose scale is the row's.
constexpr std::size_t block_size(DType type) noexcept {
  switch (type) {
    case DType::q4_0: case DType::q4_1: case DType::q5_0: case DType::q5_1: case DType::q8_0: case DType::iq4_nl: return 32;
    case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k: case DType::iq4_xs: return 256;
    default: return 1;
  }
}

/// Bytes of one element; of one block, where numbers come in blocks.
constexpr std::size_t size_of(DType type) noexcept {
  switch (type) {
    case DType::f64: case DType::i64: case DType::u64: return 8;
    case DType::f32: case DType::i32: case DType::u32: return 4;
    case DType::q4_0: case DType::iq4_nl: return 18;
    case DType::q4_1: return 20;
    case DType::q5_0: return 22;
    case DType::q5_1: return 24;
    case DType::q8_0: return 34;
    case DType::q2_k: return 84;
    case DType::q3_k: return 110;
    case DType::q4_k: return 144;
    case DType::q5_k: return 176;
    case DType::q6_k: return 210;
    case DType::iq4_xs: return 136;
    case DType::f16: case DType::bf16: case DType::i16: case DType::u16: return 2;
    case DType::q8_row: case DType::f8_e4m3: case DType::f8_e5m2: case DType::f8_e8m0: case DType::i8: case DType::u8: case DType::boolean: break;
  }
  return 1;
}

/// Bytes of a row of `columns` numbers. A last block that is not full takes a whole block.
constexpr std::size_t row_bytes(DType type, std::size_t columns) noexcept {
  return (columns + block_size(type) - 1) / block_size(type) * size_of(type) + (type == DType::q8_row ? sizeof(float) : 0);
}

/// "bf16", "f32", "q4_0", ...
constexpr std::string_view name(DType type) noexcept {
  constexpr std::string_view names[] = {"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "q8_row", "f64", "f8_e4m3", "f8_e5m2", "f8_e8m0", "i8",
                                        "u8",  "i16", "u16",  "i32", "u32",     "i64",     "u64",     "bool"};
  return names[static_cast<std::size_t>(type)];
}

/// bfloat16 storage: the upper half of a float.
struct bf16 {
  std::uint16_t bits = 0;
  constexpr explicit operator float() const noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  /// Rounds to nearest, ties to even; NaN stays NaN.
  static constexpr bf16 from(float value) noexcept {
    const auto raw = std::bit_cast<std::uint32_t>(value);
    if ((raw & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<std::uint16_t>((raw >> 16) | 0x40u)};
    return bf16{static_cast<std::uint16_t>((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16)};
  }
};

/// IEEE 754 binary16 storage.
struct f16 {
  std::uint16_t bits = 0;
  constexpr explicit operator float() const noexcept {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // subnormal
    return sign ? -magnitude : magnitude;
  }
  /// Rounds to nearest, ties to even; overflow becomes infinity.
  static constexpr f16 from(float value) noexcept {
    const auto raw = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((raw >> 16) & 0x8000u);
    const std::uint32_t magnitude = raw & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return f16{static_cast<std::uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return f16{static_cast<std::uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {  // subnormal: let the float adder round at 2^-24
      const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
      return f16{static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000u))};
    }
    const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return f16{static_cast<std::uint16_t>(sign | (rounded >> 13))};
  }
};

}  // namespace chiasm
