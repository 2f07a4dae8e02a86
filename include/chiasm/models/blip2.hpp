/// BLIP-2: queries read what a frozen vision tower sees, and stand before the text that a frozen language model reads. arXiv:2301.12597.
/// InstructBLIP: the queries read with the instruction in mind. arXiv:2305.06500. Key names of transformers' Blip2ForConditionalGeneration and
/// InstructBlipForConditionalGeneration, and of the original repository, https://github.com/salesforce/LAVIS (names).
#pragma once

#include <chiasm/models/t5.hpp>
#include <chiasm/models/text_model.hpp>
#include <chiasm/modules/qformer.hpp>
#include <chiasm/modules/vit.hpp>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

struct Blip2Config {
  VitConfig vision;
  QFormerConfig qformer;
  bool instruct = false;                     // InstructBLIP
  std::optional<TokenId> image_token_index;  // older files have none

  /// From config.json of `blip-2` or `instructblip`. Throws ConfigError, UnsupportedError.
  static Blip2Config from(const Json& config) {
    Blip2Config c;
    c.instruct = config.get<std::string>("model_type", "blip-2") == "instructblip";
    c.vision = VitConfig::from(config.find("vision_config"), "blip_2_vision_model");
    c.qformer = QFormerConfig::from(config);
    c.qformer.text = c.instruct;
    const Json index = config.find("image_token_index").is_null() ? config.find("image_token_id") : config.find("image_token_index");
    if (!index.is_null()) c.image_token_index = index.as<TokenId>();
    return c;
  }
};

class Blip2 {
 public:
  /// From a checkpoint in any of normalise()'s layouts and its config.json. Throws ConfigError, UnsupportedError, WeightError.
  Blip2(const Weights& checkpoint, const Json& config) : Blip2(normalise(checkpoint), config, Blip2Config::from(config)) {}

  const Blip2Config& config() const noexcept { return config_; }
  /// Of an encoder-decoder, the decoder by itself.
  const LanguageModel& language_model() const noexcept { return encoder_decoder_ ? encoder_decoder_->decoder() : *decoder_; }
  /// Null where the language model is a decoder alone.
  const EncoderDecoder* encoder_decoder() const noexcept { return encoder_decoder_.get(); }
  const QFormer& qformer() const noexcept { return qformer_; }

  /// What the vision tower sees: all tokens, normed. Throws ShapeError, Cancelled.
  Tensor see(Context& ctx, View pixels) const {  // (N, 3, H, W) -> (N, T, Dv)
    const Context::Scope scope(ctx, "vision");
    Tensor seen = vision_model_.post_layernorm(ctx, vision_model_(ctx, pixels));
    ctx.observe("last_hidden_state", seen);
    return seen;
  }

  /// What stands for a picture in the language model's input. InstructBLIP's queries want the instruction, in the ids of their own tokenizer.
  /// Throws ShapeError, Cancelled, ArgumentError: an instruction that is missing, too long or for BLIP-2.
  Tensor image_features(Context& ctx, View seen, std::span<const TokenId> instruction = {}) const {  // (1, T, Dv) -> (Q, D)
    Tensor read;                                                                                     // (1, Q [+ L], Dq)
    {
      const Context::Scope scope(ctx, "qformer");
      const bool alone = !config_.instruct && instruction.empty();
      read = alone ? qformer_(ctx, seen) : qformer_(ctx, seen, TextBatch{instruction, instruction.size(), {}});
    }
    Tensor features = language_projection_(ctx, read.view()[0].slice(0, config_.qformer.num_query_tokens));
    ctx.observe("projector", features);
    return features;
  }

  /// The layouts of released checkpoints, of LAVIS, and of present transformers' models in memory, as vision_model.*, qformer.* (as QFormer has it),
  /// language_projection.*, language_model.*.
  static Weights normalise(const Weights& checkpoint) {
    if (checkpoint.contains("Qformer")) return from_lavis(checkpoint);
    if (checkpoint.contains("model.Qformer")) return from_lavis(checkpoint / "model");
    return QFormer::normalise(checkpoint.renamed([](std::string_view name) {
      for (const std::string_view part : {"vision_model.", "query_tokens", "qformer.", "language_projection.", "language_model."})
        if (name.starts_with("model.") && name.substr(6).starts_with(part)) return std::string(name.substr(6));
      return std::string(name);
    }));
  }

 private:
  Blip2(const Weights& w, const Json& config, Blip2Config c)
      : config_(std::move(c)),
        vision_model_(vision(w), config_.vision),
        qformer_(w / "qformer", config_.qformer),
        encoder_decoder_(make_encoder_decoder(w / "language_model", config.find("text_config"))),
        decoder_(encoder_decoder_ ? nullptr : make_decoder(w / "language_model", config.find("text_config"))),
        language_projection_(w / "language_projection", config_.qformer.hidden_size, language_model().hidden_size()) {
    w.expect_all_used();
  }

