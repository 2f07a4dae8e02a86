/// BLIP-2's first stage: the Q-Former compares pictures with texts, apart from each other (contrastive) or together (matching). arXiv:2301.12597;
/// key names of transformers' Blip2ForImageTextRetrieval.
#pragma once

#include <chiasm/models/blip2.hpp>
#include <chiasm/models/dual_encoder.hpp>

namespace chiasm::inline CHIASM_ABI {

class Blip2Itm : public DualEncoderModel {
 public:
  /// From a checkpoint in any of Blip2::normalise()'s layouts and its config.json. Throws ConfigError, UnsupportedError, WeightError.
  Blip2Itm(const Weights& checkpoint, const Json& config) : Blip2Itm(Blip2::normalise(checkpoint), config, Blip2Config::from(config)) {}

  const Blip2Config& config() const noexcept { return config_; }
  const Vit& vision_model() const noexcept { return vision_model_; }
  const QFormer& qformer() const noexcept { return qformer_; }
  std::size_t max_length() const noexcept override { return config_.qformer.max_position_embeddings; }
  /// One per query: a text is compared with the one that is nearest to it.
  std::size_t vectors_per_image() const noexcept override { return config_.qformer.num_query_tokens; }
  bool matches() const noexcept override { return true; }

  /// A picture and each text, seen together: scores against a match and for it. Throws as QFormer does.
  Tensor match(Context& ctx, View pixels, const TextBatch& texts) const override {  // (1, 3, H, W), N texts -> (N, 2)
    Tensor image, read;                                                             // (1, T, Dv), (N, Q + L, D)
    {
      const Context::Scope scope(ctx, "vision");
      image = see(ctx, pixels);
    }
    {
      const Context::Scope scope(ctx, "qformer");
      read = qformer_(ctx, image, texts);
    }
    const std::size_t queries = config_.qformer.num_query_tokens;
    Tensor logits = ctx.zeros(Shape{texts.texts(), 2});
    for (std::size_t n = 0; n < logits.rows(); ++n) {
      const Tensor each = itm_head_(ctx, read.view()[n].slice(0, queries));         // (Q, 2)
      for (std::size_t i = 0; i < queries; ++i) ctx.kernels().axpy(1.0f / static_cast<float>(queries), each.row(i), logits.row(n), 2);
    }
    return logits;
  }

 private:
  Blip2Itm(const Weights& w, const Json& config, Blip2Config c)
      : DualEncoderModel(1.0f, 0.0f, false),
        config_(reads_text(std::move(c), w)),
        vision_model_(w / "vision_model", config_.vision),
        qformer_(w / "qformer", config_.qformer),
        vision_projection_(w / "vision_projection", config_.qformer.hidden_size, config_size(config, "image_text_hidden_size", 256)),
        text_projection_(w / "text_projection", config_.qformer.hidden_size, config_size(config, "image_text_hidden_size", 256)),
        itm_head_(w / "itm_head", config_.qformer.hidden_size, 2) {
    w.expect_all_used();
  }
  static Blip2Config reads_text(Blip2Config c, const Weights& w) {
    if (w.contains("language_projection") && !w.contains("itm_head"))
      throw UnsupportedError("a BLIP-2 checkpoint that speaks (" + w.source() + ") as an encoder of images and texts: see chiasm::load, or take blip2-itm-*");
    c.qformer.text = true;
    return c;
  }

  Tensor see(Context& ctx, View pixels) const {  // (N, 3, H, W) -> (N, T, Dv)
    Tensor seen = vision_model_.post_layernorm(ctx, vision_model_(ctx, pixels));
    ctx.observe("last_hidden_state", seen);
    return seen;
  }

  Tensor pool_images(Context& ctx, View pixels) const override {  // (N, 3, H, W) -> (N, Q, E)
    const Tensor seen = see(ctx, pixels);
    const Context::Scope scope(ctx, "qformer");
    return vision_projection_(ctx, qformer_(ctx, seen));
  }

  Tensor pool_texts(Context& ctx, const TextBatch& texts) const override {  // N texts -> (N, E)
    const Context::Scope scope(ctx, "qformer");
    return text_projection_(ctx, pick(ctx, qformer_.text(ctx, texts), [](std::size_t) { return std::size_t{0}; }));
  }

  Blip2Config config_;
  Vit vision_model_;
  QFormer qformer_;
  Linear vision_projection_, text_projection_, itm_head_;
};

}  // namespace chiasm
