/// Random weights of a Q-Former, by the names that QFormer::normalise() gives, below `qformer.`.
#pragma once

#include "support/random_weights.hpp"

#include <chiasm/modules/qformer.hpp>

inline chiasm::QFormerConfig small_qformer(bool text) {
  chiasm::QFormerConfig c;
  c.num_query_tokens = 5, c.hidden_size = 24, c.intermediate_size = 40, c.num_hidden_layers = 3, c.num_attention_heads = 3;
  c.encoder_hidden_size = 20;
  c.vocab_size = 31, c.max_position_embeddings = 9;
  c.text = text;
  return c;
}

inline chiasm::Weights random_qformer(const chiasm::QFormerConfig& c, chiasm::DType dtype = chiasm::DType::f32, RandomWeights random = RandomWeights()) {
  const std::size_t width = c.hidden_size;
  const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1.2 / std::sqrt(static_cast<double>(in)), 0, dtype);
    random.add(name + ".bias", chiasm::Shape{out}, 0.1);
  };
  const auto norm = [&](const std::string& name) {
    random.add(name + ".weight", chiasm::Shape{width}, 0.1, 1);
    random.add(name + ".bias", chiasm::Shape{width}, 0.1);
  };
  const auto attention = [&](const std::string& name, std::size_t states) {
    linear(name + ".attention.query", width, width);
    linear(name + ".attention.key", width, states);
    linear(name + ".attention.value", width, states);
    linear(name + ".output.dense", width, width);
    norm(name + ".output.LayerNorm");
  };
  const auto feed_forward = [&](const std::string& name, const std::string& suffix) {
    linear(name + ".intermediate" + suffix + ".dense", c.intermediate_size, width);
    linear(name + ".output" + suffix + ".dense", width, c.intermediate_size);
    norm(name + ".output" + suffix + ".LayerNorm");
  };
  random.add("query_tokens", chiasm::Shape{1, c.num_query_tokens, width}, 1);
  norm("embeddings.layernorm");
  if (c.text) {
    random.add("embeddings.word_embeddings.weight", chiasm::Shape{c.vocab_size, width}, 1, 0, dtype);
    random.add("embeddings.position_embeddings.weight", chiasm::Shape{c.max_position_embeddings, width}, 0.5, 0, dtype);
  }
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "encoder.layer." + std::to_string(i);
    attention(layer + ".attention", width);
    if (i % c.cross_attention_frequency == 0) attention(layer + ".crossattention", c.encoder_hidden_size);
    feed_forward(layer, "_query");
    if (c.text) feed_forward(layer, "");
  }
  return random.weights();
}
