// Attention of attention.inl with both products in AMX bf16 tiles: bench/kernels/attention_bench. Keys, and values turned on
// their side, take the place of the weights in gemm_tiles.inl; queries, and the exponentials rounded to bf16, that of x. The
// softmax stays f32.

inline constexpr std::size_t tile_keys = 128;  // a block of keys
inline constexpr std::size_t tile_attention_panels = 20;
inline constexpr std::size_t tile_attention_rows = tile_attention_panels * panel_tokens;
static_assert(tile_keys % tile_depth == 0 && tile_depth == tile_outputs);

struct TileAttentionScratch {  // offsets in bytes
  std::size_t keys, values, queries, weights, scores, mask, sums, total, deep,
      wide;  // deep, wide: head_dim and v_dim in tiles of 32
};
CHIASM_ALWAYS_INLINE TileAttentionScratch tile_attention_layout(std::size_t head_dim, std::size_t v_dim) noexcept {
  TileAttentionScratch s{};
  s.deep = (head_dim + tile_depth - 1) / tile_depth;
  s.wide = (v_dim + tile_outputs - 1) / tile_outputs;
  s.values = s.keys + s.deep * tile_keys / 16 * tile_bytes;
  s.queries = s.values + s.wide * tile_keys / 16 * tile_bytes;
  s.weights = s.queries + tile_attention_panels * s.deep * 2 * tile_bytes;
  s.scores = s.weights + tile_keys / 16 * tile_bytes;
  s.mask = s.scores + tile_keys * panel_tokens * sizeof(float);
  s.sums = s.mask + tile_keys * panel_tokens * sizeof(float);
  s.total = s.sums + tile_attention_panels * s.wide * tile_outputs * panel_tokens * sizeof(float);
  return s;
}
inline std::size_t tile_attention_scratch_bytes(std::size_t head_dim, std::size_t v_dim) noexcept {
  const std::size_t tiles = tile_attention_layout(head_dim, v_dim).total, rows = attention_scratch_bytes(head_dim, v_dim);
  return tiles > rows ? tiles : rows;
}

/// Rows of `depth` floats, times `factor`, to tiles [tile][vectors of 2][pair][row][2].
CHIASM_NOINLINE void pack_tile_rows(const float* const* rows, std::size_t vectors, std::size_t depth, float factor,
                                    char* to) noexcept {
  for (std::size_t k = 0; k < depth; k += tile_depth, to += 2 * tile_bytes)
    for (std::size_t v = 0; v < vectors; ++v) {
      V pairs[width];
      const std::size_t count = smaller(tile_depth, depth - k);
      for (std::size_t i = 0; i < width; ++i) {
        const float* const from = rows[v * width + i] + k;
        const V low = count >= width ? load(from) : load_n(from, count);
        const V high = count >= tile_depth ? load(from + width) : count > width ? load_n(from + width, count - width) : zero();
        pairs[i] = _mm512_castsi512_ps(halves_of(mul(low, set1(factor)), mul(high, set1(factor))));
      }
      transpose(pairs);
      for (std::size_t i = 0; i < width; ++i) _mm512_store_ps(to + v * tile_bytes + i * 64, pairs[i]);
    }
}

/// `keys` values, v_row apart, turned on their side: [32 of v_dim][32 keys] tiles in the order of copy_tiles, what is missing 0.
CHIASM_NOINLINE void turn_values(const float* v, std::size_t v_row, std::size_t keys, std::size_t v_dim, char* to) noexcept {
  for (std::size_t d = 0; d < v_dim; d += width) {
    // Rows d to d + 15 are half a tile; the tiles of a group of 32 lie one after the other, by keys.
    char* const half = to + d / tile_outputs * (tile_keys / 16 * tile_bytes) + d % tile_outputs / width * tile_bytes;
    const std::size_t count = smaller(width, v_dim - d);
    for (std::size_t key = 0; key < keys; key += tile_depth) {
      V low[width], high[width];
      for (std::size_t i = 0; i < width; ++i) {
        low[i] = key + i < keys ? load_some(v + (key + i) * v_row + d, count) : zero();
        high[i] = key + width + i < keys ? load_some(v + (key + width + i) * v_row + d, count) : zero();
      }
      transpose(low);
      transpose(high);
      for (std::size_t i = 0; i < width; ++i)
        _mm512_store_si512(half + key / tile_depth * 2 * tile_bytes + i * 64, halves_of(low[i], high[i]));
    }
  }
}

