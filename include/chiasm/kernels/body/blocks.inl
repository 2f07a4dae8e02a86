// From the codes of a panel (core/panel.hpp) to numbers. A vector's lanes are outputs.

static_assert(panel_outputs % width == 0);

/// f(std::integral_constant<DType, kind>) for every block format, where a table is filled.
template <class F>
inline constexpr void each_block_format(F f) noexcept {
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (f(std::integral_constant<DType, static_cast<DType>(float_kinds + i)>()), ...);
  }(std::make_index_sequence<weight_kinds - float_kinds>());
}

/// Codes of group g of a unit, of outputs [lane, lane + width): a lane's four bytes are four successive k of its output.
template <DType kind, int g>
CHIASM_ALWAYS_INLINE U codes_of(const unsigned char* codes, std::size_t lane) noexcept {
  constexpr int bits = code_bits(kind);
  const unsigned char* const at = codes + 4 * lane;
  if constexpr (bits == 8) {
    return load_codes(at + 64 * g);
  } else if constexpr (bits < 4) {
    const U low = bit_and(shift_right<g / 2 * 2>(load_codes(at + 64 * (g % 2))), set1_codes(0x03030303u));
    if constexpr (bits == 2) return low;
    return bit_or(low, bit_and(shift_right<g - 2>(load_codes(at + 128)), set1_codes(0x04040404u)));
  } else {
    const U low = bit_and(shift_right<g / 4 * 4>(load_codes(at + 64 * (g % 4))), set1_codes(0x0f0f0f0fu));
    if constexpr (bits == 5) return bit_or(low, bit_and(shift_right<g - 4>(load_codes(at + 256)), set1_codes(0x10101010u)));
    if constexpr (bits == 6)
      return bit_or(low, bit_and(shift_right<g / 2 * 2 - 4>(load_codes(at + 256 + 64 * (g % 2))), set1_codes(0x30303030u)));
    return low;
  }
}

struct CodeBook {
  unsigned char bytes[16];
};
/// The codebook of iq4_nl and iq4_xs as bytes: signed with flip 0, plus 128 with flip 128.
template <unsigned flip>
inline constexpr CodeBook code_book = [] {
  CodeBook book = {};
  for (std::size_t i = 0; i < 16; ++i) book.bytes[i] = static_cast<unsigned char>(static_cast<unsigned char>(iq4_codebook[i]) ^ flip);
  return book;
}();

/// codes_of() as the signed bytes that are multiplied by the scale: code - offset, or the codebook's value.
template <DType kind, int g>
CHIASM_ALWAYS_INLINE U numbers_of(const unsigned char* codes, std::size_t lane) noexcept {
  const U c = codes_of<kind, g>(codes, lane);
  constexpr auto offset = static_cast<std::uint32_t>(code_offset(kind));
  if constexpr (has_codebook(kind)) return look_up(code_book<0>.bytes, c);
  if constexpr (offset == 128) return bit_xor(c, set1_codes(0x80808080u));
  if constexpr (offset == 0) return c;
  // c - offset in every byte, as (c + 128 - offset) ^ 128: an addition of 32-bit lanes that carries nothing from byte to byte.
  return bit_xor(add_codes(c, set1_codes((128 - offset) * 0x01010101u)), set1_codes(0x80808080u));
}

/// Scales and minima of the first and of the second 16 k of a unit.
struct UnitScales {
  V scale[2], minimum[2];
};
template <DType kind>
CHIASM_ALWAYS_INLINE UnitScales scales_of(const unsigned char* block, const unsigned char* unit, std::size_t lane) noexcept {
  UnitScales s;
  s.minimum[0] = s.minimum[1] = zero();
  if constexpr (kind == DType::q8_row) {
    s.scale[0] = s.scale[1] = load_unaligned(block + 4 * lane);
  } else if constexpr (panel_format(kind).units == 1) {
    s.scale[0] = s.scale[1] = load_f16(unit + 2 * lane);
    if constexpr (has_minimum(kind)) s.minimum[0] = s.minimum[1] = load_f16(unit + 32 + 2 * lane);
  } else {
    const V d = load_f16(block + 2 * lane);
    const auto times = [&](V a, const unsigned char* bytes) { return mul(a, load_i8(bytes)); };
    if constexpr (kind == DType::q2_k) {
      const V dmin = sub(zero(), load_f16(block + 32 + 2 * lane));
      for (std::size_t half = 0; half < 2; ++half) {
        const U both = load_bytes(unit + 16 * half + lane);
        s.scale[half] = mul(d, signed_byte<0>(bit_and(both, set1_codes(15))));
        s.minimum[half] = mul(dmin, signed_byte<0>(shift_right<4>(both)));
      }
    } else {
      s.scale[0] = s.scale[1] = times(d, unit + lane);
      if constexpr (has_half_scales(kind)) s.scale[1] = times(d, unit + 16 + lane);
      if constexpr (has_minimum(kind))
        s.minimum[0] = s.minimum[1] = times(sub(zero(), load_f16(block + 32 + 2 * lane)), unit + 16 + lane);
    }
  }
  return s;
}

