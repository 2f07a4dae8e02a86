// Matrix product in AMX int8 tiles: twice the rate of bf16 tiles (gemm_bench gemm_i8). Tile A is 16 tokens by 64 k of packed x, tile B the codes of a panel
// of weights with one scale a row, which have a tile's order as they lie; so the product is [token][output]. x has a scale for every token and slab of
// at most 1024 k: the sums of a slab are whole numbers, exact, and are scaled and added up slab by slab.
//   packed x: [slab of k][panel of 32 tokens][tile of 64 k][16 tokens twice][64 k] in signed bytes, then the scales, [slab][token]

inline constexpr std::size_t i8_depth = 64, i8_tile = 1024, i8_panel_tile = 2 * i8_tile;  // bytes of a tile, and of a panel's two
inline constexpr std::size_t i8_most_slab_tiles = 16;  // 32 outputs of W are 32 KB and stay in L1. 256 k: two thirds of the speed, 512 k: five sixths
inline constexpr std::size_t i8_outputs = 2 * panel_outputs;
inline constexpr std::size_t i8_token_block = 20, i8_middle_block = 10;  // panels; of packed outputs, whose numbers wait in L2 for their largest
inline constexpr std::size_t i8_middle_row = i8_most_slab_tiles * i8_depth + 32;  // not a power of two: rows fall into different sets

static_assert(panel_tokens == 32 && width == 16 && panel_outputs == 16);

/// Where things are in packed x.
struct PackedI8 {
  std::size_t tiles, slab_tiles, slabs, panels;

  PackedI8(std::size_t tokens, std::size_t depth) noexcept : tiles((depth + i8_depth - 1) / i8_depth), panels((tokens + panel_tokens - 1) / panel_tokens) {
    // Slabs of one size, and an even number of them: threads that make an x a slab at a time share the work.
    slabs = (tiles + i8_most_slab_tiles - 1) / i8_most_slab_tiles;
    if (slabs > 1) slabs = round_up(slabs, 2);
    slab_tiles = tiles == 0 ? 1 : (tiles + slabs - 1) / slabs;
    slabs = tiles == 0 ? 1 : (tiles + slab_tiles - 1) / slab_tiles;  // without depth an empty one
  }
  std::size_t slab_depth() const noexcept { return slab_tiles * i8_depth; }
  std::size_t tiles_of(std::size_t slab) const noexcept { return smaller(slab_tiles, tiles - slab * slab_tiles); }
  std::size_t codes_at(std::size_t slab, std::size_t panel) const noexcept { return (slab * slab_tiles * panels + panel * tiles_of(slab)) * i8_panel_tile; }
  std::size_t scales_at(std::size_t slab, std::size_t panel) const noexcept {
    return tiles * panels * i8_panel_tile + (slab * panels + panel) * panel_tokens * sizeof(float);
  }
  std::size_t bytes() const noexcept { return scales_at(slabs, 0); }
};

inline std::size_t tiles_i8_packed_bytes(std::size_t tokens, std::size_t depth) noexcept { return PackedI8(tokens, depth).bytes(); }
inline std::size_t tiles_i8_slab_depth(std::size_t depth) noexcept { return PackedI8(1, depth).slab_depth(); }

CHIASM_ALWAYS_INLINE __m512i magnitude_bits(V a) noexcept { return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)); }

/// Writes `count` numbers of a token, number(k, n) is n of them from k on, as codes to their row of a slab's tiles, what is missing of the last tile as
/// zeros. `largest`: the bits of the largest magnitude, which becomes 127. Numbers that are not finite make the scale NaN.
template <class F>
CHIASM_ALWAYS_INLINE void store_codes(std::size_t count, std::int32_t largest, F number, char* codes, float* scale) noexcept {
  const float top = std::bit_cast<float>(largest);
  const bool finite = largest < 0x7f800000, any = finite && top > 1e-30f;
  *scale = any ? top / 127.0f : finite ? 0.0f : std::bit_cast<float>(0x7fc00000);
  const V inverse = set1(any ? 127.0f / top : 0.0f);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // packs work within 128 bits
  for (std::size_t k = 0; k < count; k += i8_depth, codes += i8_panel_tile) {
    __m512i whole[4];
    CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t at = k + i * width;
      whole[i] = at < count ? _mm512_cvtps_epi32(mul(number(at, smaller(width, count - at)), inverse)) : _mm512_setzero_si512();
    }
    const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
    _mm512_store_si512(codes, _mm512_permutexvar_epi32(order, bytes));
  }
}

