/// Isa: the instruction sets that have kernels, what this processor has of them, and the macros that open a region of code for one.
/// CPUID and XGETBV as in Intel's SDM volume 1, chapters 13 and 18; the AMX permission as in Linux' Documentation/x86/xstate.rst.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>
#include <string_view>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define CHIASM_X86 1
#else
#define CHIASM_X86 0
#endif

namespace chiasm::inline CHIASM_ABI {

/// Tiers of kernels; a later one is preferred. `portable` is Eigen's vocabulary, for processors without a tier of their own.
enum class Isa : std::uint8_t { scalar, portable, avx2, avx512, amx };
inline constexpr std::size_t isa_count = 5;

/// "scalar", "portable", "avx2", "avx512", "amx".
constexpr std::string_view name(Isa isa) noexcept {
  constexpr std::string_view names[isa_count] = {"scalar", "portable", "avx2", "avx512", "amx"};
  return names[static_cast<std::size_t>(isa)];
}

}  // namespace chiasm

// A region compiles its functions for more than the translation unit's flags allow. Standard and intrinsic headers must be included
// before it (a function that they define inside would carry AVX code under a name that other code shares), and inside it no template
// or inline function of theirs may be instantiated.
#if defined(__clang__)
#define CHIASM_REGION_BEGIN_AVX2 \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c\"))), apply_to = function)")
#define CHIASM_REGION_BEGIN_AVX512 \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl\"))), apply_to = function)")
#define CHIASM_REGION_BEGIN_AVX2_VNNI \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c,avxvnni\"))), apply_to = function)")
#define CHIASM_REGION_BEGIN_AVX512_VNNI \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni\"))), apply_to = function)")
#define CHIASM_REGION_BEGIN_AMX \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,amx-tile,amx-bf16,amx-int8\"))), apply_to = function)")
#define CHIASM_REGION_END _Pragma("clang attribute pop")
#define CHIASM_UNROLL _Pragma("unroll")
#else
#define CHIASM_REGION_BEGIN_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c\")")
#define CHIASM_REGION_BEGIN_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl\")")
#define CHIASM_REGION_BEGIN_AVX2_VNNI _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c,avxvnni\")")
#define CHIASM_REGION_BEGIN_AVX512_VNNI \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni\")")
#define CHIASM_REGION_BEGIN_AMX \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,amx-tile,amx-bf16,amx-int8\")")
#define CHIASM_REGION_END _Pragma("GCC pop_options")
#define CHIASM_UNROLL _Pragma("GCC unroll 32")
#endif
#define CHIASM_ALWAYS_INLINE inline __attribute__((always_inline))
#define CHIASM_NOINLINE inline __attribute__((noinline))
