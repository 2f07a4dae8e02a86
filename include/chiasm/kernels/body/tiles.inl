// What all bodies for AMX tiles share: shapes, rounding to bf16, and the packed form of x, whose tiles are B: 16 pairs of k by 16 tokens.
//   packed x: [slab of slab_tiles tiles][panel of 32 tokens][tile of 32 k][two groups of 16 tokens][pair of k][token][2]

inline constexpr std::size_t tile_depth = 32, tile_bytes = 1024, tile_outputs = 32;
inline constexpr std::size_t slab_tiles = 16;        // 512 k: a panel of W is 32 KB and stays in L1

static_assert(panel_tokens == 32 && width == 16 && panel_vectors == 2);

struct alignas(64) TileConfig {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

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

inline std::size_t tiles_packed_bytes(std::size_t tokens, std::size_t depth) noexcept {
  return round_up(tokens, panel_tokens) * round_up(depth, tile_depth) * 2;
}

/// Where packed x has k and k + 1, k even, of the 16 tokens from `token` on: a line of 64 bytes.
CHIASM_ALWAYS_INLINE char* packed_line(void* packed, std::size_t tokens, std::size_t depth, std::size_t k, std::size_t token) noexcept {
  const std::size_t panels = (tokens + panel_tokens - 1) / panel_tokens, tiles = (depth + tile_depth - 1) / tile_depth;
  const std::size_t tile = k / tile_depth, slab = tile / slab_tiles * slab_tiles, of_slab = smaller(slab_tiles, tiles - slab);
  return static_cast<char*>(packed) + ((slab * panels + token / panel_tokens * of_slab + tile - slab) * 2 + token % panel_tokens / width) * tile_bytes +
         k % tile_depth / 2 * 64;
}
