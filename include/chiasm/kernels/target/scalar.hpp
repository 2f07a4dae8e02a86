/// Scalar tier: every kernel in plain C++, for any processor; what the others are compared with first.
#pragma once

#include <chiasm/kernels/table.hpp>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace chiasm::inline CHIASM_ABI {
namespace kernels::scalar {

#include <chiasm/kernels/vec/scalar.inl>

#include <chiasm/kernels/body/math.inl>

#include <chiasm/kernels/body/rows.inl>

#include <chiasm/kernels/body/blocks.inl>

#include <chiasm/kernels/body/gemm.inl>

#include <chiasm/kernels/body/gemv.inl>

#include <chiasm/kernels/body/block_gemv.inl>

#include <chiasm/kernels/body/kv.inl>

#include <chiasm/kernels/body/attention.inl>

#include <chiasm/kernels/body/table.inl>

inline constexpr Table table = make_table(Isa::scalar);

}  // namespace kernels::scalar
}  // namespace chiasm
