/// IDEFICS (the first): Llama with gated cross-attention blocks between its layers, in which it looks at pictures that a Perceiver Resampler has read.
/// OBELICS, arXiv:2306.16527; names and class defaults of transformers' IdeficsForVisionText2Text.
#pragma once

#include <chiasm/models/llama.hpp>
#include <chiasm/modules/gated_decoder.hpp>
#include <chiasm/modules/perceiver_resampler.hpp>
#include <chiasm/modules/vit.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct IdeficsConfig {
  LlamaConfig text;
  std::size_t additional_vocab_size = 0;  // tokens behind the language model's own; where the file has another number of them, that counts
  VitConfig vision;
  bool use_resampler = false;  // false: text looks at the vision tower's states themselves
  PerceiverResamplerConfig perceiver;
  std::size_t cross_layer_interval = 1;
  bool qk_layer_norms = false;

  /// From config.json of `idefics`: with `vision_config` and `perceiver_config`, or with their keys in one row, `vision_embed_dim`, as the first files
  /// had them. Throws ConfigError, UnsupportedError.
  static IdeficsConfig from(const Json& config) {
    IdeficsConfig c{LlamaConfig::from(config), 0, {}, false, {}, 1, false};
    if (!config.find("additional_vocab_size").is_null() && config["additional_vocab_size"].as_int() != 0) c.additional_vocab_size = config_size(config, "additional_vocab_size", 0);
    c.cross_layer_interval = config_layers(config, "cross_layer_interval", 1);
    config_divides(config, "cross_layer_interval", c.cross_layer_interval, c.text.num_hidden_layers);
    config_divides(config, "num_attention_heads", c.text.num_attention_heads, c.text.hidden_size);
    c.qk_layer_norms = config.get<bool>("qk_layer_norms", false);
    c.use_resampler = config.get<bool>("use_resampler", false);  // the one in perceiver_config is not looked at, as in the reference

    const Json vision = config.find("vision_config"), perceiver = config.find("perceiver_config");
    const auto place = [&](std::string_view key) { return vision.find(key).is_null() ? std::pair(config, "vision_" + std::string(key)) : std::pair(vision, std::string(key)); };
    const auto size = [](const std::pair<Json, std::string>& at, std::size_t fallback) { return config_size(at.first, at.second, fallback); };
    c.vision.hidden_size = size(vision.find("embed_dim").is_null() && !vision.find("hidden_size").is_null() ? place("hidden_size") : place("embed_dim"), 768);
    c.vision.intermediate_size = size(place("intermediate_size"), 5120);
    const auto layers = place("num_hidden_layers"), heads = place("num_attention_heads"), activation = place("hidden_act"), eps = place("layer_norm_eps");
    c.vision.num_hidden_layers = config_layers(layers.first, layers.second, 32);
    c.vision.num_attention_heads = size(heads, 16);
    config_divides(heads.first, heads.second, c.vision.num_attention_heads, c.vision.hidden_size);
    c.vision.num_channels = size(place("num_channels"), 3);
    c.vision.image_size = size(place("image_size"), 224);
    c.vision.patch_size = size(place("patch_size"), 14);
    if (c.vision.patch_size > c.vision.image_size) config.fail("the pictures' 'patch_size' is larger than their 'image_size'");
    c.vision.hidden_act = config_activation(activation.first, activation.second, "gelu");
    c.vision.layer_norm_eps = static_cast<float>(config_positive(eps.first, eps.second, 1e-5));

    const auto holder = [&](std::string_view key) { return perceiver.find(key).is_null() ? config : perceiver; };
    const auto resampler = [&](std::string_view key, std::size_t fallback) { return config_size(holder(key), key, fallback); };
    c.perceiver.width = c.vision.hidden_size;
    c.perceiver.intermediate_size = 4 * c.vision.hidden_size;
    c.perceiver.latents = resampler("resampler_n_latents", 64);
    c.perceiver.depth = config_layers(holder("resampler_depth"), "resampler_depth", 6);
    c.perceiver.heads = resampler("resampler_n_heads", 16);
    c.perceiver.head_dim = resampler("resampler_head_dim", 96);
    c.perceiver.qk_norm = holder("qk_layer_norms_perceiver").get<bool>("qk_layer_norms_perceiver", false);
    c.perceiver.hidden_act = Activation::relu;
    return c;
  }
};

/// Llama, and a few tokens more: rows that were trained while the others stood still, in tensors of their own.
class IdeficsText final : public LanguageModel {
 public:
  using LanguageModel::forward;

  /// `additional`: how many. Throws WeightError.
  IdeficsText(const Weights& w, const LlamaConfig& config, std::size_t additional) : llama_(w, config), additional_(additional) {
    if (additional == 0) return;
    additional_embedding_ = Embedding(w / "additional_embedding", additional, config.hidden_size);
    const bool tied = !w.contains("lm_head") && !w.contains("additional_fc");
    additional_fc_ = tied ? Linear(w.converted(additional_embedding_.weight()), Tensor()) : Linear(w / "additional_fc", config.hidden_size, additional, false);
  }

  const Llama& llama() const noexcept { return llama_; }

