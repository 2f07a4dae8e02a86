/// OPT: learned positions, biases, ReLU; the norms before the blocks' parts or, in the 350 M one, behind them. arXiv:2205.01068; key names and
/// class defaults of transformers' OPTForCausalLM.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/decoder_stack.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <optional>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct OptConfig {
  std::size_t vocab_size = 50272, hidden_size = 768, ffn_dim = 3072, num_hidden_layers = 12, num_attention_heads = 12;
  std::size_t max_position_embeddings = 2048;
  std::size_t word_embed_proj_dim = 768;  // of the embeddings; other than hidden_size: projected before the first block and behind the last
  Activation activation_function = Activation::relu;
  bool do_layer_norm_before = true, remove_final_layer_norm = false, layer_norm_elementwise_affine = true;
  bool enable_bias = true;

  /// Throws ConfigError.
  static OptConfig from(const Json& config) {
    OptConfig c;
    c.vocab_size = config_size(config, "vocab_size", c.vocab_size);
    c.hidden_size = config_size(config, "hidden_size", c.hidden_size);
    c.ffn_dim = config_size(config, "ffn_dim", c.ffn_dim);
    c.num_hidden_layers = config_layers(config, "num_hidden_layers", c.num_hidden_layers);
    c.num_attention_heads = config_size(config, "num_attention_heads", c.num_attention_heads);
    config_divides(config, "num_attention_heads", c.num_attention_heads, c.hidden_size);
    c.max_position_embeddings = config_size(config, "max_position_embeddings", c.max_position_embeddings);
    c.word_embed_proj_dim = config_size(config, "word_embed_proj_dim", c.hidden_size);
    c.activation_function = config_activation(config, "activation_function", "relu");
    c.do_layer_norm_before = config.get<bool>("do_layer_norm_before", true);
    c.remove_final_layer_norm = config.get<bool>("_remove_final_layer_norm", false);
    c.layer_norm_elementwise_affine = config.get<bool>("layer_norm_elementwise_affine", true);
    c.enable_bias = config.get<bool>("enable_bias", true);
    return c;
  }

  LayerNorm layer_norm(const Weights& w) const {
    constexpr float eps = 1e-5f;
    return layer_norm_elementwise_affine ? LayerNorm(w, hidden_size, eps) : LayerNorm(hidden_size, eps);
  }
};

class OptAttention {
 public:
  OptAttention(const Weights& w, const OptConfig& c)
      : qkv_(w, {{"q_proj", c.hidden_size, c.enable_bias}, {"k_proj", c.hidden_size, c.enable_bias}, {"v_proj", c.hidden_size, c.enable_bias}}, c.hidden_size),
        out_proj_(w / "out_proj", c.hidden_size, c.hidden_size, c.enable_bias),
        attend_(Attend::scaled(c.num_attention_heads, c.hidden_size / c.num_attention_heads, true)) {}

  Tensor operator()(Context& ctx, const Operand& x, const DecoderPass& pass, View residual) const {  // (T, D) -> (T, D)
    const std::size_t width = x.columns();
    const Tensor qkv = qkv_(ctx, x);                                                       // (T, 3 D)
    const View all = qkv;
    const Operand mixed = pass.attend(ctx, all.column_slice(0, width), all.column_slice(width, width), all.column_slice(2 * width, width), attend_);
    return out_proj_(ctx, mixed, Activation::none, residual);
  }

 private:
  Linear qkv_, out_proj_;
  Attend attend_;
};

class OptLayer {
 public:
  OptLayer(const Weights& w, const OptConfig& c)
      : self_attn_layer_norm_(c.layer_norm(w / "self_attn_layer_norm")),
        self_attn_(w / "self_attn", c),
        final_layer_norm_(c.layer_norm(w / "final_layer_norm")),
        mlp_(w, "fc1", "fc2", c.hidden_size, c.ffn_dim, c.hidden_size, c.activation_function, c.enable_bias),
        do_layer_norm_before_(c.do_layer_norm_before) {}

