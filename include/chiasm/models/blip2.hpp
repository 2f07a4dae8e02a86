/// BLIP-2: queries read what a frozen vision tower sees, and stand before the text that a frozen language model reads. arXiv:2301.12597.
/// InstructBLIP: the queries read with the instruction in mind. arXiv:2305.06500. Key names of transformers' Blip2ForConditionalGeneration and
/// InstructBlipForConditionalGeneration.
#pragma once

#include <chiasm/models/t5.hpp>
#include <chiasm/models/text_model.hpp>
#include <chiasm/modules/qformer.hpp>
#include <chiasm/modules/vit.hpp>

#include <memory>
#include <optional>
#include <string>

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

  /// The layouts of released checkpoints and of present transformers' models in memory, as vision_model.*, qformer.* (as QFormer has it),
  /// language_projection.*, language_model.*.
  static Weights normalise(const Weights& checkpoint) {
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
