// The table of a tier whose bodies are all in the vector vocabulary.

/// Up to so many tokens gemv is the faster one (quant_bench). Gemm converts a weight once for all tokens, but always multiplies whole vectors of them.
inline constexpr std::size_t most_gemv_tokens(DType kind) noexcept {
  if (width < 8) return 4;
  if (is_block_format(kind)) return width > 8 ? 36 : 24;
  return kind != DType::f32 ? 28 : width > 8 ? 36 : 32;
}

inline constexpr Table make_table(Isa isa) noexcept {
  Table t;
  t.isa = isa;
  for (Gemm(&row)[product_kinds] : t.gemm) {
    row[0] = gemm_of<DType::f32>;
    row[1] = gemm_of<DType::f16>;
    row[2] = gemm_of<DType::bf16>;
  }
  t.gemv[0] = gemv<DType::f32>;
  t.gemv[1] = gemv<DType::f16>;
  t.gemv[2] = gemv<DType::bf16>;
  each_block_format([&](auto format) {
    constexpr DType kind = decltype(format)::value;
    for (Gemm(&row)[product_kinds] : t.gemm) row[static_cast<std::size_t>(kind)] = gemm_of<kind>;
    t.gemv[static_cast<std::size_t>(kind)] = block_gemv<kind>;
  });
  for (std::size_t (&tokens)[weight_kinds] : t.gemv_tokens)
    for (std::size_t kind = 0; kind < weight_kinds; ++kind) tokens[kind] = most_gemv_tokens(static_cast<DType>(kind));
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
