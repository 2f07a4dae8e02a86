/// GPT-NeoX: attention and feed-forward side by side (Pythia, arXiv:2304.01373) or one behind the other (RedPajama-INCITE, on which OpenFlamingo
/// 4B stands), rotary positions on a share of each head. arXiv:2204.06745; key names and class defaults of transformers' GPTNeoXForCausalLM.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/decoder_stack.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct GptNeoxConfig {
  std::size_t vocab_size = 50432, hidden_size = 6144, intermediate_size = 24576, num_hidden_layers = 44, num_attention_heads = 64;
  Activation hidden_act = Activation::gelu;
  float layer_norm_eps = 1e-5f;
  bool use_parallel_residual = true, attention_bias = true;
  RopeConfig rope;

  /// Throws ConfigError, UnsupportedError.
  static GptNeoxConfig from(const Json& config) {
    GptNeoxConfig c;
    c.vocab_size = config_size(config, "vocab_size", c.vocab_size);
    c.hidden_size = config_size(config, "hidden_size", c.hidden_size);
    c.intermediate_size = config_size(config, "intermediate_size", c.intermediate_size);
    c.num_hidden_layers = config_layers(config, "num_hidden_layers", c.num_hidden_layers);
    c.num_attention_heads = config_size(config, "num_attention_heads", c.num_attention_heads);
    config_divides(config, "num_attention_heads", c.num_attention_heads, c.hidden_size);
    c.hidden_act = config_activation(config, "hidden_act", "gelu");
    c.layer_norm_eps = static_cast<float>(config_positive(config, "layer_norm_eps", 1e-5));
    c.use_parallel_residual = config.get<bool>("use_parallel_residual", true);
    c.attention_bias = config.get<bool>("attention_bias", true);
    c.rope = config_rope(config, c.hidden_size / c.num_attention_heads, 10000.0, 2048, {"rotary_emb_base", "rotary_pct", 0.25});
    return c;
  }
};

class GptNeoxAttention {
 public:
  GptNeoxAttention(const Weights& w, const GptNeoxConfig& c)
      : query_key_value_(w / "query_key_value", c.hidden_size, 3 * c.hidden_size, c.attention_bias),
        dense_(w / "dense", c.hidden_size, c.hidden_size, c.attention_bias),
        attend_(Attend::scaled(c.num_attention_heads, c.hidden_size / c.num_attention_heads, true)) {}

  Tensor operator()(Context& ctx, const Operand& x, const DecoderPass& pass, View residual) const {  // (T, D) -> (T, D)
    const std::size_t width = x.columns();
    Tensor qkv = sorted(ctx, query_key_value_(ctx, x));                                    // (T, 3 D)
    pass.rotate(ctx, qkv.view().column_slice(0, 2 * width), attend_.head_dim);             // queries and keys alike
    const View all = qkv;
    const Operand mixed = pass.attend(ctx, all.column_slice(0, width), all.column_slice(width, width), all.column_slice(2 * width, width), attend_);
    return dense_(ctx, mixed, Activation::none, residual);
  }

 private:
  /// A head's query, key and value come next to each other: here all queries, all keys, all values. To sort these few numbers is nothing beside
  /// the product that they come from, and the weights stay where they are mapped.
  Tensor sorted(Context& ctx, View heads) const {  // (T, H 3 d) -> (T, 3 H d)
    Tensor qkv = ctx.empty(heads.shape());
    const std::size_t d = attend_.head_dim, width = attend_.heads * d;
    ctx.parallel(heads.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t t = begin; t < end; ++t)
        for (std::size_t h = 0; h < attend_.heads; ++h)
          for (std::size_t part = 0; part < 3; ++part)
            std::memcpy(qkv.row(t) + part * width + h * d, heads.row(t) + (3 * h + part) * d, d * sizeof(float));
    });
    return qkv;
  }

  Linear query_key_value_, dense_;
  Attend attend_;
};

class GptNeoxLayer {
 public:
  GptNeoxLayer(const Weights& w, const GptNeoxConfig& c)
      : input_layernorm_(w / "input_layernorm", c.hidden_size, c.layer_norm_eps),
        attention_(w / "attention", c),
        post_attention_layernorm_(w / "post_attention_layernorm", c.hidden_size, c.layer_norm_eps),
        mlp_(w / "mlp", "dense_h_to_4h", "dense_4h_to_h", c.hidden_size, c.intermediate_size, c.hidden_size, c.hidden_act),
        use_parallel_residual_(c.use_parallel_residual) {}

  Tensor operator()(Context& ctx, View x, const DecoderPass& pass) const {  // (T, D) -> (T, D)
    const Tensor y = attention_(ctx, input_layernorm_.operand(ctx, x), pass, x);
    return mlp_(ctx, post_attention_layernorm_.operand(ctx, use_parallel_residual_ ? x : View(y)), y);
  }

 private:
  LayerNorm input_layernorm_;
  GptNeoxAttention attention_;
  LayerNorm post_attention_layernorm_;
  Mlp mlp_;
  bool use_parallel_residual_;
};

class GptNeox : public DecoderStack {
 public:
  /// `gpt_neox`; `embed_out` or `lm_head` unless it is tied to the embeddings. Throws WeightError.
  GptNeox(const Weights& w, GptNeoxConfig config)
      : DecoderStack({config.vocab_size, config.hidden_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
                      config.num_attention_heads, config.hidden_size / config.num_attention_heads, config.rope.max_position_embeddings}),
        config_(std::move(config)),
        embed_in_(w / "gpt_neox" / "embed_in", config_.vocab_size, config_.hidden_size),
        final_layer_norm_(w / "gpt_neox" / "final_layer_norm", config_.hidden_size, config_.layer_norm_eps) {
    layers_.reserve(config_.num_hidden_layers);
    for (std::size_t i = 0; i < config_.num_hidden_layers; ++i) layers_.emplace_back(w / "gpt_neox" / "layers" / i, config_);
    rope_ = Rope(config_.rope);  // after the weights have confirmed the size of a head
    embed_out_ = head(w, w.contains("lm_head") ? "lm_head" : "embed_out", embed_in_);
    for (const char* const buffer : {"rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"}) w.ignore(buffer);
  }

  const GptNeoxConfig& config() const noexcept { return config_; }
  std::size_t stable_length() const noexcept override { return rope_.stable_length(); }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return embed_in_(ctx, ids); }  // (T) -> (T, D)
  Tensor logits(Context& ctx, View hidden) const override { return embed_out_(ctx, hidden); }              // (T, D) -> (T, V)

 protected:
  Tensor begin(Context& ctx, View embeddings, DecoderPass& pass) const override {  // (T, D) -> (T, D)
    pass.find_angles(ctx, rope_, embeddings.rows());
    return copy(ctx, embeddings);
  }
  Tensor block(Context& ctx, View x, const DecoderPass& pass) const override { return layers_[pass.layer](ctx, x, pass); }
  Tensor end(Context& ctx, Tensor x) const override { return final_layer_norm_(ctx, x); }

 private:
  GptNeoxConfig config_;
  Embedding embed_in_;
  std::vector<GptNeoxLayer> layers_;
  LayerNorm final_layer_norm_;
  Rope rope_;
  Linear embed_out_;
};

}  // namespace chiasm
