/// OpenFlamingo: a language model that stays as it was, and gated cross-attention blocks between its layers, in which it looks at pictures that a
/// Perceiver Resampler has read. Flamingo, arXiv:2204.14198; OpenFlamingo, arXiv:2308.01390, https://github.com/mlfoundations/open_flamingo (names).
#pragma once

#include <chiasm/models/open_clip.hpp>
#include <chiasm/models/text_model.hpp>
#include <chiasm/modules/gated_decoder.hpp>
#include <chiasm/modules/perceiver_resampler.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct OpenFlamingoConfig {
  VitConfig vision;
  // open_clip since 2.23 norms all tokens of its tower, before that the class token alone. The published models were trained in that time.
  bool vision_tokens_ln_post = false;
  bool only_attend_immediate_media = true;    // text sees the last picture before it; false: all before it
  std::size_t cross_attn_every_n_layers = 0;  // 0: where the checkpoint has blocks
  TokenId media_token_id = 0;                 // "<image>"
};

class OpenFlamingo {
 public:
  /// `checkpoint`: checkpoint.pt, with the resampler, the gated blocks and the embeddings. `base`: the language model that they were trained around,
  /// `language_config` its config.json. `vision`: ClipVision's. Throws ConfigError, UnsupportedError, WeightError.
  OpenFlamingo(const Weights& checkpoint, const Weights& base, const Json& language_config, const Weights& vision, const OpenFlamingoConfig& config)
      : OpenFlamingo(normalise(checkpoint, base, language_config), language_config, vision, config) {}

  const OpenFlamingoConfig& config() const noexcept { return config_; }
  const PerceiverResampler& perceiver() const noexcept { return perceiver_; }
  /// Without a picture: its gated blocks see nothing.
  const GatedDecoder& language_model() const noexcept { return language_model_; }
  /// The layer before which the first gated block stands, and from one to the next.
  const GatedLayers& gated_layers() const noexcept { return gated_layers_; }

  /// What the vision tower sees: its last block's tokens, without the class token. Throws ShapeError, Cancelled.
  Tensor see(Context& ctx, View pixels) const {       // (N, 3, H, W) -> (N, V, Dv)
    const Context::Scope scope(ctx, "vision");
    Tensor seen = vision_encoder_(ctx, pixels);       // (N, 1 + V, Dv)
    if (config_.vision_tokens_ln_post) seen = vision_encoder_.post_layernorm(ctx, seen);
    const std::size_t pictures = seen.shape()[0], patches = seen.shape()[1] - 1;
    Tensor tokens = ctx.empty(Shape{pictures, patches, seen.columns()});
    for (std::size_t n = 0; n < pictures; ++n) std::memcpy(tokens.row(n * patches), seen.row(n * (patches + 1) + 1), patches * seen.columns() * sizeof(float));
    ctx.observe("tokens", tokens);
    return tokens;
  }

  /// What stands for media of F frames each, a picture being one of one frame. Throws ShapeError, Cancelled.
  Tensor media(Context& ctx, View pixels) const {     // (M, F, 3, H, W) -> (M, L, Dv)
    const Shape& shape = pixels.shape();
    if (shape.rank() != 5) throw ShapeError("OpenFlamingo", shape.to_string() + ", expected (media, frames, 3, height, width)");
    const Tensor seen = see(ctx, pixels.reshape(Shape{shape[0] * shape[1], shape[2], shape[3], shape[4]}));
    Tensor media = perceiver_(ctx, seen.view().reshape(Shape{shape[0], shape[1], seen.shape()[1], seen.columns()}));
    ctx.observe("perceiver", media);
    return media;
  }

  /// The language model with its eyes on these media, one for each media token of `ids`, in order. Throws ShapeError, Cancelled.
  std::shared_ptr<const LanguageModel> bind(Context& ctx, View media, std::span<const TokenId> ids) const {  // (M, L, Dv)
    return language_model_.bind(ctx, media, media_runs(ids, config_.media_token_id, {.only_immediate = config_.only_attend_immediate_media}));
  }

  /// All tensors of the checkpoint and of the base model in one tree: `perceiver.*`, `gated_cross_attn_layers.N.*`, N counting the language model's
  /// layers, and the language model by its own names. What the checkpoint has of it (embeddings always) counts before the base model's.
  static Weights normalise(const Weights& checkpoint, const Weights& base, const Json& language_config) {
    const Weights state = checkpoint.contains("model_state_dict") ? checkpoint / "model_state_dict" : checkpoint;
    const std::string type = language_config.get<std::string>("model_type", "llama");
    const std::string head = type == "gpt_neox" ? "embed_out.weight" : "lm_head.weight";
    const Weights original = base.renamed([&](std::string_view name) {  // OPT of the hub, GPT-NeoX of present transformers
      return name == "lm_head.weight" ? head : (name.starts_with("decoder.") ? "model." : "") + std::string(name);
    });
    std::string layers;  // "model.decoder.layers"
    for (const char* const name : {"transformer.blocks", "gpt_neox.layers", "model.decoder.layers", "model.layers"})
      if (layers.empty() && original.contains(name)) layers = name;
    // Files of some versions hold what a layer has once more, under lists of their own.
    const auto again = [&](std::string_view name) { return !canonical(name, layers, true).empty() && canonical(name, layers, false).empty(); };
    const Weights trained = strip(state).renamed([&](std::string_view name) { return again(name) ? std::string() : canonical(name, layers, false); });
    const Weights others = strip(state).renamed([&](std::string_view name) {
      const std::string other = again(name) ? canonical(name, layers, true) : std::string();
      return trained.contains(other) ? std::string() : other;
    });
    const Weights ours = trained.merged(others);
    const bool tied = language_config.get<bool>("tie_word_embeddings", type == "opt" || type == "mpt");
    Weights all = original
                      .renamed([&](std::string_view name) {
                        // A tied output projection is the embedding, and the checkpoint's embedding is another one.
                        const bool left_out = ours.contains(name) || (tied && name == head);
                        return left_out ? std::string() : std::string(name);
                      })
                      .merged(ours);
    const std::size_t rows = vocabulary(all);
    if (all.contains(head) && !ours.contains(head) && rows > 0) all = all.with(head, resized(all.stored(head), rows));
    return all;
  }

