// Vector vocabulary of AVX-512 (F, BW, DQ, VL): 16 lanes. See vec/scalar.inl for what the names mean.

using V = __m512;
inline constexpr std::size_t width = 16, panel_vectors = 2, panel_rows = 14, gemv_streams_of_four = 6;

CHIASM_ALWAYS_INLINE __mmask16 lanes_below(std::size_t n) noexcept { return static_cast<__mmask16>((1u << n) - 1u); }

CHIASM_ALWAYS_INLINE V zero() noexcept { return _mm512_setzero_ps(); }
CHIASM_ALWAYS_INLINE V set1(float a) noexcept { return _mm512_set1_ps(a); }
CHIASM_ALWAYS_INLINE V load(const float* p) noexcept { return _mm512_loadu_ps(p); }
CHIASM_ALWAYS_INLINE V load_n(const float* p, std::size_t n) noexcept { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
CHIASM_ALWAYS_INLINE void store(float* p, V a) noexcept { _mm512_storeu_ps(p, a); }
CHIASM_ALWAYS_INLINE void store_n(float* p, V a, std::size_t n) noexcept { _mm512_mask_storeu_ps(p, lanes_below(n), a); }

CHIASM_ALWAYS_INLINE V load_unaligned(const void* p) noexcept { return _mm512_loadu_ps(p); }
CHIASM_ALWAYS_INLINE V load_unaligned_n(const void* p, std::size_t n) noexcept {
  return _mm512_maskz_loadu_ps(lanes_below(n), p);
}
CHIASM_ALWAYS_INLINE __m256i load_halves(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
CHIASM_ALWAYS_INLINE __m256i load_halves_n(const void* p, std::size_t n) noexcept {
  return _mm256_maskz_loadu_epi16(lanes_below(n), p);
}
CHIASM_ALWAYS_INLINE V from_bf16(__m256i a) noexcept {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
CHIASM_ALWAYS_INLINE __m256i to_bf16(V a) noexcept {  // to nearest even; NaN stays NaN
  const __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40)));
}
CHIASM_ALWAYS_INLINE V load_f16(const void* p) noexcept { return _mm512_cvtph_ps(load_halves(p)); }
CHIASM_ALWAYS_INLINE V load_f16_n(const void* p, std::size_t n) noexcept { return _mm512_cvtph_ps(load_halves_n(p, n)); }
CHIASM_ALWAYS_INLINE V load_bf16(const void* p) noexcept { return from_bf16(load_halves(p)); }
CHIASM_ALWAYS_INLINE V load_bf16_n(const void* p, std::size_t n) noexcept { return from_bf16(load_halves_n(p, n)); }
CHIASM_ALWAYS_INLINE void store_f16(void* p, V a) noexcept {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a, 0));
}
CHIASM_ALWAYS_INLINE void store_f16_n(void* p, V a, std::size_t n) noexcept {
  _mm256_mask_storeu_epi16(p, lanes_below(n), _mm512_cvtps_ph(a, 0));
}
CHIASM_ALWAYS_INLINE void store_bf16(void* p, V a) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), to_bf16(a)); }
CHIASM_ALWAYS_INLINE void store_bf16_n(void* p, V a, std::size_t n) noexcept {
  _mm256_mask_storeu_epi16(p, lanes_below(n), to_bf16(a));
}