inline void tiles_i8_pack(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, std::size_t begin, std::size_t end, void* packed) noexcept {
  const PackedI8 form(tokens, depth);
  char* const base = static_cast<char*>(packed);
  for (std::size_t panel = begin; panel < end; ++panel) {
    for (std::size_t slab = 0; slab < form.slabs; ++slab) {
      const std::size_t first = slab * form.slab_depth(), count = smaller(form.slab_depth(), depth - first);
      float* const scales = reinterpret_cast<float*>(base + form.scales_at(slab, panel));
      for (std::size_t t = 0; t < vectors_of(tokens, panel * panel_tokens) * width; ++t) {
        const std::size_t token = panel * panel_tokens + t;
        const float* const from = x + (token - begin * panel_tokens) * stride + first;
        const auto number = [&](std::size_t k, std::size_t n) { return n == width ? load(from + k) : load_n(from + k, n); };
        __m512i top = _mm512_setzero_si512();
        if (token < tokens)
          for (std::size_t k = 0; k < count; k += width) top = _mm512_max_epi32(top, magnitude_bits(number(k, smaller(width, count - k))));
        char* const codes = base + form.codes_at(slab, panel) + t * i8_depth;
        if (token < tokens)
          store_codes(count, _mm512_reduce_max_epi32(top), number, codes, scales + t);
        else
          store_codes(count, 0, [&](std::size_t, std::size_t) { return zero(); }, codes, scales + t);
      }
    }
  }
}

/// Packed x as rows of f32 that lie `stride` apart.
inline void tiles_i8_unpack(const void* packed, std::size_t tokens, std::size_t depth, std::size_t begin, std::size_t end, float* rows, std::size_t stride) noexcept {
  const PackedI8 form(tokens, depth);
  const char* const base = static_cast<const char*>(packed);
  for (std::size_t token = begin; token < end; ++token) {
    const std::size_t panel = token / panel_tokens, t = token % panel_tokens;
    float* const to = rows + (token - begin) * stride;
    for (std::size_t k = 0; k < depth; k += width) {
      const std::size_t slab = k / form.slab_depth(), of_slab = k % form.slab_depth();
      const float* const scales = reinterpret_cast<const float*>(base + form.scales_at(slab, panel));
      const char* const codes = base + form.codes_at(slab, panel) + of_slab / i8_depth * i8_panel_tile + t * i8_depth + of_slab % i8_depth;
      const V numbers = mul(load_i8(codes), set1(scales[t]));
      if (k + width <= depth)
        store(to + k, numbers);
      else
        store_n(to + k, numbers, depth - k);
    }
  }
}

/// What the sums of 32 outputs are multiplied by and added to.
struct alignas(64) I8Columns {
  float scale[2][i8_outputs] = {}, bias[2][i8_outputs] = {};  // of W, of the gate
  std::size_t output = 0;  // the first one
  __mmask32 there = 0;     // those of the range
};

/// What becomes of the sums of a slab, 32 tokens by 32 outputs: token by token between the tiles of the product that comes next, so that the vector
/// units work beside the tile unit.
struct I8Epilogue {
  void (*token)(const I8Epilogue& e, std::size_t t) noexcept = nullptr;
  std::int32_t* product = nullptr;  // [32 tokens][32 outputs]
  const float* token_scales = nullptr;
  float* sums = nullptr;  // of the slabs before; the gate's whole sums, if there is one, lie behind
  bool first = false;     // there are none before
  std::size_t tokens = 0, panel = 0;
  const I8Columns* columns = nullptr;
  const Output* out = nullptr;
  unsigned short* middle = nullptr;  // of packed outputs: bf16, [32 tokens][i8_middle_row], from column 0 of a slab on
  std::int32_t* largest = nullptr;   // bits of the largest magnitude in every lane, [32 tokens][16]
  std::size_t middle_output = 0;     // the output that column 0 is
};

