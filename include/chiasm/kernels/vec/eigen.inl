// Vector vocabulary of Eigen's packets: as many lanes as the flags allow, one where Eigen has no vectors. See vec/scalar.inl for
// what the names mean.

namespace packet = Eigen::internal;
using V = packet::packet_traits<float>::type;
inline constexpr std::size_t width = packet::unpacket_traits<V>::size;
inline constexpr std::size_t panel_vectors = 2, panel_rows = 6, gemv_streams_of_four = 2;

CHIASM_ALWAYS_INLINE V zero() noexcept { return packet::pset1<V>(0.0f); }
CHIASM_ALWAYS_INLINE V set1(float a) noexcept { return packet::pset1<V>(a); }
CHIASM_ALWAYS_INLINE V load(const float* p) noexcept { return packet::ploadu<V>(p); }
CHIASM_ALWAYS_INLINE void store(float* p, V a) noexcept { packet::pstoreu(p, a); }
CHIASM_ALWAYS_INLINE V load_unaligned_n(const void* p, std::size_t n) noexcept {
  float lanes[width] = {};
  __builtin_memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}
CHIASM_ALWAYS_INLINE V load_unaligned(const void* p) noexcept { return load_unaligned_n(p, width); }
CHIASM_ALWAYS_INLINE V load_n(const float* p, std::size_t n) noexcept { return load_unaligned_n(p, n); }
CHIASM_ALWAYS_INLINE void store_n(float* p, V a, std::size_t n) noexcept {
  float lanes[width];
  store(lanes, a);
  __builtin_memcpy(p, lanes, n * sizeof(float));
}

/// f16 and bf16, lane by lane.
template <class Half>
CHIASM_ALWAYS_INLINE V load_halves(const void* p, std::size_t n) noexcept {
  Half halves[width] = {};
  __builtin_memcpy(static_cast<void*>(halves), p, n * sizeof(Half));
  float lanes[width];
  for (std::size_t i = 0; i < width; ++i) lanes[i] = static_cast<float>(halves[i]);
  return load(lanes);
}
template <class Half>
CHIASM_ALWAYS_INLINE void store_halves(void* p, V a, std::size_t n) noexcept {
  float lanes[width];
  store(lanes, a);
  Half halves[width];
  for (std::size_t i = 0; i < width; ++i) halves[i] = Half::from(lanes[i]);
  __builtin_memcpy(p, static_cast<const void*>(halves), n * sizeof(Half));
}
CHIASM_ALWAYS_INLINE V load_f16(const void* p) noexcept { return load_halves<f16>(p, width); }
CHIASM_ALWAYS_INLINE V load_f16_n(const void* p, std::size_t n) noexcept { return load_halves<f16>(p, n); }
CHIASM_ALWAYS_INLINE V load_bf16(const void* p) noexcept { return load_halves<bf16>(p, width); }
CHIASM_ALWAYS_INLINE V load_bf16_n(const void* p, std::size_t n) noexcept { return load_halves<bf16>(p, n); }
CHIASM_ALWAYS_INLINE void store_f16(void* p, V a) noexcept { store_halves<f16>(p, a, width); }
CHIASM_ALWAYS_INLINE void store_f16_n(void* p, V a, std::size_t n) noexcept { store_halves<f16>(p, a, n); }
CHIASM_ALWAYS_INLINE void store_bf16(void* p, V a) noexcept { store_halves<bf16>(p, a, width); }
CHIASM_ALWAYS_INLINE void store_bf16_n(void* p, V a, std::size_t n) noexcept { store_halves<bf16>(p, a, n); }

CHIASM_ALWAYS_INLINE V load_bf16_pairs(const void* p, std::size_t which) noexcept {
  bf16 pairs[2 * width];
  __builtin_memcpy(static_cast<void*>(pairs), p, sizeof pairs);
  float lanes[width];
  for (std::size_t i = 0; i < width; ++i) lanes[i] = static_cast<float>(pairs[2 * i + which]);
  return load(lanes);
}
CHIASM_ALWAYS_INLINE V load_even_bf16(const void* p) noexcept { return load_bf16_pairs(p, 0); }
CHIASM_ALWAYS_INLINE V load_odd_bf16(const void* p) noexcept { return load_bf16_pairs(p, 1); }
CHIASM_ALWAYS_INLINE V load_i8(const void* p) noexcept {
  float lanes[width];
  for (std::size_t i = 0; i < width; ++i) lanes[i] = static_cast<float>(static_cast<const signed char*>(p)[i]);
  return load(lanes);
}

