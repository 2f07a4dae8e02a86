/// Peak: what the machine can do at best, measured in the same program as what the kernels reach.
#pragma once

#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/kernels/target/intrinsics.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace peak {

/// Seconds on the wall, for work of several threads.
inline double wall() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Seconds that this thread has had a processor: a machine with other work to do then measures the same.
inline double now() {
#if defined(__linux__)
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return wall();
#endif
}

/// Seconds by `clock` of the fastest of `repeats` calls.
template <class F>
double best(int repeats, F f, double (*clock)() = now) {
  double least = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const double begin = clock();
    f();
    least = std::min(least, clock() - begin);
  }
  return least;
}

/// Keeps a value from being optimised away.
inline void keep(const void* p) { asm volatile("" ::"r"(p) : "memory"); }

#if CHIASM_X86
// Ten sums, so that none waits for its own last multiply-add. The empty asm keeps the compiler from summing them up beforehand.
CHIASM_REGION_BEGIN_AVX2
inline void fma_avx2(long n) {
  const __m256 b = _mm256_set1_ps(0.999f);
  __m256 sums[10] = {b, b, b, b, b, b, b, b, b, b};
  for (long i = 0; i < n; ++i) {
    CHIASM_UNROLL for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, b, b);
    CHIASM_UNROLL for (__m256& sum : sums) asm volatile("" : "+x"(sum));
  }
}
CHIASM_REGION_END
CHIASM_REGION_BEGIN_AVX512
inline void fma_avx512(long n) {
  const __m512 b = _mm512_set1_ps(0.999f);
  __m512 sums[10] = {b, b, b, b, b, b, b, b, b, b};
  for (long i = 0; i < n; ++i) {
    CHIASM_UNROLL for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, b, b);
    CHIASM_UNROLL for (__m512& sum : sums) asm volatile("" : "+v"(sum));
  }
}
inline float read_stream(const unsigned char* p, std::size_t bytes) {
  __m512i sum[4] = {};
  for (std::size_t i = 0; i < bytes; i += 256) CHIASM_UNROLL for (std::size_t s = 0; s < 4; ++s) sum[s] = _mm512_xor_si512(sum[s], _mm512_loadu_si512(p + i + s * 64));
  for (std::size_t s = 1; s < 4; ++s) sum[0] = _mm512_xor_si512(sum[0], sum[s]);
  float out[16];
  _mm512_storeu_si512(out, sum[0]);
  return out[0];
}
inline float read_streams(const unsigned char* p, std::size_t bytes) {
  const std::size_t apart = bytes / 8;
  __m512i sum[8] = {};
  for (std::size_t i = 0; i < apart; i += 64) CHIASM_UNROLL for (std::size_t s = 0; s < 8; ++s) {
      _mm_prefetch(reinterpret_cast<const char*>(p + s * apart + i + 2304), _MM_HINT_T0);
      sum[s] = _mm512_xor_si512(sum[s], _mm512_loadu_si512(p + s * apart + i));
    }
  for (std::size_t s = 1; s < 8; ++s) sum[0] = _mm512_xor_si512(sum[0], sum[s]);
  float out[16];
  _mm512_storeu_si512(out, sum[0]);
  return out[0];
}
CHIASM_REGION_END
CHIASM_REGION_BEGIN_AMX
struct alignas(64) TileConfig {
  unsigned char palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
/// Four products of tiles in each of n rounds, in bf16 or in int8.
template <bool int8>
void tiles_amx(long n) {
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long i = 0; i < n; ++i) {
    if constexpr (int8) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_release();
}
CHIASM_REGION_END
#endif

/// Multiply-adds count twice. GF/s of one thread in f32 (or, with `tiles`, of AMX in bf16); 0 where it is not known.
inline double flops(chiasm::Isa isa, bool tiles = false) {
#if CHIASM_X86
  using chiasm::Isa;
  if (isa == Isa::avx2) return 200000 * 10 * 16.0 / best(100, [] { fma_avx2(200000); }) * 1e-9;
  if (isa == Isa::avx512 || (isa == Isa::amx && !tiles)) return 200000 * 10 * 32.0 / best(100, [] { fma_avx512(200000); }) * 1e-9;
  if (isa == Isa::amx) return 20000 * 4 * 16384.0 / best(100, [] { tiles_amx<false>(20000); }) * 1e-9;
#endif
  return 0;
}

/// Memory that is certainly not in a cache, in huge pages where there are any.
inline std::vector<unsigned char>& large() {
  static std::vector<unsigned char> memory = [] {
    std::vector<unsigned char> m;
    m.reserve(std::size_t{768} << 20);
#if defined(__linux__)
    madvise(reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(m.data()) + 4095) / 4096 * 4096),
            (std::size_t{768} << 20) - 8192, MADV_HUGEPAGE);
#endif
    m.resize(std::size_t{768} << 20, 0x3a);
    return m;
  }();
  return memory;
}

/// GB/s of one thread that reads memory in eight streams.
inline double bandwidth() {
#if CHIASM_X86
  const auto& m = large();
  if (chiasm::kernels::available().back() >= chiasm::Isa::avx512) {
    return static_cast<double>(m.size()) /
           best(7,
                [&] {
                  const float sum = read_streams(m.data(), m.size());
                  keep(&sum);
                }) *
           1e-9;
  }
#endif
  return 0;
}

}  // namespace peak
