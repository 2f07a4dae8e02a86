// Matrix product for many tokens. Lanes are tokens: x is packed once into panels (k-major), weights are broadcast. So W is read
// as the file has it, row by row, and a panel of its rows (converted to f32) stays in L1 while the panels of x stream past it
// from L2.
//   packed x: [slab of `depth_block` k][panel][k][panel_tokens]; a last panel of few tokens is one vector wide
// Every product is the sum over slabs of in-order sums over k: it does not depend on how tokens and outputs are split.

inline constexpr std::size_t panel_tokens = panel_vectors * width;
inline constexpr std::size_t depth_block = 256;              // a panel of x: 32 KB with 32 tokens
inline constexpr std::size_t weight_row = depth_block + 16;  // 17 lines apart: rows fall into different sets of L1
inline constexpr std::size_t token_block = 8;                // panels: 256 KB of packed x at 32 tokens
inline constexpr std::size_t output_block = panel_rows * (224 / panel_rows);
inline constexpr std::size_t weight_floats = panel_rows * weight_row;
inline constexpr std::size_t product_rows = output_block + 16;  // the store reads whole vectors of outputs

/// Vectors of the panel that begins at token `first`.
CHIASM_ALWAYS_INLINE std::size_t vectors_of(std::size_t tokens, std::size_t first) noexcept {
  return tokens - first <= width ? 1 : panel_vectors;
}

/// Rows (null: zeros) of `depth` floats, times `factor`, to [k][vectors * width].
CHIASM_NOINLINE void pack_rows(const float* const* rows, std::size_t vectors, std::size_t depth, float factor,
                               float* to) noexcept {
  const std::size_t stride = vectors * width;
  for (std::size_t v = 0; v < vectors; ++v) {
    for (std::size_t k = 0; k < depth; k += width) {
      const std::size_t count = smaller(width, depth - k);
      V block[width];
      for (std::size_t i = 0; i < width; ++i) {
        const float* const row = rows[v * width + i];
        block[i] = row == nullptr ? zero() : mul(count == width ? load(row + k) : load_n(row + k, count), set1(factor));
      }
      transpose(block);
      for (std::size_t i = 0; i < count; ++i) store(to + (k + i) * stride + v * width, block[i]);
    }
  }
}

inline std::size_t gemm_packed_bytes(std::size_t tokens, std::size_t depth) noexcept {
  return round_up(tokens, panel_tokens) * depth * sizeof(float);
}

inline void gemm_pack(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, std::size_t begin,
                      std::size_t end, void* packed) noexcept {
  const std::size_t padded = round_up(tokens, panel_tokens);
  for (std::size_t panel = begin; panel < end; ++panel) {
    const std::size_t first = panel * panel_tokens;
    for (std::size_t k = 0; k < depth; k += depth_block) {
      const std::size_t count = smaller(depth_block, depth - k);
      const float* rows[panel_tokens];
      for (std::size_t i = 0; i < panel_tokens; ++i) rows[i] = first + i < tokens ? x + ((panel - begin) * panel_tokens + i) * stride + k : nullptr;
      pack_rows(rows, vectors_of(tokens, first), count, 1.0f, static_cast<float*>(packed) + k * padded + first * count);
    }
  }
}

/// `rows` rows of `depth` weights to f32 rows that lie `weight_row` apart; rows up to panel_rows become zeros.
template <DType kind>
CHIASM_NOINLINE void copy_weights(const unsigned char* weight, std::size_t stride, std::size_t rows, std::size_t depth,
                                  float* to) noexcept {
  constexpr std::size_t size = kind == DType::f32 ? 4 : 2;
  for (std::size_t r = 0; r < panel_rows; ++r, to += weight_row) {
    if (r >= rows) {
      for (std::size_t k = 0; k < depth; ++k) to[k] = 0.0f;
      continue;
    }
    const unsigned char* const row = weight + r * stride;
    std::size_t k = 0;
    for (; k + width <= depth; k += width) store(to + k, load_as<kind>(row + k * size));
    if (k < depth) store_n(to + k, load_as_n<kind>(row + k * size, depth - k), depth - k);
  }
}

