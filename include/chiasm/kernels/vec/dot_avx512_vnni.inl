// Sums of 16 products of bytes in every lane. See vec/dot_avx512.inl.

inline constexpr bool unsigned_dot = true;  // codes of eight bits come plus 128

template <int>
CHIASM_ALWAYS_INLINE U dot_four(U c0, U c1, U c2, U c3, const signed char* x) noexcept {
  U sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), c0, four_of_all(x));
  sum = _mm512_dpbusd_epi32(sum, c1, four_of_all(x + 4));
  sum = _mm512_dpbusd_epi32(sum, c2, four_of_all(x + 8));
  return _mm512_dpbusd_epi32(sum, c3, four_of_all(x + 12));
}
