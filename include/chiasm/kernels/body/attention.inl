// Attention with a streaming softmax (Milakov and Gimelshein, arXiv:1805.02867; FlashAttention, arXiv:2205.14135): keys pass in
// blocks, and every row keeps its largest score, the sum of exponentials and the weighted sum of values so far. Many rows: lanes
// are rows. Scores are kept as [key][row], so that the softmax needs no sum across lanes, and both products are those of gemm.inl
// with the key or value as the broadcast weight. Few rows (decode): lanes run along head_dim, keys and values are read in place.

inline constexpr std::size_t attention_panels = 10;  // that share one copy of the keys and values: their rows lie pages apart
inline constexpr std::size_t attention_rows = attention_panels * panel_tokens;
inline constexpr std::size_t key_block = panel_rows * (56 / panel_rows);
inline constexpr std::size_t few_rows =
    width < 8 ? 2 : 4;  // up to so many rows lanes run along head_dim: bench/kernels/attention_bench

struct AttentionScratch {  // offsets in floats
  std::size_t values_row, keys, values, queries, scores, sums, mask, total;
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
  s.queries = take(attention_rows * head_dim);
  s.scores = take(key_block * panel_tokens);
  s.mask = take(key_block * panel_tokens);
  s.sums = take(attention_rows * round_up(s.values_row, width));
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
    for (std::size_t i = 0; i < keys + stride - 1; ++i) mask[i] = i < keys + count - 1 ? near[-static_cast<std::ptrdiff_t>(i)] : 0.0f;
  } else if (added) {
    for (std::size_t r = 0; r < stride; ++r) {
      const std::size_t row = first + smaller(r, count - 1), query = row / group;
      const float* const from = call.mask == nullptr ? nullptr : call.mask + query * call.mask_row + key;
      const float* const near = call.distance_bias == nullptr ? nullptr : distance_bias(call, group, row) + key;
      for (std::size_t j = 0; j < keys; ++j) mask[j * stride + r] = (from == nullptr ? 0.0f : from[j]) + (near == nullptr ? 0.0f : near[j]);
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
    const V decay = exponential(sub(load(state.top + v * width), shift[v]));
    total[v] = mul(load(state.total + v * width), decay);
    store(state.top + v * width, top[v]);
    store(state.decay + v * width, decay);
  }
  for (std::size_t j = 0; j < keys; ++j) {
    CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
      const V e = exponential(sub(load(scores + j * stride + v * width), shift[v]));
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
    state.slope[i] = call.alibi_slopes == nullptr ? 0.0f : call.alibi_slopes[head];
  }
}

