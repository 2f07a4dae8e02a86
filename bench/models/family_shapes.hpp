/// Shapes of BLIP-2, OpenFlamingo and IDEFICS: the published widths with random weights, of the deep parts the first layers.
#pragma once

#include "shapes.hpp"
#include "support/random_qformer.hpp"

#include <chiasm/models/gpt_neox.hpp>
#include <chiasm/models/mpt.hpp>
#include <chiasm/models/opt.hpp>
#include <chiasm/modules/gated_decoder.hpp>
#include <chiasm/modules/perceiver_resampler.hpp>

namespace shapes {

inline const chiasm::PerceiverResamplerConfig open_flamingo_resampler{.width = 1024};
inline const chiasm::PerceiverResamplerConfig idefics_resampler{.width = 1280, .heads = 16, .head_dim = 96, .hidden_act = chiasm::Activation::relu, .qk_norm = true};
inline const chiasm::GatedCrossAttentionConfig open_flamingo_3b_gate{.hidden_size = 2048, .media_width = 1024};
inline const chiasm::GatedCrossAttentionConfig idefics_9b_gate{.hidden_size = 4096, .media_width = 1280, .heads = 32, .head_dim = 128, .intermediate_size = 11008,
                                                               .hidden_act = chiasm::Activation::silu, .norm_eps = 1e-6f, .rms_norm = true, .gated_mlp = true,
                                                               .qk_norm = true};

/// CLIP's ViT-L/14, the eye of OpenFlamingo.
inline chiasm::VitConfig vit_l_224() {
  chiasm::VitConfig c = vit_l_336();
  c.image_size = 224;
  return c;
}

/// The first of the 32 layers of ViT-H/14, the eye of IDEFICS.
inline chiasm::VitConfig vit_h_224(std::size_t layers) {
  chiasm::VitConfig c;
  c.hidden_size = 1280, c.intermediate_size = 5120, c.num_hidden_layers = layers, c.num_attention_heads = 16;
  c.patch_size = 14;
  c.hidden_act = chiasm::Activation::gelu;
  return c;
}

/// The first of the 24 layers of OpenFlamingo-3B's language model.
inline chiasm::MptConfig mpt_1b(std::size_t layers) {
  chiasm::MptConfig c;
  c.n_layers = layers;
  return c;
}

/// The first of the 32 layers of BLIP-2's smaller language model.
inline chiasm::OptConfig opt_2_7b(std::size_t layers) {
  chiasm::OptConfig c;
  c.hidden_size = c.word_embed_proj_dim = 2560, c.ffn_dim = 10240, c.num_hidden_layers = layers, c.num_attention_heads = 32;
  return c;
}

inline chiasm::OptConfig opt_1_3b() {
  chiasm::OptConfig c;
  c.hidden_size = c.word_embed_proj_dim = 2048, c.ffn_dim = 8192, c.num_hidden_layers = 24, c.num_attention_heads = 32;
  return c;
}

/// Pythia-1.4B, arXiv:2304.01373. A quarter of each head turns.
inline chiasm::GptNeoxConfig pythia_1_4b() {
  chiasm::GptNeoxConfig c;
  c.vocab_size = 50304, c.hidden_size = 2048, c.intermediate_size = 8192, c.num_hidden_layers = 24, c.num_attention_heads = 16;
  c.rope.dim = 32, c.rope.max_position_embeddings = 2048;
  return c;
}

/// By OpenFlamingo's names, or IDEFICS's where queries and keys are normed.
inline chiasm::Weights random_resampler(const chiasm::PerceiverResamplerConfig& c, chiasm::DType dtype) {
  RandomWeights random(1, period);
  const std::size_t inner = c.heads * c.head_dim;
  const auto matrix = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
  };
  const auto norm = [&](const std::string& name, std::size_t width) {
    random.add(name + ".weight", chiasm::Shape{width}, 0.1, 1);
    random.add(name + ".bias", chiasm::Shape{width}, 0.1);
  };
  random.add("latents", chiasm::Shape{c.latents, c.width}, 1);
  for (std::size_t i = 0; i < c.depth; ++i) {
    const std::string layer = (c.qk_norm ? "blocks." : "layers.") + std::to_string(i) + ".";
    norm(layer + (c.qk_norm ? "0.context_layer_norm" : "0.norm_media"), c.width);
    norm(layer + (c.qk_norm ? "0.latents_layer_norm" : "0.norm_latents"), c.width);
    matrix(layer + (c.qk_norm ? "0.q_proj" : "0.to_q"), inner, c.width);
    if (c.qk_norm) {
      matrix(layer + "0.k_proj", inner, c.width);
      matrix(layer + "0.v_proj", inner, c.width);
      norm(layer + "0.q_layer_norm", c.head_dim);
      norm(layer + "0.k_layer_norm", c.head_dim);
    } else {
      matrix(layer + "0.to_kv", 2 * inner, c.width);
    }
    matrix(layer + (c.qk_norm ? "0.output_proj" : "0.to_out"), c.width, inner);
    norm(layer + (c.qk_norm ? "1.ln" : "1.0"), c.width);
    matrix(layer + (c.qk_norm ? "1.fc" : "1.1"), c.intermediate_size, c.width);
    matrix(layer + (c.qk_norm ? "1.c_proj" : "1.3"), c.width, c.intermediate_size);
  }
  norm(c.qk_norm ? "layer_norm" : "norm", c.width);
  return random.weights();
}

