// Attention with both products in AMX bf16 tiles: bench/kernels/attention_bench. A tile of rows is queries, or the exponentials rounded to bf16, as they
// lie; a tile of columns is keys or values as the blocks of kv_layout.hpp have them, so that nothing is turned round but keys that come as f32. Lanes of
// the softmax are keys. Exponentials are half of all the work: while those of one block of keys are computed, the tiles multiply the values of the block
// before and the keys of the block behind it, a few tiles after every few rows.

inline constexpr std::size_t tile_keys = 128;  // a block of keys
inline constexpr std::size_t tile_attention_panels = 20;
inline constexpr std::size_t tile_attention_rows = tile_attention_panels * panel_tokens;
inline constexpr std::size_t tile_key_bytes = std::size_t{1} << 19;  // of keys and values that all panels read before the next ones: they stay in L2
inline constexpr std::size_t score_row = tile_keys + 16;         // 9 lines apart
// Exponentials of scores up to this size are taken as they are, and sums are scaled where a row's scores grow by more: f32 and bf16 have room for 2^80 of
// 2^20 keys and values of 2^20.
inline constexpr float shift_slack = 80.0f;
static_assert(tile_keys % kv_block == 0 && tile_depth == kv_block);

struct TileAttentionScratch {  // offsets in bytes
  std::size_t keys, values, queries, scores, shifts, totals, sums, total;
  std::size_t deep, wide;    // head_dim in tiles of 32, v_dim in tiles of 16
  std::size_t range;         // keys that all panels read before the next ones
  std::size_t panel_shifts, panel_totals, panel_sums;  // bytes of a panel
};
CHIASM_ALWAYS_INLINE TileAttentionScratch tile_attention_layout(std::size_t head_dim, std::size_t v_dim) noexcept {
  TileAttentionScratch s{};
  s.deep = (head_dim + tile_depth - 1) / tile_depth;
  s.wide = (v_dim + width - 1) / width;
  const std::size_t block = (2 * s.deep + s.wide) * tile_bytes;  // bytes of kv_block keys and values
  s.range = largest_of(tile_key_bytes / block * kv_block / tile_keys, 1) * tile_keys;
  s.panel_shifts = panel_tokens * sizeof(float);
  s.panel_totals = panel_tokens * width * sizeof(float);
  s.panel_sums = panel_tokens * s.wide * width * sizeof(float);
  s.values = s.range / kv_block * 2 * s.deep * tile_bytes;
  s.queries = s.values + s.range / kv_block * s.wide * tile_bytes;
  s.scores = s.queries + 2 * 2 * s.deep * tile_bytes;
  s.shifts = s.scores + 2 * panel_tokens * score_row * sizeof(float);
  s.totals = s.shifts + tile_attention_panels * s.panel_shifts;
  s.sums = s.totals + tile_attention_panels * s.panel_totals;
  s.total = s.sums + tile_attention_panels * s.panel_sums;
  return s;
}
inline std::size_t tile_attention_scratch_bytes(std::size_t head_dim, std::size_t v_dim) noexcept {
  const std::size_t tiles = tile_attention_layout(head_dim, v_dim).total, rows = attention_scratch_bytes(head_dim, v_dim);
  return tiles > rows ? tiles : rows;
}

/// 2^x, to 8e-5: a 25th of what rounding to bf16 does. 0 of -inf.
CHIASM_ALWAYS_INLINE V short_exponential2(V x) noexcept {
  const V f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // x - floor(x)
  V p = fma(set1(0.07802452147006989f), f, set1(0.22606715559959412f));
  p = fma(p, f, set1(0.6958335638046265f));
  p = fma(p, f, set1(0.9999251961708069f));
  return _mm512_scalef_ps(p, x);  // by 2^floor(x)
}