/// product[r][token] (+)= sum over k of weight[r][k] x[k][token], panel_rows times `vectors` vectors.
template <std::size_t vectors>
CHIASM_NOINLINE void multiply_panel(const float* x, const float* weight, std::size_t depth, bool accumulate,
                                    float* product) noexcept {
  V sum[panel_rows][vectors];
  CHIASM_UNROLL for (std::size_t r = 0; r < panel_rows; ++r) {
    CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) sum[r][v] = zero();
  }
  for (std::size_t k = 0; k < depth; ++k) {
    V tokens[vectors];
    CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) tokens[v] = load(x + v * width);
    CHIASM_UNROLL for (std::size_t r = 0; r < panel_rows; ++r) {
      const V w = set1(weight[r * weight_row]);
      CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) sum[r][v] = fma(w, tokens[v], sum[r][v]);
    }
    x += vectors * width;
    ++weight;
  }
  CHIASM_UNROLL for (std::size_t r = 0; r < panel_rows; ++r) {
    CHIASM_UNROLL for (std::size_t v = 0; v < vectors; ++v) {
      float* const to = product + (r * vectors + v) * width;
      store(to, accumulate ? add(load(to), sum[r][v]) : sum[r][v]);
    }
  }
}

CHIASM_ALWAYS_INLINE void multiply(std::size_t vectors, const float* x, const float* weight, std::size_t depth, bool accumulate,
                                   float* product) noexcept {
  if (vectors == 1)
    multiply_panel<1>(x, weight, depth, accumulate, product);
  else
    multiply_panel<panel_vectors>(x, weight, depth, accumulate, product);
}

/// product [output][vectors * width tokens] to rows of y, through bias, activation and residual.
template <Activation activation>
CHIASM_NOINLINE void store_product(const float* product, std::size_t vectors, std::size_t token, std::size_t tokens,
                                   std::size_t output, std::size_t outputs, const Output& out) noexcept {
  const std::size_t stride = vectors * width;
  for (std::size_t n = 0; n < outputs; n += width) {
    const std::size_t count = smaller(width, outputs - n);
    const bool whole = count == width;
    V bias = zero();
    if (out.bias != nullptr) bias = whole ? load(out.bias + output + n) : load_n(out.bias + output + n, count);
    for (std::size_t v = 0; v < vectors && v * width < tokens; ++v) {
      V block[width];
      load_transposed(product + n * stride + v * width, stride, block);
      const std::size_t rows = smaller(width, tokens - v * width), first = token + v * width;
      // All loads, then all stores: rows of residual and of y often lie at the same place in their pages, and a load waits for such a store.
      for (std::size_t i = 0; i < rows; ++i) {
        block[i] = activated<activation>(add(block[i], bias));
        if (out.residual == nullptr) continue;
        const float* const residual = out.residual + (first + i) * out.residual_stride + output + n;
        block[i] = add(block[i], whole ? load(residual) : load_n(residual, count));
      }
      for (std::size_t i = 0; i < rows; ++i) {
        float* const to = out.y + (first + i) * out.stride + output + n;
        if (whole)
          store(to, block[i]);
        else
          store_n(to, block[i], count);
      }
    }
  }
}

inline void store_product(const float* product, std::size_t vectors, std::size_t token, std::size_t tokens, std::size_t output,
                          std::size_t outputs, const Output& out) noexcept {
  with_activation(out.activation, [&](auto activation) {
    store_product<decltype(activation)::value>(product, vectors, token, tokens, output, outputs, out);
  });
}

