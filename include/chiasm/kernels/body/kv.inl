// Rows into and out of the blocks of kv_layout.hpp, number by number: a decode step adds one position.

/// Bytes between a block's beginning and number `d` of position `in`.
template <bool keys>
CHIASM_ALWAYS_INLINE std::size_t bf16_place(std::size_t numbers, std::size_t in, std::size_t d) noexcept {
  if constexpr (keys)
    return in / 16 * round_up(numbers, 32) * 32 + d / 2 * 64 + in % 16 * 4 + d % 2 * 2;
  else
    return d / 16 * 1024 + in / 2 * 64 + d % 16 * 4 + in % 2 * 2;
}
template <bool keys>
CHIASM_ALWAYS_INLINE std::size_t q8_place(std::size_t numbers, std::size_t in, std::size_t d) noexcept {
  if constexpr (keys)
    return kv_block * sizeof(float) + (in / 16 * round_up(numbers, 2) + d) * 16 + in % 16;
  else
    return kv_block * sizeof(float) + (d / 16 * kv_block + in) * 16 + d % 16;
}
template <bool keys>
CHIASM_ALWAYS_INLINE std::size_t kv_bytes(KvKind kind, std::size_t numbers) noexcept {
  return keys ? kv_key_bytes(kind, numbers) : kv_value_bytes(kind, numbers);
}

template <bool keys>
inline void write_kv(const KvRows& c) noexcept {
  const std::size_t bytes = kv_bytes<keys>(c.kind, c.width);
  for (std::size_t i = 0; i < c.count; ++i) {
    const std::size_t in = (c.first + i) % kv_block;
    unsigned char* const block = c.blocks + (c.first + i) / kv_block * bytes;
    const float* const row = c.from + i * c.stride;
    if (c.kind == KvKind::bf16) {
      if (in == 0) __builtin_memset(block, 0, bytes);
      for (std::size_t d = 0; d < c.width; ++d) {
        const bf16 number = bf16::from(row[d]);
        __builtin_memcpy(block + bf16_place<keys>(c.width, in, d), &number, sizeof number);
      }
    } else if (c.kind == KvKind::q8) {
      if (in == 0) __builtin_memset(block, 0, bytes);
      float most = 0.0f, all = 0.0f;
      for (std::size_t d = 0; d < c.width; ++d) {
        const float size = __builtin_fabsf(row[d]);
        most = size > most ? size : most;
        all += row[d] * 0.0f;  // NaN, should one be no number
      }
      const float scale = most / 127.0f + all, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
      __builtin_memcpy(block + in * sizeof(float), &scale, sizeof scale);
      for (std::size_t d = 0; d < c.width; ++d) {
        const float number = row[d] * inverse;
        const bool fits = number >= -127.5f && number <= 127.5f;  // not of NaN, nor of numbers so small that 1 / scale is infinite
        block[q8_place<keys>(c.width, in, d)] = static_cast<unsigned char>(fits ? static_cast<int>(number + (number < 0.0f ? -0.5f : 0.5f)) : scale == scale ? 0 : 1);
      }
    } else {
      __builtin_memcpy(block + in * c.width * sizeof(float), row, c.width * sizeof(float));
    }
  }
}

template <bool keys>
inline void read_kv(const KvRows& c) noexcept {
  const std::size_t bytes = kv_bytes<keys>(c.kind, c.width);
  for (std::size_t i = 0; i < c.count; ++i) {
    const std::size_t in = (c.first + i) % kv_block;
    const unsigned char* const block = c.blocks + (c.first + i) / kv_block * bytes;
    float* const row = c.to + i * c.stride;
    if (c.kind == KvKind::bf16) {
      for (std::size_t d = 0; d < c.width; ++d) {
        bf16 number;
        __builtin_memcpy(&number, block + bf16_place<keys>(c.width, in, d), sizeof number);
        row[d] = static_cast<float>(number);
      }
    } else if (c.kind == KvKind::q8) {
      float scale;
      __builtin_memcpy(&scale, block + in * sizeof(float), sizeof scale);
      for (std::size_t d = 0; d < c.width; ++d) row[d] = scale * static_cast<float>(static_cast<signed char>(block[q8_place<keys>(c.width, in, d)]));
    } else {
      __builtin_memcpy(row, block + in * c.width * sizeof(float), c.width * sizeof(float));
    }
  }
}
