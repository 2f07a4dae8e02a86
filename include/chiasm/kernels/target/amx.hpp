/// AMX tier: bf16 tiles (x86 servers since 2023). All but the bf16 products and attention is the AVX-512 tier's.
#pragma once

#include <chiasm/kernels/target/avx512.hpp>

#if CHIASM_X86
CHIASM_REGION_BEGIN_AMX
namespace chiasm::inline CHIASM_ABI {
namespace kernels::amx {

using namespace avx512;  // its vocabulary and bodies: a region may inline what needs less

#include <chiasm/kernels/body/tiles.inl>

#include <chiasm/kernels/body/block_tiles.inl>

#include <chiasm/kernels/body/tile_stores.inl>

#include <chiasm/kernels/body/gemm_tiles.inl>

#include <chiasm/kernels/body/gemv_tiles.inl>

#include <chiasm/kernels/body/block_tiles_i8.inl>

#include <chiasm/kernels/body/gemm_tiles_i8.inl>

#include <chiasm/kernels/body/attention_tiles.inl>

inline constexpr Table make_amx_table() noexcept {
  Table t = avx512_vnni::table;
  t.isa = Isa::amx;
  t.gemm[1][0] = tiles_of<DType::f32>;
  t.gemm[1][1] = tiles_of<DType::f16>;
  t.gemm[1][2] = tiles_of<DType::bf16>;
  t.gemm[1][bf16_panels] = tiles_of<DType::bf16, Layout::panels>;
  each_block_format([&](auto format) {
    constexpr DType kind = decltype(format)::value;
    t.gemm[1][static_cast<std::size_t>(kind)] = tiles_of<kind>;
    t.gemv_i8[static_cast<std::size_t>(kind)] = block_gemv_tiles<kind>;
  });
  for (std::size_t kind = 0; kind < product_kinds; ++kind) t.gemm[2][kind] = t.gemm[1][kind];
  t.gemm[2][static_cast<std::size_t>(DType::q8_row)] = tiles_i8;
  for (std::size_t kind = 0; kind < weight_kinds; ++kind) t.gemv_tokens[1][kind] = t.gemv_tokens[2][kind] = 8;
  t.i8_tokens = tile_tokens;
  t.few = {few_tokens, few_packed_bytes, few_pack, few_run, few_run_panels};
  t.attention[1] = t.attention[2] = {tile_attention_rows, tile_attention_scratch_bytes, attend_tiles, combine_parts, true};
  t.kv.write_keys = write_key_tiles;
  t.kv.write_values = write_value_tiles;
  return t;
}
inline constexpr Table table = make_amx_table();

}  // namespace kernels::amx
}  // namespace chiasm
CHIASM_REGION_END
#endif
