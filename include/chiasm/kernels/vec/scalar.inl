// Vector vocabulary of one lane, in plain C++. What every vocabulary defines:
//   V, width                     the vector and its lanes
//   panel_vectors, panel_rows    the register tile of the matrix product: vectors of tokens times outputs
//   gemv_streams_of_four         rows of W at a time for four tokens: what the registers hold
//   zero set1 load load_n store store_n (the _n forms: the first n lanes, 0 < n < width; loads fill with 0)
//   load_unaligned load_f16 load_bf16 store_f16 store_bf16 and their _n forms, at any address
//   load_even_bf16, load_odd_bf16 (of `width` pairs, the first ones; the second ones), load_i8
//   round_even, scale2 (x 2^n), select_lt (a < b ? x : y), reduce_add, reduce_max, transpose (V[width], in place),
//   load_transposed, prefetch

using V = float;
inline constexpr std::size_t width = 1, panel_vectors = 4, panel_rows = 4, gemv_streams_of_four = 2;

CHIASM_ALWAYS_INLINE V zero() noexcept { return 0.0f; }
CHIASM_ALWAYS_INLINE V set1(float a) noexcept { return a; }
CHIASM_ALWAYS_INLINE V load(const float* p) noexcept { return *p; }
CHIASM_ALWAYS_INLINE V load_n(const float*, std::size_t) noexcept { return 0.0f; }
CHIASM_ALWAYS_INLINE void store(float* p, V a) noexcept { *p = a; }
CHIASM_ALWAYS_INLINE void store_n(float*, V, std::size_t) noexcept {}

CHIASM_ALWAYS_INLINE V load_unaligned(const void* p) noexcept {
  float a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
CHIASM_ALWAYS_INLINE V load_unaligned_n(const void*, std::size_t) noexcept { return 0.0f; }
CHIASM_ALWAYS_INLINE V load_f16(const void* p) noexcept {
  f16 a;
  __builtin_memcpy(&a, p, sizeof a);
  return static_cast<float>(a);
}
CHIASM_ALWAYS_INLINE V load_f16_n(const void*, std::size_t) noexcept { return 0.0f; }
CHIASM_ALWAYS_INLINE V load_bf16(const void* p) noexcept {
  bf16 a;
  __builtin_memcpy(&a, p, sizeof a);
  return static_cast<float>(a);
}
CHIASM_ALWAYS_INLINE V load_bf16_n(const void*, std::size_t) noexcept { return 0.0f; }
CHIASM_ALWAYS_INLINE void store_f16(void* p, V a) noexcept {
  const f16 rounded = f16::from(a);
  __builtin_memcpy(p, &rounded, sizeof rounded);
}
CHIASM_ALWAYS_INLINE void store_f16_n(void*, V, std::size_t) noexcept {}
CHIASM_ALWAYS_INLINE void store_bf16(void* p, V a) noexcept {
  const bf16 rounded = bf16::from(a);
  __builtin_memcpy(p, &rounded, sizeof rounded);
}
CHIASM_ALWAYS_INLINE void store_bf16_n(void*, V, std::size_t) noexcept {}

CHIASM_ALWAYS_INLINE V load_even_bf16(const void* p) noexcept { return load_bf16(p); }
CHIASM_ALWAYS_INLINE V load_odd_bf16(const void* p) noexcept { return load_bf16(static_cast<const unsigned char*>(p) + 2); }
CHIASM_ALWAYS_INLINE V load_i8(const void* p) noexcept { return static_cast<float>(*static_cast<const signed char*>(p)); }

CHIASM_ALWAYS_INLINE V add(V a, V b) noexcept { return a + b; }
CHIASM_ALWAYS_INLINE V sub(V a, V b) noexcept { return a - b; }
CHIASM_ALWAYS_INLINE V mul(V a, V b) noexcept { return a * b; }
CHIASM_ALWAYS_INLINE V div(V a, V b) noexcept { return a / b; }
CHIASM_ALWAYS_INLINE V fma(V a, V b, V c) noexcept { return a * b + c; }
CHIASM_ALWAYS_INLINE V fnma(V a, V b, V c) noexcept { return c - a * b; }
CHIASM_ALWAYS_INLINE V min(V a, V b) noexcept { return a < b ? a : b; }
CHIASM_ALWAYS_INLINE V max(V a, V b) noexcept { return a > b ? a : b; }
CHIASM_ALWAYS_INLINE V absolute(V a) noexcept { return __builtin_fabsf(a); }
CHIASM_ALWAYS_INLINE V round_even(V a) noexcept {
  constexpr float shift = 0x1.8p23f;   // beyond it floats are integers: the adder rounds. Arguments are below 2^22 here
  volatile float shifted = a + shift;  // volatile: -ffast-math would fold it away
  return shifted - shift;
}
CHIASM_ALWAYS_INLINE V scale2(V a, V n) noexcept {
  if (!(n == n)) return n;
  const int whole = static_cast<int>(n), half = whole / 2;
  const auto power = [](int e) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23); };
  return a * power(half) * power(whole - half);
}
CHIASM_ALWAYS_INLINE V select_lt(V a, V b, V x, V y) noexcept { return a < b ? x : y; }
CHIASM_ALWAYS_INLINE float reduce_add(V a) noexcept { return a; }
CHIASM_ALWAYS_INLINE float reduce_max(V a) noexcept { return a; }
CHIASM_ALWAYS_INLINE void transpose(V (&)[width]) noexcept {}
CHIASM_ALWAYS_INLINE void load_transposed(const float* from, std::size_t stride, V (&a)[width]) noexcept {
  for (std::size_t i = 0; i < width; ++i) a[i] = load(from + i * stride);
  transpose(a);
}
CHIASM_ALWAYS_INLINE void prefetch(const void* p) noexcept { __builtin_prefetch(p); }

