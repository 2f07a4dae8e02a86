// Product of weights in bf16 with few tokens in AMX tiles: the weights are tile A as the file has them, 16 rows that lie far apart and are read at the same time,
// each strictly forward; tile B is x, rounded to bf16. Sixteen tokens cost an eighth more than one does, and one costs a twentieth less than in the vector units:
// those take more instructions for every line of memory, so that fewer lines are on their way at the same time (bench/kernels/quant_bench).
//   rounded x: [tile of 32 k][pair of k][token][2]
// Every product is the tile unit's sum over k in order: it depends neither on how the outputs are split nor on the number of tokens.

inline constexpr std::size_t few_tokens = 16, tile_streams = 16;

inline std::size_t few_packed_bytes(std::size_t tokens, std::size_t depth) noexcept { return round_up(depth, tile_depth) * tokens * 2; }

inline void few_pack(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, void* packed) noexcept {
  char* to = static_cast<char*>(packed);
  for (std::size_t k = 0; k < depth; k += tile_depth) {
    const std::size_t count = smaller(tile_depth, depth - k);
    V pairs[width];
    for (std::size_t t = 0; t < width; ++t) pairs[t] = t < tokens ? _mm512_castsi512_ps(bf16_of_32(x + t * stride + k, count)) : zero();
    if (tokens == 1) {
      _mm512_storeu_ps(to, pairs[0]);
      to += 64;
      continue;
    }
    transpose(pairs);
    for (std::size_t i = 0; i < width; ++i, to += 4 * tokens) _mm512_mask_storeu_ps(to, lanes_below(tokens), pairs[i]);
  }
}

/// Products of `rows` outputs that lie `apart` rows of W apart, [row][token].
CHIASM_ALWAYS_INLINE void multiply_few(const QuantizedCall& call, std::size_t output, std::size_t apart, std::size_t rows, float* product) noexcept {
  const unsigned char* const weight = static_cast<const unsigned char*>(call.weight) + output * call.weight_stride;
  const char* x = static_cast<const char*>(call.quantized);
  const std::size_t stride = apart * call.weight_stride, token_bytes = 4 * call.tokens;
  _tile_zero(0);
  std::size_t k = 0;
  for (; k + tile_depth <= call.depth; k += tile_depth, x += 16 * token_bytes) {
    CHIASM_UNROLL for (std::size_t r = 0; r < tile_streams; ++r) prefetch(weight + r * stride + k * 2 + prefetch_bytes / 2);  // twice as many streams as gemv's
    _tile_loadd(4, weight + k * 2, static_cast<long>(stride));
    _tile_loadd(6, x, static_cast<long>(token_bytes));
    _tile_dpbf16ps(0, 4, 6);
  }
  if (k < call.depth) {
    alignas(64) char last[tile_bytes];
    const auto there = static_cast<__mmask32>((1u << (call.depth - k)) - 1u);
    for (std::size_t r = 0; r < rows; ++r) _mm512_store_si512(last + 64 * r, _mm512_maskz_loadu_epi16(there, weight + r * stride + k * 2));
    asm volatile("" ::: "memory");  // g++'s tile loads do not say that they read memory
    _tile_loadd(4, last, 64);
    _tile_loadd(6, x, static_cast<long>(token_bytes));
    _tile_dpbf16ps(0, 4, 6);
  }
  _tile_stored(0, product, static_cast<long>(token_bytes));
  asm volatile("" ::: "memory");
}

inline void store_few(const float* product, std::size_t output, std::size_t apart, std::size_t rows, std::size_t tokens, const Output& out) noexcept {
  for (std::size_t t = 0; t < tokens; ++t) {
    float y[tile_streams];
    for (std::size_t r = 0; r < rows; ++r) {
      y[r] = product[r * tokens + t];
      if (out.bias != nullptr) y[r] += out.bias[output + r * apart];
    }
    if (out.activation != Activation::none) activate(out.activation, y, y, rows);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t n = output + r * apart;
      if (out.residual != nullptr) y[r] += out.residual[t * out.residual_stride + n];
      out.y[t * out.stride + n] = y[r];
    }
  }
}

inline void few_run(const QuantizedCall& call) noexcept {
  const auto configure = [&](std::size_t rows) {
    TileConfig config;
    config.rows[0] = config.rows[4] = static_cast<unsigned char>(rows);
    config.row_bytes[0] = config.row_bytes[6] = static_cast<std::uint16_t>(4 * call.tokens);
    asm volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  };
  alignas(64) float product[tile_streams * few_tokens];
  const std::size_t outputs = call.output_end - call.output_begin, apart = outputs / tile_streams, rest = outputs % tile_streams;
  if (apart > 0) configure(tile_streams);
  for (std::size_t n = call.output_begin; n < call.output_begin + apart; ++n) {
    multiply_few(call, n, apart, tile_streams, product);
    store_few(product, n, apart, tile_streams, call.tokens, call.out);
  }
  if (rest > 0) {
    configure(rest);
    multiply_few(call, call.output_end - rest, 1, rest, product);
    store_few(product, call.output_end - rest, 1, rest, call.tokens, call.out);
  }
  _tile_release();
}
