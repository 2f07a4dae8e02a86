/// AVX-512 tier. AVX-512 (F, BW, DQ, VL): x86 servers since 2017.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/kernels/target/intrinsics.hpp>

#include <bit>
#include <cstdint>

#if CHIASM_X86
CHIASM_REGION_BEGIN_AVX512
namespace chiasm::inline CHIASM_ABI {
namespace kernels::avx512 {

#include <chiasm/kernels/vec/avx512.inl>

#include <chiasm/kernels/body/math.inl>

#include <chiasm/kernels/body/rows.inl>

#include <chiasm/kernels/body/gemm.inl>

#include <chiasm/kernels/body/gemv.inl>

#include <chiasm/kernels/body/attention.inl>

#include <chiasm/kernels/body/table.inl>

inline constexpr Table table = make_table(Isa::avx512);

}  // namespace kernels::avx512
}  // namespace chiasm
CHIASM_REGION_END
#endif
