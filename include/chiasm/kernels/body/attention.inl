// Attention with a streaming softmax (Milakov and Gimelshein, arXiv:1805.02867; FlashAttention, arXiv:2205.14135): keys pass in
// blocks, and every row keeps its largest score, the sum of exponentials and the weighted sum of values so far. Many rows: lanes
// are rows. Scores are kept as [key][row], so that the softmax needs no sum across lanes, and both products are those of gemm.inl
// with the key or value as the broadcast weight. Few rows (decode): lanes run along head_dim, keys and values are read in place.
// Scores are in base 2: its logarithm of e is in the queries' scale.

inline constexpr std::size_t attention_panels = 10;  // that share one copy of the keys and values: their rows lie pages apart
inline constexpr std::size_t attention_rows = attention_panels * panel_tokens;
inline constexpr std::size_t key_block = panel_rows * (56 / panel_rows);
inline constexpr std::size_t few_rows =
    width < 8 ? 2 : 4;  // up to so many rows lanes run along head_dim: bench/kernels/attention_bench
inline constexpr std::size_t few_stored_rows = 16;  // the same of keys and values that are in blocks
inline constexpr std::size_t stored_keys = 4 * kv_block;
inline constexpr float log2e = 1.44269504088896341f;

CHIASM_ALWAYS_INLINE constexpr std::size_t largest_of(std::size_t a, std::size_t b) noexcept { return a > b ? a : b; }

struct AttentionScratch {  // offsets in floats
  std::size_t values_row, keys, values, queries, scores, sums, mask, rows, total;
};
CHIASM_ALWAYS_INLINE AttentionScratch attention_layout(std::size_t head_dim, std::size_t v_dim) noexcept {
  AttentionScratch s{};
  const std::size_t slabs = (head_dim + depth_block - 1) / depth_block;
  s.values_row = round_up(round_up(v_dim, panel_rows), 16);
  std::size_t at = 0;
  const auto take = [&at](std::size_t floats) {
    const std::size_t begin = at;
    at += round_up(floats, 16);
    return begin;
  };
  s.keys = take(slabs * key_block * weight_row);
  s.values = take(key_block * s.values_row);
  s.queries = take(largest_of(attention_rows * head_dim, few_stored_rows * round_up(head_dim, 32)));
  s.scores = take(largest_of(key_block * panel_tokens, few_stored_rows * stored_keys));
  s.mask = take(key_block * panel_tokens);
  s.sums = take(attention_rows * round_up(s.values_row, width));
  s.rows = take(key_block * largest_of(head_dim, v_dim));
  s.total = at;
  return s;
}
inline std::size_t attention_scratch_bytes(std::size_t head_dim, std::size_t v_dim) noexcept {
  return attention_layout(head_dim, v_dim).total * sizeof(float);
}

inline constexpr float minus_infinity = -__builtin_inff();

/// sums [v_dim][vectors * width] = sums * decay + sum over keys of values[key][v_dim] weights[key][row].
template <std::size_t vectors>
CHIASM_NOINLINE void add_values(const float* weights, const float* values, std::size_t values_row, std::size_t keys,
                                std::size_t v_dim, const float* decay, float* sums) noexcept {
  for (std::size_t d = 0; d < v_dim; d += panel_rows) {
    V sum[panel_rows][vectors];
    float* const to = sums + d * vectors * width;
    CHIASM_UNROLL for (std::size_t r = 0; r < panel_rows; ++r) {
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) sum[r][v] =
          mul(load(to + (r * vectors + v) * width), load(decay + v * width));
    }
    const float* weight = weights;
    const float* value = values + d;
    for (std::size_t key = 0; key < keys; ++key) {
      V rows[vectors];
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) rows[v] = load(weight + v * width);
      CHIASM_UNROLL for (std::size_t r = 0; r < panel_rows; ++r) {
        const V a = set1(value[r]);
        CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) sum[r][v] = fma(a, rows[v], sum[r][v]);
      }
      weight += vectors * width;
      value += values_row;
    }
    CHIASM_UNROLL for (std::size_t r = 0; r < panel_rows; ++r) {
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) store(to + (r * vectors + v) * width, sum[r][v]);
    }
  }
}

