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
      V top = zero(), strange = zero();  // NaN, should a number be none
      for (std::size_t d = 0; d < c.width; d += width) {
        const V numbers = load_some(row + d, smaller(width, c.width - d));
        top = max(top, absolute(numbers));
        strange = fma(numbers, zero(), strange);
      }
      const float scale = reduce_max(top) / 127.0f + reduce_add(strange);
      __builtin_memcpy(block + in * sizeof(float), &scale, sizeof scale);
      const V inverse = set1(scale >= 0x1p-126f ? 1.0f / scale : 0.0f);  // of smaller ones it is infinite
      for (std::size_t d = 0; d < c.width; d += 16) {
        float codes[16];
        for (std::size_t j = 0; j < 16; j += width) {
          const V numbers = d + j < c.width ? load_some(row + d + j, smaller(width, c.width - d - j)) : zero();
          store(codes + j, scale == scale ? round_even(mul(numbers, inverse)) : set1(1.0f));
        }
        unsigned char* const to = block + q8_place<keys>(c.width, in, d);
        for (std::size_t j = 0; j < (keys ? smaller(16, c.width - d) : 16); ++j) to[keys ? j * 16 : j] = static_cast<unsigned char>(static_cast<int>(codes[j]));
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
