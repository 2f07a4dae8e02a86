// Exponential, logistic function and the activations, in the vector vocabulary.

/// e^x to 2 ulp; 0 below -104, infinity above 88.73, NaN of NaN. Range reduction and polynomial as in Cephes' expf.
CHIASM_ALWAYS_INLINE V exponential(V x) noexcept {
  x = min(set1(89.0f), max(set1(-104.5f), x));
  const V n = round_even(mul(x, set1(1.44269504088896341f)));
  V r = fnma(n, set1(0.693359375f), x);  // ln 2 in two parts: the first has so few bits that n times it is exact
  r = fnma(n, set1(-2.12194440e-4f), r);
  V p = fma(set1(1.9875691500e-4f), r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(p, r), r, add(r, set1(1.0f)));
  return scale2(p, n);
}

/// 2^x for x <= 0 to 2 ulp (1e-7); 0 below -150, NaN of NaN. The polynomial is a fit of the relative error that gives 1 for 0.
CHIASM_ALWAYS_INLINE V exponential2(V x) noexcept {
  x = max(set1(-151.0f), x);
  const V n = round_even(x), r = sub(x, n);
  V p = fma(set1(0.00015353361959569156f), r, set1(0.0013398875016719103f));
  p = fma(p, r, set1(0.00961843691766262f));
  p = fma(p, r, set1(0.055503323674201965f));
  p = fma(p, r, set1(0.24022647738456726f));
  p = fma(p, r, set1(0.6931471824645996f));
  p = fma(p, r, set1(1.0f));
  return scale2(p, n);
}

CHIASM_ALWAYS_INLINE V logistic(V x) noexcept { return div(set1(1.0f), add(set1(1.0f), exponential(sub(zero(), x)))); }

/// x Phi(x). With z = |x| / sqrt 2 and t = 1 / (1 + 0.35 z), erfc(z) = t Q(t) e^(-z^2); Q is a fit of degree 9 with relative
/// error 3e-8. Phi(-|x|) comes from erfc without cancellation.
CHIASM_ALWAYS_INLINE V gelu(V x) noexcept {
  const V z = mul(absolute(x), set1(0.70710678118654752f));
  const V t = div(set1(1.0f), fma(set1(0.35f), z, set1(1.0f)));
  V q = fma(set1(0.04141261428594589f), t, set1(-0.17711497843265533f));
  q = fma(q, t, set1(0.22834783792495728f));
  q = fma(q, t, set1(-0.09538598358631134f));
  q = fma(q, t, set1(0.14722082018852234f));
  q = fma(q, t, set1(0.11187979578971863f));
  q = fma(q, t, set1(0.16353106498718262f));
  q = fma(q, t, set1(0.18516749143600464f));
  q = fma(q, t, set1(0.1974751055240631f));
  q = fma(q, t, set1(0.19746622443199158f));
  const V tail = mul(mul(set1(0.5f), mul(t, q)), exponential(sub(zero(), mul(z, z))));  // Phi(-|x|)
  return mul(x, select_lt(x, zero(), tail, sub(set1(1.0f), tail)));
}

template <Activation activation>
CHIASM_ALWAYS_INLINE V activated(V x) noexcept {
  if constexpr (activation == Activation::gelu) return gelu(x);
  if constexpr (activation == Activation::gelu_tanh) {  // (1 + tanh u) / 2 is the logistic function of 2 u
    const V u = mul(mul(set1(1.5957691216057308f), x), fma(set1(0.044715f), mul(x, x), set1(1.0f)));
    return mul(x, logistic(u));
  }
  if constexpr (activation == Activation::quick_gelu) return mul(x, logistic(mul(set1(1.702f), x)));
  if constexpr (activation == Activation::silu) return div(x, add(set1(1.0f), exponential(sub(zero(), x))));
  if constexpr (activation == Activation::relu) return max(zero(), x);
  if constexpr (activation == Activation::none) return x;
}

/// Calls f with the activation as a compile-time constant.
template <Activation a>
struct ActivationConstant {
  static constexpr Activation value = a;
};
template <class F>
CHIASM_ALWAYS_INLINE void with_activation(Activation activation, F f) noexcept {
  switch (activation) {
    case Activation::none:
      f(ActivationConstant<Activation::none>{});
      break;
    case Activation::gelu:
      f(ActivationConstant<Activation::gelu>{});
      break;
    case Activation::gelu_tanh:
      f(ActivationConstant<Activation::gelu_tanh>{});
      break;
    case Activation::quick_gelu:
      f(ActivationConstant<Activation::quick_gelu>{});
      break;
    case Activation::silu:
      f(ActivationConstant<Activation::silu>{});
      break;
    case Activation::relu:
      f(ActivationConstant<Activation::relu>{});
      break;
  }
}

/// Elements of a weight, as f32.
template <DType kind>
CHIASM_ALWAYS_INLINE V load_as(const unsigned char* p) noexcept {
  if constexpr (kind == DType::f16)
    return load_f16(p);
  else if constexpr (kind == DType::bf16)
    return load_bf16(p);
  else
    return load_unaligned(p);
}
template <DType kind>
CHIASM_ALWAYS_INLINE V load_as_n(const unsigned char* p, std::size_t n) noexcept {
  if constexpr (kind == DType::f16)
    return load_f16_n(p, n);
  else if constexpr (kind == DType::bf16)
    return load_bf16_n(p, n);
  else
    return load_unaligned_n(p, n);
}

CHIASM_ALWAYS_INLINE std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }
CHIASM_ALWAYS_INLINE constexpr std::size_t round_up(std::size_t a, std::size_t unit) noexcept {
  return (a + unit - 1) / unit * unit;
}
