/// AVX2 tier. AVX2 with FMA and F16C: x86 since 2013.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/kernels/target/intrinsics.hpp>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

#if CHIASM_X86
CHIASM_REGION_BEGIN_AVX2
namespace chiasm::inline CHIASM_ABI {
namespace kernels::avx2 {

#include <chiasm/kernels/vec/avx2.inl>

#include <chiasm/kernels/body/math.inl>

#include <chiasm/kernels/body/rows.inl>

#include <chiasm/kernels/body/blocks.inl>

#include <chiasm/kernels/body/gemm.inl>

#include <chiasm/kernels/body/gemv.inl>

#include <chiasm/kernels/body/block_gemv.inl>

#include <chiasm/kernels/body/kv.inl>

#include <chiasm/kernels/body/attention.inl>

#include <chiasm/kernels/body/quantize.inl>

#include <chiasm/kernels/vec/dot_avx2.inl>

#include <chiasm/kernels/body/blocks_i8.inl>

#include <chiasm/kernels/body/table.inl>

inline constexpr Table make_avx2_table() noexcept {
  Table t = make_table(Isa::avx2);
  add_quantized_products(t);
  return t;
}
inline constexpr Table table = make_avx2_table();

}  // namespace kernels::avx2
}  // namespace chiasm
CHIASM_REGION_END

// The same tier on processors that multiply bytes (AVX-VNNI): the products that gain by it.
CHIASM_REGION_BEGIN_AVX2_VNNI
namespace chiasm::inline CHIASM_ABI {
namespace kernels::avx2_vnni {

using namespace avx2;

#include <chiasm/kernels/vec/dot_avx2_vnni.inl>

#include <chiasm/kernels/body/blocks_i8.inl>

inline constexpr Table make_vnni_table() noexcept {
  Table t = avx2::table;
  add_quantized_products(t);
  return t;
}
inline constexpr Table table = make_vnni_table();

}  // namespace kernels::avx2_vnni
}  // namespace chiasm
CHIASM_REGION_END
#endif
