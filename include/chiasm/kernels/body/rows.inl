// Operations on rows and on elements, in the vector vocabulary.

/// y[i] = f(a[i], ...) for all i, whole vectors and then a partial one.
template <class F>
CHIASM_ALWAYS_INLINE void each(std::size_t n, F f) noexcept {
  std::size_t i = 0;
  for (; i + width <= n; i += width) f(i, width);
  if (i < n) f(i, n - i);
}
CHIASM_ALWAYS_INLINE V load_some(const float* p, std::size_t n) noexcept { return n == width ? load(p) : load_n(p, n); }
CHIASM_ALWAYS_INLINE void store_some(float* p, V a, std::size_t n) noexcept {
  if (n == width)
    store(p, a);
  else
    store_n(p, a, n);
}

inline void add_rows(const float* a, const float* b, float* y, std::size_t n) noexcept {
  each(n, [=](std::size_t i, std::size_t count) {
    store_some(y + i, add(load_some(a + i, count), load_some(b + i, count)), count);
  });
}
inline void mul_rows(const float* a, const float* b, float* y, std::size_t n) noexcept {
  each(n, [=](std::size_t i, std::size_t count) {
    store_some(y + i, mul(load_some(a + i, count), load_some(b + i, count)), count);
  });
}
inline void scale_row(float a, const float* x, float* y, std::size_t n) noexcept {
  each(n, [=](std::size_t i, std::size_t count) { store_some(y + i, mul(set1(a), load_some(x + i, count)), count); });
}
inline void axpy(float a, const float* x, float* y, std::size_t n) noexcept {
  each(n, [=](std::size_t i, std::size_t count) {
    store_some(y + i, fma(set1(a), load_some(x + i, count), load_some(y + i, count)), count);
  });
}
inline void activate(Activation activation, const float* x, float* y, std::size_t n) noexcept {
  with_activation(activation, [=](auto constant) {
    each(n, [=](std::size_t i, std::size_t count) {
      store_some(y + i, activated<decltype(constant)::value>(load_some(x + i, count)), count);
    });
  });
}
inline void gated(Activation activation, const float* gate, const float* up, float* y, std::size_t n) noexcept {
  with_activation(activation, [=](auto constant) {
    each(n, [=](std::size_t i, std::size_t count) {
      store_some(y + i, mul(activated<decltype(constant)::value>(load_some(gate + i, count)), load_some(up + i, count)), count);
    });
  });
}

inline float dot(const float* a, const float* b, std::size_t n) noexcept {
  V s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
  std::size_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    s0 = fma(load(a + i), load(b + i), s0);
    s1 = fma(load(a + i + width), load(b + i + width), s1);
    s2 = fma(load(a + i + 2 * width), load(b + i + 2 * width), s2);
    s3 = fma(load(a + i + 3 * width), load(b + i + 3 * width), s3);
  }
  for (; i < n; i += width) {
    const std::size_t count = smaller(width, n - i);
    s0 = fma(load_some(a + i, count), load_some(b + i, count), s0);
  }
  return reduce_add(add(add(s0, s1), add(s2, s3)));
}

/// The largest of n > 0 values.
inline float largest(const float* x, std::size_t n) noexcept {
  V top = set1(x[0]);
  std::size_t i = 0;
  for (; i + width <= n; i += width) top = max(top, load(x + i));
  float value = reduce_max(top);
  for (; i < n; ++i) value = x[i] > value ? x[i] : value;
  return value;
}

inline std::size_t argmax(const float* x, std::size_t n) noexcept {
  if (n == 0) return 0;
  const float value = largest(x, n);
  for (std::size_t i = 0; i < n; ++i)
    if (x[i] == value) return i;
  return 0;
}

inline void softmax(const float* x, float* y, std::size_t n) noexcept {
  if (n == 0) return;
  const float top = largest(x, n);
  const V shift = set1(top == -__builtin_inff() ? 0.0f : top);
  float total = 0.0f;
  V sum = zero();
  std::size_t i = 0;
  for (; i + width <= n; i += width) {
    const V e = exponential(sub(load(x + i), shift));
    sum = add(sum, e);
    store(y + i, e);
  }
  total = reduce_add(sum);
  if (i < n) {
    float last[width];
    store(last, exponential(sub(load_n(x + i, n - i), shift)));
    for (std::size_t j = 0; i + j < n; ++j) {
      y[i + j] = last[j];
      total += last[j];
    }
  }
  scale_row(total > 0.0f || total != total ? 1.0f / total : 0.0f, y, y, n);
}