 private:
  OpenFlamingo(const Weights& w, const Json& language_config, const Weights& vision, const OpenFlamingoConfig& config)
      : config_(config),
        vision_encoder_(vision, config.vision),
        perceiver_(w / "perceiver", perceiver_config(w / "perceiver", config.vision.hidden_size)),
        gated_layers_(gated_layers(w, config)),
        language_model_(gated(w, language_config, gated_layers_, config.vision.hidden_size)) {
    vision.expect_all_used();
    w.expect_all_used();
  }

  static Weights strip(const Weights& state) { return state.contains("module") ? state / "module" : state; }

  /// A tensor of the checkpoint as normalise() calls it; `again`: also those that stand twice. Empty: it is left out.
  static std::string canonical(std::string_view name, const std::string& layers, bool again) {
    constexpr std::string_view model = "lang_encoder.", gated = ".gated_cross_attn_layer.", layer = ".decoder_layer.";
    if (name.starts_with("vision_encoder.")) return {};
    if (!name.starts_with(model)) return std::string(name);
    name.remove_prefix(model.size());
    if (name.starts_with("gated_cross_attn_layers.")) return again ? std::string(name) : std::string();
    constexpr std::string_view old = "old_decoder_blocks.";
    if (name.starts_with(old)) return again ? layers + "." + std::string(name.substr(old.size())) : std::string();
    if (const std::size_t at = name.find(gated); at != std::string_view::npos) {
      const std::size_t number = name.rfind('.', at - 1) + 1;
      return "gated_cross_attn_layers." + std::string(name.substr(number, at - number)) + "." + std::string(name.substr(at + gated.size()));
    }
    std::string result(name);
    if (const std::size_t at = result.find(layer); at != std::string::npos) result.replace(at, layer.size(), ".");
    return result;
  }

  static std::size_t vocabulary(const Weights& w) {
    for (const char* const name : {"transformer.wte.weight", "gpt_neox.embed_in.weight", "model.decoder.embed_tokens.weight", "model.embed_tokens.weight"})
      if (w.contains(name))
        if (const Weight table = w.stored(name); table.shape().rank() == 2) return table.shape()[0];
    return 0;
  }

  /// An output projection for as many tokens as have embeddings. Rows of new tokens are in no file where the reference does not train them (LLaMA): they
  /// are 0 here, and numbers of chance there.
  static Weight resized(const Weight& head, std::size_t rows) {
    if (head.shape().rank() != 2 || head.shape()[0] == rows) return head;
    if (head.shape()[0] > rows) return head.slice(0, rows);
    const auto bytes = std::make_shared<std::vector<std::byte>>(bytes_of(head.dtype(), Shape{rows, head.shape()[1]}));
    std::memcpy(bytes->data(), head.data(), head.bytes());
    return Weight(head.name(), head.dtype(), Shape{rows, head.shape()[1]}, bytes->data(), bytes, head.file());
  }

  static PerceiverResamplerConfig perceiver_config(const Weights& w, std::size_t width) {
    PerceiverResamplerConfig c;
    c.width = width;
    c.intermediate_size = 4 * width;
    const auto rows = [&](const char* name, std::size_t fallback) { return w.contains(name) && w.stored(name).shape().rank() > 0 ? w.stored(name).shape()[0] : fallback; };
    c.latents = rows("latents", c.latents);
    c.max_frames = rows("frame_embs", 0);
    c.max_media = rows("media_time_embs", 0);
    c.depth = 0;
    while (w.contains("layers." + std::to_string(c.depth))) ++c.depth;
    return c;
  }

  static GatedLayers gated_layers(const Weights& w, const OpenFlamingoConfig& config) {
    std::size_t every = config.cross_attn_every_n_layers;
    constexpr std::size_t most_layers = 4096;
    for (std::size_t i = 0; every == 0 && i < most_layers; ++i)
      if (w.contains("gated_cross_attn_layers." + std::to_string(i))) every = i + 1;
    if (every == 0) throw WeightError(w.source(), "gated_cross_attn_layers", "missing", "the blocks of a checkpoint of OpenFlamingo");
    return {every - 1, every};
  }

  static GatedDecoder gated(const Weights& w, const Json& language_config, GatedLayers layers, std::size_t media_width) {
    std::unique_ptr<DecoderStack> model = make_text_model(w, language_config, vocabulary(w));
    GatedCrossAttentionConfig c;
    c.hidden_size = model->sizes().hidden_size;
    c.media_width = media_width;
    c.intermediate_size = 4 * c.hidden_size;
    std::vector<GatedCrossAttention> blocks;
    for (std::size_t i = layers.first; i < model->sizes().num_hidden_layers; i += layers.interval) blocks.emplace_back(w / "gated_cross_attn_layers" / i, c);
    return GatedDecoder(std::move(model), std::move(blocks), layers);
  }

  OpenFlamingoConfig config_;
  Vit vision_encoder_;
  PerceiverResampler perceiver_;
  GatedLayers gated_layers_;
  GatedDecoder language_model_;
};

}  // namespace chiasm