CHIASM_ALWAYS_INLINE V scaled_sums(const I8Epilogue& e, std::size_t at, V scale) noexcept {
  const V whole = _mm512_cvtepi32_ps(_mm512_load_si512(e.product + at));
  return e.first ? mul(whole, scale) : fma(whole, scale, load(e.sums + at));
}

/// Not the last slab, or a gate's.
inline void add_slab(const I8Epilogue& e, std::size_t t) noexcept {
  const V scale = set1(e.token_scales[t]);
  for (std::size_t at = t * i8_outputs; at < (t + 1) * i8_outputs; at += width) store(e.sums + at, scaled_sums(e, at, scale));
}

template <Activation activation>
inline void finish_row(const I8Epilogue& e, std::size_t t) noexcept {
  const V scale = set1(e.token_scales[t]);
  const std::size_t row = e.panel * panel_tokens + t;
  for (std::size_t v = 0; v < 2; ++v) {
    const auto there = static_cast<__mmask16>(e.columns->there >> (v * width));
    V y = fma(scaled_sums(e, t * i8_outputs + v * width, scale), load(e.columns->scale[0] + v * width), load(e.columns->bias[0] + v * width));
    y = activated<activation>(y);
    const std::size_t output = e.columns->output + v * width;
    if (e.out->residual != nullptr) y = add(y, _mm512_maskz_loadu_ps(there, e.out->residual + row * e.out->residual_stride + output));
    _mm512_mask_storeu_ps(e.out->y + row * e.out->stride + output, there, y);
  }
}

/// 16 tokens' outputs as what attention reads.
CHIASM_NOINLINE void put_heads(const I8Epilogue& e, std::size_t first) noexcept {
  const HeadsOutput& to = *e.out->heads;
  const auto* const numbers = reinterpret_cast<const float*>(e.product) + first * i8_outputs;
  const std::size_t token = e.panel * panel_tokens + first, tokens = e.panel * panel_tokens + e.tokens;
  const auto begin = static_cast<std::size_t>(std::countr_zero(e.columns->there)), end = i8_outputs - static_cast<std::size_t>(std::countl_zero(e.columns->there));
  if (to.kind == HeadsOutput::Kind::keys) {
    V pairs[width];
    CHIASM_UNROLL for (std::size_t i = 0; i < width; ++i) pairs[i] = _mm512_castsi512_ps(bf16_of_32(numbers + i * i8_outputs, i8_outputs));
    transpose(pairs);
    const std::size_t k = e.columns->output + begin;
    std::size_t head = static_cast<std::uint32_t>(k) / static_cast<std::uint32_t>(to.head_dim), d = k - head * to.head_dim;
    for (std::size_t n = begin; n < end; n += 2) {  // heads have an even width
      put_keys(to, token, tokens, head, d, _mm512_castps_si512(pairs[n / 2]));
      if ((d += 2) != to.head_dim) continue;
      ++head;
      d = 0;
    }
    return;
  }
  for (std::size_t n = 0; n < i8_outputs; n += width) {
    const std::size_t from = largest_of(begin, n), last = smaller(end, n + width);
    if (from >= last) continue;
    const HeadStretches stretches(to.head_dim, e.columns->output + from, from - n, last - n);
    V rows[width];
    CHIASM_UNROLL for (std::size_t i = 0; i < width; ++i) rows[i] = load(numbers + i * i8_outputs + n);
    if (to.kind == HeadsOutput::Kind::values)
      put_values(to, token, tokens, stretches, rows);
    else
      put_queries(to, token, tokens, stretches, rows);
  }
}

/// To heads, 16 tokens at once: until the last of them is there, they wait in the place of their products.
inline void finish_heads(const I8Epilogue& e, std::size_t t) noexcept {
  const V scale = set1(e.token_scales[t]);
  for (std::size_t v = 0; v < i8_outputs; v += width) {
    const std::size_t at = t * i8_outputs + v;
    store(reinterpret_cast<float*>(e.product) + at, fma(scaled_sums(e, at, scale), load(e.columns->scale[0] + v), load(e.columns->bias[0] + v)));
  }
  if (t % width == width - 1 || t + 1 == e.tokens) put_heads(e, t / width * width);
}

