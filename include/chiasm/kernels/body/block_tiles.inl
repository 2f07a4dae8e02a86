// From weights in block formats to bf16 tiles: each number is what the format says, exactly, then rounded to bf16 as a weight in a bf16 file is. It is done once
// for all tokens of a pass. In a panel a vector's lanes are outputs, in a tile each output has a row of k. So the codes are transposed, as groups of four bytes,
// and then become numbers row by row: codes of up to five bits by looking them up in a table of 32 bf16, which is made anew for each row from its scale.

inline constexpr std::size_t panel_tile = panel_outputs * unit_depth * 2, pair_outputs = 2 * panel_outputs;  // bytes of a panel's tile; outputs of two

CHIASM_ALWAYS_INLINE __m512i bf16_of(V low, V high) noexcept { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }

/// Group g of a unit: codes for the table, or, of formats with more bits than the table has entries for, signed numbers.
template <DType kind, int g>
CHIASM_ALWAYS_INLINE U bytes_of(const unsigned char* codes) noexcept {
  if constexpr (code_bits(kind) < 6) return codes_of<kind, g>(codes, 0);
  return numbers_of<kind, g>(codes, 0);
}

/// f(r, the 32 codes of row r, those of row r + 4) for all 16 rows of a unit.
template <DType kind, class F>
CHIASM_ALWAYS_INLINE void each_row_of_codes(const unsigned char* codes, F f) noexcept {
  // Four groups of four k: lane l of square[i] becomes output 4 l + i.
  const auto transpose_four = [](const U (&c)[4], U (&square)[4]) {
    const U low01 = _mm512_unpacklo_epi32(c[0], c[1]), high01 = _mm512_unpackhi_epi32(c[0], c[1]);
    const U low23 = _mm512_unpacklo_epi32(c[2], c[3]), high23 = _mm512_unpackhi_epi32(c[2], c[3]);
    square[0] = _mm512_unpacklo_epi64(low01, low23);
    square[1] = _mm512_unpackhi_epi64(low01, low23);
    square[2] = _mm512_unpacklo_epi64(high01, high23);
    square[3] = _mm512_unpackhi_epi64(high01, high23);
  };
  U first[4], second[4];  // 16 k each
  if constexpr (code_bits(kind) == 4) {
    const U c[4] = {load_codes(codes), load_codes(codes + 64), load_codes(codes + 128), load_codes(codes + 192)};
    U both[4];
    transpose_four(c, both);
    const U upper = _mm512_setr_epi64(0, 0, 0x1010101010101010, 0x1010101010101010, 0, 0, 0x1010101010101010, 0x1010101010101010);
    CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {  // rows r and r + 4 share a table: the codes of r + 4 look into its second half
      first[i] = bit_or(bit_and(both[i], set1_codes(0x0f0f0f0fu)), upper);
      second[i] = bit_or(bit_and(shift_right<4>(both[i]), set1_codes(0x0f0f0f0fu)), upper);
    }
  } else {
    const U c[4] = {bytes_of<kind, 0>(codes), bytes_of<kind, 1>(codes), bytes_of<kind, 2>(codes), bytes_of<kind, 3>(codes)};
    const U d[4] = {bytes_of<kind, 4>(codes), bytes_of<kind, 5>(codes), bytes_of<kind, 6>(codes), bytes_of<kind, 7>(codes)};
    transpose_four(c, first);
    transpose_four(d, second);
    if constexpr (has_half_scales(kind) && code_bits(kind) < 6)  // the other 16 k, with a scale of their own, look into the table's second half
      CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) second[i] = bit_or(second[i], set1_codes(0x10101010u));
  }
  alignas(64) unsigned char rows[16][32];
  const U even = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
    _mm512_store_si512(rows[4 * i], _mm512_permutex2var_epi64(first[i], even, second[i]));
    _mm512_store_si512(rows[4 * i + 2], _mm512_permutex2var_epi64(first[i], odd, second[i]));
  }
  CHIASM_UNROLL for (std::size_t i = 0; i < 16; i += 2) f(i % 4 * 4 + i / 4, rows[i], rows[i + 1]);  // rows r and r + 4
}

