/// Portable tier: the bodies in Eigen's packet vocabulary, so that a processor without a tier of its own still gets vectors of
/// what the translation unit's flags allow (SSE2, NEON, AltiVec, ...). Never inside a region.
#pragma once

#include <chiasm/kernels/table.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // packets as template arguments: their alignment does not matter here
#endif
#include <Eigen/Core>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

// The width follows the flags, and translation units with different flags may meet: each width has a namespace of its own.
#if defined(EIGEN_VECTORIZE_AVX512)
#define CHIASM_PORTABLE portable_avx512
#elif defined(EIGEN_VECTORIZE_AVX) && defined(EIGEN_VECTORIZE_FMA)
#define CHIASM_PORTABLE portable_avx_fma
#elif defined(EIGEN_VECTORIZE_AVX)
#define CHIASM_PORTABLE portable_avx
#elif defined(EIGEN_VECTORIZE)
#define CHIASM_PORTABLE portable_vector
#else
#define CHIASM_PORTABLE portable_scalar
#endif

namespace chiasm::inline CHIASM_ABI {
namespace kernels::CHIASM_PORTABLE {

#include <chiasm/kernels/vec/eigen.inl>

#include <chiasm/kernels/body/math.inl>

#include <chiasm/kernels/body/rows.inl>

#include <chiasm/kernels/body/blocks.inl>

#include <chiasm/kernels/body/gemm.inl>

#include <chiasm/kernels/body/gemv.inl>

#include <chiasm/kernels/body/block_gemv.inl>

#include <chiasm/kernels/body/kv.inl>

#include <chiasm/kernels/body/attention.inl>

#include <chiasm/kernels/body/table.inl>

inline constexpr Table table = make_table(Isa::portable);

}  // namespace kernels::CHIASM_PORTABLE
}  // namespace chiasm
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
