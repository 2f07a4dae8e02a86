// What becomes of a product in tiles, [32 outputs][tokens]: rows of floats, the packed x of the product that comes next, or what attention reads.

/// What becomes of a product of 32 outputs with a panel of tokens, [32][vectors * 16]. It is done in pieces between the tiles of the product that comes
/// next, so that the vector units work beside the tile unit: a tenth faster.
struct TileEpilogue {
  void (*piece)(const TileEpilogue& e, std::size_t i) noexcept = nullptr;  // i of tile_pieces
  const Output* out = nullptr;
  const float *product = nullptr, *gate = nullptr;  // gate: null, or a product of the same form
  std::size_t vectors = 0, panel = 0, tokens = 0, output = 0, outputs = 0;  // tokens: of all panels
};
inline constexpr std::size_t tile_pieces = tile_outputs / 2;

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
  char* const to = packed_line(out.packed, e.tokens, out.packed_depth, e.output + 2 * i, e.panel * panel_tokens);
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

// Queries, keys and values, to bf16 where attention reads them: with the projections around it, attention over 577 tokens takes a fifth less time than with rows of floats in between.

/// Calls f(lane, count, bytes, position): of 16 tokens from `token` on, `count` from `lane` on are a sequence's from `position` on, in one group of 16, and
/// the sequence's heads begin `bytes` behind the first one's.
template <class F>
CHIASM_ALWAYS_INLINE void each_run(const HeadsOutput& to, std::size_t token, std::size_t tokens, F f) noexcept {
  const std::size_t last = smaller(token + width, tokens);
  std::size_t sequence = token < to.length ? 0 : token / to.length, position = token - sequence * to.length;
  for (std::size_t at = token; at < last;) {
    const std::size_t count = smaller(smaller(width - position % width, to.length - position), last - at);
    f(at - token, count, sequence * to.sequence_bytes, position);
    at += count;
    position += count;
    if (position != to.length) continue;
    ++sequence;
    position = 0;
  }
}

/// Of 16 outputs those of one head, in one group of 16.
struct HeadStretch {
  std::size_t lane, count, head, d;
};
struct HeadStretches {
  HeadStretch all[width];
  std::size_t count = 0;

  /// Of lanes [lane, end), the first of which is output k.
  CHIASM_ALWAYS_INLINE HeadStretches(std::size_t head_dim, std::size_t k, std::size_t lane, std::size_t end) noexcept {
    std::size_t head = static_cast<std::uint32_t>(k) / static_cast<std::uint32_t>(head_dim), d = k - head * head_dim;
    while (lane < end) {
      const std::size_t together = smaller(smaller(width - d % width, head_dim - d), end - lane);
      all[count++] = {lane, together, head, d};
      lane += together;
      d += together;
      if (d != head_dim) continue;
      ++head;
      d = 0;
    }
  }
  const HeadStretch* begin() const noexcept { return all; }
  const HeadStretch* end() const noexcept { return all + count; }
};
CHIASM_ALWAYS_INLINE std::uint32_t lanes_mask(std::size_t lane, std::size_t count) noexcept {
  return static_cast<std::uint32_t>(((std::uint64_t{1} << count) - 1) << lane);
}

/// The product's rows of 16 tokens and 16 outputs from `n` on, with their biases.
CHIASM_ALWAYS_INLINE void biased_rows(const TileEpilogue& e, std::size_t n, std::size_t v, V (&rows)[width]) noexcept {
  V bias = zero();
  if (e.out->bias != nullptr) bias = load_some(e.out->bias + e.output + n, smaller(width, e.outputs - n));
  load_transposed(e.product + (n * e.vectors + v) * width, e.vectors * width, rows);
  CHIASM_UNROLL for (std::size_t i = 0; i < width; ++i) rows[i] = add(rows[i], bias);
}

// Of 16 tokens from `token` on, of which `tokens` is the last one's end: outputs as keys, values or queries.

/// To lines of two dimensions and 16 positions: dimensions d and d + 1 of a head, as pairs.
CHIASM_ALWAYS_INLINE void put_keys(const HeadsOutput& to, std::size_t token, std::size_t tokens, std::size_t head, std::size_t d, __m512i pairs) noexcept {
  const std::size_t block = kv_key_bytes(KvKind::bf16, to.head_dim);
  each_run(to, token, tokens, [&](std::size_t lane, std::size_t count, std::size_t bytes, std::size_t position) noexcept {
    unsigned char* const half = to.data + bytes + head * to.head_bytes + position / kv_block * block + position % kv_block / width * (block / 2);
    const auto line = [&](std::size_t at_d) noexcept { return half + at_d / tile_depth * tile_bytes + at_d % tile_depth / 2 * 64 + position % width * 4 - lane * 4; };
    const auto there = static_cast<__mmask16>(lanes_mask(lane, count));
    _mm512_mask_storeu_epi32(line(d), there, pairs);
    if (d + 2 == to.head_dim)
      for (std::size_t none = to.head_dim; none % tile_depth != 0; none += 2) _mm512_mask_storeu_epi32(line(none), there, _mm512_setzero_si512());
  });
}