/// The positions that rows [first, first + count) see: keys [begin, end), all of [whole_begin, whole_end) by every row.
struct KeyRange {
  std::size_t begin, end, whole_begin, whole_end;
};
CHIASM_ALWAYS_INLINE KeyRange visible_keys(const AttentionCall& call, std::size_t group, std::size_t first,
                                           std::size_t count) noexcept {
  const std::size_t low = call.offset + first / group, high = call.offset + (first + count - 1) / group;
  KeyRange range{0, call.keys, 0, call.keys};
  if (call.causal) {
    range.end = smaller(call.keys, high + 1);
    range.whole_end = smaller(call.keys, low + 1);
  }
  if (call.window != 0) {
    range.begin = low + 1 > call.window ? low + 1 - call.window : 0;
    range.whole_begin = high + 1 > call.window ? high + 1 - call.window : 0;
  }
  range.begin = largest_of(range.begin, call.key_begin);
  range.end = smaller(range.end, call.key_end);
  return range;
}

/// What the streaming softmax keeps of every row of a panel.
struct PanelState {
  float top[panel_tokens], total[panel_tokens], decay[panel_tokens], position[panel_tokens], slope[panel_tokens];
};

/// A row's biases by key.
CHIASM_ALWAYS_INLINE const float* distance_bias(const AttentionCall& call, std::size_t group, std::size_t row) noexcept {
  const std::size_t head = call.kv_head * group + row % group;
  return call.distance_bias + head * call.distance_bias_head - static_cast<std::ptrdiff_t>(call.offset + row / group);
}

/// Bias, visibility and the streaming softmax on scores [key][vectors * width] of keys [key, key + keys).
template <std::size_t vectors>
CHIASM_NOINLINE void soften(const AttentionCall& call, std::size_t group, std::size_t first, std::size_t count, std::size_t key,
                            std::size_t keys, float* scores, float* mask, PanelState& state) noexcept {
  constexpr std::size_t stride = vectors * width;
  const KeyRange range = visible_keys(call, group, first, count);
  const bool hides_end = call.causal && key + keys > range.whole_end, hides_begin = call.window != 0 && key < range.whole_begin;
  const bool added = call.mask != nullptr || call.distance_bias != nullptr;
  const bool slides = call.distance_bias != nullptr && call.mask == nullptr && group == 1;
  if (slides) {
    // Lane r's bias of key j depends on j - r alone, so that all keys read one row of biases, each key a lane before the one behind it: 512 positions on AMX
    // tiles take half the time that a bias for each lane and key takes (attention_bench).
    const float* const near = distance_bias(call, group, first) + key + keys - 1;
    for (std::size_t i = 0; i < keys + stride - 1; ++i) mask[i] = i < keys + count - 1 ? log2e * near[-static_cast<std::ptrdiff_t>(i)] : 0.0f;
  } else if (added) {
    for (std::size_t r = 0; r < stride; ++r) {
      const std::size_t row = first + smaller(r, count - 1), query = row / group;
      const float* const from = call.mask == nullptr ? nullptr : call.mask + query * call.mask_row + key;
      const float* const near = call.distance_bias == nullptr ? nullptr : distance_bias(call, group, row) + key;
      for (std::size_t j = 0; j < keys; ++j) mask[j * stride + r] = log2e * ((from == nullptr ? 0.0f : from[j]) + (near == nullptr ? 0.0f : near[j]));
    }
  }
  const bool biased = added || call.alibi_slopes != nullptr || hides_end || hides_begin;
  V top[vectors], shift[vectors], total[vectors];  // all vectors at once: each is a chain of dependent operations
  CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) top[v] = load(state.top + v * width);
  if (biased) {
    for (std::size_t j = 0; j < keys; ++j) {
      const V at = set1(static_cast<float>(key + j));
      const float* const biases = slides ? mask + (keys - 1 - j) : mask + j * stride;
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
        const V position = load(state.position + v * width);
        V score = load(scores + j * stride + v * width);
        if (call.alibi_slopes != nullptr) score = fma(load(state.slope + v * width), sub(at, position), score);
        if (added) score = add(score, load(biases + v * width));
        if (hides_end) score = select_lt(position, at, set1(minus_infinity), score);
        if (hides_begin) score = select_lt(sub(position, set1(static_cast<float>(call.window))), at, score, set1(minus_infinity));
        store(scores + j * stride + v * width, score);
        top[v] = max(top[v], score);
      }
    }
  } else {
    for (std::size_t j = 0; j < keys; ++j) {
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) top[v] = max(top[v], load(scores + j * stride + v * width));
    }
  }
  CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
    // A row that has seen nothing yet has top = -inf: 0 in its place makes its exponentials 0.
    shift[v] = select_lt(set1(minus_infinity), top[v], top[v], zero());
    const V decay = exponential2(sub(load(state.top + v * width), shift[v]));
    total[v] = mul(load(state.total + v * width), decay);
    store(state.top + v * width, top[v]);
    store(state.decay + v * width, decay);
  }
  for (std::size_t j = 0; j < keys; ++j) {
    CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
      const V e = exponential2(sub(load(scores + j * stride + v * width), shift[v]));
      store(scores + j * stride + v * width, e);
      total[v] = add(total[v], e);
    }
  }
  CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) store(state.total + v * width, total[v]);
}
CHIASM_ALWAYS_INLINE void soften(std::size_t vectors, const AttentionCall& call, std::size_t group, std::size_t first,
                                 std::size_t count, std::size_t key, std::size_t keys, float* scores, float* mask,
                                 PanelState& state) noexcept {
  if (vectors == 1)
    soften<1>(call, group, first, count, key, keys, scores, mask, state);
  else
    soften<panel_vectors>(call, group, first, count, key, keys, scores, mask, state);
}

