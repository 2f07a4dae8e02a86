// Products of weights in block formats with activations in f32, for few tokens. A vector holds the same k of several outputs and is multiplied by that k of x.
// The 16 or 32 k of a scale are summed in two interleaved chains, their sums are added in order of k: the result depends neither on how the work is split nor
// on the number of tokens.

inline constexpr std::size_t block_streams = 4, block_tokens = 8;  // panels in flight, tokens of one pass

/// Sums of a group of panels, [panel][token][16 outputs], to rows of y.
CHIASM_NOINLINE void store_sums(float* sums, std::size_t panels, std::size_t first, std::size_t apart, std::size_t token, std::size_t tokens,
                                std::size_t output_begin, std::size_t output_end, const Output& out) noexcept {
  for (std::size_t p = 0; p < panels; ++p) {
    const std::size_t n = (first + p * apart) * panel_outputs;
    const std::size_t begin = n < output_begin ? output_begin : n, end = smaller(n + panel_outputs, output_end);
    for (std::size_t t = 0; t < tokens; ++t) {
      float* const sum = sums + (p * block_tokens + t) * panel_outputs;
      if (out.bias != nullptr)
        for (std::size_t i = begin; i < end; ++i) sum[i - n] += out.bias[i];
      if (out.activation != Activation::none) activate(out.activation, sum + (begin - n), sum + (begin - n), end - begin);
      if (out.residual != nullptr)
        for (std::size_t i = begin; i < end; ++i) sum[i - n] += out.residual[(token + t) * out.residual_stride + i];
      __builtin_memcpy(out.y + (token + t) * out.stride + begin, sum + (begin - n), (end - begin) * sizeof(float));
    }
  }
}

/// What unit u is to those units that are read next, on its way from memory; where a block begins, its super-scales, which lie before it, too.
template <DType kind>
CHIASM_ALWAYS_INLINE void prefetch_unit(const unsigned char* unit, std::size_t u) noexcept {
  constexpr PanelFormat format = panel_format(kind);
  if (format.units > 1 && u % format.units == 0) prefetch(unit - format.header + prefetch_bytes);
  for (std::size_t byte = 0; byte < format.unit(); byte += 64) prefetch(unit + byte + prefetch_bytes);
}

/// Calls group(first panel, panels, distance) for all panels of outputs [begin, end), block_streams of them at a time that lie far apart: each is a stream of
/// memory that is read strictly forward, and one stream alone reaches two thirds of the memory's bandwidth.
template <class F>
CHIASM_ALWAYS_INLINE void each_group(std::size_t begin, std::size_t end, F group) noexcept {
  const std::size_t first = begin / panel_outputs, last = (end + panel_outputs - 1) / panel_outputs, apart = (last - first) / block_streams;
  for (std::size_t p = first; p < first + apart; ++p) group(p, block_streams, apart);
  for (std::size_t p = first + apart * block_streams; p < last; ++p) group(p, std::size_t{1}, std::size_t{1});
}

/// All k of some panels, `stride` bytes apart, times up to block_tokens rows of x: sums [panel][token][16 outputs].
template <DType kind>
CHIASM_NOINLINE void multiply_blocks(const unsigned char* weight, std::size_t panels, std::size_t stride, std::size_t depth, const float* x, std::size_t x_stride,
                                     std::size_t tokens, float* sums) noexcept {
  constexpr PanelFormat format = panel_format(kind);
  constexpr std::size_t vectors = panel_outputs / width;
  for (std::size_t i = 0; i < panels * block_tokens * panel_outputs; i += width) store(sums + i, zero());
  float last[block_tokens * unit_depth];  // the last unit of x, filled up with zeros
  const std::size_t units = (depth + unit_depth - 1) / unit_depth, whole = depth / unit_depth;
  if (units > whole) {
    for (std::size_t i = 0; i < block_tokens * unit_depth; ++i) last[i] = 0;
    for (std::size_t t = 0; t < tokens; ++t)
      __builtin_memcpy(last + t * unit_depth, x + t * x_stride + whole * unit_depth, (depth - whole * unit_depth) * sizeof(float));
  }
  for (std::size_t u = 0; u < units; ++u) {
    const float* const values = u < whole ? x + u * unit_depth : last;
    const std::size_t apart = u < whole ? x_stride : unit_depth;
    float totals[block_tokens][2];
    if constexpr (has_minimum(kind)) {
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t half = 0; half < 2; ++half) {
          const float* const from = values + t * apart + 16 * half;
          V sum = load(from);
          for (std::size_t k = width; k < 16; k += width) sum = add(sum, load(from + k));
          totals[t][half] = reduce_add(sum);
        }
    }
    for (std::size_t p = 0; p < panels; ++p) {
      const unsigned char *const block = weight + p * stride + format.block_at(u), *const unit = weight + p * stride + format.unit_at(u);
      prefetch_unit<kind>(unit, u);
      for (std::size_t v = 0; v < vectors; ++v) {
        const std::size_t lane = v * width;
        const UnitScales s = scales_of<kind>(block, unit, lane);
        const auto finish = [&](std::size_t t, V first, V second) {
          float* const to = sums + (p * block_tokens + t) * panel_outputs + lane;
          V sum = load(to);
          if constexpr (has_half_scales(kind))
            sum = fma(first, s.scale[0], fma(second, s.scale[1], sum));
          else
            sum = fma(add(first, second), s.scale[0], sum);
          if constexpr (has_minimum(kind)) sum = fma(s.minimum[0], set1(totals[t][0]), fma(s.minimum[1], set1(totals[t][1]), sum));
          store(to, sum);
        };
        if (tokens == 1) {
          V sum[4] = {zero(), zero(), zero(), zero()};  // two chains of additions for each 16 k
          each_number<kind>(unit + format.scales, lane, [&](std::size_t k, V w) {
            V& chain = sum[k / 16 * 2 + k % 2];
            chain = fma(w, set1(values[k]), chain);
          });
          finish(0, add(sum[0], sum[1]), add(sum[2], sum[3]));
          continue;
        }
        float numbers[unit_depth * width];
        each_number<kind>(unit + format.scales, lane, [&](std::size_t k, V w) { store(numbers + k * width, w); });
        for (std::size_t t = 0; t < tokens; ++t) {
          const float* const from = values + t * apart;
          V sum[4] = {zero(), zero(), zero(), zero()};
          for (std::size_t k = 0; k < 16; k += 2) {
            CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
              const std::size_t at = i / 2 * 16 + k + i % 2;
              sum[i] = fma(load(numbers + at * width), set1(from[at]), sum[i]);
            }
          }
          finish(t, add(sum[0], sum[1]), add(sum[2], sum[3]));
        }
      }
    }
  }
}

template <DType kind>
inline void block_gemv(const GemvCall& call) noexcept {
  const auto* const weight = static_cast<const unsigned char*>(call.weight);
  each_group(call.output_begin, call.output_end, [&](std::size_t first, std::size_t panels, std::size_t apart) {
    for (std::size_t t = 0; t < call.tokens; t += block_tokens) {
      const std::size_t tokens = smaller(block_tokens, call.tokens - t);
      float sums[block_streams * block_tokens * panel_outputs];
      multiply_blocks<kind>(weight + first * call.weight_stride, panels, apart * call.weight_stride, call.depth, call.x + t * call.x_stride, call.x_stride, tokens,
                            sums);
      store_sums(sums, panels, first, apart, t, tokens, call.output_begin, call.output_end, call.out);
    }
  });
}
