/// Random weights of a Llama-like decoder, by the names of its checkpoints.
#pragma once

#include "support/random_weights.hpp"

#include <chiasm/modules/decoder.hpp>

inline chiasm::DecoderConfig small_decoder() {
  chiasm::DecoderConfig c;
  c.vocab_size = 97, c.hidden_size = 48, c.intermediate_size = 80, c.num_hidden_layers = 3;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 12;
  c.rope.dim = 12;
  return c;
}

inline chiasm::Weights random_decoder(const chiasm::DecoderConfig& c, chiasm::DType dtype = chiasm::DType::f32, RandomWeights random = RandomWeights()) {
  const auto matrix = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1.2 / std::sqrt(static_cast<double>(in)), 0, dtype);
  };
  matrix("model.embed_tokens", c.vocab_size, c.hidden_size);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    random.add(layer + "input_layernorm.weight", chiasm::Shape{c.hidden_size}, 0.1, 1);
    random.add(layer + "post_attention_layernorm.weight", chiasm::Shape{c.hidden_size}, 0.1, 1);
    matrix(layer + "self_attn.q_proj", c.num_attention_heads * c.head_dim, c.hidden_size);
    matrix(layer + "self_attn.k_proj", c.num_key_value_heads * c.head_dim, c.hidden_size);
    matrix(layer + "self_attn.v_proj", c.num_key_value_heads * c.head_dim, c.hidden_size);
    matrix(layer + "self_attn.o_proj", c.hidden_size, c.num_attention_heads * c.head_dim);
    matrix(layer + "mlp.gate_proj", c.intermediate_size, c.hidden_size);
    matrix(layer + "mlp.up_proj", c.intermediate_size, c.hidden_size);
    matrix(layer + "mlp.down_proj", c.hidden_size, c.intermediate_size);
  }
  random.add("model.norm.weight", chiasm::Shape{c.hidden_size}, 0.1, 1);
  matrix("lm_head", c.vocab_size, c.hidden_size);
  return random.weights();
}
