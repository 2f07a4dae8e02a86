// Matrix product in AMX bf16 tiles: bench/kernels/gemm_bench gemm_bf16 shows eight times the f32 product's rate. Tile A is 16 rows
// of W by 32 k, as the file has them (copied to L1, or converted: rows at a power-of-two stride would fall into one set); tile B
// is packed x, 16 pairs of k by 16 tokens; so the product is [output][token] as in gemm.inl, and goes the same way to memory.
//   packed x: [slab of slab_tiles tiles of 32 k][panel of 32 tokens][tile][16 tokens twice][pair of k][token][2]

inline constexpr std::size_t tile_depth = 32, tile_bytes = 1024, tile_outputs = 32;
inline constexpr std::size_t slab_tiles = 16;        // 512 k: a panel of W is 32 KB and stays in L1
inline constexpr std::size_t tile_token_block = 20;  // panels: with the products 1.3 MB of L2
inline constexpr std::size_t tile_output_block = 256;
inline constexpr std::size_t tile_x_bytes = 1300 << 10;  // of x that stay in L2, beside W and the products

static_assert(panel_tokens == 32 && width == 16 && panel_vectors == 2);

struct alignas(64) TileConfig {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline std::size_t tiles_packed_bytes(std::size_t tokens, std::size_t depth) noexcept {
  return round_up(tokens, panel_tokens) * round_up(depth, tile_depth) * 2;
}

/// 16 and 16 floats to bf16, to nearest even.
CHIASM_ALWAYS_INLINE __m512i halves_of(V low, V high) noexcept {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

/// 32 floats, the first `count` of them, to bf16.
CHIASM_ALWAYS_INLINE __m512i bf16_of_32(const float* from, std::size_t count) noexcept {
  const V low = count >= width ? load(from) : load_n(from, count);
  const V high = count >= 2 * width ? load(from + width) : count > width ? load_n(from + width, count - width) : zero();
  return halves_of(low, high);
}

inline void tiles_pack(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, std::size_t begin,
                       std::size_t end, void* packed) noexcept {
  const std::size_t panels = (tokens + panel_tokens - 1) / panel_tokens, tiles = (depth + tile_depth - 1) / tile_depth;
  for (std::size_t panel = begin; panel < end; ++panel) {
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      const std::size_t slab = tile / slab_tiles * slab_tiles, of_slab = smaller(slab_tiles, tiles - slab);
      char* const to = static_cast<char*>(packed) + ((slab * panels + panel * of_slab + tile - slab) * 2) * tile_bytes;
      const std::size_t k = tile * tile_depth, count = smaller(tile_depth, depth - k);
      for (std::size_t v = 0; v < vectors_of(tokens, panel * panel_tokens); ++v) {
        V pairs[width];
        for (std::size_t i = 0; i < width; ++i) {
          const std::size_t token = panel * panel_tokens + v * width + i;
          pairs[i] = token < tokens ? _mm512_castsi512_ps(bf16_of_32(x + (token - begin * panel_tokens) * stride + k, count)) : zero();
        }
        transpose(pairs);
        for (std::size_t i = 0; i < width; ++i) _mm512_store_ps(to + v * tile_bytes + i * 64, pairs[i]);
      }
    }
  }
}

/// `rows` rows of `depth` weights as bf16 to [tile][16 rows twice][32 k]; what is missing becomes 0.
template <DType kind>
CHIASM_NOINLINE void copy_tiles(const unsigned char* weight, std::size_t stride, std::size_t rows, std::size_t depth,
                                char* to) noexcept {
  constexpr std::size_t size = kind == DType::f32 ? 4 : 2;
  for (std::size_t k = 0; k < depth; k += tile_depth) {
    const std::size_t count = smaller(tile_depth, depth - k);
    for (std::size_t r = 0; r < tile_outputs; ++r, to += 64) {
      const unsigned char* const from = weight + r * stride + k * size;
      __m512i values = _mm512_setzero_si512();
      if (r >= rows) {
      } else if constexpr (kind == DType::bf16) {
        values = count == tile_depth ? _mm512_loadu_si512(from)
                                     : _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << count) - 1u), from);
      } else {
        const V low = count >= width ? load_as<kind>(from) : load_as_n<kind>(from, count);
        V high = zero();
        if (count == tile_depth)
          high = load_as<kind>(from + width * size);
        else if (count > width)
          high = load_as_n<kind>(from + width * size, count - width);
        values = halves_of(low, high);
      }
      _mm512_store_si512(to, values);
    }
  }
}

