// Matrix product in AMX bf16 tiles: bench/kernels/gemm_bench gemm_bf16 shows eight times the f32 product's rate. Tile A is 16 rows
// of W by 32 k, as the file has them (copied to L1, or converted: rows at a power-of-two stride would fall into one set); tile B
// is packed x, 16 pairs of k by 16 tokens; so the product is [output][token] as in gemm.inl, and goes the same way to memory.
//   packed x: [slab of slab_tiles tiles of 32 k][panel of 32 tokens][tile][16 tokens twice][pair of k][token][2]

inline constexpr std::size_t tile_depth = 32, tile_bytes = 1024, tile_outputs = 32;
inline constexpr std::size_t slab_tiles = 16;        // 512 k: a panel of W is 32 KB and stays in L1
inline constexpr std::size_t tile_token_block = 20;  // panels: with the products 1.3 MB of L2
inline constexpr std::size_t tile_output_block = 256;
inline constexpr std::size_t few_panels = 4;         // so few that all of their depth stays in L2

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
          pairs[i] = token < tokens ? _mm512_castsi512_ps(bf16_of_32(x + token * stride + k, count)) : zero();
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

/// product [32 outputs][vectors * 16 tokens] (+)= weight tiles times x tiles.
template <std::size_t vectors>
CHIASM_NOINLINE void multiply_tiles(const char* weight, const char* x, std::size_t tiles, bool accumulate,
                                    float* product) noexcept {
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
  for (std::size_t tile = 0; tile < tiles; ++tile) {
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
  }
  _tile_stored(0, product, row);
  _tile_stored(2, lower, row);
  if constexpr (vectors == 2) {
    _tile_stored(1, product + width, row);
    _tile_stored(3, lower + width, row);
  }
  asm volatile("" ::: "memory");
}

inline constexpr std::size_t tiles_scratch_bytes =
    slab_tiles * 2 * tile_bytes + tile_token_block * panel_tokens * tile_output_block * sizeof(float);

/// Rows [output, output + rows) of W from `k` on.
struct TileRows {
  std::size_t output, rows, k, depth;
};

/// What comes after the rows before `n` of outputs [n0, n1): the rest of them, their next slab at `next_k`, or the outputs behind them.
CHIASM_ALWAYS_INLINE TileRows next_rows(std::size_t n, std::size_t n0, std::size_t n1, std::size_t next_k, const GemmCall& call) noexcept {
  constexpr std::size_t slab_depth = slab_tiles * tile_depth;
  std::size_t k = next_k - slab_depth, end = n1;
  if (n >= n1) {
    k = next_k < call.depth ? next_k : 0;
    n = next_k < call.depth ? n0 : n1;
    end = next_k < call.depth ? n1 : call.output_end;
  }
  return {n, n < end ? smaller(tile_outputs, end - n) : 0, k, smaller(slab_depth, call.depth - k)};
}

template <DType kind>
inline void tiles_run(const GemmCall& call) noexcept {
  constexpr std::size_t size = kind == DType::f32 ? 4 : 2, slab_depth = slab_tiles * tile_depth;
  const auto* const weight = static_cast<const unsigned char*>(call.weight);
  char* const rows = static_cast<char*>(call.scratch);
  float* const products = reinterpret_cast<float*>(rows + slab_tiles * 2 * tile_bytes);
  const std::size_t panels = (call.tokens + panel_tokens - 1) / panel_tokens;
  const TileConfig config;
  asm volatile("" ::"r"(&config)
               : "memory");  // g++ 12 thinks that only 8 of the 64 bytes are read, and would not write the others
  _tile_loadconfig(&config);

  for (std::size_t p0 = call.panel_begin; p0 < call.panel_end; p0 += tile_token_block) {
    const std::size_t p1 = smaller(p0 + tile_token_block, call.panel_end);
    // Few tokens wait for W: its rows come whole, one stretch of memory after the other (an eighth faster).
    const std::size_t output_block = p1 - p0 <= few_panels ? tile_outputs : tile_output_block;
    for (std::size_t n0 = call.output_begin; n0 < call.output_end; n0 += output_block) {
      const std::size_t n1 = smaller(n0 + output_block, call.output_end);
      for (std::size_t k = 0; k < call.depth || k == 0; k += slab_depth) {
        const std::size_t depth = smaller(slab_depth, call.depth - k), tiles = (depth + tile_depth - 1) / tile_depth;
        for (std::size_t n = n0; n < n1; n += tile_outputs) {
          const unsigned char* const from = weight + n * call.weight_stride + k * size;
          copy_tiles<kind>(from, call.weight_stride, smaller(tile_outputs, n1 - n), depth, rows);
          // The next rows of W come to L2 while these are multiplied.
          const TileRows next = next_rows(n + tile_outputs, n0, n1, k + slab_depth, call);
          const std::size_t rows_each = (next.rows + p1 - p0 - 1) / (p1 - p0);
          const unsigned char* const ahead = weight + next.output * call.weight_stride + next.k * size;
          std::size_t row = 0;
          for (std::size_t p = p0; p < p1; ++p) {
            for (const std::size_t end = smaller(row + rows_each, next.rows); row < end; ++row)
              for (std::size_t byte = 0; byte < next.depth * size; byte += 64)
                __builtin_prefetch(ahead + row * call.weight_stride + byte, 0, 2);
            const std::size_t vectors = vectors_of(call.tokens, p * panel_tokens);
            const char* const x = static_cast<const char*>(call.packed) + (k / tile_depth * panels + p * tiles) * 2 * tile_bytes;
            float* const product = products + (p - p0) * panel_tokens * tile_output_block + (n - n0) * vectors * width;
            if (vectors == 1)
              multiply_tiles<1>(rows, x, tiles, k != 0, product);
            else
              multiply_tiles<2>(rows, x, tiles, k != 0, product);
            // At once: the stores to y drain while the next tiles are multiplied.
            if (k + slab_depth >= call.depth)
              store_product(product, vectors, p * panel_tokens, smaller(panel_tokens, call.tokens - p * panel_tokens), n,
                            smaller(tile_outputs, n1 - n), call.out);
          }
        }
      }
    }
  }
  _tile_release();
}

template <DType kind>
inline constexpr Gemm tiles_of = {panel_tokens,       tile_outputs, tiles_scratch_bytes,
                                  tiles_packed_bytes, tiles_pack,   tiles_run<kind>};
