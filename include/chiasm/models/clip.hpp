/// CLIP: an image and a text tower trained to agree. arXiv:2103.00020; key names of transformers' CLIPModel.
#pragma once

#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/modules/text_tower.hpp>
#include <chiasm/modules/vit.hpp>

namespace chiasm::inline CHIASM_ABI {

class Clip : public DualEncoderModel {
 public:
  /// Throws ConfigError, UnsupportedError, WeightError.
  Clip(const Weights& w, const Json& config)
      : DualEncoderModel(std::exp(scalar(w, "logit_scale")), 0.0f, false),
        vision_model_(w / "vision_model", VitConfig::from(part(config, "vision_config"))),
        text_model_(w / "text_model", TextTowerConfig::from(part(config, "text_config"), false)),
        visual_projection_(w / "visual_projection", vision_model_.config().hidden_size, config_size(config, "projection_dim", 512), false),
        text_projection_(w / "text_projection", text_model_.config().hidden_size, config_size(config, "projection_dim", 512), false) {
    w.expect_all_used();
  }

  const Vit& vision_model() const noexcept { return vision_model_; }
  const TextTower& text_model() const noexcept { return text_model_; }
  std::size_t max_length() const noexcept override { return text_model_.config().max_position_embeddings; }

 private:
  Tensor pool_images(Context& ctx, View pixels) const override {  // (N, 3, H, W) -> (N, E)
    const Tensor x = vision_model_(ctx, pixels);                  // (N, T, D)
    ctx.observe("last_hidden_state", x);
    const Tensor class_tokens = pick(ctx, x, [](std::size_t) { return std::size_t{0}; });
    return visual_projection_(ctx, vision_model_.post_layernorm(ctx, class_tokens));
  }

  Tensor pool_texts(Context& ctx, const TextBatch& texts) const override {  // N texts -> (N, E)
    const Tensor x = text_model_(ctx, texts);                               // (N, T, D)
    const Tensor ends = pick(ctx, x, [&](std::size_t n) { return end_of_text(texts.ids.subspan(n * texts.length, texts.length)); });
    return text_projection_(ctx, ends);
  }

  /// Old files may hold `text_config_dict` and `vision_config_dict`; these then count, with class defaults for what they leave out.
  static Json part(const Json& config, std::string_view key) {
    const Json old = config.find(std::string(key) + "_dict");
    return old.is_object() ? old : config.find(key);
  }

  /// The text's vector is that of its first end token. Released configurations say 2 there, which is not the id: then the end is where the
  /// ids are largest.
  std::size_t end_of_text(std::span<const TokenId> ids) const {
    const TokenId eos = text_model_.config().eos_token_id;
    std::size_t at = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (eos != 2 && ids[i] == eos) return i;
      if (eos == 2 && ids[i] > ids[at]) at = i;
    }
    return at;
  }

  Vit vision_model_;
  TextTower text_model_;
  Linear visual_projection_, text_projection_;
};

}  // namespace chiasm