CHIASM_ALWAYS_INLINE std::size_t head_of(const AttentionCall& call, std::size_t group, std::size_t row) noexcept {
  return call.kv_head * group + row % group;
}

/// The queries of the panel's lanes, and a state that has seen nothing. Lanes beyond the last row repeat it.
CHIASM_NOINLINE void start_panel(const AttentionCall& call, std::size_t group, std::size_t first, const float** queries,
                                 PanelState& state) noexcept {
  for (std::size_t i = 0; i < panel_tokens; ++i) {
    const std::size_t row = smaller(first + i, call.row_end - 1), head = head_of(call, group, row);
    queries[i] = call.q + row / group * call.q_row + head * call.head_dim;
    state.top[i] = minus_infinity;
    state.total[i] = 0.0f;
    state.position[i] = static_cast<float>(call.offset + row / group);
    state.slope[i] = call.alibi_slopes == nullptr ? 0.0f : log2e * call.alibi_slopes[head];
  }
}

CHIASM_ALWAYS_INLINE unsigned char* blocks_of(const void* p, std::size_t bytes) noexcept {  // to be read, but KvRows serves writing too
  return const_cast<unsigned char*>(static_cast<const unsigned char*>(p) + bytes);
}

/// Where a row's result goes; with its largest score and its total, where it is a partial one.
CHIASM_ALWAYS_INLINE float* place_of(const AttentionCall& call, std::size_t group, std::size_t row, float top, float total) noexcept {
  if (call.partial == nullptr) return call.y + row / group * call.y_row + head_of(call, group, row) * call.v_dim;
  float* const to = call.partial + (row - call.row_begin) * (call.v_dim + 2);
  to[0] = top;
  to[1] = total;
  return to + 2;
}

/// sums [v_dim][vectors * width] over the totals, to y.
CHIASM_NOINLINE void finish_panel(const AttentionCall& call, std::size_t group, std::size_t first, std::size_t vectors,
                                  const float* sums, const PanelState& state) noexcept {
  const std::size_t count = smaller(panel_tokens, call.row_end - first);
  for (std::size_t lane = 0; lane < vectors; ++lane) {
    const V total = load(state.total + lane * width);
    V factor = select_lt(zero(), total, div(set1(1.0f), total), mul(total, zero()));  // nothing seen: 0; NaN stays
    if (call.partial != nullptr) factor = set1(1.0f);
    for (std::size_t d = 0; d < call.v_dim; d += width) {
      V block[width];
      for (std::size_t i = 0; i < width; ++i) block[i] = mul(factor, load(sums + ((d + i) * vectors + lane) * width));
      transpose(block);
      for (std::size_t i = 0; i < width && lane * width + i < count; ++i) {
        const std::size_t in = lane * width + i;
        store_some(place_of(call, group, first + in, state.top[in], state.total[in]) + d, block[i], smaller(width, call.v_dim - d));
      }
    }
  }
}