CHIASM_ALWAYS_INLINE V add(V a, V b) noexcept { return packet::padd(a, b); }
CHIASM_ALWAYS_INLINE V sub(V a, V b) noexcept { return packet::psub(a, b); }
CHIASM_ALWAYS_INLINE V mul(V a, V b) noexcept { return packet::pmul(a, b); }
CHIASM_ALWAYS_INLINE V div(V a, V b) noexcept { return packet::pdiv(a, b); }
CHIASM_ALWAYS_INLINE V fma(V a, V b, V c) noexcept { return packet::pmadd(a, b, c); }
CHIASM_ALWAYS_INLINE V fnma(V a, V b, V c) noexcept { return packet::psub(c, packet::pmul(a, b)); }
CHIASM_ALWAYS_INLINE V absolute(V a) noexcept { return packet::pabs(a); }
CHIASM_ALWAYS_INLINE V select_lt(V a, V b, V x, V y) noexcept { return packet::pselect(packet::pcmp_lt(a, b), x, y); }
CHIASM_ALWAYS_INLINE V min(V a, V b) noexcept { return select_lt(a, b, a, b); }  // Eigen's own say nothing about NaN
CHIASM_ALWAYS_INLINE V max(V a, V b) noexcept { return select_lt(b, a, a, b); }
CHIASM_ALWAYS_INLINE V round_even(V a) noexcept { return packet::print(a); }
CHIASM_ALWAYS_INLINE V scale2(V a, V n) noexcept {
  float lanes[width];
  float powers[2][width];
  store(lanes, n);
  for (std::size_t i = 0; i < width; ++i) {
    const int whole = lanes[i] == lanes[i] ? static_cast<int>(lanes[i]) : 0, half = whole / 2;  // a is NaN where n is
    powers[0][i] = std::bit_cast<float>(static_cast<std::uint32_t>(half + 127) << 23);
    powers[1][i] = std::bit_cast<float>(static_cast<std::uint32_t>(whole - half + 127) << 23);
  }
  return mul(mul(a, load(powers[0])), load(powers[1]));
}
CHIASM_ALWAYS_INLINE float reduce_add(V a) noexcept { return packet::predux(a); }
CHIASM_ALWAYS_INLINE float reduce_max(V a) noexcept { return packet::predux_max(a); }
CHIASM_ALWAYS_INLINE void transpose(V (&a)[width]) noexcept {
  packet::PacketBlock<V, static_cast<int>(width)> block;
  for (std::size_t i = 0; i < width; ++i) block.packet[i] = a[i];
  packet::ptranspose(block);
  for (std::size_t i = 0; i < width; ++i) a[i] = block.packet[i];
}
CHIASM_ALWAYS_INLINE void load_transposed(const float* from, std::size_t stride, V (&a)[width]) noexcept {
  for (std::size_t i = 0; i < width; ++i) a[i] = load(from + i * stride);
  transpose(a);
}
CHIASM_ALWAYS_INLINE void prefetch(const void* p) noexcept { __builtin_prefetch(p); }

// Unsigned lanes in the compilers' own vectors: what there is of them in Eigen is for its own use.
typedef std::uint32_t U __attribute__((vector_size(4 * width), aligned(4)));
CHIASM_ALWAYS_INLINE U set1_codes(std::uint32_t a) noexcept { return U{} + a; }
CHIASM_ALWAYS_INLINE U load_codes(const void* p) noexcept {
  U a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
CHIASM_ALWAYS_INLINE U load_bytes(const unsigned char* p) noexcept {
  U a = {};
  for (std::size_t i = 0; i < width; ++i) a[i] = p[i];
  return a;
}
CHIASM_ALWAYS_INLINE U bit_and(U a, U b) noexcept { return a & b; }
CHIASM_ALWAYS_INLINE U bit_or(U a, U b) noexcept { return a | b; }
CHIASM_ALWAYS_INLINE U bit_xor(U a, U b) noexcept { return a ^ b; }
CHIASM_ALWAYS_INLINE U add_codes(U a, U b) noexcept { return a + b; }
template <int n>
CHIASM_ALWAYS_INLINE U shift_right(U a) noexcept {
  if constexpr (n < 0) return a << -n;
  return a >> (n < 0 ? 0 : n);
}
template <int i>
CHIASM_ALWAYS_INLINE V signed_byte(U a) noexcept {
  float lanes[width];
  for (std::size_t l = 0; l < width; ++l) lanes[l] = static_cast<float>(static_cast<signed char>(a[l] >> (8 * i)));
  return load(lanes);
}
CHIASM_ALWAYS_INLINE U look_up(const unsigned char* table, U a) noexcept {
  for (std::size_t l = 0; l < width; ++l)
    a[l] = static_cast<std::uint32_t>(table[a[l] & 15]) | static_cast<std::uint32_t>(table[a[l] >> 8 & 15]) << 8 |
           static_cast<std::uint32_t>(table[a[l] >> 16 & 15]) << 16 | static_cast<std::uint32_t>(table[a[l] >> 24 & 15]) << 24;
  return a;
}
inline constexpr bool fast_values = true;
using Values = const float*;
CHIASM_ALWAYS_INLINE Values load_values(const float* sixteen) noexcept { return sixteen; }
CHIASM_ALWAYS_INLINE V value_of(Values values, U a) noexcept {
  float lanes[width];
  for (std::size_t l = 0; l < width; ++l) lanes[l] = values[a[l] & 15];
  return load(lanes);
}