/// What becomes of a product of 32 outputs with a panel of tokens, [32][vectors * 16]. It is done in pieces between the tiles of the product that comes
/// next, so that the vector units work beside the tile unit: a tenth faster.
struct TileEpilogue {
  void (*piece)(const TileEpilogue& e, std::size_t i) noexcept = nullptr;  // i of tile_pieces
  const Output* out = nullptr;
  const float *product = nullptr, *gate = nullptr;  // gate: null, or a product of the same form
  std::size_t vectors = 0, panel = 0, tokens = 0, output = 0, outputs = 0;  // tokens: of all panels
};
inline constexpr std::size_t tile_pieces = tile_outputs / 2;

/// The weights of the product after this one, on their way to L2 between its tiles. Worth a tenth where few tokens share them; with many the
/// tiles need the memory's buffers themselves.
struct Ahead {
  static constexpr std::size_t most = 2 * tile_outputs;
  const char* pieces[most];  // of slab_tiles lines each, as many as there are panels of tokens go side by side
  std::size_t begin = 0, end = 0, count = 0;

  void add(const void* from, std::size_t bytes) noexcept {
    for (std::size_t at = 0; at < bytes && count < most; at += slab_tiles * 64) pieces[count++] = static_cast<const char*>(from) + at;
  }
};
inline constexpr std::size_t ahead_panels = 12;

