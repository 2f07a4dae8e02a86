// Sums of 16 products of bytes in every lane, without VNNI: pairs to 16 bits (which saturate), then to 32.

inline constexpr bool unsigned_dot = false;  // codes of eight bits come signed

/// Sum over i and j of byte j of c[i] times x[4 i + j]. Codes are at most `largest`, x is from -127 to 127.
template <int largest>
CHIASM_ALWAYS_INLINE U dot_four(U c0, U c1, U c2, U c3, const signed char* x) noexcept {
  const U ones = _mm512_set1_epi16(1);
  const U x0 = four_of_all(x), x1 = four_of_all(x + 4), x2 = four_of_all(x + 8), x3 = four_of_all(x + 12);
  if constexpr (largest <= 64) {
    const U first = _mm512_add_epi16(_mm512_maddubs_epi16(c0, x0), _mm512_maddubs_epi16(c1, x1));
    const U second = _mm512_add_epi16(_mm512_maddubs_epi16(c2, x2), _mm512_maddubs_epi16(c3, x3));
    if constexpr (largest <= 32) return _mm512_madd_epi16(_mm512_add_epi16(first, second), ones);
    return _mm512_add_epi32(_mm512_madd_epi16(first, ones), _mm512_madd_epi16(second, ones));
  }
  const auto pairs = [&](U c, U b) {  // |c| c's sign of b: 128 * 127 * 2 is within 16 bits
    const U flipped = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(c), _mm512_setzero_si512(), b);
    return _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(c), flipped), ones);
  };
  return _mm512_add_epi32(_mm512_add_epi32(pairs(c0, x0), pairs(c1, x1)), _mm512_add_epi32(pairs(c2, x2), pairs(c3, x3)));
}
