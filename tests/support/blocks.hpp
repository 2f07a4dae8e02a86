/// Blocks: random weights in the block formats.
#pragma once

#include <chiasm/core/weight.hpp>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace blocks {

inline constexpr chiasm::DType types[] = {chiasm::DType::q4_0, chiasm::DType::q4_1, chiasm::DType::q5_0, chiasm::DType::q5_1,
                                          chiasm::DType::q8_0, chiasm::DType::q2_k, chiasm::DType::q3_k, chiasm::DType::q4_k,
                                          chiasm::DType::q5_k, chiasm::DType::q6_k, chiasm::DType::iq4_nl, chiasm::DType::iq4_xs,
                                          chiasm::DType::q8_row};

/// Where the f16 scales of a block lie: the scale, and the minimum's or -1.
struct Halves {
  int scale, minimum;
};
inline Halves halves_of(chiasm::DType type) {
  using chiasm::DType;
  switch (type) {
    case DType::q4_1: case DType::q5_1: case DType::q4_k: case DType::q5_k: return {0, 2};
    case DType::q2_k: return {80, 82};
    case DType::q3_k: return {108, -1};
    case DType::q6_k: return {208, -1};
    default: return {0, -1};
  }
}

/// Random codes under scales so that the numbers are about 0.1 and of both signs.
inline chiasm::Weight random(chiasm::DType type, std::size_t rows, std::size_t columns, unsigned seed) {
  const std::size_t size = chiasm::size_of(type), bytes = rows * chiasm::row_bytes(type, columns);
  const auto memory = std::make_shared<std::vector<std::byte>>(bytes + 1);
  std::byte* const to = memory->data() + 1;  // an odd address, as in a file
  std::mt19937 engine(seed);
  for (std::size_t i = 0; i < bytes; ++i) to[i] = static_cast<std::byte>(engine() >> 8);
  const bool large = chiasm::block_size(type) == 256;
  const float codes = type == chiasm::DType::q8_0 || type == chiasm::DType::q8_row || type == chiasm::DType::iq4_nl || type == chiasm::DType::iq4_xs ? 127.0f : 16.0f;
  const float top = (type == chiasm::DType::q6_k ? 0.03f : 0.3f) / codes / (large ? 16.0f : 1.0f);
  std::uniform_real_distribution<float> uniform(0.3f * top, top);
  const auto put = [&](std::byte* at, float value) {
    const auto half = chiasm::f16::from(value);
    std::memcpy(at, &half, 2);
  };
  if (type == chiasm::DType::q8_row) {
    for (std::size_t r = 0; r < rows; ++r) {
      const float scale = uniform(engine);
      std::memcpy(to + r * (columns + 4) + columns, &scale, 4);
    }
    return chiasm::Weight("w", type, chiasm::Shape{rows, columns}, to, memory, "random");
  }
  for (std::size_t b = 0; b < bytes; b += size) {
    const Halves at = halves_of(type);
    const float scale = uniform(engine);
    put(to + b + at.scale, scale);
    // Minima are added in the formats of 32, subtracted in those of 256.
    if (at.minimum >= 0) put(to + b + at.minimum, large ? scale * 4 : -8 * scale);
  }
  return chiasm::Weight("w", type, chiasm::Shape{rows, columns}, to, memory, "random");
}

}  // namespace blocks
