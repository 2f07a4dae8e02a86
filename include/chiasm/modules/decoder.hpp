/// Decoder: the pre-norm language model of Llama (arXiv:2302.13971), Mistral (2310.06825) and Qwen2 (2407.10671): RMS norm, rotary
/// positions, grouped-query attention with an optional sliding window, gated feed-forward.
#pragma once

#include <chiasm/modules/decoder_stack.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct DecoderConfig {
  std::size_t vocab_size = 32000, hidden_size = 4096, intermediate_size = 11008, num_hidden_layers = 32;
  std::size_t num_attention_heads = 32, num_key_value_heads = 32, head_dim = 128;
  Activation hidden_act = Activation::silu;
  float rms_norm_eps = 1e-6f;
  RopeConfig rope;
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  std::vector<std::size_t> windows;  // per layer, 0: sees everything; empty: no layer has one
};

class DecoderAttention {
 public:
  DecoderAttention(const Weights& w, const DecoderConfig& c, std::size_t window)
      : qkv_(w,
             {{"q_proj", c.num_attention_heads * c.head_dim, c.qkv_bias},
              {"k_proj", c.num_key_value_heads * c.head_dim, c.qkv_bias},
              {"v_proj", c.num_key_value_heads * c.head_dim, c.qkv_bias}},
             c.hidden_size),
        o_proj_(w / "o_proj", c.num_attention_heads * c.head_dim, c.hidden_size, c.out_bias),
        attend_(Attend::scaled(c.num_attention_heads, c.head_dim, true)) {
    attend_.kv_heads = c.num_key_value_heads;
    attend_.window = window;
  }

  Tensor operator()(Context& ctx, const Operand& x, const DecoderPass& pass, View residual) const {  // (T, D) -> (T, D)
    Tensor qkv = qkv_(ctx, x);                                                          // (T, (H + 2 Kv) d)
    const std::size_t width = attend_.heads * attend_.head_dim, kv_width = attend_.kv_heads * attend_.head_dim;
    pass.rotate(ctx, qkv.view().column_slice(0, width + kv_width), attend_.head_dim);  // queries and keys alike
    const View all = qkv;
    const Operand mixed = pass.attend(ctx, all.column_slice(0, width), all.column_slice(width, kv_width), all.column_slice(width + kv_width, kv_width), attend_);
    return o_proj_(ctx, mixed, Activation::none, residual);                             // (T, D)
  }

 private:
  Linear qkv_, o_proj_;
  Attend attend_;
};

class DecoderLayer {
 public:
  DecoderLayer(const Weights& w, const DecoderConfig& c, std::size_t window)
      : input_layernorm_(w / "input_layernorm", c.hidden_size, c.rms_norm_eps),
        self_attn_(w / "self_attn", c, window),
        post_attention_layernorm_(w / "post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        mlp_(w / "mlp", c.hidden_size, c.intermediate_size, c.hidden_act, c.mlp_bias) {}

  Tensor operator()(Context& ctx, View x, const DecoderPass& pass) const {  // (T, D) -> (T, D)
    const Tensor y = self_attn_(ctx, input_layernorm_.operand(ctx, x), pass, x);
    return mlp_(ctx, post_attention_layernorm_.operand(ctx, y), y);
  }

 private:
  RmsNorm input_layernorm_;
  DecoderAttention self_attn_;
  RmsNorm post_attention_layernorm_;
  GatedMlp mlp_;
};

class Decoder : public DecoderStack {
 public:
  /// `model.embed_tokens`, `model.layers.N`, `model.norm` and, unless it is tied to the embeddings, `lm_head`. Throws WeightError.
  Decoder(const Weights& w, DecoderConfig config)
      : DecoderStack({config.vocab_size, config.hidden_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
                      config.num_key_value_heads, config.head_dim, config.rope.max_position_embeddings}),
        config_(std::move(config)),
        embed_tokens_(w / "model" / "embed_tokens", config_.vocab_size, config_.hidden_size),
        norm_(w / "model" / "norm", config_.hidden_size, config_.rms_norm_eps) {
    layers_.reserve(config_.num_hidden_layers);
    for (std::size_t i = 0; i < config_.num_hidden_layers; ++i)
      layers_.emplace_back(w / "model" / "layers" / i, config_, config_.windows.empty() ? 0 : config_.windows[i]);
    const Tensor divisors = w.contains("rope_freqs") ? (w / "rope_freqs").tensor("weight", Shape{config_.rope.dim / 2}) : Tensor();
    rope_ = Rope(config_.rope, divisors.values());  // after the weights have confirmed the size of a head
    lm_head_ = head(w, "lm_head", embed_tokens_);
    w.ignore("rotary_emb.inv_freq");
  }

  const DecoderConfig& config() const noexcept { return config_; }
  std::size_t stable_length() const noexcept override { return rope_.stable_length(); }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return embed_tokens_(ctx, ids); }  // (T) -> (T, D)
  Tensor logits(Context& ctx, View hidden) const override { return lm_head_(ctx, hidden); }                    // (T, D) -> (T, V)

 protected:
  Tensor begin(Context& ctx, View embeddings, DecoderPass& pass) const override {
    pass.find_angles(ctx, rope_, embeddings.rows());
    return copy(ctx, embeddings);
  }
  Tensor block(Context& ctx, View x, const DecoderPass& pass) const override { return layers_[pass.layer](ctx, x, pass); }
  Tensor end(Context& ctx, Tensor x) const override { return norm_(ctx, x); }

 private:
  DecoderConfig config_;
  Embedding embed_tokens_;
  std::vector<DecoderLayer> layers_;
  RmsNorm norm_;
  Rope rope_;
  Linear lm_head_;
};

}  // namespace chiasm