// Unsigned 32-bit lanes, for codes of four numbers each (core/panel.hpp).
using U = std::uint32_t;
CHIASM_ALWAYS_INLINE U set1_codes(std::uint32_t a) noexcept { return a; }
CHIASM_ALWAYS_INLINE U load_codes(const void* p) noexcept {  // at any address
  U a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
CHIASM_ALWAYS_INLINE U load_bytes(const unsigned char* p) noexcept { return *p; }  // one byte to every lane's low bits
CHIASM_ALWAYS_INLINE U bit_and(U a, U b) noexcept { return a & b; }
CHIASM_ALWAYS_INLINE U bit_or(U a, U b) noexcept { return a | b; }
CHIASM_ALWAYS_INLINE U bit_xor(U a, U b) noexcept { return a ^ b; }
CHIASM_ALWAYS_INLINE U add_codes(U a, U b) noexcept { return a + b; }
template <int n>
CHIASM_ALWAYS_INLINE U shift_right(U a) noexcept {  // negative n: to the left
  if constexpr (n < 0) return a << -n;
  return a >> (n < 0 ? 0 : n);
}
template <int i>
CHIASM_ALWAYS_INLINE V signed_byte(U a) noexcept {  // byte i of every lane
  return static_cast<float>(static_cast<signed char>(a >> (8 * i)));
}
/// Bytes below 16 to bytes of a table.
CHIASM_ALWAYS_INLINE U look_up(const unsigned char* table, U a) noexcept {
  return static_cast<U>(table[a & 15]) | static_cast<U>(table[a >> 8 & 15]) << 8 | static_cast<U>(table[a >> 16 & 15]) << 16 |
         static_cast<U>(table[a >> 24 & 15]) << 24;
}
/// Values of the low four bits of lanes. `fast_values`: where that beats arithmetic.
inline constexpr bool fast_values = true;
using Values = const float*;
CHIASM_ALWAYS_INLINE Values load_values(const float* sixteen) noexcept { return sixteen; }
CHIASM_ALWAYS_INLINE V value_of(Values values, U a) noexcept { return values[a & 15]; }
