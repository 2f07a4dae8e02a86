// Products of weights in block formats with activations rounded to eight bits (quantize.inl). Up to about four tokens the time is that of reading the weights;
// of more it is that of multiplying. Sums over 16 k are exact in integers; they are scaled and added in order of k.

/// Whether dot_four() multiplies numbers of eight bits, in place of the file's codes of few bits.
template <DType kind>
inline constexpr bool has_bytes = code_bits(kind) == 8 || has_codebook(kind);

/// Group g as dot_four() multiplies it: codes of few bits as they are; numbers of eight bits signed or, with unsigned_dot, plus 128, which is taken off again
/// by way of the sum of x.
template <DType kind, int g>
CHIASM_ALWAYS_INLINE U factors_of(const unsigned char* codes, std::size_t lane) noexcept {
  if constexpr (has_codebook(kind)) return look_up(code_book<unsigned_dot ? 128u : 0u>.bytes, codes_of<kind, g>(codes, lane));
  if constexpr (kind == DType::q8_row && unsigned_dot) return bit_xor(codes_of<kind, g>(codes, lane), set1_codes(0x80808080u));
  if constexpr (has_bytes<kind> && !unsigned_dot) return numbers_of<kind, g>(codes, lane);
  return codes_of<kind, g>(codes, lane);
}

/// All k of some panels, `stride` bytes apart, times up to block_tokens rows of quantised x: sums [panel][token][16 outputs].
template <DType kind>
CHIASM_NOINLINE void multiply_blocks_i8(const unsigned char* weight, std::size_t panels, std::size_t stride, std::size_t depth, const signed char* x,
                                        std::size_t tokens, float* sums) noexcept {
  constexpr PanelFormat format = panel_format(kind);
  constexpr int largest = has_bytes<kind> ? 255 : (1 << code_bits(kind)) - 1;
  constexpr float offset = has_bytes<kind> ? (unsigned_dot ? 128.0f : 0.0f) : static_cast<float>(code_offset(kind));
  const std::size_t units = (depth + unit_depth - 1) / unit_depth, row = quantized_bytes(1, depth);
  for (std::size_t i = 0; i < panels * block_tokens * panel_outputs; i += width) store(sums + i, zero());
  for (std::size_t u = 0; u < units; ++u) {
    for (std::size_t p = 0; p < panels; ++p) {
      const unsigned char *const block = weight + p * stride + format.block_at(u), *const unit = weight + p * stride + format.unit_at(u),
                                 *const codes = unit + format.scales;
      prefetch_unit<kind>(unit, u);
      for (std::size_t lane = 0; lane < panel_outputs; lane += width) {
        const U c0 = factors_of<kind, 0>(codes, lane), c1 = factors_of<kind, 1>(codes, lane), c2 = factors_of<kind, 2>(codes, lane),
                c3 = factors_of<kind, 3>(codes, lane), c4 = factors_of<kind, 4>(codes, lane), c5 = factors_of<kind, 5>(codes, lane),
                c6 = factors_of<kind, 6>(codes, lane), c7 = factors_of<kind, 7>(codes, lane);
        const UnitScales s = scales_of<kind>(block, unit, lane);
        float* to = sums + p * block_tokens * panel_outputs + lane;
        for (std::size_t t = 0; t < tokens; ++t, to += panel_outputs) {
          const signed char* const of_x = x + t * row + u * unit_depth;
          const float* const scale = reinterpret_cast<const float*>(x + t * row + units * unit_depth) + 4 * u;
          const U first = dot_four<largest>(c0, c1, c2, c3, of_x), second = dot_four<largest>(c4, c5, c6, c7, of_x + 16);
          V sum = load(to);
          if constexpr (has_half_scales(kind)) {
            V a = mul(to_floats(first), set1(scale[0])), b = mul(to_floats(second), set1(scale[0]));
            if constexpr (offset != 0) {
              a = fnma(set1(scale[1]), set1(offset), a);
              b = fnma(set1(scale[2]), set1(offset), b);
            }
            sum = fma(a, s.scale[0], fma(b, s.scale[1], sum));
            if constexpr (has_minimum(kind)) sum = fma(s.minimum[0], set1(scale[1]), fma(s.minimum[1], set1(scale[2]), sum));
          } else {
            V a = mul(to_floats(add_codes(first, second)), set1(scale[0]));
            if constexpr (offset != 0) a = fnma(set1(scale[3]), set1(offset), a);
            sum = fma(a, s.scale[0], sum);
            if constexpr (has_minimum(kind)) sum = fma(s.minimum[0], set1(scale[3]), sum);
          }
          store(to, sum);
        }
      }
    }
  }
}

template <DType kind>
inline void block_gemv_i8(const QuantizedCall& call) noexcept {
  const auto* const weight = static_cast<const unsigned char*>(call.weight);
  const auto* const x = static_cast<const signed char*>(call.quantized);
  each_group(call.output_begin, call.output_end, [&](std::size_t first, std::size_t panels, std::size_t apart) {
    for (std::size_t t = 0; t < call.tokens; t += block_tokens) {
      const std::size_t tokens = smaller(block_tokens, call.tokens - t);
      float sums[block_streams * block_tokens * panel_outputs];
      multiply_blocks_i8<kind>(weight + first * call.weight_stride, panels, apart * call.weight_stride, call.depth, x + t * quantized_bytes(1, call.depth), tokens,
                               sums);
      store_sums(sums, panels, first, apart, t, tokens, call.output_begin, call.output_end, call.out);
    }
  });
}

/// The entries of a table.
inline constexpr void add_quantized_products(Table& t) noexcept {
  t.quantized_bytes = quantized_bytes;
  t.quantize = quantize;
  each_block_format([&](auto format) {
    constexpr DType kind = decltype(format)::value;
    t.gemv_i8[static_cast<std::size_t>(kind)] = block_gemv_i8<kind>;
  });
  t.i8_tokens = static_cast<std::size_t>(-1);
}