template <Activation activation, bool gated>
inline void finish_middle(const I8Epilogue& e, std::size_t t) noexcept {
  const V scale = set1(e.token_scales[t]);
  V y[2];
  __m512i top = _mm512_load_si512(e.largest + t * width);
  for (std::size_t v = 0; v < 2; ++v) {
    const std::size_t at = t * i8_outputs + v * width;
    y[v] = fma(scaled_sums(e, at, scale), load(e.columns->scale[0] + v * width), load(e.columns->bias[0] + v * width));
    if constexpr (gated)
      y[v] = mul(nearly_activated<activation>(fma(load(e.sums + panel_tokens * i8_outputs + at), load(e.columns->scale[1] + v * width), load(e.columns->bias[1] + v * width))), y[v]);
    else
      y[v] = nearly_activated<activation>(y[v]);
    top = _mm512_mask_max_epi32(top, static_cast<__mmask16>(e.columns->there >> (v * width)), top, magnitude_bits(y[v]));
  }
  _mm512_store_si512(e.largest + t * width, top);
  _mm512_store_si512(e.middle + t * i8_middle_row + (e.columns->output - e.middle_output), halves_of(y[0], y[1]));
}

/// A stretch of memory that a product to come will read.
struct I8Ahead {
  const unsigned char* from = nullptr;
  std::size_t lines = 0;
};

/// product [16 tokens `halves` times][32 outputs] = x tiles times those of two panels of W, which lie `second` apart.
template <std::size_t halves>
CHIASM_NOINLINE void multiply_tiles_i8(const unsigned char* weight, std::size_t second, const char* x, std::size_t tiles, std::int32_t* product,
                                       const I8Epilogue* before, I8Ahead ahead) noexcept {
  asm volatile("" ::: "memory");  // g++'s tile loads do not say that they read memory
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const std::size_t parts = tiles == 0 ? 1 : tiles, tokens = before == nullptr ? 0 : before->tokens;
  const std::size_t tokens_each = (tokens + parts - 1) / parts, lines_each = (ahead.lines + parts - 1) / parts;
  std::size_t token = 0;
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    _tile_loadd(6, weight, 64);
    _tile_stream_loadd(4, x, 64);  // past W in L1, which this hint leaves there: half as fast again
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, weight + second, 64);
    _tile_dpbssd(1, 4, 7);
    if constexpr (halves == 2) {
      _tile_stream_loadd(5, x + i8_tile, 64);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
    weight += i8_tile;
    x += i8_panel_tile;
    for (const std::size_t end = smaller(token + tokens_each, tokens); token < end; ++token) before->token(*before, token);
    for (std::size_t line = 0; line < lines_each; ++line, ahead.from += 64) _mm_prefetch(reinterpret_cast<const char*>(ahead.from), _MM_HINT_T1);
  }
  for (; token < tokens; ++token) before->token(*before, token);  // no depth at all
  constexpr long row = i8_outputs * sizeof(std::int32_t);
  _tile_stored(0, product, row);
  _tile_stored(1, product + width, row);
  if constexpr (halves == 2) {
    _tile_stored(2, product + 16 * i8_outputs, row);
    _tile_stored(3, product + 16 * i8_outputs + width, row);
  }
  asm volatile("" ::: "memory");
}

/// One call's room and the tiles whose sums are still to be taken care of.
class I8Product {
 public:
  static constexpr std::size_t block_sums = panel_tokens * i8_outputs;  // of a panel's tokens and a factor
  struct Scratch {
    alignas(64) std::int32_t products[2][block_sums];
    alignas(64) float sums[i8_token_block][2][block_sums];
    alignas(64) std::int32_t largest[i8_middle_block][panel_tokens * width];
    alignas(64) unsigned short middle[i8_middle_block][panel_tokens * i8_middle_row];
  };

  explicit I8Product(const GemmCall& call) noexcept
      : call_(call), x_(call.tokens, call.depth), packed_(static_cast<const char*>(call.packed)), scratch_(*static_cast<Scratch*>(call.scratch)) {
    with_activation(call.out.activation, [&](auto activation) {
      constexpr Activation a = decltype(activation)::value;
      finish_ = call.out.packed == nullptr ? finish_row<a> : call.gate == nullptr ? finish_middle<a, false> : finish_middle<a, true>;
    });
    if (call.out.heads != nullptr) finish_ = finish_heads;
  }