inline void combine_parts(const float* partials, std::size_t count, std::size_t stride, std::size_t v_dim, float* y) noexcept {
  float top = minus_infinity, total = 0.0f;
  for (std::size_t i = 0; i < count; ++i) top = partials[i * stride] > top ? partials[i * stride] : top;
  const auto weight = [=](std::size_t i) noexcept {
    const float own = partials[i * stride];
    float lanes[width];
    store(lanes, exponential2(set1(own == minus_infinity ? minus_infinity : own - top)));
    return lanes[0];
  };
  for (std::size_t i = 0; i < count; ++i) total += weight(i) * partials[i * stride + 1];
  const float factor = total > 0.0f ? 1.0f / total : total * 0.0f;
  for (std::size_t i = 0; i < count; ++i) {
    const float own = factor * weight(i);
    i == 0 ? scale_row(own, partials + 2, y, v_dim) : axpy(own, partials + i * stride + 2, y, v_dim);
  }
}

/// Keys [key, key + keys), where they are or read into `rows`; values alike.
CHIASM_ALWAYS_INLINE const unsigned char* key_rows(const AttentionCall& call, std::size_t key, std::size_t keys, float* rows) noexcept {
  if (call.kind == KvKind::f32) return reinterpret_cast<const unsigned char*>(static_cast<const float*>(call.k) + call.kv_head * call.k_head + key * call.k_row);
  read_kv<true>({call.kind, call.head_dim, key, keys, blocks_of(call.k, call.kv_head * call.k_head), nullptr, rows, call.head_dim});
  return reinterpret_cast<const unsigned char*>(rows);
}
CHIASM_ALWAYS_INLINE const float* value_rows(const AttentionCall& call, std::size_t key, std::size_t keys, float* rows) noexcept {
  if (call.kind == KvKind::f32) return static_cast<const float*>(call.v) + call.kv_head * call.v_head + key * call.v_row;
  read_kv<false>({call.kind, call.v_dim, key, keys, blocks_of(call.v, call.kv_head * call.v_head), nullptr, rows, call.v_dim});
  return rows;
}