  /// LAVIS's names. Its released files hold what was trained; the vision tower and the language model come from files of their own, below
  /// visual_encoder and opt_model, t5_model or llm_model, and all of them together are what normalise() takes.
  static Weights from_lavis(const Weights& checkpoint) {
    Weights w = checkpoint.renamed([](std::string_view name) { return lavis_name(name); });
    for (const std::string& name : w.names()) {  // keys have no bias there
      constexpr std::string_view end = ".self_attn.q_bias";
      if (!name.ends_with(end)) continue;
      const std::string attention = name.substr(0, name.size() - end.size() + std::string_view(".self_attn.").size());
      const Tensor query = w.stored(name).to_f32(), value = w.stored(attention + "v_bias").to_f32();
      const std::size_t width = query.size();
      if (value.size() != width) continue;  // to be found missing
      const auto all = std::make_shared<Tensor>(Shape{3 * width});
      std::memset(all->data(), 0, all->bytes());
      std::memcpy(all->data(), query.data(), query.bytes());
      std::memcpy(all->data() + 2 * width, value.data(), value.bytes());
      w = w.with(attention + "qkv.bias", Weight(name, DType::f32, all->shape(), reinterpret_cast<const std::byte*>(all->data()), all, w.source()));
    }
    return w.renamed([](std::string_view name) { return name.ends_with(".q_bias") || name.ends_with(".v_bias") ? std::string() : std::string(name); });
  }
  static std::string lavis_name(std::string_view name) {
    // Heads of training, and the last block of EVA-CLIP's tower, which BLIP-2 leaves out.
    for (const std::string_view unused : {"temp", "Qformer.cls.", "Qformer.bert.embeddings.position_ids", "visual_encoder.norm.", "visual_encoder.fc_norm.", "visual_encoder.head.",
                                          "visual_encoder.blocks.39."})
      if (unused.ends_with('.') ? name.starts_with(unused) : name == unused) return {};
    std::string result(name);
    for (const auto& [theirs, ours] : {std::pair<std::string_view, std::string_view>{"visual_encoder.cls_token", "vision_model.embeddings.class_embedding"},
                                       {"visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"},
                                       {"visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."},
                                       {"visual_encoder.blocks.", "vision_model.encoder.layers."},
                                       {"ln_vision.", "vision_model.post_layernorm."},
                                       {"query_tokens", "qformer.query_tokens"},
                                       {"Qformer.bert.embeddings.LayerNorm.", "qformer.embeddings.layernorm."},
                                       {"Qformer.bert.", "qformer."},
                                       {"vision_proj.", "vision_projection."},
                                       {"text_proj.", "text_projection."},
                                       {"opt_proj.", "language_projection."},
                                       {"t5_proj.", "language_projection."},
                                       {"llm_proj.", "language_projection."},
                                       {"opt_model.", "language_model."},
                                       {"t5_model.", "language_model."},
                                       {"llm_model.", "language_model."}})
      if (result.starts_with(theirs)) {
        result.replace(0, theirs.size(), ours);
        break;
      }
    const bool tower = result.starts_with("vision_model."), qformer = result.starts_with("qformer.");
    for (const auto& [theirs, ours] : {std::pair<std::string_view, std::string_view>{".norm1.", ".layer_norm1."}, {".norm2.", ".layer_norm2."}, {".attn.proj.", ".self_attn.projection."},
                                       {".attn.", ".self_attn."}, {"attention.self.", "attention.attention."}}) {
      const std::size_t at = result.find(theirs);
      if ((theirs.starts_with('.') ? tower : qformer) && at != std::string::npos) result.replace(at, theirs.size(), ours);
    }
    return result;
  }

  static std::unique_ptr<EncoderDecoder> make_encoder_decoder(const Weights& w, const Json& config) {
    if (config.get<std::string>("model_type", "opt") != "t5") return nullptr;
    return std::make_unique<T5>(w, T5Config::from(config));
  }
  static std::unique_ptr<LanguageModel> make_decoder(const Weights& w, const Json& config) {
    if (config.find("model_type").is_null()) return std::make_unique<Opt>(w, OptConfig::from(config));
    return make_text_model(w, config);
  }

  static Weights vision(const Weights& w) {
    if (w.contains("itm_head") && !w.contains("language_model"))
      throw UnsupportedError("text from a BLIP-2 checkpoint for image-text retrieval (" + w.source() + "): it has none to give, see chiasm::DualEncoder");
    return w / "vision_model";
  }

  Blip2Config config_;
  Vit vision_model_;
  QFormer qformer_;
  std::unique_ptr<EncoderDecoder> encoder_decoder_;
  std::unique_ptr<LanguageModel> decoder_;
  Linear language_projection_;
};

}  // namespace chiasm
