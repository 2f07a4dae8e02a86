/// AVX-512 tier. AVX-512 (F, BW, DQ, VL): x86 servers since 2017.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/kernels/target/intrinsics.hpp>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

#if CHIASM_X86
CHIASM_REGION_BEGIN_AVX512
namespace chiasm::inline CHIASM_ABI {
namespace kernels::avx512 {

#include <chiasm/kernels/vec/avx512.inl>

#include <chiasm/kernels/body/math.inl>

#include <chiasm/kernels/body/rows.inl>

#include <chiasm/kernels/body/blocks.inl>

#include <chiasm/kernels/body/gemm.inl>

#include <chiasm/kernels/body/gemv.inl>

#include <chiasm/kernels/body/block_gemv.inl>

#include <chiasm/kernels/body/kv.inl>

#include <chiasm/kernels/body/attention.inl>

#include <chiasm/kernels/body/quantize.inl>

#include <chiasm/kernels/vec/dot_avx512.inl>

#include <chiasm/kernels/body/blocks_i8.inl>

#include <chiasm/kernels/body/table.inl>

inline constexpr Table make_avx512_table() noexcept {
  Table t = make_table(Isa::avx512);
  add_quantized_products(t);
  return t;
}
inline constexpr Table table = make_avx512_table();

}  // namespace kernels::avx512
}  // namespace chiasm
CHIASM_REGION_END

// The same tier on processors that multiply bytes (AVX512-VNNI): the products that gain by it.
CHIASM_REGION_BEGIN_AVX512_VNNI
namespace chiasm::inline CHIASM_ABI {
namespace kernels::avx512_vnni {

using namespace avx512;

#include <chiasm/kernels/vec/dot_avx512_vnni.inl>

#include <chiasm/kernels/body/blocks_i8.inl>

inline constexpr Table make_vnni_table() noexcept {
  Table t = avx512::table;
  add_quantized_products(t);
  return t;
}
inline constexpr Table table = make_vnni_table();

}  // namespace kernels::avx512_vnni
}  // namespace chiasm
CHIASM_REGION_END
#endif