/// sums [v_dim][vectors * width] over the totals, to y.
CHIASM_NOINLINE void finish_panel(const AttentionCall& call, std::size_t group, std::size_t first, std::size_t vectors,
                                  const float* sums, const PanelState& state) noexcept {
  const std::size_t count = smaller(panel_tokens, call.row_end - first);
  for (std::size_t lane = 0; lane < vectors; ++lane) {
    const V total = load(state.total + lane * width);
    const V factor = select_lt(zero(), total, div(set1(1.0f), total), mul(total, zero()));  // nothing seen: 0; NaN stays
    for (std::size_t d = 0; d < call.v_dim; d += width) {
      V block[width];
      for (std::size_t i = 0; i < width; ++i) block[i] = mul(factor, load(sums + ((d + i) * vectors + lane) * width));
      transpose(block);
      for (std::size_t i = 0; i < width && lane * width + i < count; ++i) {
        const std::size_t row = first + lane * width + i;
        store_some(call.y + row / group * call.y_row + head_of(call, group, row) * call.v_dim + d, block[i],
                   smaller(width, call.v_dim - d));
      }
    }
  }
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
    pack_rows(queries, vectors_of(call.row_end, first), call.head_dim, call.scale,
              scratch + at.queries + p * panel_tokens * call.head_dim);
    for (std::size_t i = 0; i < sums_size; ++i) scratch[at.sums + p * sums_size + i] = 0.0f;
  }

  const auto* const k = reinterpret_cast<const unsigned char*>(call.k + call.kv_head * call.k_head);
  const float* const v = call.v + call.kv_head * call.v_head;
  const KeyRange range = visible_keys(call, group, call.row_begin, rows);
  for (std::size_t key = range.begin; key < range.end; key += key_block) {
    const std::size_t keys = smaller(key_block, range.end - key);
    for (std::size_t d = 0, slab = 0; d < call.head_dim; d += depth_block, ++slab)
      for (std::size_t j = 0; j < keys; j += panel_rows)
        copy_weights<DType::f32>(k + ((key + j) * call.k_row + d) * sizeof(float), call.k_row * sizeof(float),
                                 smaller(panel_rows, keys - j), smaller(depth_block, call.head_dim - d),
                                 scratch + at.keys + (slab * key_block + j) * weight_row);
    for (std::size_t j = 0; j < keys; ++j) {
      const float* const from = v + (key + j) * call.v_row;
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
  const float* const k = call.k + call.kv_head * call.k_head;
  const float* const v = call.v + call.kv_head * call.v_head;
  const KeyRange all = visible_keys(call, group, call.row_begin, rows);
  for (std::size_t first = all.begin; first < all.end; first += block) {
    const std::size_t last = smaller(first + block, all.end);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t row = call.row_begin + r, query = row / group, head = call.kv_head * group + row % group;
      const KeyRange own = visible_keys(call, group, row, 1);
      const std::size_t begin = first < own.begin ? own.begin : first, end = smaller(last, own.end);
      if (begin >= end) continue;
      const std::size_t keys = end - begin;
      float scores[block];
      score_keys(call.q + query * call.q_row + head * call.head_dim, k + begin * call.k_row, call.k_row, keys, call.head_dim,
                 call.scale, scores);
      if (call.alibi_slopes != nullptr) {
        const float position = static_cast<float>(call.offset + query);
        for (std::size_t j = 0; j < keys; ++j) scores[j] += call.alibi_slopes[head] * (static_cast<float>(begin + j) - position);
      }
      if (call.mask != nullptr)
        for (std::size_t j = 0; j < keys; ++j) scores[j] += call.mask[query * call.mask_row + begin + j];
      if (call.distance_bias != nullptr) {
        const float* const near = distance_bias(call, group, row) + begin;
        for (std::size_t j = 0; j < keys; ++j) scores[j] += near[j];
      }
      const float highest = largest(scores, keys), before = top[r];
      top[r] = highest > before ? highest : before;
      if (highest != highest) top[r] = highest;
      const V shift = set1(top[r] == minus_infinity ? 0.0f : top[r]);
      float decay[width];
      store(decay, exponential(sub(set1(before), shift)));
      each(keys, [&](std::size_t j, std::size_t count) {
        store_some(scores + j, exponential(sub(load_some(scores + j, count), shift)), count);
      });
      float sum = 0.0f;
      for (std::size_t j = 0; j < keys; ++j) sum += scores[j];
      total[r] = total[r] * decay[0] + sum;

      const float* const values = v + begin * call.v_row;
      float* const to = sums + r * sums_row;
      std::size_t d = 0;
      for (; d + 4 * width <= call.v_dim; d += 4 * width) {
        const V factor = set1(decay[0]);
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
        V s = mul(set1(decay[0]), load_some(to + d, count));
        for (std::size_t j = 0; j < keys; ++j) s = fma(set1(scores[j]), load_some(values + j * call.v_row + d, count), s);
        store_some(to + d, s, count);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = call.row_begin + r;
    const float factor = total[r] > 0.0f ? 1.0f / total[r] : total[r] * 0.0f;
    scale_row(factor, sums + r * sums_row, call.y + row / group * call.y_row + (call.kv_head * group + row % group) * call.v_dim,
              call.v_dim);
  }
}

inline void attention(const AttentionCall& call) noexcept {
  if (call.row_begin >= call.row_end) return;
  if (call.queries * (call.heads / call.kv_heads) <= few_rows)
    attend_rows(call);
  else
    attend_panels(call);
}
