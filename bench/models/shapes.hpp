/// Shapes: published architectures with random weights. What a model has learnt does not change its speed.
#pragma once

#include "support/random_decoder.hpp"

#include <chiasm/modules/projector.hpp>
#include <chiasm/modules/vit.hpp>

#include <cmath>
#include <string>

namespace shapes {

/// Random weights as loading lays them out for this precision.
inline chiasm::Weights laid_out(const chiasm::Weights& weights, chiasm::Compute compute) {
  return chiasm::reads_bf16_panels(compute) ? weights.converting({.bf16_panels = true}) : weights;
}

/// A prime, so that no two rows of a matrix are alike.
inline constexpr std::size_t period = 65537;

/// TinyLlama-1.1B, arXiv:2401.02385; or its first layers.
inline chiasm::DecoderConfig llama_1b(std::size_t layers = 22) {
  chiasm::DecoderConfig c;
  c.vocab_size = 32000, c.hidden_size = 2048, c.intermediate_size = 5632, c.num_hidden_layers = layers;
  c.num_attention_heads = 32, c.num_key_value_heads = 4, c.head_dim = 64;
  c.rope.dim = 64, c.rope.max_position_embeddings = 2048;
  return c;
}

/// Qwen2-0.5B, arXiv:2407.10671. Its output projection is tied to the embeddings.
inline chiasm::DecoderConfig qwen2_0_5b() {
  chiasm::DecoderConfig c;
  c.vocab_size = 151936, c.hidden_size = 896, c.intermediate_size = 4864, c.num_hidden_layers = 24;
  c.num_attention_heads = 14, c.num_key_value_heads = 2, c.head_dim = 64;
  c.rope.dim = 64, c.rope.theta = 1e6, c.rope.max_position_embeddings = 2048;
  c.qkv_bias = true;
  return c;
}

/// Llama 7B; or its first layers.
inline chiasm::DecoderConfig llama_7b(std::size_t layers = 32) {
  chiasm::DecoderConfig c;
  c.num_hidden_layers = layers;
  c.rope.dim = 128;
  return c;
}

/// CLIP's largest tower, the eye of LLaVA-1.5.
inline chiasm::VitConfig vit_l_336() {
  chiasm::VitConfig c;
  c.hidden_size = 1024, c.intermediate_size = 4096, c.num_hidden_layers = 24, c.num_attention_heads = 16;
  c.image_size = 336, c.patch_size = 14;
  return c;
}

inline chiasm::VitConfig vit_b_224() {
  chiasm::VitConfig c;
  c.patch_size = 16;
  return c;
}

/// The eye of BLIP-2, which has 39 layers; or its first ones.
inline chiasm::VitConfig vit_g_224(std::size_t layers = 39) {
  chiasm::VitConfig c;
  c.hidden_size = 1408, c.intermediate_size = 6144, c.num_hidden_layers = layers, c.num_attention_heads = 16;
  c.patch_size = 14;
  c.hidden_act = chiasm::Activation::gelu;
  c.layer_norm_eps = 1e-6f;
  c.pre_norm = false;
  c.patch_bias = c.fused_qkv = true;
  return c;
}

/// By the names of CLIP's checkpoints or, with `fused_qkv`, of BLIP-2's, below `vision_model.`.
inline chiasm::Weights random_vit(const chiasm::VitConfig& c, chiasm::DType dtype) {
  RandomWeights random(1, period);
  const std::size_t width = c.hidden_size, patch = c.num_channels * c.patch_size * c.patch_size;
  const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
    random.add(name + ".bias", chiasm::Shape{out}, 0.1);
  };
  const auto norm = [&](const std::string& name) {
    random.add(name + ".weight", chiasm::Shape{width}, 0.1, 1);
    random.add(name + ".bias", chiasm::Shape{width}, 0.1);
  };
  const std::size_t tokens = c.grid() * c.grid() + 1;
  random.add("embeddings.class_embedding", c.fused_qkv ? chiasm::Shape{1, 1, width} : chiasm::Shape{width}, 1);
  random.add("embeddings.patch_embedding.weight", chiasm::Shape{width, c.num_channels, c.patch_size, c.patch_size}, 1 / std::sqrt(static_cast<double>(patch)), 0, dtype);
  if (c.patch_bias) random.add("embeddings.patch_embedding.bias", chiasm::Shape{width}, 0.1);
  if (c.fused_qkv) random.add("embeddings.position_embedding", chiasm::Shape{1, tokens, width}, 0.5);
  else random.add("embeddings.position_embedding.weight", chiasm::Shape{tokens, width}, 0.5);
  if (c.pre_norm) norm("pre_layrnorm");
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "encoder.layers." + std::to_string(i) + ".";
    norm(layer + "layer_norm1");
    if (c.fused_qkv) {
      linear(layer + "self_attn.qkv", 3 * width, width);
      linear(layer + "self_attn.projection", width, width);
    } else {
      for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) linear(layer + "self_attn." + projection, width, width);
    }
    norm(layer + "layer_norm2");
    linear(layer + "mlp.fc1", c.intermediate_size, width);
    linear(layer + "mlp.fc2", width, c.intermediate_size);
  }
  norm("post_layernorm");
  return random.weights();
}

/// LLaVA-1.5's two layers.
inline chiasm::Weights random_projector(std::size_t in, std::size_t out, chiasm::DType dtype) {
  RandomWeights random(2, period);
  random.add("linear_1.weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
  random.add("linear_1.bias", chiasm::Shape{out}, 0.1);
  random.add("linear_2.weight", chiasm::Shape{out, out}, 1 / std::sqrt(static_cast<double>(out)), 0, dtype);
  random.add("linear_2.bias", chiasm::Shape{out}, 0.1);
  return random.weights();
}

/// Numbers in the matrices of all blocks and of the output projection: each is read once for a token, and multiplied and added once.
inline double matrix_size(const chiasm::DecoderConfig& c) {
  const std::size_t heads = (c.num_attention_heads + c.num_key_value_heads) * c.head_dim;  // q and o, k and v: each twice
  return static_cast<double>(c.num_hidden_layers * c.hidden_size * (2 * heads + 3 * c.intermediate_size) + c.vocab_size * c.hidden_size);
}

/// Operations of the first `blocks` blocks on one picture; a multiplication and an addition are two.
inline double flops(const chiasm::VitConfig& c, std::size_t blocks) {
  const auto width = static_cast<double>(c.hidden_size), inner = static_cast<double>(c.intermediate_size);
  const double patches = static_cast<double>(c.grid() * c.grid()), tokens = patches + 1;
  const double block = 2 * tokens * width * (4 * width + 2 * inner) + 4 * tokens * tokens * width;
  return 2 * patches * width * static_cast<double>(c.num_channels * c.patch_size * c.patch_size) + static_cast<double>(blocks) * block;
}

}  // namespace shapes