inline void attend_panels(const AttentionCall& call) noexcept {
  const AttentionScratch at = attention_layout(call.head_dim, call.v_dim);
  float* const scratch = static_cast<float*>(call.scratch);
  const std::size_t group = call.heads / call.kv_heads, rows = call.row_end - call.row_begin;
  const std::size_t panels = (rows + panel_tokens - 1) / panel_tokens, sums_size = panel_tokens * round_up(at.values_row, width);

  PanelState states[attention_panels];
  for (std::size_t p = 0; p < panels; ++p) {
    const std::size_t first = call.row_begin + p * panel_tokens;
    const float* queries[panel_tokens];
    start_panel(call, group, first, queries, states[p]);
    pack_rows(queries, vectors_of(call.row_end, first), call.head_dim, call.scale * log2e,
              scratch + at.queries + p * panel_tokens * call.head_dim);
    for (std::size_t i = 0; i < sums_size; ++i) scratch[at.sums + p * sums_size + i] = 0.0f;
  }

  const bool stored = call.kind != KvKind::f32;
  const KeyRange range = visible_keys(call, group, call.row_begin, rows);
  for (std::size_t key = range.begin; key < range.end; key += key_block) {
    const std::size_t keys = smaller(key_block, range.end - key);
    const unsigned char* const k = key_rows(call, key, keys, scratch + at.rows);
    const std::size_t k_row = (stored ? call.head_dim : call.k_row) * sizeof(float);
    for (std::size_t d = 0, slab = 0; d < call.head_dim; d += depth_block, ++slab)
      for (std::size_t j = 0; j < keys; j += panel_rows)
        copy_weights<DType::f32>(k + j * k_row + d * sizeof(float), k_row,
                                 smaller(panel_rows, keys - j), smaller(depth_block, call.head_dim - d),
                                 scratch + at.keys + (slab * key_block + j) * weight_row);
    const float* const v = value_rows(call, key, keys, scratch + at.rows);
    const std::size_t v_row = stored ? call.v_dim : call.v_row;
    for (std::size_t j = 0; j < keys; ++j) {
      const float* const from = v + j * v_row;
      float* const to = scratch + at.values + j * at.values_row;
      std::size_t d = 0;
      for (; d + width <= call.v_dim; d += width) store(to + d, load(from + d));
      for (; d < call.v_dim; ++d) to[d] = from[d];
      for (; d < at.values_row; ++d) to[d] = 0.0f;
    }

    for (std::size_t p = 0; p < panels; ++p) {
      const std::size_t first = call.row_begin + p * panel_tokens, vectors = vectors_of(call.row_end, first);
      const std::size_t count = smaller(panel_tokens, call.row_end - first);
      const KeyRange own = visible_keys(call, group, first, count);
      if (key >= own.end || key + keys <= own.begin) continue;
      float* const scores = scratch + at.scores;
      float* const sums = scratch + at.sums + p * sums_size;
      const float* const queries = scratch + at.queries + p * panel_tokens * call.head_dim;
      for (std::size_t d = 0, slab = 0; d < call.head_dim || d == 0; d += depth_block, ++slab)
        for (std::size_t j = 0; j < keys; j += panel_rows)
          multiply(vectors, queries + d * vectors * width, scratch + at.keys + (slab * key_block + j) * weight_row,
                   smaller(depth_block, call.head_dim - d), d != 0, scores + j * vectors * width);
      soften(vectors, call, group, first, count, key, keys, scores, scratch + at.mask, states[p]);
      if (vectors == 1)
        add_values<1>(scores, scratch + at.values, at.values_row, keys, call.v_dim, states[p].decay, sums);
      else
        add_values<panel_vectors>(scores, scratch + at.values, at.values_row, keys, call.v_dim, states[p].decay, sums);
    }
  }

  for (std::size_t p = 0; p < panels; ++p) {
    const std::size_t first = call.row_begin + p * panel_tokens;
    finish_panel(call, group, first, vectors_of(call.row_end, first), scratch + at.sums + p * sums_size, states[p]);
  }
}

/// q · k for four keys.
CHIASM_ALWAYS_INLINE void score_keys(const float* q, const float* k, std::size_t k_row, std::size_t keys, std::size_t head_dim,
                                     float scale, float* scores) noexcept {
  std::size_t j = 0;
  for (; j + 4 <= keys; j += 4, k += 4 * k_row) {
    V s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
    for (std::size_t d = 0; d < head_dim; d += width) {
      const std::size_t count = smaller(width, head_dim - d);
      const V a = load_some(q + d, count);
      s0 = fma(a, load_some(k + d, count), s0);
      s1 = fma(a, load_some(k + k_row + d, count), s1);
      s2 = fma(a, load_some(k + 2 * k_row + d, count), s2);
      s3 = fma(a, load_some(k + 3 * k_row + d, count), s3);
    }
    scores[j] = scale * reduce_add(s0);
    scores[j + 1] = scale * reduce_add(s1);
    scores[j + 2] = scale * reduce_add(s2);
    scores[j + 3] = scale * reduce_add(s3);
  }
  for (; j < keys; ++j, k += k_row) {
    V s = zero();
    for (std::size_t d = 0; d < head_dim; d += width) {
      const std::size_t count = smaller(width, head_dim - d);
      s = fma(load_some(q + d, count), load_some(k + d, count), s);
    }
    scores[j] = scale * reduce_add(s);
  }
}