/// Two positions' 16 bf16 each, one behind the other, to pairs.
CHIASM_ALWAYS_INLINE __m512i pairs_of(__m512i halves) noexcept {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

/// `keys` rows of keys, `stride` floats apart, to tiles of columns; 16 keys at a time, what is missing 0.
CHIASM_NOINLINE void pack_key_tiles(const float* k, std::size_t stride, std::size_t keys, std::size_t head_dim, unsigned char* to) noexcept {
  for (std::size_t key = 0; key < keys; key += width) {
    const std::size_t rows = smaller(width, keys - key);
    for (std::size_t d = 0; d < head_dim; d += tile_depth, to += tile_bytes) {
      const std::size_t count = smaller(tile_depth, head_dim - d);
      V pairs[width];
      for (std::size_t i = 0; i < width; ++i) pairs[i] = i < rows ? _mm512_castsi512_ps(bf16_of_32(k + (key + i) * stride + d, count)) : zero();
      transpose(pairs);
      for (std::size_t i = 0; i < width; ++i) _mm512_store_ps(to + i * 64, pairs[i]);
    }
  }
}
/// The same of values, 32 at a time.
CHIASM_NOINLINE void pack_value_tiles(const float* v, std::size_t stride, std::size_t keys, std::size_t v_dim, unsigned char* to) noexcept {
  for (std::size_t key = 0; key < keys; key += kv_block)
    for (std::size_t d = 0; d < v_dim; d += width) {
      const std::size_t count = smaller(width, v_dim - d);
      for (std::size_t i = 0; i < kv_block; i += 2, to += 64) {
        const float* const from = v + (key + i) * stride + d;
        const V even = key + i < keys ? load_some(from, count) : zero(), odd = key + i + 1 < keys ? load_some(from + stride, count) : zero();
        _mm512_store_si512(to, pairs_of(halves_of(even, odd)));
      }
    }
}

/// Blocks of keys in eight bits, as those in bf16 lie: two lines of 16 positions become one of pairs.
CHIASM_NOINLINE void widen_keys(const unsigned char* from, std::size_t blocks, std::size_t head_dim, unsigned char* to) noexcept {
  const std::size_t lines = round_up(head_dim, 2), deep = round_up(head_dim, tile_depth);
  for (std::size_t b = 0; b < blocks; ++b, from += kv_key_bytes(KvKind::q8, head_dim))
    for (std::size_t half = 0; half < 2; ++half) {
      const V scale = load(reinterpret_cast<const float*>(from) + half * width);
      const unsigned char* line = from + kv_block * sizeof(float) + half * lines * width;
      std::size_t d = 0;
      for (; d < lines; d += 2, line += 2 * width, to += 64)
        _mm512_store_si512(to, pairs_of(halves_of(mul(scale, load_i8(line)), mul(scale, load_i8(line + width)))));
      for (; d < deep; d += 2, to += 64) _mm512_store_si512(to, _mm512_setzero_si512());
    }
}
/// The same of values, whose lines are of one position each.
CHIASM_NOINLINE void widen_values(const unsigned char* from, std::size_t blocks, std::size_t v_dim, unsigned char* to) noexcept {
  for (std::size_t b = 0; b < blocks; ++b, from += kv_value_bytes(KvKind::q8, v_dim)) {
    const auto* const scales = reinterpret_cast<const float*>(from);
    const unsigned char* line = from + kv_block * sizeof(float);
    for (std::size_t d = 0; d < v_dim; d += width)
      for (std::size_t in = 0; in < kv_block; in += 2, line += 2 * width, to += 64)
        _mm512_store_si512(to, pairs_of(halves_of(mul(set1(scales[in]), load_i8(line)), mul(set1(scales[in + 1]), load_i8(line + width)))));
  }
}

/// write_kv<true>, whole groups of 16 positions at once.
inline void write_key_tiles(const KvRows& c) noexcept {
  if (c.kind != KvKind::bf16) return write_kv<true>(c);
  KvRows part = c;
  const std::size_t end = c.first + c.count, begin = smaller(round_up(c.first, kv_block), end), last = largest_of(begin, end / width * width);
  part.count = begin - c.first;
  write_kv<true>(part);
  // Blocks that are not filled are begun as write_kv begins them, at their first position.
  for (std::size_t at = begin; at < last; at += width) {
    unsigned char* const block = c.blocks + at / kv_block * kv_key_bytes(c.kind, c.width);
    const std::size_t half = kv_key_bytes(c.kind, c.width) / 2;
    if (at % kv_block == 0 && at + kv_block > last) __builtin_memset(block + half, 0, half);
    pack_key_tiles(c.from + (at - c.first) * c.stride, c.stride, width, c.width, block + at % kv_block / width * half);
  }
  part.first = last;
  part.from = c.from + (last - c.first) * c.stride;
  part.count = end - last;
  write_kv<true>(part);
}
inline void write_value_tiles(const KvRows& c) noexcept {
  if (c.kind != KvKind::bf16) return write_kv<false>(c);
  KvRows part = c;
  const std::size_t end = c.first + c.count, begin = smaller(round_up(c.first, kv_block), end), last = largest_of(begin, end / kv_block * kv_block);
  part.count = begin - c.first;
  write_kv<false>(part);
  pack_value_tiles(c.from + (begin - c.first) * c.stride, c.stride, last - begin, c.width, c.blocks + begin / kv_block * kv_value_bytes(c.kind, c.width));
  part.first = last;
  part.from = c.from + (last - c.first) * c.stride;
  part.count = end - last;
  write_kv<false>(part);
}

/// Rows of a product's first factor: tile k at a + k * a_next, its rows a_row bytes apart; those of the lower 16 rows a_lower behind.
struct TileRowsOf {
  const char* a;
  std::size_t a_row, a_next, a_lower;
};

/// One or two columns of 16 of a product of 16 or 32 rows: c (+)= a b, `depth` tiles deep. Calls `meanwhile` while the tiles multiply. b passes L1 by, as its
/// loads ask: scores, sums and queries stay there, where keys and values that were read through it made everything come from L2 (an eighth slower).
template <bool lower, bool right, class F>
CHIASM_ALWAYS_INLINE void multiply_columns(const TileRowsOf& rows, const char* b, std::size_t b_next, std::size_t b_column, std::size_t depth, bool accumulate, char* c,
                                           std::size_t c_row, F& meanwhile) noexcept {
  const long a_row = static_cast<long>(rows.a_row), row = static_cast<long>(c_row);
  char* const below = c + 16 * c_row;
  asm volatile("" ::: "memory");  // g++'s tile loads do not say that they read memory
  if (accumulate) {
    _tile_loadd(0, c, row);
    if constexpr (right) _tile_loadd(1, c + 64, row);
    if constexpr (lower) _tile_loadd(2, below, row);
    if constexpr (lower && right) _tile_loadd(3, below + 64, row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char* a = rows.a;
  for (std::size_t k = 0; k < depth; ++k, a += rows.a_next, b += b_next) {
    _tile_stream_loadd(6, b, 64);
    _tile_loadd(4, a, a_row);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (right) {
      _tile_stream_loadd(7, b + b_column, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    meanwhile();
    if constexpr (lower) {
      _tile_loadd(5, a + rows.a_lower, a_row);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (right) _tile_dpbf16ps(3, 5, 7);
      meanwhile();
    }
  }
  _tile_stored(0, c, row);
  if constexpr (right) _tile_stored(1, c + 64, row);
  if constexpr (lower) _tile_stored(2, below, row);
  if constexpr (lower && right) _tile_stored(3, below + 64, row);
  asm volatile("" ::: "memory");
}

/// Each of 16 vectors folded into one number by `f`, in their order.
template <V (*f)(V, V)>
CHIASM_ALWAYS_INLINE V fold_each(V (&m)[width]) noexcept {
  V quads[4];
  CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
    const V low = f(_mm512_unpacklo_ps(m[4 * i], m[4 * i + 1]), _mm512_unpackhi_ps(m[4 * i], m[4 * i + 1]));
    const V high = f(_mm512_unpacklo_ps(m[4 * i + 2], m[4 * i + 3]), _mm512_unpackhi_ps(m[4 * i + 2], m[4 * i + 3]));
    quads[i] = f(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
  }
  const V low = f(_mm512_shuffle_f32x4(quads[0], quads[1], 0x88), _mm512_shuffle_f32x4(quads[0], quads[1], 0xdd));
  const V high = f(_mm512_shuffle_f32x4(quads[2], quads[3], 0x88), _mm512_shuffle_f32x4(quads[2], quads[3], 0xdd));
  return f(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

/// sums + the squares of pairs of bf16.
CHIASM_ALWAYS_INLINE V add_squares(V sums, const char* pairs) noexcept {
  const auto p = reinterpret_cast<__m512bh>(_mm512_load_si512(pairs));
  return _mm512_dpbf16_ps(sums, p, p);
}

/// A row's exponentials, in the place of its scores as bf16.
CHIASM_ALWAYS_INLINE void soften_scores(float* scores, std::size_t keys, float shift, bool first, float* total) noexcept {
  const V by = set1(shift == minus_infinity ? 0.0f : shift);
  char* const to = reinterpret_cast<char*>(scores);
  V even = first ? zero() : load(total), odd = zero();
  const auto two = [&](std::size_t j) noexcept {
    const V low = short_exponential2(sub(load(scores + j), by)), high = short_exponential2(sub(load(scores + j + width), by));
    even = add(even, low);
    odd = add(odd, high);
    _mm512_store_si512(to + 2 * j, halves_of(low, high));
  };
  if (keys == tile_keys) {
    CHIASM_UNROLL for (std::size_t j = 0; j < tile_keys; j += 2 * width) two(j);
  } else {
    for (std::size_t j = 0; j < keys; j += 2 * width) two(j);
  }
  store(total, add(even, odd));
}

/// The exponentials of an item, a few rows at each turn of the tiles.
struct Exponentials {
  float* row;
  const float* shift;
  float* total;
  std::size_t keys, rows, done, due, each_turn;  // the last two in 2^-16 rows
  bool first;

  CHIASM_ALWAYS_INLINE void rows_until(std::size_t end) noexcept {
    for (; done < end; ++done, row += score_row, ++shift, total += width) soften_scores(row, keys, *shift, first, total);
    asm volatile("" ::: "memory");
  }
  CHIASM_ALWAYS_INLINE void operator()() noexcept {
    due += each_turn;
    rows_until(smaller(due >> 16, rows));
  }
};
struct Nothing {
  CHIASM_ALWAYS_INLINE void operator()() noexcept {}
};

/// A panel of 32 rows and a block of keys.
struct TileItem {
  std::size_t panel, key, keys;
};

class TileAttention {
 public:
  CHIASM_ALWAYS_INLINE explicit TileAttention(const AttentionCall& call) noexcept
      : call_(call),
        at_(tile_attention_layout(call.head_dim, call.v_dim)),
        scratch_(static_cast<char*>(call.scratch)),
        group_(call.heads / call.kv_heads),
        panels_((call.row_end - call.row_begin + panel_tokens - 1) / panel_tokens),
        packed_panel_{panels_, panels_} {}

  void run() noexcept {
    const TileConfig config;
    asm volatile("" ::"r"(&config) : "memory");  // as in tiles_run
    _tile_loadconfig(&config);
    for (std::size_t p = 0; p < panels_; ++p)
      for (std::size_t r = 0; r < panel_tokens; ++r) shifts(p)[r] = minus_infinity;
    const KeyRange all = visible_keys(call_, group_, call_.row_begin, call_.row_end - call_.row_begin);
    for (std::size_t begin = all.begin / kv_block * kv_block; begin < all.end; begin += at_.range) {
      begin_ = begin;
      end_ = smaller(begin + at_.range, all.end);
      take_keys();
      small_panel_ = panels_;
      if (panels_ >= few_panels) largest_key_ = largest_key();
      attend();
    }
    _tile_release();
    if (call_.packed != nullptr) return finish_packed();
    for (std::size_t p = 0; p < panels_; ++p) finish(p);
  }

 private:
  float* shifts(std::size_t panel) const noexcept { return reinterpret_cast<float*>(scratch_ + at_.shifts + panel * at_.panel_shifts); }
  float* totals(std::size_t panel) const noexcept { return reinterpret_cast<float*>(scratch_ + at_.totals + panel * at_.panel_totals); }
  char* sums(std::size_t panel) const noexcept { return scratch_ + at_.sums + panel * at_.panel_sums; }
  float* scores(std::size_t which) const noexcept { return reinterpret_cast<float*>(scratch_ + at_.scores) + which * panel_tokens * score_row; }
  std::size_t first_row(std::size_t panel) const noexcept { return call_.row_begin + panel * panel_tokens; }
  std::size_t rows(std::size_t panel) const noexcept { return smaller(panel_tokens, call_.row_end - first_row(panel)); }

  /// Keys and values of [begin_, end_) as tiles.
  CHIASM_NOINLINE void take_keys() noexcept {
    const std::size_t count = end_ - begin_, blocks = (count + kv_block - 1) / kv_block;
    if (call_.kind == KvKind::bf16) {
      keys_ = static_cast<const char*>(call_.k) + call_.kv_head * call_.k_head + begin_ / kv_block * (2 * at_.deep * tile_bytes);
      values_ = static_cast<const char*>(call_.v) + call_.kv_head * call_.v_head + begin_ / kv_block * (at_.wide * tile_bytes);
      return;
    }
    auto* const keys = reinterpret_cast<unsigned char*>(scratch_);
    unsigned char* const values = keys + at_.values;
    keys_ = scratch_;
    values_ = scratch_ + at_.values;
    if (call_.kind == KvKind::q8) {
      const auto block_of = [this](const void* p, std::size_t head_bytes, std::size_t bytes) {
        return static_cast<const unsigned char*>(p) + call_.kv_head * head_bytes + begin_ / kv_block * bytes;
      };
      widen_keys(block_of(call_.k, call_.k_head, kv_key_bytes(call_.kind, call_.head_dim)), blocks, call_.head_dim, keys);
      return widen_values(block_of(call_.v, call_.v_head, kv_value_bytes(call_.kind, call_.v_dim)), blocks, call_.v_dim, values);
    }
    // Of keys that are not there, only those of a tile whose other half is: products read both halves.
    if (count % kv_block != 0 && count % kv_block <= width) __builtin_memset(keys + (2 * blocks - 1) * at_.deep * tile_bytes, 0, at_.deep * tile_bytes);
    pack_key_tiles(static_cast<const float*>(call_.k) + call_.kv_head * call_.k_head + begin_ * call_.k_row, call_.k_row, count, call_.head_dim, keys);
    pack_value_tiles(static_cast<const float*>(call_.v) + call_.kv_head * call_.v_head + begin_ * call_.v_row, call_.v_row, count, call_.v_dim, values);
  }

  CHIASM_ALWAYS_INLINE KeyRange range_of(std::size_t panel) const noexcept {
    KeyRange own = visible_keys(call_, group_, first_row(panel), rows(panel));
    own.begin = largest_of(own.begin / kv_block * kv_block, begin_);
    own.end = smaller(own.end, end_);
    return own;
  }
  /// The item at the panel's key, or else the first one of a later panel. False: there is none.
  CHIASM_ALWAYS_INLINE bool find(TileItem& item) const noexcept {
    for (; item.panel < panels_; ++item.panel, item.key = 0) {
      const KeyRange own = range_of(item.panel);
      item.key = largest_of(item.key, own.begin);
      if (item.key < own.end) {
        item.keys = smaller(tile_keys, own.end - item.key);
        return true;
      }
    }
    return false;
  }

  /// The panel's queries as they lie, or as pack_queries leaves them.
  CHIASM_ALWAYS_INLINE TileRowsOf query_rows(std::size_t panel) const noexcept {
    if (call_.q_rows == nullptr) return {queries(panel), 64, tile_bytes, at_.deep * tile_bytes};
    const std::size_t row = at_.deep * 64;
    return {static_cast<const char*>(call_.q_rows) + call_.kv_head * call_.q_head + first_row(panel) * row, row, 64, width * row};
  }
  CHIASM_ALWAYS_INLINE char* queries(std::size_t panel) const noexcept { return scratch_ + at_.queries + panel % 2 * 2 * at_.deep * tile_bytes; }
  static CHIASM_ALWAYS_INLINE std::size_t blocks(const TileItem& item) noexcept { return (item.keys + kv_block - 1) / kv_block; }
  /// How often the products of an item call `meanwhile`.
  template <bool lower>
  CHIASM_ALWAYS_INLINE std::size_t score_turns(const TileItem& item) const noexcept {
    return blocks(item) * at_.deep * (lower ? 2 : 1);
  }
  template <bool lower>
  CHIASM_ALWAYS_INLINE std::size_t value_turns(const TileItem& item) const noexcept {
    return (at_.wide + 1) / 2 * blocks(item) * (lower ? 2 : 1);
  }
  template <bool lower, class F>
  CHIASM_ALWAYS_INLINE void multiply_keys(const TileItem& item, std::size_t which, F& meanwhile) noexcept {
    const std::size_t group = at_.deep * tile_bytes;
    const TileRowsOf rows = query_rows(item.panel);
    const char* keys = keys_ + (item.key - begin_) / width * group;
    char* to = reinterpret_cast<char*>(scores(which));
    constexpr std::size_t row = score_row * sizeof(float);
    const std::size_t count = blocks(item);
    for (std::size_t b = 0; b < count; ++b, keys += 2 * group, to += 128)
      multiply_columns<lower, true>(rows, keys, tile_bytes, group, at_.deep, false, to, row, meanwhile);
  }
  template <bool lower, class F>
  CHIASM_ALWAYS_INLINE void multiply_values(const TileItem& item, std::size_t which, bool first, F& meanwhile) noexcept {
    const std::size_t block = at_.wide * tile_bytes;
    const TileRowsOf rows{reinterpret_cast<const char*>(scores(which)), score_row * sizeof(float), 64, width * score_row * sizeof(float)};
    const char* const values = values_ + (item.key - begin_) / kv_block * block;
    std::size_t column = 0;
    for (; column + 2 <= at_.wide; column += 2)
      multiply_columns<lower, true>(rows, values + column * tile_bytes, block, tile_bytes, blocks(item), !first, sums(item.panel) + column * 64, at_.wide * 64, meanwhile);
    if (column < at_.wide)
      multiply_columns<lower, false>(rows, values + column * tile_bytes, block, tile_bytes, blocks(item), !first, sums(item.panel) + column * 64, at_.wide * 64, meanwhile);
  }

  CHIASM_NOINLINE void pack_queries(std::size_t panel, char* to) const noexcept {
    const std::size_t first = first_row(panel);
    const V scale = set1(call_.scale * log2e);
    for (std::size_t r = 0; r < (rows(panel) > width ? panel_tokens : width); ++r) {
      const std::size_t row = smaller(first + r, call_.row_end - 1);
      const float* const from = call_.q + row / group_ * call_.q_row + head_of(call_, group_, row) * call_.head_dim;
      char* at = to + r / width * at_.deep * tile_bytes + r % width * 64;
      for (std::size_t d = 0; d < call_.head_dim; d += tile_depth, at += tile_bytes) {
        const std::size_t count = smaller(tile_depth, call_.head_dim - d);
        const V low = count >= width ? load(from + d) : load_n(from + d, count);
        const V high = count >= tile_depth ? load(from + d + width) : count > width ? load_n(from + d + width, count - width) : zero();
        _mm512_store_si512(at, halves_of(mul(low, scale), mul(high, scale)));
      }
    }
  }

  /// Biases of one row's scores, and -inf for keys that it does not see.
  CHIASM_NOINLINE void add_biases(const TileItem& item, std::size_t r, float* scores) const noexcept {
    const std::size_t row = smaller(first_row(item.panel) + r, call_.row_end - 1), query = group_ == 1 ? row : row / group_;
    KeyRange own{0, call_.keys, 0, 0};
    if (call_.causal) own.end = smaller(own.end, call_.offset + query + 1);
    if (call_.window != 0 && call_.offset + query + 1 > call_.window) own.begin = call_.offset + query + 1 - call_.window;
    own.begin = largest_of(own.begin, call_.key_begin);
    own.end = smaller(own.end, call_.key_end);
    const float* const mask = call_.mask == nullptr ? nullptr : call_.mask + query * call_.mask_row + item.key;
    const float* const near = call_.distance_bias == nullptr ? nullptr : distance_bias(call_, group_, row) + item.key;
    const V slope = set1(call_.alibi_slopes == nullptr ? 0.0f : log2e * call_.alibi_slopes[head_of(call_, group_, row)]);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i begin = _mm512_set1_epi32(static_cast<int>(own.begin)), end = _mm512_set1_epi32(static_cast<int>(own.end));
    for (std::size_t j = 0; j < round_up(item.keys, kv_block); j += width) {
      const std::size_t there = j < item.keys ? smaller(width, item.keys - j) : 0;
      V score = load(scores + j);
      const __m512i key = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(item.key + j)));
      if (call_.alibi_slopes != nullptr)
        score = fma(slope, _mm512_cvtepi32_ps(_mm512_sub_epi32(key, _mm512_set1_epi32(static_cast<int>(call_.offset + query)))), score);
      if (mask != nullptr && there > 0) score = fma(set1(log2e), load_some(mask + j, there), score);
      if (near != nullptr && there > 0) score = fma(set1(log2e), load_some(near + j, there), score);
      const __mmask16 seen = _mm512_mask_cmplt_epi32_mask(_mm512_cmpge_epi32_mask(key, begin), key, end);
      store(scores + j, _mm512_mask_blend_ps(seen, set1(minus_infinity), score));
    }
  }

  /// The largest sum of squares of any key of [begin_, end_).
  CHIASM_NOINLINE float largest_key() const noexcept {
    V most = zero();
    const char* lines = keys_;
    for (std::size_t key = begin_; key < round_up(end_, kv_block); key += width) {
      V even = zero(), odd = zero();
      for (std::size_t i = 0; i < at_.deep * width; i += 2, lines += 128) {
        even = add_squares(even, lines);
        odd = add_squares(odd, lines + 64);
      }
      most = max(add(even, odd), most);
    }
    return _mm512_reduce_max_ps(most);
  }
  /// The same of the panel's queries.
  CHIASM_NOINLINE float largest_query(std::size_t panel) const noexcept {
    const TileRowsOf at = query_rows(panel);
    V most = zero();
    for (std::size_t half = 0; half < rows(panel); half += width) {
      V sums[width];
      for (std::size_t r = 0; r < width; ++r) {
        sums[r] = zero();
        for (std::size_t k = 0; k < at_.deep; ++k) sums[r] = add_squares(sums[r], at.a + half / width * at.a_lower + r * at.a_row + k * at.a_next);
      }
      most = max(fold_each<add>(sums), most);
    }
    return _mm512_reduce_max_ps(most);
  }
  /// Whether no score of the panel can be larger than shift_slack, by the lengths of its queries and of all keys: rows that have seen nothing yet then get
  /// their shift, 0, as they would by their largest scores, which nobody has to look for. Worth a sixteenth (attention_bench).
  CHIASM_NOINLINE bool stays_small(std::size_t panel) noexcept {
    if (panels_ < few_panels) return false;
    if (panel != small_panel_) {
      small_panel_ = panel;
      is_small_ = largest_query(panel) * largest_key_ <= shift_slack * shift_slack;
    }
    if (!is_small_) return false;
    for (std::size_t half = 0; half < panel_tokens; half += width) {
      const V now = load(shifts(panel) + half);
      const __mmask16 fresh = _mm512_cmp_ps_mask(now, set1(minus_infinity), _CMP_EQ_OQ);
      if ((_mm512_cmp_ps_mask(now, zero(), _CMP_LT_OQ) & ~fresh) != 0) return false;
      store(shifts(panel) + half, _mm512_mask_blend_ps(fresh, now, zero()));
    }
    return true;
  }

  /// Each row's largest score. True where sums are to be scaled by `decay`.
  CHIASM_NOINLINE bool shift(const TileItem& item, float* scores, float* decay) noexcept {
    const KeyRange own = visible_keys(call_, group_, first_row(item.panel), rows(item.panel));
    const bool all_seen = item.key >= own.whole_begin && item.key >= own.begin && item.key + item.keys <= own.whole_end;
    const bool biased = !all_seen || call_.mask != nullptr || call_.distance_bias != nullptr || call_.alibi_slopes != nullptr;
    const std::size_t keys = round_up(item.keys, kv_block), last = keys - kv_block;
    // The block that the keys end in, where nothing else hides any.
    const bool ends = !biased && item.keys != keys;
    const bool small = call_.mask == nullptr && call_.distance_bias == nullptr && call_.alibi_slopes == nullptr && stays_small(item.panel);
    if (small && !biased && !ends) return false;
    const std::uint32_t there = (std::uint32_t{1} << (item.keys - last) % kv_block) - 1;
    bool grown = false;
    for (std::size_t half = 0; half < rows(item.panel); half += width) {
      V top[width];
      for (std::size_t r = 0; r < width; ++r) {
        float* const row = scores + (half + r) * score_row;
        if (biased) add_biases(item, half + r, row);
        if (ends) {
          store(row + last, _mm512_mask_blend_ps(static_cast<__mmask16>(there), set1(minus_infinity), load(row + last)));
          store(row + last + width, _mm512_mask_blend_ps(static_cast<__mmask16>(there >> width), set1(minus_infinity), load(row + last + width)));
        }
        if (small) continue;
        V even = load(row), odd = load(row + width);
        for (std::size_t j = 2 * width; j < keys; j += 2 * width) {
          even = max(even, load(row + j));
          odd = max(odd, load(row + j + width));
        }
        top[r] = max(even, odd);
      }
      if (small) continue;
      const V most = fold_each<max>(top), before = load(shifts(item.panel) + half);
      // A row that has seen nothing yet has -inf, and then 0 where that serves.
      const __mmask16 grows = _mm512_cmp_ps_mask(most, add(before, set1(shift_slack)), _CMP_GT_OQ);
      const __mmask16 fresh = _mm512_cmp_ps_mask(before, set1(minus_infinity), _CMP_EQ_OQ);
      const __mmask16 serves = _mm512_mask_cmp_ps_mask(fresh, _mm512_abs_ps(most), set1(shift_slack), _CMP_LE_OQ);
      const V now = _mm512_maskz_mov_ps(static_cast<__mmask16>(~serves), _mm512_mask_blend_ps(grows, before, most));
      store(decay + half, _mm512_mask_blend_ps(grows, set1(1.0f), exponential2(sub(before, now))));
      store(shifts(item.panel) + half, now);
      grown = grown || grows != 0;
    }
    return grown;
  }

  CHIASM_NOINLINE void scale_sums(std::size_t panel, const float* decay) const noexcept {
    for (std::size_t r = 0; r < rows(panel); ++r) {
      if (decay[r] == 1.0f) continue;
      const V factor = set1(decay[r]);
      float* const row = reinterpret_cast<float*>(sums(panel)) + r * at_.wide * width;
      for (std::size_t d = 0; d < at_.wide * width; d += width) store(row + d, mul(factor, load(row + d)));
      float* const total = totals(panel) + r * width;
      store(total, mul(factor, load(total)));
    }
  }

  /// What is left to do of an item: to weigh its values.
  struct Pending {
    TileItem item;
    bool there, first;
  };

  /// The exponentials of `now`, and meanwhile the values of `before` and the keys of `next`.
  template <bool lower>
  CHIASM_NOINLINE void soften(const TileItem& now, std::size_t which, bool first, const Pending& before, const TileItem* next) noexcept {
    const bool now_lower = rows(now.panel) > width, before_lower = rows(before.item.panel) > width, next_lower = next != nullptr && rows(next->panel) > width;
    const std::size_t count = now_lower ? panel_tokens : width;
    const std::size_t turns = (before.there ? value_turns<lower>(before.item) : 0) + (next != nullptr ? score_turns<lower>(*next) : 0);
    Exponentials meanwhile{scores(which), shifts(now.panel), totals(now.panel), round_up(now.keys, kv_block), count, 0, 0, turns == 0 ? 0 : (count << 16) / turns + 1, first};
    // All panels are full but the last one, which ends with its own item.
    if (before.there) before_lower == lower ? multiply_values<lower>(before.item, 1 - which, before.first, meanwhile) : multiply_values<!lower>(before.item, 1 - which, before.first, meanwhile);
    if (next != nullptr) next_lower == lower ? multiply_keys<lower>(*next, 1 - which, meanwhile) : multiply_keys<!lower>(*next, 1 - which, meanwhile);
    meanwhile.rows_until(count);
  }

  void attend() noexcept {
    Nothing nothing;
    const auto values_of = [&](const Pending& pending, std::size_t which) noexcept {
      if (!pending.there) return;
      if (rows(pending.item.panel) > width)
        multiply_values<true>(pending.item, which, pending.first, nothing);
      else
        multiply_values<false>(pending.item, which, pending.first, nothing);
    };
    TileItem now{0, 0, 0};
    if (!find(now)) return;
    std::size_t which = 0;
    take_queries(now.panel);
    if (rows(now.panel) > width)
      multiply_keys<true>(now, which, nothing);
    else
      multiply_keys<false>(now, which, nothing);
    Pending before{now, false, false};
    for (;;) {
      TileItem next{now.panel, now.key + now.keys, 0};
      const bool more = find(next), first = !begun_[now.panel];
      begun_[now.panel] = true;
      alignas(64) float decay[panel_tokens];
      if (shift(now, scores(which), decay) && !first) {
        if (before.there && before.item.panel == now.panel) {
          values_of(before, 1 - which);
          before.there = false;
        }
        scale_sums(now.panel, decay);
      }
      if (more) take_queries(next.panel);
      if (rows(now.panel) > width)
        soften<true>(now, which, first, before, more ? &next : nullptr);
      else
        soften<false>(now, which, first, before, more ? &next : nullptr);
      before = {now, true, first};
      if (!more) break;
      now = next;
      which = 1 - which;
    }
    values_of(before, which);
  }
  CHIASM_ALWAYS_INLINE void take_queries(std::size_t panel) noexcept {
    if (call_.q_rows != nullptr || packed_panel_[panel % 2] == panel) return;
    packed_panel_[panel % 2] = panel;
    pack_queries(panel, queries(panel));
  }

  CHIASM_NOINLINE void finish(std::size_t panel) const noexcept {
    const bool seen = begun_[panel];
    for (std::size_t r = 0; r < rows(panel); ++r) {
      const std::size_t row = first_row(panel) + r;
      const float* const sum = reinterpret_cast<const float*>(sums(panel)) + r * at_.wide * width;
      const float total = seen ? reduce_add(load(totals(panel) + r * width)) : 0.0f;
      float* const to = place_of(call_, group_, row, seen ? shifts(panel)[r] : minus_infinity, total);
      if (!(total > 0.0f || total != total)) {
        for (std::size_t d = 0; d < call_.v_dim; ++d) to[d] = 0.0f;
        continue;
      }
      scale_row(call_.partial != nullptr ? 1.0f : 1.0f / total, sum, to, call_.v_dim);
    }
  }

  /// To packed x, which keeps 16 tokens side by side: rows of one head are those of tokens.
  CHIASM_NOINLINE void finish_packed() const noexcept {
    const std::size_t first = call_.row_begin, count = call_.row_end - first, row_floats = at_.wide * width;  // panels lie one behind the other
    float factors[tile_attention_rows];
    for (std::size_t r = 0; r < count; ++r) {
      const float total = begun_[r / panel_tokens] ? reduce_add(load(totals(0) + r * width)) : 0.0f;
      factors[r] = total > 0.0f || total != total ? 1.0f / total : 0.0f;
    }
    for (std::size_t in = 0; in < smaller(group_, count); ++in) {
      const std::size_t k = head_of(call_, group_, first + in) * call_.v_dim;
      for (std::size_t r = in; r < count;) {
        const std::size_t token = call_.packed_first + (first + r) / group_, lane = token % width;
        const std::size_t lanes = smaller(width - lane, (count - r + group_ - 1) / group_);
        // Lanes of other tokens repeat one of these, and are not stored. Sums of a row that has seen nothing were never written.
        const float* from[width];
        V factor[width];
        for (std::size_t i = 0; i < width; ++i) {
          const std::size_t row = i < lane || i >= lane + lanes ? r : r + (i - lane) * group_;
          from[i] = reinterpret_cast<const float*>(sums(0)) + row * row_floats;
          factor[i] = set1(factors[row]);
        }
        const auto there = static_cast<__mmask16>(lanes_mask(lane, lanes));
        for (std::size_t d = 0; d < call_.v_dim; d += tile_depth) {
          const bool high = d + width < row_floats;
          V pairs[width];
          for (std::size_t i = 0; i < width; ++i) {
            const __mmask16 seen = _mm512_test_epi32_mask(_mm512_castps_si512(factor[i]), _mm512_castps_si512(factor[i]));
            pairs[i] = _mm512_castsi512_ps(halves_of(_mm512_maskz_mul_ps(seen, factor[i], load(from[i] + d)),
                                                     high ? _mm512_maskz_mul_ps(seen, factor[i], load(from[i] + d + width)) : zero()));
          }
          transpose(pairs);
          char* const lines = packed_line(call_.packed, call_.packed_tokens, call_.packed_depth, k + d, token);
          const std::size_t count_d = smaller(tile_depth, call_.v_dim - d);
          for (std::size_t i = 0; 2 * i < count_d; ++i) {
            char* const line = k % tile_depth == 0 ? lines + i * 64 : packed_line(call_.packed, call_.packed_tokens, call_.packed_depth, k + d + 2 * i, token);
            _mm512_mask_storeu_ps(line, there, pairs[i]);
          }
        }
        r += lanes * group_;
      }
    }
  }

  const AttentionCall& call_;
  const TileAttentionScratch at_;
  char* const scratch_;
  const std::size_t group_, panels_;
  std::size_t packed_panel_[2];  // whose queries lie there
  static constexpr std::size_t few_panels = 4;  // that do not pay for the lengths of all keys
  float largest_key_ = 0;
  std::size_t small_panel_ = 0;  // is_small_ is about it
  bool is_small_ = false;
  bool begun_[tile_attention_panels] = {};
  const char *keys_ = nullptr, *values_ = nullptr;
  std::size_t begin_ = 0, end_ = 0;  // keys that keys_ and values_ are
};

inline void attend_tiles(const AttentionCall& call) noexcept {
  if (call.row_begin >= call.row_end) return;
  // A block of eight bits is widened for all rows: up to four read it sooner as it is.
  if (call.kind == KvKind::bf16 || !attend_few(call, 4)) TileAttention(call).run();
}