/// By OpenFlamingo's names, or IDEFICS's where norms are RMS norms.
inline chiasm::Weights random_gate(const chiasm::GatedCrossAttentionConfig& c, chiasm::DType dtype) {
  RandomWeights random(1, period);
  const std::size_t inner = c.heads * c.head_dim;
  const auto matrix = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
  };
  const auto norm = [&](const std::string& name, std::size_t width) {
    random.add(name + ".weight", chiasm::Shape{width}, 0.1, 1);
    if (!c.rms_norm) random.add(name + ".bias", chiasm::Shape{width}, 0.1);
  };
  norm(c.rms_norm ? "input_layernorm" : "attn.norm", c.hidden_size);
  norm(c.rms_norm ? "post_attention_layernorm" : "ff.0", c.hidden_size);
  matrix(c.rms_norm ? "cross_attn.q_proj" : "attn.to_q", inner, c.hidden_size);
  matrix(c.rms_norm ? "cross_attn.o_proj" : "attn.to_out", c.hidden_size, inner);
  random.add(c.rms_norm ? "alpha_cross_attn" : "attn_gate", chiasm::Shape{1}, 0, 0.5);
  random.add(c.rms_norm ? "alpha_dense" : "ff_gate", chiasm::Shape{1}, 0, 0.5);
  if (c.rms_norm) {
    matrix("cross_attn.k_proj", inner, c.media_width);
    matrix("cross_attn.v_proj", inner, c.media_width);
    norm("cross_attn.q_layer_norm", c.head_dim);
    norm("cross_attn.k_layer_norm", c.head_dim);
    for (const char* name : {"mlp.gate_proj", "mlp.up_proj"}) matrix(name, c.intermediate_size, c.hidden_size);
    matrix("mlp.down_proj", c.hidden_size, c.intermediate_size);
  } else {
    matrix("attn.to_kv", 2 * inner, c.media_width);
    matrix("ff.1", c.intermediate_size, c.hidden_size);
    matrix("ff.3", c.hidden_size, c.intermediate_size);
  }
  return random.weights();
}

inline std::vector<chiasm::GatedCrossAttention> random_gates(const chiasm::GatedCrossAttentionConfig& c, std::size_t count, chiasm::DType dtype) {
  std::vector<chiasm::GatedCrossAttention> gates;
  for (std::size_t i = 0; i < count; ++i) gates.emplace_back(random_gate(c, dtype), c);
  return gates;
}

inline chiasm::Weights random_mpt(const chiasm::MptConfig& c, chiasm::DType dtype) {
  RandomWeights random(1, period);
  const std::size_t width = c.d_model;
  const auto matrix = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add("transformer." + name + ".weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
  };
  const auto norm = [&](const std::string& name) { random.add("transformer." + name + ".weight", chiasm::Shape{width}, 0.1, 1); };
  matrix("wte", c.vocab_size, width);
  for (std::size_t i = 0; i < c.n_layers; ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".";
    norm(block + "norm_1");
    matrix(block + "attn.Wqkv", 3 * width, width);
    matrix(block + "attn.out_proj", width, width);
    norm(block + "norm_2");
    matrix(block + "ffn.up_proj", c.expansion_ratio * width, width);
    matrix(block + "ffn.down_proj", width, c.expansion_ratio * width);
  }
  norm("norm_f");
  return random.weights();
}

inline chiasm::Weights random_opt(const chiasm::OptConfig& c, chiasm::DType dtype) {
  RandomWeights random(1, period);
  const std::size_t width = c.hidden_size;
  const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add("model.decoder." + name + ".weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
    random.add("model.decoder." + name + ".bias", chiasm::Shape{out}, 0.1);
  };
  const auto norm = [&](const std::string& name) {
    random.add("model.decoder." + name + ".weight", chiasm::Shape{width}, 0.1, 1);
    random.add("model.decoder." + name + ".bias", chiasm::Shape{width}, 0.1);
  };
  random.add("model.decoder.embed_tokens.weight", chiasm::Shape{c.vocab_size, width}, 1 / std::sqrt(static_cast<double>(width)), 0, dtype);
  random.add("model.decoder.embed_positions.weight", chiasm::Shape{c.max_position_embeddings + 2, width}, 0.1, 0, dtype);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    norm(layer + "self_attn_layer_norm");
    for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) linear(layer + "self_attn." + projection, width, width);
    norm(layer + "final_layer_norm");
    linear(layer + "fc1", c.ffn_dim, width);
    linear(layer + "fc2", width, c.ffn_dim);
  }
  norm("final_layer_norm");
  return random.weights();
}

inline chiasm::Weights random_gpt_neox(const chiasm::GptNeoxConfig& c, chiasm::DType dtype) {
  RandomWeights random(1, period);
  const std::size_t width = c.hidden_size;
  const auto matrix = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", chiasm::Shape{out, in}, 1 / std::sqrt(static_cast<double>(in)), 0, dtype);
  };
  const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
    matrix(name, out, in);
    random.add(name + ".bias", chiasm::Shape{out}, 0.1);
  };
  const auto norm = [&](const std::string& name) {
    random.add(name + ".weight", chiasm::Shape{width}, 0.1, 1);
    random.add(name + ".bias", chiasm::Shape{width}, 0.1);
  };
  matrix("gpt_neox.embed_in", c.vocab_size, width);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "gpt_neox.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm");
    linear(layer + "attention.query_key_value", 3 * width, width);
    linear(layer + "attention.dense", width, width);
    norm(layer + "post_attention_layernorm");
    linear(layer + "mlp.dense_h_to_4h", c.intermediate_size, width);
    linear(layer + "mlp.dense_4h_to_h", width, c.intermediate_size);
  }
  norm("gpt_neox.final_layer_norm");
  matrix("embed_out", c.vocab_size, width);
  return random.weights();
}

}  // namespace shapes