/// Biases and the streaming softmax on the scores of one row's keys [key, key + keys), all visible, keys > 0. Returns what the row's sums are to be
/// multiplied by.
CHIASM_NOINLINE float soften_row(const AttentionCall& call, std::size_t group, std::size_t row, std::size_t key, std::size_t keys, float* scores, float& top,
                                 float& total) noexcept {
  const std::size_t query = row / group, head = head_of(call, group, row);
  if (call.alibi_slopes != nullptr) {
    const float position = static_cast<float>(call.offset + query), slope = log2e * call.alibi_slopes[head];
    for (std::size_t j = 0; j < keys; ++j) scores[j] += slope * (static_cast<float>(key + j) - position);
  }
  if (call.mask != nullptr) axpy(log2e, call.mask + query * call.mask_row + key, scores, keys);
  if (call.distance_bias != nullptr) axpy(log2e, distance_bias(call, group, row) + key, scores, keys);
  const float highest = largest(scores, keys), before = top;
  top = highest > before ? highest : before;
  if (highest != highest) top = highest;
  const V shift = set1(top == minus_infinity ? 0.0f : top);
  float decay[width];
  store(decay, exponential2(sub(set1(before), shift)));
  V sum = zero();
  std::size_t j = 0;
  for (; j + width <= keys; j += width) {
    const V e = exponential2(sub(load(scores + j), shift));
    store(scores + j, e);
    sum = add(sum, e);
  }
  float added = reduce_add(sum);
  if (j < keys) {
    store_n(scores + j, exponential2(sub(load_n(scores + j, keys - j), shift)), keys - j);
    for (; j < keys; ++j) added += scores[j];
  }
  total = total * decay[0] + added;
  return decay[0];
}

CHIASM_ALWAYS_INLINE void finish_row(const AttentionCall& call, std::size_t group, std::size_t row, const float* sums, float top, float total) noexcept {
  const float factor = call.partial != nullptr ? 1.0f : total > 0.0f ? 1.0f / total : total * 0.0f;
  scale_row(factor, sums, place_of(call, group, row, top, total), call.v_dim);
}

inline void attend_rows(const AttentionCall& call) noexcept {
  constexpr std::size_t block = 64;
  const AttentionScratch at = attention_layout(call.head_dim, call.v_dim);
  const std::size_t group = call.heads / call.kv_heads, rows = call.row_end - call.row_begin, sums_row = round_up(call.v_dim, 16);
  float* const sums = static_cast<float*>(call.scratch) + at.sums;
  float top[few_rows], total[few_rows];
  for (std::size_t r = 0; r < rows; ++r) {
    top[r] = minus_infinity;
    total[r] = 0.0f;
    for (std::size_t d = 0; d < call.v_dim; ++d) sums[r * sums_row + d] = 0.0f;
  }
  const float* const k = static_cast<const float*>(call.k) + call.kv_head * call.k_head;
  const float* const v = static_cast<const float*>(call.v) + call.kv_head * call.v_head;
  const KeyRange all = visible_keys(call, group, call.row_begin, rows);
  for (std::size_t first = all.begin; first < all.end; first += block) {
    const std::size_t last = smaller(first + block, all.end);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t row = call.row_begin + r;
      const KeyRange own = visible_keys(call, group, row, 1);
      const std::size_t begin = first < own.begin ? own.begin : first, end = smaller(last, own.end);
      if (begin >= end) continue;
      const std::size_t keys = end - begin;
      float scores[block];
      score_keys(call.q + row / group * call.q_row + head_of(call, group, row) * call.head_dim, k + begin * call.k_row, call.k_row, keys, call.head_dim,
                 call.scale * log2e, scores);
      const float decay = soften_row(call, group, row, begin, keys, scores, top[r], total[r]);

      const float* const values = v + begin * call.v_row;
      float* const to = sums + r * sums_row;
      std::size_t d = 0;
      for (; d + 4 * width <= call.v_dim; d += 4 * width) {
        const V factor = set1(decay);
        V s[4];
        CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) s[i] = mul(factor, load(to + d + i * width));
        for (std::size_t j = 0; j < keys; ++j) {
          const V p = set1(scores[j]);
          CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) s[i] = fma(p, load(values + j * call.v_row + d + i * width), s[i]);
        }
        CHIASM_UNROLL for (std::size_t i = 0; i < 4; ++i) store(to + d + i * width, s[i]);
      }
      for (; d < call.v_dim; d += width) {
        const std::size_t count = smaller(width, call.v_dim - d);
        V s = mul(set1(decay), load_some(to + d, count));
        for (std::size_t j = 0; j < keys; ++j) s = fma(set1(scores[j]), load_some(values + j * call.v_row + d, count), s);
        store_some(to + d, s, count);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) finish_row(call, group, call.row_begin + r, sums + r * sums_row, top[r], total[r]);
}

