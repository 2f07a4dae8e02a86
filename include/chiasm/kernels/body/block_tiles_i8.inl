// The product of blocks_i8.inl in AMX int8 tiles, for 9 to 16 tokens: 1.5 times as fast as the vector units, which up to 8 tokens are as fast (quant_bench).
// Tile A is the tokens' 32 bytes of a unit, tile B the unit's codes, which lie in a panel in just the order of a tile. The integer sums are those of blocks_i8.inl
// and are scaled and added in the same way: the results are equal to the bit. While the tiles sum one unit, the sums of the unit before are scaled.

static_assert(block_streams == 4);
inline constexpr std::size_t tile_tokens = 16, least_tile_tokens = 9;

template <DType kind>
CHIASM_NOINLINE void multiply_blocks_tiles(const unsigned char* weight, std::size_t panels, std::size_t stride, std::size_t depth, const signed char* x,
                                           std::size_t tokens, float* sums) noexcept {
  constexpr PanelFormat format = panel_format(kind);
  constexpr bool bytes = kind == DType::q8_0;  // its codes are multiplied as they lie in the panel
  constexpr float offset = avx512_vnni::has_bytes<kind> ? 128.0f : static_cast<float>(code_offset(kind));
  const std::size_t units = (depth + unit_depth - 1) / unit_depth, row = quantized_bytes(1, depth);
  for (std::size_t i = 0; i < panels * tile_tokens * panel_outputs; i += width) store(sums + i, zero());
  alignas(64) unsigned char codes[block_streams][bytes ? 1 : 8 * 64];
  alignas(64) std::int32_t whole[2][block_streams][tile_tokens][panel_outputs];  // sums of this unit and of the one before
  for (std::size_t u = 0; u <= units; ++u) {
    if (u < units) {
      const signed char* const of_x = x + u * unit_depth;
      auto& to = whole[u % 2];
      const unsigned char* from[block_streams] = {};
      for (std::size_t p = 0; p < panels; ++p) {
        const unsigned char* const unit = weight + p * stride + format.unit_at(u);
        prefetch_unit<kind>(unit, u);
        from[p] = unit + format.scales;
        if constexpr (!bytes) {
          const auto put = [&](std::size_t g, U c) { _mm512_store_si512(codes[p] + 64 * g, c); };
          put(0, avx512_vnni::factors_of<kind, 0>(from[p], 0));
          put(1, avx512_vnni::factors_of<kind, 1>(from[p], 0));
          put(2, avx512_vnni::factors_of<kind, 2>(from[p], 0));
          put(3, avx512_vnni::factors_of<kind, 3>(from[p], 0));
          put(4, avx512_vnni::factors_of<kind, 4>(from[p], 0));
          put(5, avx512_vnni::factors_of<kind, 5>(from[p], 0));
          put(6, avx512_vnni::factors_of<kind, 6>(from[p], 0));
          put(7, avx512_vnni::factors_of<kind, 7>(from[p], 0));
          from[p] = codes[p];
        }
      }
      asm volatile("" ::: "memory");  // g++'s tile loads do not say that they read memory
      _tile_loadd(4, of_x, static_cast<long>(row));
      _tile_loadd(5, from[0], 64);
      _tile_zero(0);
      _tile_dpbsud(0, 4, 5);
      if (panels == block_streams) {  // each sums into a tile of its own: a tile's result takes long to come
        _tile_loadd(6, from[1], 64);
        _tile_zero(1);
        _tile_dpbsud(1, 4, 6);
        _tile_loadd(7, from[2], 64);
        _tile_zero(2);
        _tile_dpbsud(2, 4, 7);
        _tile_loadd(5, from[3], 64);
        _tile_zero(3);
        _tile_dpbsud(3, 4, 5);
        _tile_stored(1, to[1], 64);
        _tile_stored(2, to[2], 64);
        _tile_stored(3, to[3], 64);
      }
      _tile_stored(0, to[0], 64);
      asm volatile("" ::: "memory");
    }
    if (u == 0) continue;
    const std::size_t before = u - 1;
    for (std::size_t p = 0; p < panels; ++p) {
      const unsigned char* const at = weight + p * stride;
      const UnitScales s = scales_of<kind>(at + format.block_at(before), at + format.unit_at(before), 0);
      float* to = sums + p * tile_tokens * panel_outputs;
      for (std::size_t t = 0; t < tokens; ++t, to += panel_outputs) {
        const float* const scale = reinterpret_cast<const float*>(x + t * row + units * unit_depth) + 4 * before;
        V sum = load(to);
        V a = mul(to_floats(load_codes(whole[before % 2][p][t])), set1(scale[0]));
        if constexpr (offset != 0) a = fnma(set1(scale[3]), set1(offset), a);
        sum = fma(a, s.scale[0], sum);
        if constexpr (has_minimum(kind)) sum = fma(s.minimum[0], set1(scale[3]), sum);
        store(to, sum);
      }
    }
  }
}

template <DType kind>
inline void block_gemv_tiles(const QuantizedCall& call) noexcept {
  if (call.tokens < least_tile_tokens || has_half_scales(kind)) return avx512_vnni::block_gemv_i8<kind>(call);
  const auto* const weight = static_cast<const unsigned char*>(call.weight);
  const auto* const x = static_cast<const signed char*>(call.quantized);
  for (std::size_t t = 0; t < call.tokens; t += tile_tokens) {
    const std::size_t tokens = smaller(tile_tokens, call.tokens - t);
    TileConfig config;
    for (std::size_t i = 0; i < 5; ++i) config.rows[i] = static_cast<unsigned char>(tokens);
    config.row_bytes[4] = unit_depth;
    for (std::size_t i = 5; i < 8; ++i) config.rows[i] = unit_depth / 4;
    asm volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
    each_group(call.output_begin, call.output_end, [&](std::size_t first, std::size_t panels, std::size_t apart) {
      alignas(64) float sums[block_streams * tile_tokens * panel_outputs];
      multiply_blocks_tiles<kind>(weight + first * call.weight_stride, panels, apart * call.weight_stride, call.depth, x + t * quantized_bytes(1, call.depth), tokens,
                                  sums);
      for (std::size_t p = 0; p < panels; ++p)
        store_sums(sums + p * tile_tokens * panel_outputs, 1, first + p * apart, 0, t, tokens, call.output_begin, call.output_end, call.out);
    });
  }
  _tile_release();
}