/// Of `width` pairs of bf16, the first ones; the second ones. Of int8, `width` of them.
CHIASM_ALWAYS_INLINE V load_even_bf16(const void* p) noexcept { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
CHIASM_ALWAYS_INLINE V load_odd_bf16(const void* p) noexcept {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
CHIASM_ALWAYS_INLINE V load_i8(const void* p) noexcept {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}

CHIASM_ALWAYS_INLINE V add(V a, V b) noexcept { return _mm512_add_ps(a, b); }
CHIASM_ALWAYS_INLINE V sub(V a, V b) noexcept { return _mm512_sub_ps(a, b); }
CHIASM_ALWAYS_INLINE V mul(V a, V b) noexcept { return _mm512_mul_ps(a, b); }
CHIASM_ALWAYS_INLINE V div(V a, V b) noexcept { return _mm512_div_ps(a, b); }
CHIASM_ALWAYS_INLINE V fma(V a, V b, V c) noexcept { return _mm512_fmadd_ps(a, b, c); }
CHIASM_ALWAYS_INLINE V fnma(V a, V b, V c) noexcept { return _mm512_fnmadd_ps(a, b, c); }
CHIASM_ALWAYS_INLINE V min(V a, V b) noexcept { return _mm512_min_ps(a, b); }
CHIASM_ALWAYS_INLINE V max(V a, V b) noexcept { return _mm512_max_ps(a, b); }
CHIASM_ALWAYS_INLINE V absolute(V a) noexcept { return _mm512_abs_ps(a); }
CHIASM_ALWAYS_INLINE V round_even(V a) noexcept { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
CHIASM_ALWAYS_INLINE V scale2(V a, V n) noexcept { return _mm512_scalef_ps(a, n); }
CHIASM_ALWAYS_INLINE V select_lt(V a, V b, V x, V y) noexcept {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
CHIASM_ALWAYS_INLINE float reduce_add(V a) noexcept { return _mm512_reduce_add_ps(a); }
CHIASM_ALWAYS_INLINE float reduce_max(V a) noexcept { return _mm512_reduce_max_ps(a); }
CHIASM_ALWAYS_INLINE void transpose(V (&a)[width]) noexcept {
  V pairs[16], quads[16];
  CHIASM_UNROLL for (std::size_t i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  CHIASM_UNROLL for (std::size_t i = 0; i < 16; i += 4) {  // quads[i + c]: columns c, 4 + c, 8 + c, 12 + c of rows i to i + 3
    quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  CHIASM_UNROLL for (std::size_t c = 0; c < 4; ++c) {
    const V low_even = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x88),
            low_odd = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xdd);
    const V high_even = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x88),
            high_odd = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xdd);
    a[c] = _mm512_shuffle_f32x4(low_even, high_even, 0x88);
    a[4 + c] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
    a[8 + c] = _mm512_shuffle_f32x4(low_even, high_even, 0xdd);
    a[12 + c] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
  }
}
/// Columns of 16 rows that lie `stride` floats apart. Lanes are put together by the loads: half the shuffles of transpose.
CHIASM_ALWAYS_INLINE void load_transposed(const float* from, std::size_t stride, V (&a)[width]) noexcept {
  CHIASM_UNROLL for (std::size_t c = 0; c < 16; c += 4) {
    V rows[4];  // rows[i]: columns c to c + 3 of rows i, 4 + i, 8 + i, 12 + i
    CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
      const float* const at = from + i * stride + c;
      rows[i] = _mm512_castps128_ps512(_mm_loadu_ps(at));
      rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(at + 4 * stride), 1);
      rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(at + 8 * stride), 2);
      rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(at + 12 * stride), 3);
    }
    const V low01 = _mm512_unpacklo_ps(rows[0], rows[1]), high01 = _mm512_unpackhi_ps(rows[0], rows[1]);
    const V low23 = _mm512_unpacklo_ps(rows[2], rows[3]), high23 = _mm512_unpackhi_ps(rows[2], rows[3]);
    a[c] = _mm512_shuffle_ps(low01, low23, 0x44);
    a[c + 1] = _mm512_shuffle_ps(low01, low23, 0xee);
    a[c + 2] = _mm512_shuffle_ps(high01, high23, 0x44);
    a[c + 3] = _mm512_shuffle_ps(high01, high23, 0xee);
  }
}
CHIASM_ALWAYS_INLINE void prefetch(const void* p) noexcept { __builtin_prefetch(p); }

using U = __m512i;
CHIASM_ALWAYS_INLINE U set1_codes(std::uint32_t a) noexcept { return _mm512_set1_epi32(static_cast<int>(a)); }
CHIASM_ALWAYS_INLINE U load_codes(const void* p) noexcept { return _mm512_loadu_si512(p); }
CHIASM_ALWAYS_INLINE U load_bytes(const unsigned char* p) noexcept {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
CHIASM_ALWAYS_INLINE U bit_and(U a, U b) noexcept { return _mm512_and_si512(a, b); }
CHIASM_ALWAYS_INLINE U bit_or(U a, U b) noexcept { return _mm512_or_si512(a, b); }
CHIASM_ALWAYS_INLINE U bit_xor(U a, U b) noexcept { return _mm512_xor_si512(a, b); }
CHIASM_ALWAYS_INLINE U add_codes(U a, U b) noexcept { return _mm512_add_epi32(a, b); }
template <int n>
CHIASM_ALWAYS_INLINE U shift_right(U a) noexcept {
  if constexpr (n < 0) return _mm512_slli_epi32(a, static_cast<unsigned>(n < 0 ? -n : 0));
  return n > 0 ? _mm512_srli_epi32(a, static_cast<unsigned>(n > 0 ? n : 0)) : a;
}
template <int i>
CHIASM_ALWAYS_INLINE V signed_byte(U a) noexcept {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(shift_right<8 * i - 24>(a), 24));
}
CHIASM_ALWAYS_INLINE U look_up(const unsigned char* table, U a) noexcept {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), a);
}
inline constexpr bool fast_values = true;
using Values = V;
CHIASM_ALWAYS_INLINE Values load_values(const float* sixteen) noexcept { return load(sixteen); }
CHIASM_ALWAYS_INLINE V value_of(Values values, U a) noexcept { return _mm512_permutexvar_ps(a, values); }

// For activations of eight bits.
CHIASM_ALWAYS_INLINE V to_floats(U a) noexcept { return _mm512_cvtepi32_ps(a); }  // of signed lanes
CHIASM_ALWAYS_INLINE void store_i8(signed char* p, V a) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
CHIASM_ALWAYS_INLINE U four_of_all(const signed char* p) noexcept {
  int four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}