/// sums[row][16] += coefficients[row][.] times lines of 16 numbers, or of 16 pairs of bf16, which take two coefficients.
template <KvKind kind, std::size_t rows>
CHIASM_NOINLINE void add_lines(const unsigned char* lines, std::size_t count, const float* coefficients, std::size_t coefficients_row, float* sums,
                               std::size_t sums_row) noexcept {
  constexpr std::size_t vectors = width >= 8 ? 16 / width : 1, bytes = kind == KvKind::bf16 ? 4 : 1;
  for (std::size_t lane = 0; lane < 16; lane += vectors * width) {
    V even[rows][vectors], odd[rows][vectors];  // two chains of additions: one row alone would wait for its own
    CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
      even[r][v] = load(sums + r * sums_row + lane + v * width);
      odd[r][v] = zero();
    }
    const unsigned char* line = lines + lane * bytes;
    for (std::size_t i = 0; i < count; ++i, line += 16 * bytes) {
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
        const unsigned char* const at = line + v * width * bytes;
        if constexpr (kind == KvKind::bf16) {
          const V first = load_even_bf16(at), second = load_odd_bf16(at);
          CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) {
            const float* const c = coefficients + r * coefficients_row + 2 * i;
            even[r][v] = fma(set1(c[0]), first, even[r][v]);
            odd[r][v] = fma(set1(c[1]), second, odd[r][v]);
          }
        } else {
          const V numbers = load_i8(at);
          CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) even[r][v] = fma(set1(coefficients[r * coefficients_row + i]), numbers, even[r][v]);
        }
      }
    }
    CHIASM_UNROLL for (std::size_t r = 0; r < rows; ++r) CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v)
        store(sums + r * sums_row + lane + v * width, add(even[r][v], odd[r][v]));
  }
}
template <KvKind kind>
CHIASM_ALWAYS_INLINE void add_lines_to(std::size_t rows, const unsigned char* lines, std::size_t count, const float* coefficients,
                                       std::size_t coefficients_row, float* sums, std::size_t sums_row) noexcept {
  constexpr std::size_t most = width == 8 ? 2 : 4;  // what the registers hold
  for (; rows >= most; rows -= most, coefficients += most * coefficients_row, sums += most * sums_row)
    add_lines<kind, most>(lines, count, coefficients, coefficients_row, sums, sums_row);
  for (; rows > 0; --rows, coefficients += coefficients_row, sums += sums_row) add_lines<kind, 1>(lines, count, coefficients, coefficients_row, sums, sums_row);
}