/// product [output][vectors * width tokens] to packed x, whose k are the outputs. `gate`: null, or a product of the same form.
template <Activation activation>
CHIASM_NOINLINE void store_packed(const float* product, const float* gate, std::size_t vectors, std::size_t first, std::size_t tokens, std::size_t output,
                                  std::size_t outputs, const Output& out) noexcept {
  const std::size_t stride = vectors * width, padded = round_up(tokens, panel_tokens);
  for (std::size_t n = 0; n < outputs; ++n) {
    const std::size_t k = output + n, slab = k / depth_block * depth_block, count = smaller(depth_block, out.packed_depth - slab);
    float* const to = static_cast<float*>(out.packed) + slab * padded + first * count + (k - slab) * stride;
    const V bias = set1(out.bias == nullptr ? 0.0f : out.bias[k]), gate_bias = set1(out.gate_bias == nullptr ? 0.0f : out.gate_bias[k]);
    for (std::size_t v = 0; v < stride; v += width) {
      const V y = add(load(product + n * stride + v), bias);
      store(to + v, gate == nullptr ? activated<activation>(y) : mul(activated<activation>(add(load(gate + n * stride + v), gate_bias)), y));
    }
  }
}

inline constexpr std::size_t gemm_scratch_bytes =
    round_up((weight_floats + token_block * panel_tokens * product_rows + 2 * panel_outputs * weight_row) * sizeof(float), 64);

template <DType kind>
inline void gemm_run(const GemmCall& call) noexcept {
  const auto* const packed = static_cast<const float*>(call.packed);
  const void* const weights[2] = {call.weight, call.gate};
  const std::size_t factors = call.gate == nullptr ? 1 : 2, block = output_block / factors / panel_rows * panel_rows;
  float* const rows = static_cast<float*>(call.scratch);
  float* const products = rows + weight_floats;  // of a panel: those of W, then those of the gate
  [[maybe_unused]] ExpandedPanels expanded{products + token_block * panel_tokens * product_rows};
  const std::size_t padded = round_up(call.tokens, panel_tokens);

  for (std::size_t p0 = call.panel_begin; p0 < call.panel_end; p0 += token_block) {
    const std::size_t p1 = smaller(p0 + token_block, call.panel_end);
    for (std::size_t n0 = call.output_begin; n0 < call.output_end; n0 += block) {
      const std::size_t n1 = smaller(n0 + block, call.output_end);
      for (std::size_t k = 0; k < call.depth || k == 0; k += depth_block) {
        const std::size_t depth = smaller(depth_block, call.depth - k);
        for (std::size_t factor = 0; factor < factors; ++factor) {
          const auto* const weight = static_cast<const unsigned char*>(weights[factor]);
          for (std::size_t n = n0; n < n1; n += panel_rows) {
            if constexpr (is_block_format(kind))
              copy_block_rows<kind>(weight, call.weight_stride, n, smaller(panel_rows, n1 - n), k, depth, weight_row, expanded, rows);
            else
              copy_weights<kind>(weight + n * call.weight_stride + k * size_of(kind), call.weight_stride, smaller(panel_rows, n1 - n), depth, rows);
            for (std::size_t p = p0; p < p1; ++p) {
              const std::size_t first = p * panel_tokens, vectors = vectors_of(call.tokens, first);
              float* const product = products + (p - p0) * panel_tokens * product_rows + (factor * block + n - n0) * vectors * width;
              multiply(vectors, packed + k * padded + first * depth, rows, depth, k != 0, product);
            }
          }
        }
      }
      for (std::size_t p = p0; p < p1; ++p) {
        const std::size_t first = p * panel_tokens, vectors = vectors_of(call.tokens, first);
        const float* const product = products + (p - p0) * panel_tokens * product_rows;
        const float* const gate = call.gate == nullptr ? nullptr : product + block * vectors * width;
        if (call.out.packed == nullptr)
          store_product(product, vectors, first, smaller(panel_tokens, call.tokens - first), n0, n1 - n0, call.out);
        else
          with_activation(call.out.activation, [&](auto activation) {
            store_packed<decltype(activation)::value>(product, gate, vectors, first, call.tokens, n0, n1 - n0, call.out);
          });
      }
    }
  }
}

template <DType kind>
inline constexpr Gemm gemm_of = {panel_tokens, panel_rows, output_block, gemm_scratch_bytes, gemm_packed_bytes, gemm_pack, gemm_run<kind>};