/// The numbers of the sixteen codes of four bits, before the scale.
struct SixteenValues {
  float values[16];
};
template <DType kind>
inline constexpr SixteenValues code_values = [] {
  SixteenValues table = {};
  for (int i = 0; i < 16; ++i) table.values[i] = static_cast<float>(has_codebook(kind) ? iq4_codebook[i] : i - code_offset(kind));
  return table;
}();

/// f(k, a vector of `width` outputs' numbers before scale and minimum) for all k of a unit, in a fixed order, the first 16 k before the others.
template <DType kind, class F>
CHIASM_ALWAYS_INLINE void each_number(const unsigned char* codes, std::size_t lane, F f) noexcept {
  if constexpr (code_bits(kind) == 4 && fast_values) {
    const Values values = load_values(code_values<kind>.values);
    const unsigned char* const at = codes + 4 * lane;
    const U c[4] = {load_codes(at), load_codes(at + 64), load_codes(at + 128), load_codes(at + 192)};
    CHIASM_UNROLL for (std::size_t j = 0; j < 4; ++j) {
      f(4 * j, value_of(values, c[j]));
      f(4 * j + 1, value_of(values, shift_right<8>(c[j])));
      f(4 * j + 2, value_of(values, shift_right<16>(c[j])));
      f(4 * j + 3, value_of(values, shift_right<24>(c[j])));
    }
    CHIASM_UNROLL for (std::size_t j = 0; j < 4; ++j) {
      f(4 * j + 16, value_of(values, shift_right<4>(c[j])));
      f(4 * j + 17, value_of(values, shift_right<12>(c[j])));
      f(4 * j + 18, value_of(values, shift_right<20>(c[j])));
      f(4 * j + 19, value_of(values, shift_right<28>(c[j])));
    }
  } else {
    const auto four = [&](std::size_t k, U numbers) {
      f(k, signed_byte<0>(numbers));
      f(k + 1, signed_byte<1>(numbers));
      f(k + 2, signed_byte<2>(numbers));
      f(k + 3, signed_byte<3>(numbers));
    };
    four(0, numbers_of<kind, 0>(codes, lane));
    four(4, numbers_of<kind, 1>(codes, lane));
    four(8, numbers_of<kind, 2>(codes, lane));
    four(12, numbers_of<kind, 3>(codes, lane));
    four(16, numbers_of<kind, 4>(codes, lane));
    four(20, numbers_of<kind, 5>(codes, lane));
    four(24, numbers_of<kind, 6>(codes, lane));
    four(28, numbers_of<kind, 7>(codes, lane));
  }
}

/// `units` units of a panel from unit `u` on, as 16 rows of f32 that lie `stride` apart.
template <DType kind>
CHIASM_NOINLINE void expand_panel(const unsigned char* panel, std::size_t u, std::size_t units, float* to, std::size_t stride) noexcept {
  constexpr PanelFormat format = panel_format(kind);
  for (const std::size_t end = u + units; u < end; ++u, to += unit_depth) {
    const unsigned char *const block = panel + format.block_at(u), *const unit = panel + format.unit_at(u);
    for (std::size_t lane = 0; lane < panel_outputs; lane += width) {
      const UnitScales s = scales_of<kind>(block, unit, lane);
      float numbers[unit_depth * width];
      each_number<kind>(unit + format.scales, lane, [&](std::size_t k, V w) { store(numbers + k * width, fma(w, s.scale[k / 16], s.minimum[k / 16])); });
      for (std::size_t k = 0; k < unit_depth; k += width) {
        V square[width];
        load_transposed(numbers + k * width, width, square);
        for (std::size_t i = 0; i < width; ++i) store(to + (lane + i) * stride + k, square[i]);
      }
    }
  }
}

/// The two panels that were expanded last: groups of panel_rows rows may begin in the middle of a panel, which the next group then finds here.
struct ExpandedPanels {
  float* rows;
  const unsigned char* of[2] = {};
};

/// Rows [n, n + rows) of W, `depth` k from `k` on, as f32 rows that lie `stride` apart; further rows up to panel_rows become zeros.
template <DType kind>
CHIASM_NOINLINE void copy_block_rows(const unsigned char* weight, std::size_t weight_stride, std::size_t n, std::size_t rows, std::size_t k, std::size_t depth,
                                     std::size_t stride, ExpandedPanels& expanded, float* to) noexcept {
  for (std::size_t r = 0; r < panel_rows; ++r, to += stride) {
    if (r >= rows) {
      for (std::size_t i = 0; i < depth; ++i) to[i] = 0.0f;
      continue;
    }
    const std::size_t panel = (n + r) / panel_outputs, slot = panel % 2;
    const unsigned char* const from = weight + panel * weight_stride;
    float* const of_panel = expanded.rows + slot * panel_outputs * stride;
    if (expanded.of[slot] != from + k) {
      expand_panel<kind>(from, k / unit_depth, (depth + unit_depth - 1) / unit_depth, of_panel, stride);
      expanded.of[slot] = from + k;
    }
    __builtin_memcpy(to, of_panel + (n + r) % panel_outputs * stride, depth * sizeof(float));
  }
}