/// To lines of 16 dimensions and two positions: a row of outputs for each token.
CHIASM_ALWAYS_INLINE void put_values(const HeadsOutput& to, std::size_t token, std::size_t tokens, const HeadStretches& stretches, const V (&rows)[width]) noexcept {
  const std::size_t block = kv_value_bytes(KvKind::bf16, to.head_dim);
  each_run(to, token, tokens, [&](std::size_t lane, std::size_t count, std::size_t bytes, std::size_t first) noexcept {
    for (std::size_t position = first, last = first + count; position < last;) {
      const V* const row = rows + (lane + position - first);
      const bool odd = position % 2 != 0, both = !odd && position + 1 < last;
      const __m512i pairs = odd ? pairs_of(zero(), row[0]) : pairs_of(row[0], both ? row[1] : zero());
      const std::uint32_t positions = both ? 0xffffffffu : odd ? 0xaaaaaaaau : 0x55555555u;
      for (const HeadStretch& s : stretches) {
        unsigned char* const line = to.data + bytes + s.head * to.head_bytes + position / kv_block * block + s.d / width * tile_bytes + position % kv_block / 2 * 64;
        _mm512_mask_storeu_epi16(line + s.d % width * 4 - s.lane * 4, positions & lanes_mask(2 * s.lane, 2 * s.count), pairs);
      }
      position += both ? 2 : 1;
    }
  });
}

/// To rows of a position each.
CHIASM_ALWAYS_INLINE void put_queries(const HeadsOutput& to, std::size_t token, std::size_t tokens, const HeadStretches& stretches, const V (&rows)[width]) noexcept {
  const std::size_t row_bytes = round_up(to.head_dim, tile_depth) * 2;
  const V scale = set1(to.scale);
  each_run(to, token, tokens, [&](std::size_t lane, std::size_t count, std::size_t bytes, std::size_t position) noexcept {
    for (std::size_t j = 0; j < count; ++j) {
      const __m512i halves = halves_of(mul(rows[lane + j], scale), zero());
      for (const HeadStretch& s : stretches) {
        unsigned char* const row = to.data + bytes + s.head * to.head_bytes + (position + j) * row_bytes;
        _mm512_mask_storeu_epi16(row + s.d * 2 - s.lane * 2, lanes_mask(s.lane, s.count), halves);
        if (s.d + s.count == to.head_dim && to.head_dim * 2 != row_bytes)
          _mm512_mask_storeu_epi16(row + to.head_dim * 2, lanes_mask(0, row_bytes / 2 - to.head_dim), _mm512_setzero_si512());
      }
    }
  });
}

inline void store_keys(const TileEpilogue& e, std::size_t i) noexcept {
  if (2 * i >= e.outputs) return;
  const HeadsOutput& to = *e.out->heads;
  const std::size_t k = e.output + 2 * i, head = static_cast<std::uint32_t>(k) / static_cast<std::uint32_t>(to.head_dim);
  const V even = set1(e.out->bias == nullptr ? 0.0f : e.out->bias[k]), odd = set1(e.out->bias == nullptr ? 0.0f : e.out->bias[k + 1]);
  for (std::size_t v = 0; v < e.vectors; ++v) {
    const float* const at = e.product + (2 * i * e.vectors + v) * width;
    put_keys(to, e.panel * panel_tokens + v * width, e.tokens, head, k - head * to.head_dim, pairs_of(add(load(at), even), add(load(at + e.vectors * width), odd)));
  }
}

/// Values or queries, 16 outputs at a time.
template <HeadsOutput::Kind kind>
inline void store_head_rows(const TileEpilogue& e, std::size_t i) noexcept {
  const std::size_t n = 2 * i;
  if (n % width != 0 || n >= e.outputs) return;
  const HeadsOutput& to = *e.out->heads;
  const HeadStretches stretches(to.head_dim, e.output + n, 0, smaller(width, e.outputs - n));
  for (std::size_t v = 0; v < e.vectors; ++v) {
    V rows[width];
    biased_rows(e, n, v, rows);
    const std::size_t token = e.panel * panel_tokens + v * width;
    if constexpr (kind == HeadsOutput::Kind::values)
      put_values(to, token, e.tokens, stretches, rows);
    else
      put_queries(to, token, e.tokens, stretches, rows);
  }
}

/// What stores a product, a piece at a time.
inline auto tile_store_of(const Output& out) noexcept {
  void (*piece)(const TileEpilogue&, std::size_t) noexcept = store_rows;
  if (out.heads != nullptr) {
    using Kind = HeadsOutput::Kind;
    piece = out.heads->kind == Kind::keys ? store_keys : out.heads->kind == Kind::values ? store_head_rows<Kind::values> : store_head_rows<Kind::queries>;
  } else if (out.packed != nullptr) {
    with_activation(out.activation, [&](auto activation) { piece = store_pair<decltype(activation)::value>; });
  }
  return piece;
}