  std::size_t vocab_size() const noexcept override { return llama_.vocab_size() + additional_; }
  std::size_t hidden_size() const noexcept override { return llama_.hidden_size(); }
  std::size_t stable_length() const noexcept override { return llama_.stable_length(); }
  KvCache new_cache() const override { return llama_.new_cache(); }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override {  // (T) -> (T, D)
    const auto first = static_cast<TokenId>(llama_.vocab_size());
    BasicTensor<TokenId> words = ctx.empty<TokenId>(Shape{ids.size()});
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] >= first && static_cast<std::size_t>(ids[t]) >= vocab_size())
        throw ArgumentError("Idefics: id " + std::to_string(ids[t]) + ", there are " + std::to_string(vocab_size()) + " tokens");
      words.data()[t] = ids[t] >= first ? 0 : ids[t];
    }
    Tensor y = llama_.embed(ctx, words.values());
    for (std::size_t t = 0; t < ids.size(); ++t)
      if (ids[t] >= first) {
        const TokenId row[] = {ids[t] - first};
        std::memcpy(y.row(t), additional_embedding_(ctx, row).data(), y.columns() * sizeof(float));
      }
    return y;
  }

  Tensor forward(Context& ctx, View x, std::span<const Sequence> batch, const BlockHook* before_block) const override {
    return llama_.forward(ctx, x, batch, before_block);
  }

  Tensor logits(Context& ctx, View hidden) const override {  // (T, D) -> (T, V + additional)
    Tensor words = llama_.logits(ctx, hidden);               // (T, V)
    if (additional_ == 0) return words;
    Tensor all = ctx.empty(Shape{hidden.rows(), vocab_size()});
    for (std::size_t t = 0; t < words.rows(); ++t) std::memcpy(all.row(t), words.row(t), words.columns() * sizeof(float));
    additional_fc_(ctx, hidden, all.view().column_slice(words.columns(), additional_));
    return all;
  }

 private:
  Llama llama_;
  std::size_t additional_;
  Embedding additional_embedding_;
  Linear additional_fc_;
};

class Idefics {
 public:
  /// From a checkpoint and its config.json. Throws ConfigError, UnsupportedError, WeightError.
  Idefics(const Weights& checkpoint, const Json& config) : Idefics(normalise(checkpoint), IdeficsConfig::from(config)) {}

  const IdeficsConfig& config() const noexcept { return config_; }
  /// Without a picture: its gated blocks see nothing.
  const GatedDecoder& language_model() const noexcept { return language_model_; }
  /// The layers around which the blocks stand.
  const Llama& llama() const noexcept { return *llama_; }

  /// What text sees of pictures. Throws ShapeError, Cancelled.
  Tensor image_features(Context& ctx, View pixels) const {  // (N, 3, H, W) -> (N, L, Dv)
    Tensor seen;                                            // (N, 1 + patches, Dv), without a norm at the end
    {
      const Context::Scope scope(ctx, "vision");
      seen = vision_model_(ctx, pixels);
      ctx.observe("last_hidden_state", seen);
    }
    if (!config_.use_resampler) return seen;
    Tensor resampled = perceiver_resampler_(ctx, seen);     // (N, latents, Dv)
    ctx.observe("resampler", resampled);
    return resampled;
  }

  /// The language model, its eyes on these pictures, one for each `image_token` of `ids`, in order. A position sees the last one before it, up to the `end`
  /// of a document. Throws ShapeError, Cancelled.
  std::shared_ptr<const GatedDecoder> bind(Context& ctx, View features, std::span<const TokenId> ids, TokenId image_token, std::optional<TokenId> end) const {  // (N, L, Dv)
    return language_model_.bind(ctx, features, media_runs(ids, image_token, {.only_immediate = true, .end = end}));
  }

  /// The additional rows get places of their own: whether there is an `lm_head` then says whether it is tied.
  static Weights normalise(const Weights& checkpoint) {
    return checkpoint.renamed([](std::string_view name) {
      if (name == "model.embed_tokens.additional_embedding.weight") return std::string("additional_embedding.weight");
      if (name == "lm_head.additional_fc.weight") return std::string("additional_fc.weight");
      return std::string(name);
    });
  }

 private:
  Idefics(const Weights& w, IdeficsConfig c)
      : config_(counted(w, std::move(c))),
        vision_model_(w / "model" / "vision_model", config_.vision),
        perceiver_resampler_(config_.use_resampler ? PerceiverResampler(w / "model" / "perceiver_resampler", config_.perceiver) : PerceiverResampler()),
        language_model_(gated(w, config_, &llama_)) {
    w.expect_all_used();
  }

  static IdeficsConfig counted(const Weights& w, IdeficsConfig c) {
    if (w.contains("additional_embedding.weight"))
      if (const Shape shape = w.stored("additional_embedding.weight").shape(); shape.rank() == 2) c.additional_vocab_size = shape[0];
    return c;
  }

  static GatedDecoder gated(const Weights& w, const IdeficsConfig& c, const Llama** llama) {
    GatedCrossAttentionConfig gate;
    gate.hidden_size = c.text.hidden_size;
    gate.media_width = c.vision.hidden_size;
    gate.heads = c.text.num_attention_heads;
    gate.head_dim = c.text.hidden_size / c.text.num_attention_heads;
    gate.intermediate_size = c.text.intermediate_size;
    gate.hidden_act = c.text.hidden_act;
    gate.norm_eps = c.text.rms_norm_eps;
    gate.rms_norm = gate.gated_mlp = true;
    gate.qk_norm = c.qk_layer_norms;
    auto text = std::make_unique<IdeficsText>(w, c.text, c.additional_vocab_size);
    *llama = &text->llama();
    std::vector<GatedCrossAttention> blocks;
    for (std::size_t i = 0; i < c.text.num_hidden_layers / c.cross_layer_interval; ++i) blocks.emplace_back(w / "model" / "gated_cross_attn_layers" / i, gate);
    return GatedDecoder(std::move(text), std::move(blocks), {.first = 0, .interval = c.cross_layer_interval});
  }

  IdeficsConfig config_;
  Vit vision_model_;
  PerceiverResampler perceiver_resampler_;
  const Llama* llama_ = nullptr;  // the innermost of language_model_
  GatedDecoder language_model_;
};

}  // namespace chiasm
