// Vector vocabulary of AVX2 with FMA and F16C: 8 lanes. See vec/scalar.inl for what the names mean.

using V = __m256;
inline constexpr std::size_t width = 8, panel_vectors = 2, panel_rows = 6, gemv_streams_of_four = 3;

CHIASM_ALWAYS_INLINE __m256i lanes_below(std::size_t n) noexcept {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

CHIASM_ALWAYS_INLINE V zero() noexcept { return _mm256_setzero_ps(); }
CHIASM_ALWAYS_INLINE V set1(float a) noexcept { return _mm256_set1_ps(a); }
CHIASM_ALWAYS_INLINE V load(const float* p) noexcept { return _mm256_loadu_ps(p); }
CHIASM_ALWAYS_INLINE V load_n(const float* p, std::size_t n) noexcept { return _mm256_maskload_ps(p, lanes_below(n)); }
CHIASM_ALWAYS_INLINE void store(float* p, V a) noexcept { _mm256_storeu_ps(p, a); }
CHIASM_ALWAYS_INLINE void store_n(float* p, V a, std::size_t n) noexcept { _mm256_maskstore_ps(p, lanes_below(n), a); }

CHIASM_ALWAYS_INLINE V load_unaligned(const void* p) noexcept {
  return _mm256_castsi256_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
CHIASM_ALWAYS_INLINE V load_unaligned_n(const void* p, std::size_t n) noexcept {
  return _mm256_maskload_ps(static_cast<const float*>(p), lanes_below(n));
}
CHIASM_ALWAYS_INLINE __m128i load_halves_n(const void* p, std::size_t n) noexcept {
  std::uint16_t some[8] = {};
  __builtin_memcpy(some, p, n * sizeof(std::uint16_t));
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(some));
}
CHIASM_ALWAYS_INLINE void store_halves_n(void* p, __m128i a, std::size_t n) noexcept {
  std::uint16_t some[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(some), a);
  __builtin_memcpy(p, some, n * sizeof(std::uint16_t));
}
CHIASM_ALWAYS_INLINE V from_bf16(__m128i a) noexcept {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
CHIASM_ALWAYS_INLINE __m128i to_bf16(V a) noexcept {  // to nearest even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
CHIASM_ALWAYS_INLINE V load_f16(const void* p) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
CHIASM_ALWAYS_INLINE V load_f16_n(const void* p, std::size_t n) noexcept { return _mm256_cvtph_ps(load_halves_n(p, n)); }
CHIASM_ALWAYS_INLINE V load_bf16(const void* p) noexcept { return from_bf16(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
CHIASM_ALWAYS_INLINE V load_bf16_n(const void* p, std::size_t n) noexcept { return from_bf16(load_halves_n(p, n)); }
CHIASM_ALWAYS_INLINE void store_f16(void* p, V a) noexcept { _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(a, 0)); }
CHIASM_ALWAYS_INLINE void store_f16_n(void* p, V a, std::size_t n) noexcept { store_halves_n(p, _mm256_cvtps_ph(a, 0), n); }
CHIASM_ALWAYS_INLINE void store_bf16(void* p, V a) noexcept { _mm_storeu_si128(static_cast<__m128i*>(p), to_bf16(a)); }
CHIASM_ALWAYS_INLINE void store_bf16_n(void* p, V a, std::size_t n) noexcept { store_halves_n(p, to_bf16(a), n); }

/// Of `width` pairs of bf16, the first ones; the second ones. Of int8, `width` of them.
CHIASM_ALWAYS_INLINE V load_even_bf16(const void* p) noexcept {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)), 16));
}
CHIASM_ALWAYS_INLINE V load_odd_bf16(const void* p) noexcept {
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(static_cast<const __m256i*>(p)), _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
CHIASM_ALWAYS_INLINE V load_i8(const void* p) noexcept {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}

CHIASM_ALWAYS_INLINE V add(V a, V b) noexcept { return _mm256_add_ps(a, b); }
CHIASM_ALWAYS_INLINE V sub(V a, V b) noexcept { return _mm256_sub_ps(a, b); }
CHIASM_ALWAYS_INLINE V mul(V a, V b) noexcept { return _mm256_mul_ps(a, b); }
CHIASM_ALWAYS_INLINE V div(V a, V b) noexcept { return _mm256_div_ps(a, b); }
CHIASM_ALWAYS_INLINE V fma(V a, V b, V c) noexcept { return _mm256_fmadd_ps(a, b, c); }
CHIASM_ALWAYS_INLINE V fnma(V a, V b, V c) noexcept { return _mm256_fnmadd_ps(a, b, c); }
CHIASM_ALWAYS_INLINE V min(V a, V b) noexcept { return _mm256_min_ps(a, b); }
CHIASM_ALWAYS_INLINE V max(V a, V b) noexcept { return _mm256_max_ps(a, b); }
CHIASM_ALWAYS_INLINE V absolute(V a) noexcept { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
CHIASM_ALWAYS_INLINE V round_even(V a) noexcept { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
CHIASM_ALWAYS_INLINE V scale2(V a, V n) noexcept {  // in two steps: 2^n alone may leave the range of float
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const V first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const V second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}
CHIASM_ALWAYS_INLINE V select_lt(V a, V b, V x, V y) noexcept { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
CHIASM_ALWAYS_INLINE float reduce_add(V a) noexcept {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
CHIASM_ALWAYS_INLINE float reduce_max(V a) noexcept {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
CHIASM_ALWAYS_INLINE void transpose(V (&a)[width]) noexcept {
  V pairs[8], quads[8];
  CHIASM_UNROLL for (std::size_t i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  CHIASM_UNROLL for (std::size_t i = 0; i < 8; i += 4) {
    quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
    a[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    a[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}
/// Columns of 8 rows that lie `stride` floats apart. Lanes are put together by the loads: two thirds of the shuffles of
/// transpose.
CHIASM_ALWAYS_INLINE void load_transposed(const float* from, std::size_t stride, V (&a)[width]) noexcept {
  CHIASM_UNROLL for (std::size_t c = 0; c < 8; c += 4) {
    V rows[4];  // rows[i]: columns c to c + 3 of rows i and 4 + i
    CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
      const float* const at = from + i * stride + c;
      rows[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at)), _mm_loadu_ps(at + 4 * stride), 1);
    }
    const V low01 = _mm256_unpacklo_ps(rows[0], rows[1]), high01 = _mm256_unpackhi_ps(rows[0], rows[1]);
    const V low23 = _mm256_unpacklo_ps(rows[2], rows[3]), high23 = _mm256_unpackhi_ps(rows[2], rows[3]);
    a[c] = _mm256_shuffle_ps(low01, low23, 0x44);
    a[c + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
    a[c + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    a[c + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
  }
}
CHIASM_ALWAYS_INLINE void prefetch(const void* p) noexcept { __builtin_prefetch(p); }

using U = __m256i;
CHIASM_ALWAYS_INLINE U set1_codes(std::uint32_t a) noexcept { return _mm256_set1_epi32(static_cast<int>(a)); }
CHIASM_ALWAYS_INLINE U load_codes(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
CHIASM_ALWAYS_INLINE U load_bytes(const unsigned char* p) noexcept {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
CHIASM_ALWAYS_INLINE U bit_and(U a, U b) noexcept { return _mm256_and_si256(a, b); }
CHIASM_ALWAYS_INLINE U bit_or(U a, U b) noexcept { return _mm256_or_si256(a, b); }
CHIASM_ALWAYS_INLINE U bit_xor(U a, U b) noexcept { return _mm256_xor_si256(a, b); }
CHIASM_ALWAYS_INLINE U add_codes(U a, U b) noexcept { return _mm256_add_epi32(a, b); }
template <int n>
CHIASM_ALWAYS_INLINE U shift_right(U a) noexcept {
  if constexpr (n < 0) return _mm256_slli_epi32(a, n < 0 ? -n : 0);
  return n > 0 ? _mm256_srli_epi32(a, n > 0 ? n : 0) : a;
}
template <int i>
CHIASM_ALWAYS_INLINE V signed_byte(U a) noexcept {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(shift_right<8 * i - 24>(a), 24));
}
CHIASM_ALWAYS_INLINE U look_up(const unsigned char* table, U a) noexcept {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), a);
}
inline constexpr bool fast_values = false;
struct Values {
  V low, high;
};
CHIASM_ALWAYS_INLINE Values load_values(const float* sixteen) noexcept { return {load(sixteen), load(sixteen + 8)}; }
CHIASM_ALWAYS_INLINE V value_of(Values values, U a) noexcept {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(values.low, a), _mm256_permutevar8x32_ps(values.high, a),
                          _mm256_castsi256_ps(_mm256_slli_epi32(a, 28)));
}

// For activations of eight bits.
CHIASM_ALWAYS_INLINE V to_floats(U a) noexcept { return _mm256_cvtepi32_ps(a); }
CHIASM_ALWAYS_INLINE void store_i8(signed char* p, V a) noexcept {
  const __m256i whole = _mm256_cvtps_epi32(a);
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
}
CHIASM_ALWAYS_INLINE U four_of_all(const signed char* p) noexcept {
  int four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}
