// The table of a tier whose bodies are all in the vector vocabulary.

template <DType kind>
inline constexpr void add_block_products(Table& t) noexcept {
  constexpr auto index = static_cast<std::size_t>(kind);
  for (Gemm(&row)[weight_kinds] : t.gemm) row[index] = gemm_of<kind>;
  t.gemv[index] = block_gemv<kind>;
}

inline constexpr Table make_table(Isa isa) noexcept {
  Table t;
  t.isa = isa;
  for (Gemm(&row)[weight_kinds] : t.gemm) {
    row[0] = gemm_of<DType::f32>;
    row[1] = gemm_of<DType::f16>;
    row[2] = gemm_of<DType::bf16>;
  }
  t.gemv[0] = gemv<DType::f32>;
  t.gemv[1] = gemv<DType::f16>;
  t.gemv[2] = gemv<DType::bf16>;
  add_block_products<DType::q4_0>(t);
  add_block_products<DType::q4_1>(t);
  add_block_products<DType::q5_0>(t);
  add_block_products<DType::q5_1>(t);
  add_block_products<DType::q8_0>(t);
  add_block_products<DType::q2_k>(t);
  add_block_products<DType::q3_k>(t);
  add_block_products<DType::q4_k>(t);
  add_block_products<DType::q5_k>(t);
  add_block_products<DType::q6_k>(t);
  add_block_products<DType::iq4_nl>(t);
  add_block_products<DType::iq4_xs>(t);
  add_block_products<DType::q8_row>(t);
  for (std::size_t& tokens : t.gemv_tokens) tokens = width < 8 ? 4 : 16;  // where gemm, which converts a weight once for many, is as fast (quant_bench)
  for (Attention& a : t.attention) a = {attention_rows, attention_scratch_bytes, attention, combine_parts};
  t.kv = {write_kv<true>, write_kv<false>, read_kv<true>, read_kv<false>};
  t.softmax = softmax;
  t.layer_norm = layer_norm;
  t.rms_norm = rms_norm;
  t.activate = activate;
  t.gated = gated;
  t.add = add_rows;
  t.mul = mul_rows;
  t.scale = scale_row;
  t.axpy = axpy;
  t.dot = dot;
  t.argmax = argmax;
  t.rope = rope;
  t.to_f32[0] = to_f32<DType::f32>;
  t.to_f32[1] = to_f32<DType::f16>;
  t.to_f32[2] = to_f32<DType::bf16>;
  t.from_f32[0] = from_f32<DType::f32>;
  t.from_f32[1] = from_f32<DType::f16>;
  t.from_f32[2] = from_f32<DType::bf16>;
  return t;
}
