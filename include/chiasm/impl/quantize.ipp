#pragma once

#include <chiasm/core/block_format.hpp>
#include <chiasm/core/error.hpp>
#include <chiasm/core/quantize.hpp>

#include <cstring>
#include <string>

// GNU vectors: the loops are written once and inlined into one function per instruction set.
#define CHIASM_QUANTIZE_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define CHIASM_QUANTIZE_X86 1
#else
#define CHIASM_QUANTIZE_X86 0
#endif

namespace chiasm::inline CHIASM_ABI {

namespace detail {

// A lane has a block, so that nothing is summed across lanes. The search sees the numbers of a block as whole shares of the largest one, from -8191 to 8191:
// all its products and sums of 16 are exact in float, with fused multiply-add or without, and every instruction set comes to the same bits.
template <int N>
struct QuantizeLanes {
  typedef float Float __attribute__((vector_size(4 * N)));
  typedef std::int32_t Int __attribute__((vector_size(4 * N)));
};

/// Codes from `Least` to `Most`, evenly spaced.
template <int Least, int Most>
struct EvenCodes {
  template <class L>
  static CHIASM_QUANTIZE_INLINE void round(typename L::Float& y) noexcept {
    const typename L::Float least = y - y + static_cast<float>(Least), most = least + static_cast<float>(Most - Least);
    y = y < least ? least : y;
    y = y > most ? most : y;
    y = __builtin_convertvector(__builtin_convertvector(y + 128.5f, typename L::Int), typename L::Float) - 128.0f;
  }
};

/// iq4_nl's 16 values.
struct UnevenCodes {
  template <class L>
  static CHIASM_QUANTIZE_INLINE void round(typename L::Float& y) noexcept {
    typename L::Float value = y - y + static_cast<float>(iq4_values[0]);
#pragma GCC unroll 15
    for (int k = 0; k < 15; ++k)
      value = y > static_cast<float>(iq4_values[k] + iq4_values[k + 1]) * 0.5f ? value + static_cast<float>(iq4_values[k + 1] - iq4_values[k]) : value;
    y = value;
  }
};

/// What is tried: `count` scales from `first` on, in codes for the largest number, `step` apart; with either sign where that makes a difference. Finer and
/// wider grids find less than 1 % more.
struct QuantizeQ8 {
  using Codes = EvenCodes<-127, 127>;  // as ggml: no -128, whose negative is no code
  static constexpr float first = 105, step = 0.5f, largest = 127;
  static constexpr int count = 48;
  static constexpr bool both_signs = false;
};
struct QuantizeQ4 {
  using Codes = EvenCodes<-8, 7>;
  static constexpr float first = 5.75f, step = 0.375f, largest = 8;
  static constexpr int count = 13;
  static constexpr bool both_signs = true;
};
struct QuantizeIq4 {
  using Codes = UnevenCodes;
  static constexpr float first = 92, step = 7, largest = 127;
  static constexpr int count = 8;
  static constexpr bool both_signs = true;
};

/// N blocks: their scales, and codes as numbers.
template <int N>
struct QuantizedBlocks {
  float scales[N];
  typename QuantizeLanes<N>::Float values[32];
};

template <int N, class Format>
CHIASM_QUANTIZE_INLINE void quantize_lanes(const float* from, QuantizedBlocks<N>& blocks) noexcept {
  using L = QuantizeLanes<N>;
  using Float = typename L::Float;
  using Int = typename L::Int;
  Float x[32], shares[32];
  for (int i = 0; i < 32; ++i)
    for (int lane = 0; lane < N; ++lane) x[i][lane] = from[lane * 32 + i];
  Int most = {};  // of the magnitudes' bits, which are in the magnitudes' order
  for (int i = 0; i < 32; ++i) {
    const Int bits = (Int)x[i] & 0x7fffffff;  // the same bits: what a cast means between vectors
    most = bits > most ? bits : most;
  }
  const Int finite = most < 0x7f800000;
  const Float zero = {};
  // Below this every scale rounds to zero in half precision.
  const Float largest = (Float)most, one = (finite & (largest > Format::largest * 0x1p-25f)) != 0 ? 8191.0f / largest : zero;
  for (int i = 0; i < 32; ++i) {
    const Float magnitude = __builtin_convertvector(__builtin_convertvector((x[i] < 0 ? -x[i] : x[i]) * one + 0.5f, Int), Float);
    shares[i] = x[i] < 0 ? -magnitude : magnitude;
  }

  Float best = zero, best_squares = zero + 1, scale = zero + Format::first;
  for (int c = 0; c < (Format::both_signs ? 2 : 1) * Format::count; ++c) {
    const float tried = (c < Format::count ? 1 : -1) * (Format::first + static_cast<float>(c % Format::count) * Format::step);
    Float products = zero, more_products = zero, squares = zero, more_squares = zero;
#pragma GCC unroll 2
    for (int i = 0; i < 16; ++i) {
      Float y = shares[i] * (tried / 8192), z = shares[i + 16] * (tried / 8192);
      Format::Codes::template round<L>(y);
      Format::Codes::template round<L>(z);
      products += shares[i] * y;
      more_products += shares[i + 16] * z;
      squares += y * y;
      more_squares += z * z;
    }
    products += more_products;
    squares += more_squares;
    // The scale that fits these codes best leaves |x|^2 - products^2 / squares.
    const Int better = products * products * best_squares > best * squares;
    best = better ? products * products : best;
    best_squares = better ? squares : best_squares;
    scale = better ? zero + tried : scale;
  }

  // Codes for a scale and the scale for the codes in turn: neither step can make the error larger.
  scale = largest / scale;
  for (int turn = 0; turn < 3; ++turn) {
    Float sums[2] = {}, squares = zero;
    for (int i = 0; i < 32; ++i) {
      Float y = x[i] / scale;
      y = y < -1000 ? zero - 1000 : y;
      y = y > 1000 ? zero + 1000 : y;
      Format::Codes::template round<L>(y);
      blocks.values[i] = y;
      sums[i / 16] += shares[i] * y;
      squares += y * y;
    }
    if (turn == 2) break;
    const Float products = sums[0] + sums[1];
    for (int lane = 0; lane < N; ++lane) {
      float fitted = squares[lane] > 0 && one[lane] > 0 ? products[lane] / squares[lane] * (largest[lane] / 8191) : 0;
      fitted = fitted > 65504 ? 65504 : fitted < -65504 ? -65504 : fitted;
      blocks.scales[lane] = static_cast<float>(f16::from(fitted));
      scale[lane] = blocks.scales[lane] == 0 ? 1 : blocks.scales[lane];
    }
  }
  for (int lane = 0; lane < N; ++lane) {
    if (finite[lane] == 0) blocks.scales[lane] = std::bit_cast<float>(0x7fc00000u);
  }
}

template <int N>
CHIASM_QUANTIZE_INLINE void quantize_blocks(DType type, const float* x, std::size_t count, std::uint8_t* to) noexcept {
  using Int = typename QuantizeLanes<N>::Int;
  for (std::size_t begin = 0; begin < count; begin += N) {
    const int here = count - begin < static_cast<std::size_t>(N) ? static_cast<int>(count - begin) : N;
    const float* from = x + begin * 32;
    float few[N * 32];
    if (here < N) {
      std::memset(few, 0, sizeof few);
      std::memcpy(few, from, static_cast<std::size_t>(here) * 32 * sizeof(float));
      from = few;
    }
    QuantizedBlocks<N> blocks;
    if (type == DType::q8_0) quantize_lanes<N, QuantizeQ8>(from, blocks);
    else if (type == DType::q4_0) quantize_lanes<N, QuantizeQ4>(from, blocks);
    else quantize_lanes<N, QuantizeIq4>(from, blocks);

    Int codes[32];
    for (int i = 0; i < 32; ++i) {
      codes[i] = __builtin_convertvector(blocks.values[i], Int);
      if (type == DType::q4_0) codes[i] += 8;
      if (type == DType::iq4_nl) {
        const Int value = codes[i];
        codes[i] = Int{};
        for (int k = 1; k < 16; ++k) codes[i] -= value >= static_cast<int>(iq4_values[k]);
      }
    }
    if (type != DType::q8_0)
      for (int i = 0; i < 16; ++i) codes[i] |= codes[i + 16] << 4;
    const int bytes = type == DType::q8_0 ? 32 : 16;
    for (int lane = 0; lane < here; ++lane, to += 2 + bytes) {
      const f16 scale = f16::from(blocks.scales[lane]);
      std::memcpy(to, &scale.bits, sizeof scale.bits);
      for (int i = 0; i < bytes; ++i) to[2 + i] = static_cast<std::uint8_t>(codes[i][lane]);
    }
  }
}

/// A row under one scale: codes, and behind them the scale. Lanes are numbers here; shares and codes multiply to whole numbers below 2^20, whose sums are exact
/// whatever their order.
template <int N>
CHIASM_QUANTIZE_INLINE void quantize_row(const float* x, std::size_t count, std::uint8_t* to) noexcept {
  using L = QuantizeLanes<N>;
  using Float = typename L::Float;
  using Int = typename L::Int;
  using Codes = EvenCodes<-127, 127>;
  const auto load = [&](std::size_t i, Float& values) {
    values = Float{};
    std::memcpy(&values, x + i, (count - i < static_cast<std::size_t>(N) ? count - i : static_cast<std::size_t>(N)) * sizeof(float));
  };
  Float values;
  Int most = {};
  for (std::size_t i = 0; i < count; i += N) {
    load(i, values);
    const Int bits = (Int)values & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  std::int32_t top = 0;
  for (int lane = 0; lane < N; ++lane) top = most[lane] > top ? most[lane] : top;
  const auto put = [&](float scale) { std::memcpy(to + count, &scale, sizeof scale); };
  const float largest = std::bit_cast<float>(top);
  if (top >= 0x7f800000 || largest < 1e-30f) {
    std::memset(to, 0, count);
    return put(top >= 0x7f800000 ? std::bit_cast<float>(0x7fc00000u) : 0.0f);
  }

  // What is tried: scales in codes for the largest number. They leave 3 % (of 1024 numbers) to 8 % (of 128) less squared error than its being 127.
  constexpr float tried[] = {127, 130, 134, 138, 142, 147, 152, 158};
  constexpr int tries = sizeof tried / sizeof *tried;
  std::int64_t products[tries] = {}, squares[tries] = {};
  const float one = 8191.0f / largest;
  for (std::size_t begin = 0; begin < count; begin += 4096) {  // so many sums of products fit 32 bits
    const std::size_t end = count - begin < 4096 ? count : begin + 4096;
    Int some_products[tries] = {}, some_squares[tries] = {};
    for (std::size_t i = begin; i < end; i += N) {
      load(i, values);
      const Float magnitude = __builtin_convertvector(__builtin_convertvector((values < 0 ? -values : values) * one + 0.5f, Int), Float);
#pragma GCC unroll 8
      for (int t = 0; t < tries; ++t) {
        Float y = magnitude * (tried[t] / 8192);
        Codes::template round<L>(y);
        some_products[t] += __builtin_convertvector(magnitude * y, Int);
        some_squares[t] += __builtin_convertvector(y * y, Int);
      }
    }
    for (int t = 0; t < tries; ++t)
      for (int lane = 0; lane < N; ++lane) products[t] += some_products[t][lane], squares[t] += some_squares[t][lane];
  }
  int best = 0;  // the scale that fits its codes best leaves |x|^2 - products^2 / squares
  const auto gain = [&](int t) { return static_cast<double>(products[t]) / static_cast<double>(squares[t]) * static_cast<double>(products[t]); };
  for (int t = 1; t < tries; ++t)
    if (gain(t) > gain(best)) best = t;
  constexpr float most_scale = 0x1.02p+121f;  // 127 of it are a number still
  const auto fitted = static_cast<float>(static_cast<double>(products[best]) / static_cast<double>(squares[best]) * static_cast<double>(largest) / 8191.0);
  const float scale = fitted < most_scale ? fitted : most_scale;
  put(scale);
  for (std::size_t i = 0; i < count; i += N) {
    load(i, values);
    Float y = values / scale;
    Codes::template round<L>(y);
    const Int codes = __builtin_convertvector(y, Int);
    for (int lane = 0; lane < N && i + static_cast<std::size_t>(lane) < count; ++lane) to[i + static_cast<std::size_t>(lane)] = static_cast<std::uint8_t>(codes[lane]);
  }
}

/// Blocks, or of q8_row a row of numbers.
template <int N>
CHIASM_QUANTIZE_INLINE void quantize_some(DType type, const float* x, std::size_t count, std::uint8_t* to) noexcept {
  if (type == DType::q8_row) quantize_row<N>(x, count, to);
  else quantize_blocks<N>(type, x, count, to);
}

inline void quantize_anywhere(DType type, const float* x, std::size_t count, std::uint8_t* to) noexcept { quantize_some<4>(type, x, count, to); }

#if CHIASM_QUANTIZE_X86
__attribute__((target("avx2,fma"))) inline void quantize_avx2(DType type, const float* x, std::size_t count, std::uint8_t* to) noexcept {
  quantize_some<8>(type, x, count, to);
}
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))) inline void quantize_avx512(DType type, const float* x, std::size_t count,
                                                                                                 std::uint8_t* to) noexcept {
  quantize_some<16>(type, x, count, to);
}
#endif

}  // namespace detail

CHIASM_INLINE void quantize(DType type, const float* values, std::size_t count, std::byte* blocks) {
  if (!can_quantize(type)) throw UnsupportedError("quantisation to " + std::string(name(type)));
  auto* to = reinterpret_cast<std::uint8_t*>(blocks);
  auto* run = detail::quantize_anywhere;
#if CHIASM_QUANTIZE_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run = detail::quantize_avx2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    run = detail::quantize_avx512;
#endif
  if (type == DType::q8_row) return run(type, values, count, to);
  const std::size_t whole = count / 32, rest = count % 32;
  run(type, values, whole, to);
  if (rest == 0) return;
  float last[32] = {};
  std::memcpy(last, values + whole * 32, rest * sizeof(float));
  run(type, last, 1, to + whole * size_of(type));
}

}  // namespace chiasm

#undef CHIASM_QUANTIZE_INLINE
#undef CHIASM_QUANTIZE_X86
