/// Random weights of a Llama-like decoder in the formats of GGUF files, as llama-quantize chooses them, packed for products.
#pragma once

#include "shapes.hpp"

#include <chiasm/core/pack.hpp>
#include <chiasm/core/thread_pool.hpp>

#include <cstring>
#include <string_view>

namespace shapes {

/// Kinds of files: all floats of a matrix are "f32", "f16" or "bf16", or loading makes them "q8_row"; "q8_0", "q4_0" and "q4_k_m" are what such files have for it.
inline chiasm::DType format(const chiasm::DecoderConfig& c, std::string_view kind, std::string_view name, std::size_t layer, std::size_t columns, bool tied) {
  using chiasm::DType;
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q8_row})
    if (kind == chiasm::name(type)) return type;
  const bool mixed = kind == "q4_k_m";
  DType type = mixed ? DType::q4_k : DType::q4_0;
  const std::size_t layers = c.num_hidden_layers, eighth = layers / 8;
  const bool more_bits = layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
  if (name == "lm_head" || (tied && name == "embed_tokens") || (mixed && more_bits && (name == "v_proj" || name == "down_proj"))) type = DType::q6_k;
  if (columns % chiasm::block_size(type) != 0) type = type == DType::q6_k ? DType::q8_0 : DType::q5_0;  // as llama-quantize gives way
  return type;
}

/// Random codes under one scale, which makes weights of about 0.02; they come again after some 4 MB, out of step with rows.
inline chiasm::Weight random_blocks(const std::string& name, chiasm::DType type, std::size_t rows, std::size_t columns) {
  using namespace chiasm;
  const std::size_t size = size_of(type), different = (std::size_t{1} << 22) / size | 1;
  std::vector<unsigned char> blocks(different * size);
  std::uint32_t state = 1;
  for (unsigned char& byte : blocks) byte = static_cast<unsigned char>((state = state * 1664525u + 1013904223u) >> 24);
  const auto put = [&](std::size_t at, float value) {
    const f16 half = f16::from(value);
    for (std::size_t i = 0; i < different; ++i) std::memcpy(&blocks[i * size + at], &half, 2);
  };
  if (type == DType::q4_0) put(0, 0.004f);
  if (type == DType::q5_0) put(0, 0.002f);
  if (type == DType::q8_0) put(0, 0.0003f);
  if (type == DType::q4_k) put(0, 0.0001f), put(2, 0.00075f);
  if (type == DType::q6_k) {
    for (std::size_t i = 0; i < different; ++i)
      for (std::size_t j = 192; j < 208; ++j) blocks[i * size + j] = static_cast<unsigned char>(blocks[i * size + j] % 16 + 1);  // its int8 scales
    put(208, 0.00013f);
  }
  const Shape shape{rows, columns};
  auto bytes = std::make_shared<std::vector<unsigned char>>(bytes_of(type, shape));
  for (std::size_t at = 0; at < bytes->size(); at += blocks.size()) std::memcpy(bytes->data() + at, blocks.data(), std::min(blocks.size(), bytes->size() - at));
  return Weight(name, type, shape, reinterpret_cast<const std::byte*>(bytes->data()), bytes, "random");
}

/// By the names of its checkpoints. A tied output projection comes as a matrix of its own, as it does out of a file.
inline chiasm::Weights random_llama(const chiasm::DecoderConfig& c, std::string_view kind, bool tied = false) {
  using namespace chiasm;
  if (kind == "f32" || kind == "f16" || kind == "bf16") {
    const DType type = kind == "f32" ? DType::f32 : kind == "f16" ? DType::f16 : DType::bf16;
    return random_decoder(c, type, RandomWeights(1, period));
  }
  if (kind == "q8_row") return random_llama(c, "bf16", tied).converting({.kind = WeightKind::i8});
  RandomWeights vectors(1, period);
  std::vector<Weight> matrices;
  ThreadPool pool;
  const auto matrix = [&](const std::string& prefix, const char* name, std::size_t layer, std::size_t out, std::size_t in, bool bias = false) {
    const Weight rows = random_blocks(prefix + name + ".weight", format(c, kind, name, layer, in, tied), out, in);
    matrices.push_back(std::string_view(name) == "embed_tokens" ? rows : pack(rows, &pool));
    if (bias) vectors.add(prefix + name + ".bias", Shape{out}, 0.1);
  };
  matrix("model.", "embed_tokens", 0, c.vocab_size, c.hidden_size);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.", mlp = layer + "mlp.";
    const std::size_t width = c.hidden_size, q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    vectors.add(layer + "input_layernorm.weight", Shape{width}, 0.1, 1);
    vectors.add(layer + "post_attention_layernorm.weight", Shape{width}, 0.1, 1);
    matrix(attention, "q_proj", i, q, width, c.qkv_bias);
    matrix(attention, "k_proj", i, kv, width, c.qkv_bias);
    matrix(attention, "v_proj", i, kv, width, c.qkv_bias);
    matrix(attention, "o_proj", i, width, q);
    matrix(mlp, "gate_proj", i, c.intermediate_size, width);
    matrix(mlp, "up_proj", i, c.intermediate_size, width);
    matrix(mlp, "down_proj", i, width, c.intermediate_size);
  }
  vectors.add("model.norm.weight", Shape{c.hidden_size}, 0.1, 1);
  matrix("", "lm_head", 0, c.vocab_size, c.hidden_size);
  return Weights(std::move(matrices), "random").merged(vectors.weights());
}

/// Bytes of the matrices that every token goes through.
inline double matrix_bytes(const chiasm::DecoderConfig& c, std::string_view kind, bool tied = false) {
  using chiasm::row_bytes;
  const std::size_t width = c.hidden_size, q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim, inner = c.intermediate_size;
  const auto bytes = [&](const char* name, std::size_t layer, std::size_t out, std::size_t in) { return out * row_bytes(format(c, kind, name, layer, in, tied), in); };
  std::size_t sum = bytes("lm_head", 0, c.vocab_size, width);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i)
    sum += bytes("q_proj", i, q, width) + bytes("k_proj", i, kv, width) + bytes("v_proj", i, kv, width) + bytes("o_proj", i, width, q) +
           bytes("gate_proj", i, inner, width) + bytes("up_proj", i, inner, width) + bytes("down_proj", i, width, inner);
  return static_cast<double>(sum);
}

}  // namespace shapes
