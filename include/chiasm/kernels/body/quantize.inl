// Activations rounded to eight bits: 32 k share a scale, by which the largest of them becomes 127 or -127.
//   a row of quantised x: [unit of 32 k][32] signed bytes, then for every unit four floats: the scale, and the scale times the sum of the first 16
//   bytes, of the other 16, and of all 32 (by which the weights' offsets and minima are multiplied)

inline std::size_t quantized_bytes(std::size_t tokens, std::size_t depth) noexcept {
  return tokens * round_up(depth, unit_depth) / unit_depth * (unit_depth + 4 * sizeof(float));
}

inline void quantize(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, void* quantized) noexcept {
  const std::size_t units = (depth + unit_depth - 1) / unit_depth, row = quantized_bytes(1, depth);
  for (std::size_t t = 0; t < tokens; ++t) {
    auto* const codes = static_cast<signed char*>(quantized) + t * row;
    auto* const scales = reinterpret_cast<float*>(codes + units * unit_depth);
    V strange = zero();  // becomes NaN where x is not finite
    for (std::size_t u = 0; u < units; ++u) {
      V values[unit_depth / width];
      V top = zero();
      for (std::size_t i = 0; i < unit_depth / width; ++i) {
        const std::size_t k = u * unit_depth + i * width;
        const float* const from = x + t * stride + k;
        values[i] = k + width <= depth ? load(from) : k < depth ? load_n(from, depth - k) : zero();
        top = max(top, absolute(values[i]));
        strange = fma(values[i], zero(), strange);
      }
      const float largest = reduce_max(top);
      const bool any = largest > 1e-30f;
      const V inverse = set1(any ? 127.0f / largest : 0.0f);
      V sums[2] = {zero(), zero()};
      for (std::size_t i = 0; i < unit_depth / width; ++i) {
        const V code = round_even(mul(values[i], inverse));
        store_i8(codes + u * unit_depth + i * width, code);
        V& sum = sums[i * width / 16];
        sum = add(sum, code);
      }
      const float scale = any ? largest / 127.0f : 0.0f, first = reduce_add(sums[0]), second = reduce_add(sums[1]);
      scales[4 * u] = scale;
      scales[4 * u + 1] = scale * first;
      scales[4 * u + 2] = scale * second;
      scales[4 * u + 3] = scale * (first + second);
    }
    if (const float nothing = reduce_add(strange); !(nothing == 0))
      for (std::size_t i = 0; i < 4 * units; ++i) scales[i] = nothing;
  }
}