/// product [32 outputs][vectors * 16 tokens] (+)= weight tiles times x tiles. `before`: null, or what is to be done to the product before this one.
template <std::size_t vectors>
CHIASM_NOINLINE void multiply_tiles(const char* weight, const char* x, std::size_t tiles, bool accumulate, float* product, const Ahead& ahead,
                                    const TileEpilogue* before = nullptr) noexcept {
  // g++'s tile loads do not say that they read memory.
  asm volatile("" ::: "memory");
  constexpr long row = static_cast<long>(vectors * width * sizeof(float));
  float* const lower = product + 16 * vectors * width;
  if (accumulate) {
    _tile_loadd(0, product, row);
    _tile_loadd(2, lower, row);
    if constexpr (vectors == 2) {
      _tile_loadd(1, product + width, row);
      _tile_loadd(3, lower + width, row);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const std::size_t pieces = before == nullptr ? 0 : tile_pieces, pieces_each = tiles == 0 ? 0 : (pieces + tiles - 1) / tiles;
  std::size_t piece = 0;
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    for (std::size_t i = ahead.begin; i < ahead.end; ++i) _mm_prefetch(ahead.pieces[i] + tile * 64, _MM_HINT_T1);
    _tile_loadd(4, weight, 64);
    _tile_stream_loadd(6, x, 64);  // past W in L1, which this hint leaves there: a fifth faster
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, weight + tile_bytes, 64);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (vectors == 2) {
      _tile_stream_loadd(7, x + tile_bytes, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    weight += 2 * tile_bytes;
    x += 2 * tile_bytes;
    for (const std::size_t end = smaller(piece + pieces_each, pieces); piece < end; ++piece) before->piece(*before, piece);
  }
  for (; piece < pieces; ++piece) before->piece(*before, piece);  // no depth at all
  _tile_stored(0, product, row);
  _tile_stored(2, lower, row);
  if constexpr (vectors == 2) {
    _tile_stored(1, product + width, row);
    _tile_stored(3, lower + width, row);
  }
  asm volatile("" ::: "memory");
}

/// Two rows of lanes as pairs (even, odd), rounded to bf16.
CHIASM_ALWAYS_INLINE __m512i pairs_of(V even, V odd) noexcept {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves_of(even, odd));
}

// Activations whose result is rounded to bf16: exact to 2^-13, an eighth of what the rounding takes, in a third of the time.

CHIASM_ALWAYS_INLINE V nearly_exponential(V x) noexcept {
  const V t = min(set1(127.0f), max(set1(-127.0f), mul(x, set1(1.44269504088896341f)))), n = round_even(t), r = sub(t, n);
  V p = fma(set1(0.00961812910762848f), r, set1(0.0555041086648216f));  // 2^r: Taylor's, good to 4e-5 at the ends
  p = fma(p, r, set1(0.240226506959101f));
  p = fma(p, r, set1(0.693147180559945f));
  return scale2(fma(p, r, set1(1.0f)), n);
}
CHIASM_ALWAYS_INLINE V nearly_inverse(V x) noexcept { return _mm512_rcp14_ps(x); }
CHIASM_ALWAYS_INLINE V nearly_logistic(V x) noexcept { return nearly_inverse(add(set1(1.0f), nearly_exponential(sub(zero(), x)))); }

template <Activation activation>
CHIASM_ALWAYS_INLINE V nearly_activated(V x) noexcept {
  if constexpr (activation == Activation::gelu) {  // Abramowitz and Stegun, 7.1.26
    const V z = mul(absolute(x), set1(0.70710678118654752f)), t = nearly_inverse(fma(set1(0.3275911f), z, set1(1.0f)));
    V q = fma(set1(1.061405429f), t, set1(-1.453152027f));
    q = fma(q, t, set1(1.421413741f));
    q = fma(q, t, set1(-0.284496736f));
    q = mul(fma(q, t, set1(0.254829592f)), t);
    const V tail = mul(mul(set1(0.5f), q), nearly_exponential(sub(zero(), mul(z, z))));
    return mul(x, select_lt(x, zero(), tail, sub(set1(1.0f), tail)));
  } else if constexpr (activation == Activation::gelu_tanh) {
    return mul(x, nearly_logistic(mul(mul(set1(1.5957691216057308f), x), fma(set1(0.044715f), mul(x, x), set1(1.0f)))));
  } else if constexpr (activation == Activation::quick_gelu) {
    return mul(x, nearly_logistic(mul(set1(1.702f), x)));
  } else if constexpr (activation == Activation::silu) {
    return mul(x, nearly_logistic(x));
  } else {
    return activated<activation>(x);
  }
}

/// Outputs 2 i and 2 i + 1, to their place in packed x, whose k they are. Outputs that there are not become 0.
template <Activation activation>
inline void store_pair(const TileEpilogue& e, std::size_t i) noexcept {
  const Output& out = *e.out;
  const std::size_t panels = (e.tokens + panel_tokens - 1) / panel_tokens, tiles = (out.packed_depth + tile_depth - 1) / tile_depth;
  const std::size_t tile = e.output / tile_depth, slab = tile / slab_tiles * slab_tiles, of_slab = smaller(slab_tiles, tiles - slab);
  char* const to = static_cast<char*>(out.packed) + ((slab * panels + e.panel * of_slab + tile - slab) * 2) * tile_bytes + i * 64;
  for (std::size_t v = 0; v < e.vectors; ++v) {
    V pair[2];
    for (std::size_t odd = 0; odd < 2; ++odd) {
      const std::size_t n = 2 * i + odd, at = (n * e.vectors + v) * width, k = e.output + n;
      if (n >= e.outputs) {
        pair[odd] = zero();
        continue;
      }
      const V y = add(load(e.product + at), set1(out.bias == nullptr ? 0.0f : out.bias[k]));
      pair[odd] = e.gate == nullptr ? nearly_activated<activation>(y)
                                    : mul(nearly_activated<activation>(add(load(e.gate + at), set1(out.gate_bias == nullptr ? 0.0f : out.gate_bias[k]))), y);
    }
    _mm512_store_si512(to + v * tile_bytes, pairs_of(pair[0], pair[1]));
  }
}

/// To rows of y, 16 outputs at a time.
inline void store_rows(const TileEpilogue& e, std::size_t i) noexcept {
  const std::size_t n = 2 * i;
  if (n % width == 0 && n < e.outputs)
    store_product(e.product + n * e.vectors * width, e.vectors, e.panel * panel_tokens, smaller(panel_tokens, e.tokens - e.panel * panel_tokens), e.output + n,
                  smaller(width, e.outputs - n), *e.out);
}

inline constexpr std::size_t tiles_scratch_bytes =
    slab_tiles * 2 * tile_bytes + tile_token_block * panel_tokens * tile_output_block * sizeof(float);

/// Which weights a product is about: 32 outputs from `n` on, in the block of outputs from `block` on, their k from `k` on, of which factor.
struct TilePlace {
  std::size_t block = 0, n = 0, k = 0, factor = 0;
};

/// `rows` rows of the weights there, `depth` k of each.
template <DType kind>
Ahead ahead_of(const void* weight, std::size_t stride, const TilePlace& at, std::size_t rows, std::size_t depth) noexcept {
  Ahead ahead;
  const auto* const from = static_cast<const unsigned char*>(weight);
  if constexpr (is_block_format(kind)) {
    for (std::size_t n = 0; n < rows; n += panel_outputs)
      ahead.add(from + (at.n + n) / panel_outputs * stride + panel_format(kind).unit_at(at.k / unit_depth), panel_bytes(kind, depth));
  } else {
    for (std::size_t n = 0; n < rows; ++n) ahead.add(from + (at.n + n) * stride + at.k * size_of(kind), depth * size_of(kind));
  }
  return ahead;
}

template <DType kind>
inline void tiles_run(const GemmCall& call) noexcept {
  constexpr std::size_t slab_depth = slab_tiles * tile_depth;
  const void* const weights[2] = {call.weight, call.gate};
  const std::size_t factors = call.gate == nullptr ? 1 : 2;
  char* const rows = static_cast<char*>(call.scratch);
  float* const products = reinterpret_cast<float*>(rows + slab_tiles * 2 * tile_bytes);
  const std::size_t panels = (call.tokens + panel_tokens - 1) / panel_tokens;
  const TileConfig config;
  asm volatile("" ::"r"(&config)
               : "memory");  // g++ 12 thinks that only 8 of the 64 bytes are read, and would not write the others
  _tile_loadconfig(&config);

  TileEpilogue epilogue;
  epilogue.out = &call.out;
  epilogue.tokens = call.tokens;
  if (call.out.packed == nullptr)
    epilogue.piece = store_rows;
  else
    with_activation(call.out.activation, [&](auto activation) { epilogue.piece = store_pair<decltype(activation)::value>; });
  const TileEpilogue* before = nullptr;

  for (std::size_t p0 = call.panel_begin; p0 < call.panel_end; p0 += tile_token_block) {
    const std::size_t p1 = smaller(p0 + tile_token_block, call.panel_end);
    // Where all of x stays in L2, 32 outputs go through their whole depth before the next ones come, and their products through L1.
    const bool stays = (p1 - p0) * panel_tokens * call.depth * 2 <= tile_x_bytes;
    const std::size_t block = stays ? tile_outputs : tile_output_block / factors;
    // The gate first: when the other factor is there, both are near.
    const auto next = [&](TilePlace at) {
      if (at.factor > 0) return --at.factor, at;
      at.factor = factors - 1;
      if ((at.n += tile_outputs) < smaller(at.block + block, call.output_end)) return at;
      at.n = at.block;
      if ((at.k += slab_depth) < call.depth) return at;
      at.k = 0;
      at.n = at.block += block;
      return at;
    };
    for (TilePlace at{call.output_begin, call.output_begin, 0, factors - 1}; at.block < call.output_end; at = next(at)) {
      const std::size_t depth = smaller(slab_depth, call.depth - at.k), tiles = (depth + tile_depth - 1) / tile_depth;
      const std::size_t outputs = smaller(tile_outputs, call.output_end - at.n);
      const auto* const weight = static_cast<const unsigned char*>(weights[at.factor]);
      if constexpr (is_block_format(kind))
        copy_block_tiles<kind>(weight, call.weight_stride, at.n, outputs, at.k, depth, rows);
      else
        copy_tiles<kind>(weight + at.n * call.weight_stride + at.k * size_of(kind), call.weight_stride, outputs, depth, rows);
      const TilePlace then = next(at);
      Ahead ahead;
      if (p1 - p0 <= ahead_panels && then.block < call.output_end)
        ahead = ahead_of<kind>(weights[then.factor], call.weight_stride, then, smaller(tile_outputs, call.output_end - then.n), smaller(slab_depth, call.depth - then.k));
      for (std::size_t p = p0; p < p1; ++p) {
        const std::size_t vectors = vectors_of(call.tokens, p * panel_tokens);
        const char* const x = static_cast<const char*>(call.packed) + (at.k / tile_depth * panels + p * tiles) * 2 * tile_bytes;
        float* const all = products + ((p - p0) * block * factors + at.n - at.block) * panel_tokens;
        float* const product = all + at.factor * block * panel_tokens;
        ahead.begin = ahead.count * (p - p0) / (p1 - p0);
        ahead.end = ahead.count * (p + 1 - p0) / (p1 - p0);
        if (vectors == 1)
          multiply_tiles<1>(rows, x, tiles, at.k != 0, product, ahead, before);
        else
          multiply_tiles<2>(rows, x, tiles, at.k != 0, product, ahead, before);
        before = nullptr;
        if (at.factor != 0 || at.k + slab_depth < call.depth) continue;
        epilogue.product = product;
        epilogue.gate = factors == 1 ? nullptr : all + block * panel_tokens;
        epilogue.vectors = vectors;
        epilogue.panel = p;
        epilogue.output = at.n;
        epilogue.outputs = outputs;
        before = &epilogue;
      }
    }
  }
  if (before != nullptr)
    for (std::size_t i = 0; i < tile_pieces; ++i) before->piece(*before, i);
  _tile_release();
}

template <DType kind>
inline constexpr Gemm tiles_of = {panel_tokens, tile_outputs, tile_output_block, tiles_scratch_bytes, tiles_packed_bytes, tiles_pack, tiles_run<kind>};
