// Matrix product for few tokens: the time is that of reading W once. Lanes run along k. `streams` rows far apart are read at the
// same time, each strictly forward and with software prefetch: one stream alone reaches two thirds of the memory's bandwidth.
// Every product is one vector sum over k in order, then the sum of its lanes, whatever the split.

inline constexpr std::size_t prefetch_bytes = 2304;  // how far ahead of each stream

template <DType kind, std::size_t rows, std::size_t tokens>
CHIASM_ALWAYS_INLINE void dot_rows(const GemvCall& call, std::size_t output, std::size_t apart, std::size_t token) noexcept {
  constexpr std::size_t size = kind == DType::f32 ? 4 : 2;
  constexpr std::size_t line = 64 / size > width ? 64 / size : width;  // weights of a cache line
  const unsigned char* const weight = static_cast<const unsigned char*>(call.weight) + output * call.weight_stride;
  const std::size_t stride = apart * call.weight_stride;
  const float* const x = call.x + token * call.x_stride;
  V sum[rows][tokens];
  CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) {
    CHIASM_UNROLL for (std::size_t t = 0; t < tokens; ++t) sum[r][t] = zero();
  }
  std::size_t k = 0;
  for (; k + line <= call.depth; k += line) {
    CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) prefetch(weight + r * stride + k * size + prefetch_bytes);
    for (std::size_t i = 0; i < line; i += width) {
      V values[tokens];
      CHIASM_UNROLL for (std::size_t t = 0; t < tokens; ++t) values[t] = load(x + t * call.x_stride + k + i);
      CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) {
        const V w = load_as<kind>(weight + r * stride + (k + i) * size);
        CHIASM_UNROLL for (std::size_t t = 0; t < tokens; ++t) sum[r][t] = fma(w, values[t], sum[r][t]);
      }
    }
  }
  for (; k < call.depth; k += width) {
    const std::size_t count = smaller(width, call.depth - k);
    for (std::size_t t = 0; t < tokens; ++t) {
      const float* const from = x + t * call.x_stride + k;
      const V values = count == width ? load(from) : load_n(from, count);
      for (std::size_t r = 0; r < rows; ++r) {
        const unsigned char* const w = weight + r * stride + k * size;
        sum[r][t] = fma(count == width ? load_as<kind>(w) : load_as_n<kind>(w, count), values, sum[r][t]);
      }
    }
  }

  for (std::size_t t = 0; t < tokens; ++t) {
    float y[rows];
    for (std::size_t r = 0; r < rows; ++r) {
      y[r] = reduce_add(sum[r][t]);
      if (call.out.bias != nullptr) y[r] += call.out.bias[output + r * apart];
    }
    if (call.out.activation != Activation::none) activate(call.out.activation, y, y, rows);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t n = output + r * apart;
      if (call.out.residual != nullptr) y[r] += call.out.residual[(token + t) * call.out.residual_stride + n];
      call.out.y[(token + t) * call.out.stride + n] = y[r];
    }
  }
}

template <DType kind, std::size_t streams, std::size_t tokens>
CHIASM_NOINLINE void dot_streams(const GemvCall& call, std::size_t token) noexcept {
  const std::size_t outputs = call.output_end - call.output_begin, apart = outputs / streams;
  for (std::size_t n = 0; n < apart; ++n) dot_rows<kind, streams, tokens>(call, call.output_begin + n, apart, token);
  for (std::size_t n = apart * streams; n < outputs; ++n) dot_rows<kind, 1, tokens>(call, call.output_begin + n, 0, token);
}

template <DType kind>
inline void gemv(const GemvCall& call) noexcept {
  // Few rows at a time, so that the second group of tokens finds them in the cache; whole groups of streams.
  constexpr std::size_t rows = 36;
  GemvCall part = call;
  for (std::size_t n = call.output_begin; n < call.output_end; n = part.output_end) {
    part.output_begin = n;
    part.output_end = call.tokens <= 4 ? call.output_end : smaller(n + rows, call.output_end);
    std::size_t token = 0;
    for (; token + 4 <= call.tokens; token += 4) dot_streams<kind, gemv_streams_of_four, 4>(part, token);
    switch (call.tokens - token) {
      case 3:
        dot_streams<kind, gemv_streams_of_four, 3>(part, token);
        break;
      case 2:
        dot_streams<kind, 4, 2>(part, token);
        break;
      case 1:
        dot_streams<kind, 8, 1>(part, token);
        break;
      default:
        break;
    }
  }
}
