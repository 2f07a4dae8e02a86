/// AVX2 tier. AVX2 with FMA and F16C: x86 since 2013.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/kernels/target/intrinsics.hpp>

#include <bit>
#include <cstdint>

#if CHIASM_X86
CHIASM_REGION_BEGIN_AVX2
namespace chiasm::inline CHIASM_ABI {
namespace kernels::avx2 {

#include <chiasm/kernels/vec/avx2.inl>

#include <chiasm/kernels/body/math.inl>

#include <chiasm/kernels/body/rows.inl>

#include <chiasm/kernels/body/gemm.inl>

#include <chiasm/kernels/body/gemv.inl>

#include <chiasm/kernels/body/attention.inl>

#include <chiasm/kernels/body/table.inl>

inline constexpr Table table = make_table(Isa::avx2);

}  // namespace kernels::avx2
}  // namespace chiasm
CHIASM_REGION_END
#endif
