// Product of weights in bf16 with few tokens in AMX tiles. Tile A is loaded from the weights as the file has them: 16 rows that lie far apart, each a stream of
// memory that is read strictly forward. Tile B is x, rounded to bf16. 16 tokens take an eighth longer than one. One takes a twentieth less than in the vector
// units, which need more instructions for every cache line, so that fewer lines are under way at a time (bench/kernels/quant_bench).
//   rounded x: [tile of 32 k][pair of k][token][2]
// The tile unit sums over k in order: a result depends neither on how the outputs are split nor on the number of tokens.

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

/// The products of `rows` outputs, `output`, `output + apart`, ...: [row][token].
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

/// Tiles of x and of products for so many tokens, those of weights and products for so many rows.
inline void configure_few(std::size_t tokens, std::size_t rows) noexcept {
  TileConfig config;
  for (std::size_t tile = 0; tile < 6; ++tile) config.rows[tile] = static_cast<unsigned char>(rows);
  for (std::size_t product = 0; product < 4; ++product) config.row_bytes[product] = static_cast<std::uint16_t>(4 * tokens);
  config.row_bytes[6] = static_cast<std::uint16_t>(4 * tokens);
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
}

inline void few_run(const QuantizedCall& call) noexcept {
  alignas(64) float product[tile_streams * few_tokens];
  const std::size_t outputs = call.output_end - call.output_begin, apart = outputs / tile_streams, rest = outputs % tile_streams;
  if (apart > 0) configure_few(call.tokens, tile_streams);
  for (std::size_t n = call.output_begin; n < call.output_begin + apart; ++n) {
    multiply_few(call, n, apart, tile_streams, product);
    store_few(product, n, apart, tile_streams, call.tokens, call.out);
  }
  if (rest > 0) {
    configure_few(call.tokens, rest);
    multiply_few(call, call.output_end - rest, 1, rest, product);
    store_few(product, call.output_end - rest, 1, rest, call.tokens, call.out);
  }
  _tile_release();
}

/// The products of four panels, `apart` panels from one to the next, or of one: [panel][16 outputs][token].
template <std::size_t panels>
CHIASM_ALWAYS_INLINE void multiply_few_panels(const QuantizedCall& call, std::size_t panel, std::size_t apart, float* product) noexcept {
  static_assert(panels == 1 || panels == block_streams);
  const unsigned char* const weight = static_cast<const unsigned char*>(call.weight) + panel * call.weight_stride;
  const std::size_t stride = apart * call.weight_stride, token_bytes = 4 * call.tokens;
  const char* x = static_cast<const char*>(call.quantized);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (const unsigned char *w = weight, *const end = weight + call.weight_stride; w < end; w += tile_bytes, x += 16 * token_bytes) {
    for (std::size_t p = 0; p < panels; ++p)
      CHIASM_UNROLL for (std::size_t line = 0; line < tile_bytes; line += 64) prefetch(w + p * stride + line + 2 * prefetch_bytes);
    _tile_loadd(6, x, static_cast<long>(token_bytes));
    _tile_loadd(4, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (panels > 1) {
      _tile_loadd(5, w + stride, 64);
      _tile_dpbf16ps(1, 5, 6);
      _tile_loadd(4, w + 2 * stride, 64);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(5, w + 3 * stride, 64);
      _tile_dpbf16ps(3, 5, 6);
    }
  }
  const auto row = static_cast<long>(token_bytes);
  _tile_stored(0, product, row);
  if constexpr (panels > 1) {
    _tile_stored(1, product + panel_outputs * call.tokens, row);
    _tile_stored(2, product + 2 * panel_outputs * call.tokens, row);
    _tile_stored(3, product + 3 * panel_outputs * call.tokens, row);
  }
  asm volatile("" ::: "memory");
}

inline void few_run_panels(const QuantizedCall& call) noexcept {
  configure_few(call.tokens, panel_outputs);
  asm volatile("" ::: "memory");  // g++'s tile loads do not say that they read memory
  alignas(64) float products[block_streams * panel_outputs * few_tokens];
  each_group(call.output_begin, call.output_end, [&](std::size_t first, std::size_t panels, std::size_t apart) {
    if (panels == block_streams)
      multiply_few_panels<block_streams>(call, first, apart, products);
    else
      multiply_few_panels<1>(call, first, apart, products);
    for (std::size_t p = 0; p < panels; ++p) {
      const std::size_t n = (first + p * apart) * panel_outputs, begin = n < call.output_begin ? call.output_begin : n, end = smaller(n + panel_outputs, call.output_end);
      store_few(products + (p * panel_outputs + begin - n) * call.tokens, begin, 1, end - begin, call.tokens, call.out);
    }
  });
  _tile_release();
}