/// `units` units of a panel from unit `u` on, as tiles of [16 outputs][32 k] that lie `apart` bytes apart.
template <DType kind>
CHIASM_NOINLINE void expand_tiles(const unsigned char* panel, std::size_t u, std::size_t units, char* to, std::size_t apart) noexcept {
  constexpr PanelFormat format = panel_format(kind);
  // The table's numbers before scale and minimum.
  const V low = has_codebook(kind) ? load(code_values<kind>.values) : _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const V offset = set1(has_codebook(kind) ? 0.0f : static_cast<float>(code_offset(kind)));
  const V codes = sub(low, offset), upper_codes = code_bits(kind) == 5 ? add(codes, set1(16.0f)) : codes;
  for (const std::size_t end = u + units; u < end; ++u, to += apart) {
    const unsigned char *const block = panel + format.block_at(u), *const unit = panel + format.unit_at(u);
    const UnitScales s = scales_of<kind>(block, unit, 0);
    alignas(64) float scale[2][16], minimum[2][16];
    for (std::size_t half = 0; half < (has_half_scales(kind) ? 2 : 1); ++half) {
      store(scale[half], s.scale[half]);
      if constexpr (has_minimum(kind)) store(minimum[half], s.minimum[half]);
    }
    each_row_of_codes<kind>(unit + format.scales, [&](std::size_t row, const unsigned char* codes_of_row, const unsigned char* codes_of_other) {
      constexpr std::size_t other = has_half_scales(kind) ? 1 : 0;
      const auto value = [&](V code, std::size_t r, std::size_t half) {
        if constexpr (has_minimum(kind)) return fma(code, set1(scale[half][r]), set1(minimum[half][r]));
        return mul(code, set1(scale[half][r]));
      };
      const auto by_table = [&](const unsigned char* from, __m512i table) {
        return _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(from))), table);
      };
      const auto converted = [&](const unsigned char* from, std::size_t r) {
        if constexpr (code_bits(kind) < 6) return by_table(from, bf16_of(value(codes, r, 0), value(upper_codes, r, other)));
        const auto sixteen = [&](const unsigned char* at) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(at)))); };
        return bf16_of(value(sixteen(from), r, 0), value(sixteen(from + 16), r, other));
      };
      if constexpr (code_bits(kind) == 4) {
        const __m512i table = bf16_of(value(codes, row, 0), value(codes, row + 4, 0));
        _mm512_store_si512(to + row * 64, by_table(codes_of_row, table));
        _mm512_store_si512(to + (row + 4) * 64, by_table(codes_of_other, table));
      } else {
        _mm512_store_si512(to + row * 64, converted(codes_of_row, row));
        _mm512_store_si512(to + (row + 4) * 64, converted(codes_of_other, row + 4));
      }
    });
  }
}

/// Rows [n, n + rows) of W, at most 32, `depth` k from `k` on, to [tile of 32 k][two groups of 16 rows][32 k]; missing rows become zeros.
template <DType kind>
CHIASM_NOINLINE void copy_block_tiles(const unsigned char* weight, std::size_t stride, std::size_t n, std::size_t rows, std::size_t k, std::size_t depth,
                                      char* to) noexcept {
  const std::size_t units = (depth + unit_depth - 1) / unit_depth, first = n / panel_outputs, skipped = n % panel_outputs;
  const std::size_t panels = (n + rows + panel_outputs - 1) / panel_outputs - first;  // up to three, where n is not the first row of one
  if (skipped == 0) {
    for (std::size_t p = 0; p < 2; ++p) {
      if (p < panels)
        expand_tiles<kind>(weight + (first + p) * stride, k / unit_depth, units, to + p * panel_tile, 2 * panel_tile);
      else
        for (std::size_t tile = 0; tile < units; ++tile) __builtin_memset(to + (2 * tile + 1) * panel_tile, 0, panel_tile);
    }
    return;
  }
  const std::size_t there = smaller(pair_outputs, panels * panel_outputs - skipped);
  for (std::size_t tile = 0; tile < units; ++tile, to += 2 * panel_tile) {
    alignas(64) char some[3 * panel_tile];
    for (std::size_t p = 0; p < panels; ++p) expand_tiles<kind>(weight + (first + p) * stride, k / unit_depth + tile, 1, some + p * panel_tile, 0);
    __builtin_memcpy(to, some + skipped * 64, there * 64);
    __builtin_memset(to + there * 64, 0, (pair_outputs - there) * 64);
  }
}