/// Few rows over keys and values in blocks, each of which is read once for all rows. Lanes are keys, then they run along v_dim.
template <KvKind kind>
inline void attend_stored_rows(const AttentionCall& call) noexcept {
  const AttentionScratch at = attention_layout(call.head_dim, call.v_dim);
  float* const scratch = static_cast<float*>(call.scratch);
  float *const queries = scratch + at.queries, *const scores = scratch + at.scores, *const sums = scratch + at.sums;
  const std::size_t group = call.heads / call.kv_heads, rows = call.row_end - call.row_begin, wide = round_up(call.v_dim, 16), deep = round_up(call.head_dim, 32);
  const std::size_t key_lines = kind == KvKind::bf16 ? deep / 2 : round_up(call.head_dim, 2), value_lines = kind == KvKind::bf16 ? kv_block / 2 : kv_block;
  constexpr std::size_t line = kind == KvKind::bf16 ? 64 : 16, scales = kind == KvKind::bf16 ? 0 : kv_block * sizeof(float);
  const std::size_t key_bytes = kv_key_bytes(kind, call.head_dim), value_bytes = kv_value_bytes(kind, call.v_dim);
  const unsigned char* const k = blocks_of(call.k, call.kv_head * call.k_head);
  const unsigned char* const v = blocks_of(call.v, call.kv_head * call.v_head);
  float top[few_stored_rows], total[few_stored_rows];
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = call.row_begin + r;
    top[r] = minus_infinity;
    total[r] = 0.0f;
    scale_row(call.scale * log2e, call.q + row / group * call.q_row + head_of(call, group, row) * call.head_dim, queries + r * deep, call.head_dim);
    for (std::size_t d = call.head_dim; d < deep; ++d) queries[r * deep + d] = 0.0f;
    for (std::size_t d = 0; d < wide; ++d) sums[r * wide + d] = 0.0f;
  }
  const KeyRange all = visible_keys(call, group, call.row_begin, rows);
  for (std::size_t first = all.begin / kv_block * kv_block; first < all.end; first += stored_keys) {
    const std::size_t last = smaller(first + stored_keys, all.end), blocks = (last - first + kv_block - 1) / kv_block;
    const unsigned char* const keys = k + first / kv_block * key_bytes;
    const unsigned char* const values = v + first / kv_block * value_bytes;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t j = 0; j < blocks * kv_block; j += width) store(scores + r * stored_keys + j, zero());
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t ahead = 0; ahead < key_bytes; ahead += 64) prefetch(keys + (blocks + b) * key_bytes + ahead);
      for (std::size_t half = 0; half < 2; ++half)
        add_lines_to<kind>(rows, keys + b * key_bytes + scales + half * key_lines * line, key_lines, queries, deep, scores + b * kv_block + half * 16, stored_keys);
      if constexpr (kind == KvKind::q8)
        for (std::size_t r = 0; r < rows; ++r)
          mul_rows(reinterpret_cast<const float*>(keys + b * key_bytes), scores + r * stored_keys + b * kv_block, scores + r * stored_keys + b * kv_block, kv_block);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      const KeyRange own = visible_keys(call, group, call.row_begin + r, 1);
      const std::size_t begin = largest_of(first, own.begin), end = smaller(last, own.end);
      float* const weights = scores + r * stored_keys;
      float decay = 1.0f;
      if (begin < end) decay = soften_row(call, group, call.row_begin + r, begin, end - begin, weights + (begin - first), top[r], total[r]);
      for (std::size_t j = 0; j < blocks * kv_block; ++j)
        if (first + j < begin || first + j >= end) weights[j] = 0.0f;
      if (decay != 1.0f) scale_row(decay, sums + r * wide, sums + r * wide, wide);
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t ahead = 0; ahead < value_bytes; ahead += 64) prefetch(values + (blocks + b) * value_bytes + ahead);
      if constexpr (kind == KvKind::q8)
        for (std::size_t r = 0; r < rows; ++r)
          mul_rows(reinterpret_cast<const float*>(values + b * value_bytes), scores + r * stored_keys + b * kv_block, scores + r * stored_keys + b * kv_block, kv_block);
      for (std::size_t d = 0; d < wide; d += 16)
        add_lines_to<kind>(rows, values + b * value_bytes + scales + d / 16 * value_lines * line, value_lines, scores + b * kv_block, stored_keys, sums + d, wide);
    }
  }
  for (std::size_t r = 0; r < rows; ++r) finish_row(call, group, call.row_begin + r, sums + r * wide, top[r], total[r]);
}

/// Whether rows are so few that lanes are better spent on something else.
CHIASM_ALWAYS_INLINE bool attend_few(const AttentionCall& call, std::size_t stored_rows) noexcept {
  const std::size_t rows = call.queries * (call.heads / call.kv_heads);
  if (rows > (call.kind == KvKind::f32 ? few_rows : stored_rows)) return false;
  if (call.kind == KvKind::bf16)
    attend_stored_rows<KvKind::bf16>(call);
  else if (call.kind == KvKind::q8)
    attend_stored_rows<KvKind::q8>(call);
  else
    attend_rows(call);
  return true;
}

inline void attention(const AttentionCall& call) noexcept {
  if (call.row_begin < call.row_end && !attend_few(call, few_stored_rows)) attend_panels(call);
}
