/// TextTower: the text encoders of CLIP (causal) and SigLIP (bidirectional).
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/encoder_layer.hpp>
#include <chiasm/modules/text_batch.hpp>
#include <chiasm/nn/embedding.hpp>

#include <limits>
#include <span>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct TextTowerConfig {
  std::size_t vocab_size = 49408, hidden_size = 512, intermediate_size = 2048, num_hidden_layers = 12, num_attention_heads = 8;
  std::size_t max_position_embeddings = 77, projection_size = 512;
  Activation hidden_act = Activation::quick_gelu;
  float layer_norm_eps = 1e-5f;
  TokenId eos_token_id = 49407;
  bool causal = true;

  /// From a `text_config` of CLIP or SigLIP. Throws ConfigError.
  static TextTowerConfig from(const Json& config, bool siglip) {
    TextTowerConfig c;
    if (siglip) {
      c.vocab_size = 32000, c.hidden_size = 768, c.intermediate_size = 3072, c.num_attention_heads = 12, c.max_position_embeddings = 64;
      c.layer_norm_eps = 1e-6f;
      c.causal = false;
    }
    c.vocab_size = config_size(config, "vocab_size", c.vocab_size);
    c.hidden_size = config_size(config, "hidden_size", c.hidden_size);
    c.intermediate_size = config_size(config, "intermediate_size", c.intermediate_size);
    c.num_hidden_layers = config_layers(config, "num_hidden_layers", c.num_hidden_layers);
    c.num_attention_heads = config_size(config, "num_attention_heads", c.num_attention_heads);
    config_divides(config, "num_attention_heads", c.num_attention_heads, c.hidden_size);
    c.max_position_embeddings = config_size(config, "max_position_embeddings", c.max_position_embeddings);
    c.projection_size = config_size(config, "projection_size", c.hidden_size);
    c.hidden_act = config_activation(config, "hidden_act", siglip ? "gelu_pytorch_tanh" : "quick_gelu");
    c.layer_norm_eps = static_cast<float>(config_positive(config, "layer_norm_eps", static_cast<double>(c.layer_norm_eps)));
    c.eos_token_id = config.get<TokenId>("eos_token_id", 49407);
    return c;
  }
};

class TextTower {
 public:
  /// `embeddings.token_embedding`, `embeddings.position_embedding`, `encoder.layers.N`, `final_layer_norm`. Throws WeightError.
  TextTower(const Weights& w, const TextTowerConfig& c)
      : config_(c),
        token_embedding_(w / "embeddings" / "token_embedding", c.vocab_size, c.hidden_size),
        position_embedding_((w / "embeddings" / "position_embedding").tensor("weight", Shape{c.max_position_embeddings, c.hidden_size})),
        final_layer_norm_(w / "final_layer_norm", c.hidden_size, c.layer_norm_eps) {
    const EncoderLayerConfig layer{c.hidden_size, c.intermediate_size, c.num_attention_heads, c.hidden_act, c.layer_norm_eps};
    layers_.reserve(c.num_hidden_layers);
    for (std::size_t i = 0; i < c.num_hidden_layers; ++i) layers_.emplace_back(w / "encoder" / "layers" / i, layer);
    (w / "embeddings").ignore("position_ids");
  }

  const TextTowerConfig& config() const noexcept { return config_; }

  /// Throws ArgumentError: texts longer than the positions, an id outside the vocabulary, `used` of another number of texts.
  Tensor operator()(Context& ctx, const TextBatch& texts) const {  // N texts of T -> (N, T, D)
    if (texts.length == 0 || texts.length > config_.max_position_embeddings || texts.ids.size() % texts.length != 0)
      throw ArgumentError("TextTower: " + std::to_string(texts.ids.size()) + " ids in texts of " + std::to_string(texts.length) + ", at most " +
                          std::to_string(config_.max_position_embeddings) + " positions");
    if (!texts.used.empty() && texts.used.size() != texts.texts())
      throw ArgumentError("TextTower: lengths of " + std::to_string(texts.used.size()) + " texts, there are " + std::to_string(texts.texts()));
    Tensor x = token_embedding_(ctx, texts.ids).reshape(Shape{texts.texts(), texts.length, config_.hidden_size});
    for (std::size_t i = 0; i < x.rows(); ++i) ctx.kernels().add(x.row(i), position_embedding_.row(i % texts.length), x.row(i), x.columns());
    const Tensor mask = padding_mask(ctx, texts);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      ctx.check_cancelled();
      ctx.observe("hidden", i, x);
      layers_[i](ctx, x, config_.causal, mask);
    }
    ctx.observe("hidden", layers_.size(), x);
    x = final_layer_norm_(ctx, x);
    ctx.observe("last_hidden_state", x);
    return x;
  }

 private:
  static Tensor padding_mask(Context& ctx, const TextBatch& texts) {  // (N, T, T) or nothing
    const std::size_t length = texts.length;
    bool padded = false;
    for (const std::size_t count : texts.used) padded |= count < length;
    if (!padded) return {};
    Tensor mask = ctx.zeros(Shape{texts.texts(), length, length});
    for (std::size_t i = 0; i < mask.rows(); ++i)
      for (std::size_t key = texts.used[i / length]; key < length; ++key) mask.row(i)[key] = -std::numeric_limits<float>::infinity();
    return mask;
  }

  TextTowerConfig config_;
  Embedding token_embedding_;
  Tensor position_embedding_;
  std::vector<EncoderLayer> layers_;
  LayerNorm final_layer_norm_;
};

}  // namespace chiasm