  void run_rows() noexcept {
    // Of all x that stays in L2, W is read once.
    const std::size_t fit = tile_x_bytes / (x_.tiles * i8_panel_tile + 1), block = block_of(fit == 0 ? 1 : smaller(fit, i8_token_block));
    for (std::size_t p = call_.panel_begin; p < call_.panel_end; p += block) outputs_of(call_.output_begin, call_.output_end, p, smaller(p + block, call_.panel_end));
    finish();
  }

  /// Slabs of packed outputs, which the range of outputs has whole.
  void run_packed() noexcept {
    const PackedI8 to(call_.tokens, call_.out.packed_depth);
    const std::size_t block = block_of(i8_middle_block);
    for (std::size_t begin = call_.output_begin; begin < call_.output_end; begin += to.slab_depth()) {
      const std::size_t end = smaller(begin + to.slab_depth(), call_.output_end);
      for (std::size_t p = call_.panel_begin; p < call_.panel_end; p += block) {
        const std::size_t last = smaller(p + block, call_.panel_end);
        __builtin_memset(scratch_.largest, 0, sizeof scratch_.largest);
        first_output_ = begin;
        outputs_of(begin, end, p, last);
        finish();
        for (std::size_t panel = p; panel < last; ++panel) pack_slab(to, begin, end, p, panel);
      }
    }
  }

 private:
  /// Panels of a block, of blocks alike and of at most so many.
  std::size_t block_of(std::size_t most) const noexcept {
    const std::size_t panels = call_.panel_end - call_.panel_begin, blocks = (panels + most - 1) / most;
    return blocks == 0 ? 1 : (panels + blocks - 1) / blocks;
  }
  std::size_t tokens_of(std::size_t panel) const noexcept { return smaller(panel_tokens, call_.tokens - panel * panel_tokens); }

  void finish() noexcept {
    if (before_ != nullptr)
      for (std::size_t t = 0; t < before_->tokens; ++t) before_->token(*before_, t);
    before_ = nullptr;
  }

  const unsigned char* panel_of(const void* weight, std::size_t panel) const noexcept { return static_cast<const unsigned char*>(weight) + panel * call_.weight_stride; }

  const unsigned char* codes_of(std::size_t factor, std::size_t panel, std::size_t slab) const noexcept {
    return panel_of(factor == 0 ? call_.weight : call_.gate, panel) + panel_format(DType::q8_row).header + slab * x_.slab_tiles * i8_tile;
  }

  /// Outputs [begin, end) of panels [p0, p1).
  void outputs_of(std::size_t begin, std::size_t end, std::size_t p0, std::size_t p1) noexcept {
    const std::size_t factors = call_.gate == nullptr ? 1 : 2;
    for (std::size_t panel = begin / panel_outputs; panel * panel_outputs < end; panel += 2) {
      const std::size_t second = (panel + 1) * panel_outputs < end ? call_.weight_stride : 0;
      I8Columns& columns = columns_[turn_++ % 2];
      fill(columns, panel, begin, end);
      for (std::size_t slab = 0; slab < x_.slabs; ++slab) {
        const std::size_t tiles = x_.tiles_of(slab);
        for (std::size_t factor = factors; factor-- > 0;) {  // the gate first
          const unsigned char* const weight = codes_of(factor, panel, slab);
          // What comes next: the gate's other factor, the next slab, the next panels.
          const bool other = factor == 1, more = slab + 1 < x_.slabs, last = !other && !more && (panel + 2) * panel_outputs >= end;
          const unsigned char* const next = last ? nullptr : other ? codes_of(0, panel, slab) : more ? codes_of(factors - 1, panel, slab + 1) : codes_of(factors - 1, panel + 2, 0);
          for (std::size_t p = p0; p < p1; ++p) {
            // Half of the panels of x fetch from the first panel of W, half from the second.
            const std::size_t half = (p1 - p0 + 1) / 2, lines = last ? 0 : (tiles * i8_tile / 64 + half - 1) / half, i = p - p0;
            const I8Ahead ahead{last ? nullptr : next + (i < half ? i * lines * 64 : second + (i - half) * lines * 64), lines};
            multiply(weight, second, slab, factor, p, p - p0, ahead, columns);
          }
        }
      }
    }
  }

