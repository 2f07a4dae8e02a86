/// AMX tier: bf16 tiles (x86 servers since 2023). All but the bf16 products and attention is the AVX-512 tier's.
#pragma once

#include <chiasm/kernels/target/avx512.hpp>

#if CHIASM_X86
CHIASM_REGION_BEGIN_AMX
namespace chiasm::inline CHIASM_ABI {
namespace kernels::amx {

using namespace avx512;  // its vocabulary and bodies: a region may inline what needs less

#include <chiasm/kernels/body/gemm_tiles.inl>

#include <chiasm/kernels/body/attention_tiles.inl>

inline constexpr Table make_amx_table() noexcept {
  Table t = avx512::table;
  t.isa = Isa::amx;
  t.gemm[1][0] = tiles_of<DType::f32>;
  t.gemm[1][1] = tiles_of<DType::f16>;
  t.gemm[1][2] = tiles_of<DType::bf16>;
  t.attention[1] = {tile_attention_rows, tile_attention_scratch_bytes, attend_tiles};
  return t;
}
inline constexpr Table table = make_amx_table();

}  // namespace kernels::amx
}  // namespace chiasm
CHIASM_REGION_END
#endif