  Tensor operator()(Context& ctx, View x, const DecoderPass& pass) const {  // (T, D) -> (T, D)
    if (do_layer_norm_before_) {
      const Tensor y = self_attn_(ctx, self_attn_layer_norm_.operand(ctx, x), pass, x);
      return mlp_(ctx, final_layer_norm_.operand(ctx, y), y);
    }
    const Tensor y = self_attn_layer_norm_(ctx, self_attn_(ctx, x, pass, x));
    return final_layer_norm_(ctx, mlp_(ctx, y, y));
  }

 private:
  LayerNorm self_attn_layer_norm_;
  OptAttention self_attn_;
  LayerNorm final_layer_norm_;
  Mlp mlp_;
  bool do_layer_norm_before_;
};

class Opt : public DecoderStack {
 public:
  /// `model.decoder` or, as in the files of the hub, `decoder`; `lm_head` unless it is tied to the embeddings. Throws WeightError.
  Opt(const Weights& w, OptConfig config) : Opt(w, (w.contains("model.decoder") ? w / "model" : w) / "decoder", std::move(config)) {}

  const OptConfig& config() const noexcept { return config_; }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return embed_tokens_(ctx, ids); }  // (T) -> (T, E)
  Tensor logits(Context& ctx, View hidden) const override { return lm_head_(ctx, hidden); }                    // (T, E) -> (T, V)

 protected:
  Tensor begin(Context& ctx, View embeddings, DecoderPass& pass) const override {  // (T, E) -> (T, D)
    Tensor x = project_in_ ? (*project_in_)(ctx, embeddings) : copy(ctx, embeddings);
    pass.add_positions(ctx, embed_positions_.slice(2, config_.max_position_embeddings), "max_position_embeddings", x);
    return x;
  }
  Tensor block(Context& ctx, View x, const DecoderPass& pass) const override { return layers_[pass.layer](ctx, x, pass); }
  Tensor end(Context& ctx, Tensor x) const override {  // (T, D) -> (T, E)
    if (final_layer_norm_) x = (*final_layer_norm_)(ctx, x);
    return project_out_ ? (*project_out_)(ctx, x) : std::move(x);
  }

 private:
  Opt(const Weights& w, const Weights& decoder, OptConfig config)
      : DecoderStack({config.vocab_size, config.word_embed_proj_dim, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
                      config.num_attention_heads, config.hidden_size / config.num_attention_heads, config.max_position_embeddings}),
        config_(config),
        embed_tokens_(decoder / "embed_tokens", config.vocab_size, config.word_embed_proj_dim),
        embed_positions_((decoder / "embed_positions").tensor("weight", Shape{config.max_position_embeddings + 2, config.hidden_size})) {
    if (config.word_embed_proj_dim != config.hidden_size) {
      project_in_ = Linear(decoder / "project_in", config.word_embed_proj_dim, config.hidden_size, false);
      project_out_ = Linear(decoder / "project_out", config.hidden_size, config.word_embed_proj_dim, false);
    }
    layers_.reserve(config.num_hidden_layers);
    for (std::size_t i = 0; i < config.num_hidden_layers; ++i) layers_.emplace_back(decoder / "layers" / i, config);
    if (config.do_layer_norm_before && !config.remove_final_layer_norm) final_layer_norm_ = config.layer_norm(decoder / "final_layer_norm");
    lm_head_ = head(w, "lm_head", embed_tokens_);
    decoder.ignore("version");
  }

  OptConfig config_;
  Embedding embed_tokens_;
  Tensor embed_positions_;  // (2 + positions, D): the first two rows stand for nothing
  std::optional<Linear> project_in_, project_out_;
  std::vector<OptLayer> layers_;
  std::optional<LayerNorm> final_layer_norm_;
  Linear lm_head_;
};

}  // namespace chiasm