/// Sum over i of f of the values; f(0) must be 0 where `n` is no multiple of the width.
template <class F>
CHIASM_ALWAYS_INLINE float sum_of(const float* x, std::size_t n, F f) noexcept {
  V s0 = zero(), s1 = zero();
  std::size_t i = 0;
  for (; i + 2 * width <= n; i += 2 * width) {
    s0 = add(s0, f(load(x + i)));
    s1 = add(s1, f(load(x + i + width)));
  }
  if (i + width <= n) {
    s0 = add(s0, f(load(x + i)));
    i += width;
  }
  float total = reduce_add(add(s0, s1));
  if (i < n) {
    float last[width];
    store(last, f(load_n(x + i, n - i)));
    for (std::size_t j = 0; i + j < n; ++j) total += last[j];
  }
  return total;
}

inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y, std::size_t n) noexcept {
  if (n == 0) return;
  const float count = static_cast<float>(n);
  const V mean = set1(sum_of(x, n, [=](V a) { return a; }) / count);
  const float variance = sum_of(x, n, [=](V a) { return mul(sub(a, mean), sub(a, mean)); }) / count;
  const V factor = set1(1.0f / __builtin_sqrtf(variance + eps));
  each(n, [=](std::size_t i, std::size_t some) {
    V a = mul(sub(load_some(x + i, some), mean), factor);
    if (weight != nullptr) a = mul(a, load_some(weight + i, some));
    if (bias != nullptr) a = add(a, load_some(bias + i, some));
    store_some(y + i, a, some);
  });
}

inline void rms_norm(const float* x, const float* weight, float eps, float* y, std::size_t n) noexcept {
  if (n == 0) return;
  const float mean = sum_of(x, n, [=](V a) { return mul(a, a); }) / static_cast<float>(n);
  const V factor = set1(1.0f / __builtin_sqrtf(mean + eps));
  each(n, [=](std::size_t i, std::size_t some) {
    V a = mul(load_some(x + i, some), factor);
    if (weight != nullptr) a = mul(a, load_some(weight + i, some));
    store_some(y + i, a, some);
  });
}

inline void rope(float* x, std::size_t heads, std::size_t head_dim, const float* cosine, const float* sine,
                 std::size_t half) noexcept {
  for (std::size_t h = 0; h < heads; ++h, x += head_dim) {
    float* const low = x;
    float* const high = x + half;
    each(half, [=](std::size_t i, std::size_t count) {
      const V c = load_some(cosine + i, count), s = load_some(sine + i, count), a = load_some(low + i, count),
              b = load_some(high + i, count);
      store_some(low + i, fnma(b, s, mul(a, c)), count);
      store_some(high + i, fma(a, s, mul(b, c)), count);
    });
  }
}

template <DType kind>
inline void to_f32(const void* x, float* y, std::size_t n) noexcept {
  constexpr std::size_t size = kind == DType::f32 ? 4 : 2;
  const auto* const from = static_cast<const unsigned char*>(x);
  std::size_t i = 0;
  for (; i + width <= n; i += width) store(y + i, load_as<kind>(from + i * size));
  if (i < n) store_n(y + i, load_as_n<kind>(from + i * size, n - i), n - i);
}
template <DType kind>
inline void from_f32(const float* x, void* y, std::size_t n) noexcept {
  constexpr std::size_t size = kind == DType::f32 ? 4 : 2;
  auto* const to = static_cast<unsigned char*>(y);
  each(n, [=](std::size_t i, std::size_t count) {
    const V a = load_some(x + i, count);
    if constexpr (kind == DType::f16)
      count == width ? store_f16(to + i * size, a) : store_f16_n(to + i * size, a, count);
    else if constexpr (kind == DType::bf16)
      count == width ? store_bf16(to + i * size, a) : store_bf16_n(to + i * size, a, count);
    else
      __builtin_memcpy(to + i * size, x + i, count * size);
  });
}
