// Sums of 16 products of bytes in every lane, without VNNI. See vec/dot_avx512.inl.

inline constexpr bool unsigned_dot = false;

template <int largest>
CHIASM_ALWAYS_INLINE U dot_four(U c0, U c1, U c2, U c3, const signed char* x) noexcept {
  const U ones = _mm256_set1_epi16(1);
  const U x0 = four_of_all(x), x1 = four_of_all(x + 4), x2 = four_of_all(x + 8), x3 = four_of_all(x + 12);
  if constexpr (largest <= 64) {
    const U first = _mm256_add_epi16(_mm256_maddubs_epi16(c0, x0), _mm256_maddubs_epi16(c1, x1));
    const U second = _mm256_add_epi16(_mm256_maddubs_epi16(c2, x2), _mm256_maddubs_epi16(c3, x3));
    if constexpr (largest <= 32) return _mm256_madd_epi16(_mm256_add_epi16(first, second), ones);
    return _mm256_add_epi32(_mm256_madd_epi16(first, ones), _mm256_madd_epi16(second, ones));
  }
  const auto pairs = [&](U c, U b) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(b, c)), ones);
  };
  return _mm256_add_epi32(_mm256_add_epi32(pairs(c0, x0), pairs(c1, x1)), _mm256_add_epi32(pairs(c2, x2), pairs(c3, x3)));
}