  void multiply(const unsigned char* weight, std::size_t second, std::size_t slab, std::size_t factor, std::size_t p, std::size_t slot, I8Ahead ahead,
                const I8Columns& columns) noexcept {
    std::int32_t* const product = scratch_.products[next_];
    const char* const x = packed_ + x_.codes_at(slab, p);
    if (vectors_of(call_.tokens, p * panel_tokens) == 1)
      multiply_tiles_i8<1>(weight, second, x, x_.tiles_of(slab), product, before_, ahead);
    else
      multiply_tiles_i8<2>(weight, second, x, x_.tiles_of(slab), product, before_, ahead);
    I8Epilogue& e = epilogues_[next_];
    next_ = 1 - next_;
    e.token = factor == 1 || slab + 1 < x_.slabs ? add_slab : finish_;
    e.product = product;
    e.token_scales = reinterpret_cast<const float*>(packed_ + x_.scales_at(slab, p));
    e.sums = scratch_.sums[slot][factor];
    e.first = slab == 0;
    e.tokens = tokens_of(p);
    e.panel = p;
    e.columns = &columns;
    e.out = &call_.out;
    e.middle = scratch_.middle[slot % i8_middle_block];
    e.largest = scratch_.largest[slot % i8_middle_block];
    e.middle_output = first_output_;
    before_ = &e;
  }

  void fill(I8Columns& c, std::size_t panel, std::size_t begin, std::size_t end) const noexcept {
    c = I8Columns();
    c.output = panel * panel_outputs;
    for (std::size_t i = 0; i < i8_outputs; ++i) {
      const std::size_t n = c.output + i;
      if (n < begin || n >= end) continue;
      c.there |= static_cast<__mmask32>(1u) << i;
      const std::size_t in_panel = i % panel_outputs * sizeof(float);
      __builtin_memcpy(&c.scale[0][i], panel_of(call_.weight, n / panel_outputs) + in_panel, sizeof(float));
      if (call_.out.bias != nullptr) c.bias[0][i] = call_.out.bias[n];
      if (call_.gate == nullptr) continue;
      __builtin_memcpy(&c.scale[1][i], panel_of(call_.gate, n / panel_outputs) + in_panel, sizeof(float));
      if (call_.out.gate_bias != nullptr) c.bias[1][i] = call_.out.gate_bias[n];
    }
  }

  void pack_slab(const PackedI8& to, std::size_t begin, std::size_t end, std::size_t first_panel, std::size_t panel) noexcept {
    const std::size_t slot = panel - first_panel, slab = begin / to.slab_depth();
    char* const base = static_cast<char*>(call_.out.packed);
    for (std::size_t t = 0; t < vectors_of(call_.tokens, panel * panel_tokens) * width; ++t) {
      const unsigned short* const from = scratch_.middle[slot] + t * i8_middle_row;
      const auto number = [&](std::size_t k, std::size_t n) { return n == width ? load_bf16(from + k) : load_bf16_n(from + k, n); };
      const std::int32_t largest = t < tokens_of(panel) ? _mm512_reduce_max_epi32(_mm512_load_si512(scratch_.largest[slot] + t * width)) : 0;
      store_codes(end - begin, largest, number, base + to.codes_at(slab, panel) + t * i8_depth, reinterpret_cast<float*>(base + to.scales_at(slab, panel)) + t);
    }
  }

  const GemmCall& call_;
  PackedI8 x_;
  const char* packed_;
  Scratch& scratch_;
  void (*finish_)(const I8Epilogue&, std::size_t) noexcept = nullptr;
  I8Columns columns_[2];
  I8Epilogue epilogues_[2];
  const I8Epilogue* before_ = nullptr;
  std::size_t next_ = 0, turn_ = 0, first_output_ = 0;
};

inline void tiles_i8_run(const GemmCall& call) noexcept {
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");  // as in tiles_run
  _tile_loadconfig(&config);
  I8Product product(call);
  if (call.out.packed == nullptr)
    product.run_rows();
  else
    product.run_packed();
  _tile_release();
}

inline constexpr Gemm tiles_i8 = {panel_tokens, i8_outputs, tile_output_block, sizeof(I8Product::Scratch), tiles_i8_packed_bytes, tiles_i8_pack, tiles_i8_run, tiles_i8_slab_depth, tiles_i8_unpack, true};
