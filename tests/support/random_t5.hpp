/// Random weights of a T5, by the names of its checkpoints.
#pragma once

#include "support/random_weights.hpp"

#include <chiasm/models/t5.hpp>

inline chiasm::T5Config small_t5() {
  chiasm::T5Config c;
  c.vocab_size = 83, c.d_model = 40, c.d_kv = 12, c.d_ff = 60, c.num_heads = 3;
  c.num_layers = 2, c.num_decoder_layers = 3;
  c.relative_attention_num_buckets = 12, c.relative_attention_max_distance = 17;
  c.dense_act_fn = chiasm::Activation::gelu_tanh, c.is_gated_act = true;
  return c;
}

/// Without `lm_head` and copies of the embeddings: add them to `random` for files that have them.
inline chiasm::Weights random_t5(const chiasm::T5Config& c, chiasm::DType dtype = chiasm::DType::f32, RandomWeights random = RandomWeights()) {
  const auto matrix = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1.4 / std::sqrt(static_cast<double>(in)), 0, dtype);
  };
  const auto norm = [&](const std::string& name) { random.add(name + ".layer_norm.weight", chiasm::Shape{c.d_model}, 0.1, 1); };
  random.add("shared.weight", chiasm::Shape{c.vocab_size, c.d_model}, 1, 0, dtype);
  for (const bool decoder : {false, true}) {
    const std::string stack = decoder ? "decoder" : "encoder";
    for (std::size_t i = 0; i < (decoder ? c.num_decoder_layers : c.num_layers); ++i) {
      const std::string layer = stack + ".block." + std::to_string(i) + ".layer.";
      const auto attention = [&](const std::string& name) {
        for (const char* const part : {"q", "k", "v"}) matrix(name + "." + part, c.num_heads * c.d_kv, c.d_model);
        matrix(name + ".o", c.d_model, c.num_heads * c.d_kv);
      };
      attention(layer + "0.SelfAttention");
      norm(layer + "0");
      if (i == 0)
        random.add(layer + "0.SelfAttention.relative_attention_bias.weight", chiasm::Shape{c.relative_attention_num_buckets, c.num_heads}, 1, 0, dtype);
      if (decoder) attention(layer + "1.EncDecAttention");
      if (decoder) norm(layer + "1");
      const std::string last = layer + (decoder ? "2" : "1");
      for (const char* const part : {"wi_0", "wi_1"})
        if (c.is_gated_act) matrix(last + ".DenseReluDense." + part, c.d_ff, c.d_model);
      if (!c.is_gated_act) matrix(last + ".DenseReluDense.wi", c.d_ff, c.d_model);
      matrix(last + ".DenseReluDense.wo", c.d_model, c.d_ff);
      norm(last);
    }
    random.add(stack + ".final_layer_norm.weight", chiasm::Shape{c.d_model}, 0.1, 1);
  }
  return random.weights();
}
