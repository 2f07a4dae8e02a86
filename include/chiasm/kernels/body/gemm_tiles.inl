// Matrix product in AMX bf16 tiles: bench/kernels/gemm_bench gemm_bf16 shows eight times the f32 product's rate. Tile A is 16 rows
// of W by 32 k, as the file has them (copied to L1, or converted: rows at a power-of-two stride would fall into one set); tile B
// is packed x, 16 pairs of k by 16 tokens; so the product is [output][token] as in gemm.inl, and goes the same way to memory.

inline constexpr std::size_t tile_token_block = 20;  // panels: with the products 1.3 MB of L2
inline constexpr std::size_t tile_output_block = 256;
inline constexpr std::size_t tile_x_bytes = 1300 << 10;  // of x that stay in L2, beside W and the products

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

/// 32 rows of weights as tiles: the first and the second 16 rows' tile of some 32 k, `step` bytes from those of the k before.
struct WeightTiles {
  const char *upper, *lower;
  std::size_t step;
};

/// copy_tiles() from bf16 in panels, whose row n may be any row of one.
inline void copy_panel_tiles(const unsigned char* weight, std::size_t stride, std::size_t n, std::size_t rows, std::size_t k, std::size_t depth, char* to) noexcept {
  for (std::size_t r = 0; r < tile_outputs; ++r) {
    const unsigned char* const from = weight + (n + r) / panel_outputs * stride + k / tile_depth * tile_bytes + (n + r) % panel_outputs * 64;
    for (std::size_t tile = 0; tile * tile_depth < depth; ++tile)
      _mm512_store_si512(to + (2 * tile * panel_outputs + r) * 64, r < rows ? _mm512_loadu_si512(from + tile * tile_bytes) : _mm512_setzero_si512());
  }
}

/// The weights of the product after this one, on their way to L2 between its tiles. Where they are copied, it is worth a tenth if few tokens share them; with
/// many the tiles need the memory's buffers themselves. Weights that are tiles already always come this way: a sixth faster than copies of rows.
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
template <std::size_t vectors, bool fetch>
CHIASM_NOINLINE void multiply_tiles(WeightTiles weight, const char* x, std::size_t tiles, bool accumulate, float* product, const Ahead& ahead,
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
    if constexpr (fetch)
      for (std::size_t i = ahead.begin; i < ahead.end; ++i) _mm_prefetch(ahead.pieces[i] + tile * 64, _MM_HINT_T1);
    _tile_loadd(4, weight.upper, 64);
    _tile_stream_loadd(6, x, 64);  // past W in L1, which this hint leaves there: a fifth faster
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, weight.lower, 64);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (vectors == 2) {
      _tile_stream_loadd(7, x + tile_bytes, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    weight.upper += weight.step;
    weight.lower += weight.step;
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

inline constexpr std::size_t tiles_scratch_bytes =
    slab_tiles * 2 * tile_bytes + tile_token_block * panel_tokens * tile_output_block * sizeof(float);

/// Which weights a product is about: 32 outputs from `n` on, in the block of outputs from `block` on, their k from `k` on, of which factor.
struct TilePlace {
  std::size_t block = 0, n = 0, k = 0, factor = 0;
};

/// `rows` rows of the weights there, `depth` k of each.
template <DType kind, Layout layout>
Ahead ahead_of(const void* weight, std::size_t stride, const TilePlace& at, std::size_t rows, std::size_t depth) noexcept {
  Ahead ahead;
  const auto* const from = static_cast<const unsigned char*>(weight);
  if constexpr (layout == Layout::panels) {
    for (std::size_t n = 0; n < rows; n += panel_outputs)
      ahead.add(from + (at.n + n) / panel_outputs * stride + panel_format(kind).unit_at(at.k / unit_depth), panel_bytes(kind, depth));
  } else {
    for (std::size_t n = 0; n < rows; ++n) ahead.add(from + (at.n + n) * stride + at.k * size_of(kind), depth * size_of(kind));
  }
  return ahead;
}

template <DType kind, Layout layout>
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
  epilogue.piece = tile_store_of(call.out);
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
      WeightTiles w = {rows, rows + tile_bytes, 2 * tile_bytes};
      if constexpr (kind == DType::bf16 && layout == Layout::panels) {
        const unsigned char* const tiles_there = weight + at.n / panel_outputs * call.weight_stride + at.k / tile_depth * tile_bytes;
        if (at.n % panel_outputs == 0 && outputs > panel_outputs)
          w = {reinterpret_cast<const char*>(tiles_there), reinterpret_cast<const char*>(tiles_there + call.weight_stride), tile_bytes};
        else
          copy_panel_tiles(weight, call.weight_stride, at.n, outputs, at.k, depth, rows);
      } else if constexpr (is_block_format(kind))
        copy_block_tiles<kind>(weight, call.weight_stride, at.n, outputs, at.k, depth, rows);
      else
        copy_tiles<kind>(weight + at.n * call.weight_stride + at.k * size_of(kind), call.weight_stride, outputs, depth, rows);
      const TilePlace then = next(at);
      Ahead ahead;
      if ((p1 - p0 <= ahead_panels || (kind == DType::bf16 && layout == Layout::panels)) && then.block < call.output_end)
        ahead = ahead_of<kind, layout>(weights[then.factor], call.weight_stride, then, smaller(tile_outputs, call.output_end - then.n), smaller(slab_depth, call.depth - then.k));
      for (std::size_t p = p0; p < p1; ++p) {
        const std::size_t vectors = vectors_of(call.tokens, p * panel_tokens);
        const char* const x = static_cast<const char*>(call.packed) + (at.k / tile_depth * panels + p * tiles) * 2 * tile_bytes;
        float* const all = products + ((p - p0) * block * factors + at.n - at.block) * panel_tokens;
        float* const product = all + at.factor * block * panel_tokens;
        ahead.begin = ahead.count * (p - p0) / (p1 - p0);
        ahead.end = ahead.count * (p + 1 - p0) / (p1 - p0);
        const auto multiply = ahead.count == 0 ? (vectors == 1 ? multiply_tiles<1, false> : multiply_tiles<2, false>)
                                               : (vectors == 1 ? multiply_tiles<1, true> : multiply_tiles<2, true>);
        multiply(w, x, tiles, at.k != 0, product, ahead, before);
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

template <DType kind, Layout layout = is_block_format(kind) ? Layout::panels : Layout::rows>
inline constexpr Gemm tiles_of = {panel_tokens, tile_outputs, tile_output_block, tiles_scratch_bytes, tiles_packed_bytes, tiles_pack, tiles_run<kind, layout>, nullptr, nullptr, true};