/// Exponentials [key][vectors * width] to tiles [32 keys][2][pair of keys][row][2].
CHIASM_NOINLINE void pack_weights(const float* weights, std::size_t vectors, std::size_t keys, char* to) noexcept {
  const std::size_t stride = vectors * width;
  for (std::size_t key = 0; key < round_up(keys, tile_depth); key += 2)
    for (std::size_t v = 0; v < vectors; ++v) {
      const float* const from = weights + key * stride + v * width;
      const V even = key < keys ? load(from) : zero(), odd = key + 1 < keys ? load(from + stride) : zero();
      const __m512i halves = halves_of(even, odd);
      const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves)),
                    high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
      _mm512_store_si512(to + key / tile_depth * 2 * tile_bytes + v * tile_bytes + key % tile_depth / 2 * 64,
                         _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

CHIASM_ALWAYS_INLINE void multiply_tiles_by(std::size_t vectors, const char* weight, const char* x, std::size_t tiles,
                                            bool accumulate, float* product) noexcept {
  if (vectors == 1)
    multiply_tiles<1>(weight, x, tiles, accumulate, product);
  else
    multiply_tiles<2>(weight, x, tiles, accumulate, product);
}

inline void attend_tiles(const AttentionCall& call) noexcept {
  if (call.row_begin >= call.row_end) return;
  const std::size_t group = call.heads / call.kv_heads, rows = call.row_end - call.row_begin;
  if (call.queries * group <= few_rows) return attend_rows(call);
  const TileAttentionScratch at = tile_attention_layout(call.head_dim, call.v_dim);
  char* const scratch = static_cast<char*>(call.scratch);
  float* const scores = reinterpret_cast<float*>(scratch + at.scores);
  float* const mask = reinterpret_cast<float*>(scratch + at.mask);
  const std::size_t panels = (rows + panel_tokens - 1) / panel_tokens, sums_size = at.wide * tile_outputs * panel_tokens;
  float* const all_sums = reinterpret_cast<float*>(scratch + at.sums);
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");  // as in tiles_run
  _tile_loadconfig(&config);

  PanelState states[tile_attention_panels];
  for (std::size_t p = 0; p < panels; ++p) {
    const std::size_t first = call.row_begin + p * panel_tokens;
    const float* queries[panel_tokens];
    start_panel(call, group, first, queries, states[p]);
    pack_tile_rows(queries, vectors_of(call.row_end, first), call.head_dim, call.scale,
                   scratch + at.queries + p * at.deep * 2 * tile_bytes);
    for (std::size_t i = 0; i < sums_size; ++i) all_sums[p * sums_size + i] = 0.0f;
  }
  // Rows of v_dim's last tile that turn_values does not write.
  for (std::size_t i = 0; i < at.wide * tile_keys / 16 * tile_bytes; i += 64)
    _mm512_store_si512(scratch + at.values + i, _mm512_setzero_si512());

  const float* const k = call.k + call.kv_head * call.k_head;
  const float* const v = call.v + call.kv_head * call.v_head;
  const KeyRange range = visible_keys(call, group, call.row_begin, rows);
  for (std::size_t key = range.begin; key < range.end; key += tile_keys) {
    const std::size_t keys = smaller(tile_keys, range.end - key);
    for (std::size_t j = 0; j < keys; j += tile_outputs)
      copy_tiles<DType::f32>(reinterpret_cast<const unsigned char*>(k + (key + j) * call.k_row), call.k_row * sizeof(float),
                             smaller(tile_outputs, keys - j), call.head_dim, scratch + at.keys + j / 16 * at.deep * tile_bytes);
    turn_values(v + key * call.v_row, call.v_row, keys, call.v_dim, scratch + at.values);

    for (std::size_t p = 0; p < panels; ++p) {
      const std::size_t first = call.row_begin + p * panel_tokens, vectors = vectors_of(call.row_end, first);
      const std::size_t count = smaller(panel_tokens, call.row_end - first);
      const KeyRange own = visible_keys(call, group, first, count);
      if (key >= own.end || key + keys <= own.begin) continue;
      for (std::size_t j = 0; j < keys; j += tile_outputs)
        multiply_tiles_by(vectors, scratch + at.keys + j / 16 * at.deep * tile_bytes,
                          scratch + at.queries + p * at.deep * 2 * tile_bytes, at.deep, false, scores + j * vectors * width);
      soften(vectors, call, group, first, count, key, keys, scores, mask, states[p]);
      pack_weights(scores, vectors, keys, scratch + at.weights);
      float* const sums = all_sums + p * sums_size;
      for (std::size_t d = 0; d < at.wide * tile_outputs; ++d)
        for (std::size_t lane = 0; lane < vectors; ++lane) {
          float* const sum = sums + (d * vectors + lane) * width;
          store(sum, mul(load(sum), load(states[p].decay + lane * width)));
        }
      for (std::size_t d = 0; d < at.wide; ++d)
        multiply_tiles_by(vectors, scratch + at.values + d * (tile_keys / 16 * tile_bytes), scratch + at.weights,
                          (keys + tile_depth - 1) / tile_depth, true, sums + d * tile_outputs * vectors * width);
    }
  }
  _tile_release();

  for (std::size_t p = 0; p < panels; ++p) {
    const std::size_t first = call.row_begin + p * panel_tokens;
    finish_panel(call, group, first, vectors_of(call.row_end, first), all_sums + p * sums_size, states[p]);
  }
}
