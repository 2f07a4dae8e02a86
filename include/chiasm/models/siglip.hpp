/// SigLIP: CLIP with a sigmoid loss; attention pooling, bidirectional text. arXiv:2303.15343; key names of transformers' SiglipModel.
#pragma once

#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/modules/text_tower.hpp>
#include <chiasm/modules/vit.hpp>

namespace chiasm::inline CHIASM_ABI {

/// A learned probe attends to all patches: y = a + mlp(norm(a)), where a is what it reads.
class AttentionPooling {
 public:
  AttentionPooling(const Weights& w, const VitConfig& c)
      : AttentionPooling(w, c, (w / "attention").stored("in_proj_weight", Shape{3 * c.hidden_size, c.hidden_size}),
                         (w / "attention").tensor("in_proj_bias", Shape{3 * c.hidden_size})) {}

  Tensor operator()(Context& ctx, View x) const {  // (N, T, D) -> (N, D)
    const std::size_t images = x.shape()[0], length = x.shape()[1], width = x.columns(), head_dim = width / heads_;
    const Tensor q = q_proj_(ctx, probe_.view().reshape(Shape{1, width})), kv = kv_proj_(ctx, x);
    Tensor read = ctx.empty(Shape{images, width});  // (N, D)
    for (std::size_t n = 0; n < images; ++n) {
      const float* keys = kv.row(n * length);
      attention(ctx, q, KvView{keys, keys + width, length, 2 * width, head_dim, 2 * width, head_dim}, read.slice(n, 1), Attend::scaled(heads_, head_dim));
    }
    const Tensor a = out_proj_(ctx, read);
    return mlp_(ctx, layernorm_(ctx, a), a);
  }

 private:
  /// `in_proj`: queries, keys, values, one below the other.
  AttentionPooling(const Weights& w, const VitConfig& c, const Weight& in_proj, const Tensor& bias)
      : probe_(w.tensor("probe", Shape{1, 1, c.hidden_size})),
        q_proj_(w.converted(in_proj.slice(0, c.hidden_size)), Tensor(Shape{c.hidden_size}, bias.values().first(c.hidden_size))),
        kv_proj_(w.converted(in_proj.slice(c.hidden_size, 2 * c.hidden_size)), Tensor(Shape{2 * c.hidden_size}, bias.values().subspan(c.hidden_size))),
        out_proj_(w / "attention" / "out_proj", c.hidden_size, c.hidden_size),
        layernorm_(w / "layernorm", c.hidden_size, c.layer_norm_eps),
        mlp_(w / "mlp", "fc1", "fc2", c.hidden_size, c.intermediate_size, c.hidden_size, c.hidden_act),
        heads_(c.num_attention_heads) {}

  Tensor probe_;
  Linear q_proj_, kv_proj_, out_proj_;
  LayerNorm layernorm_;
  Mlp mlp_;
  std::size_t heads_;
};

class Siglip : public DualEncoderModel {
 public:
  /// Throws ConfigError, UnsupportedError, WeightError.
  Siglip(const Weights& w, const Json& config) : Siglip(w, vision_config(config), TextTowerConfig::from(config.find("text_config"), true)) {}

  const Vit& vision_model() const noexcept { return vision_model_; }
  const TextTower& text_model() const noexcept { return text_model_; }
  std::size_t max_length() const noexcept override { return text_model_.config().max_position_embeddings; }

 private:
  Tensor pool_images(Context& ctx, View pixels) const override {                       // (N, 3, H, W) -> (N, E)
    const Tensor x = vision_model_.post_layernorm(ctx, vision_model_(ctx, pixels));    // (N, T, D)
    ctx.observe("last_hidden_state", x);
    return head_(ctx, x);
  }

  /// Texts must be padded to max_length(): the vector is that of the last position.
  Tensor pool_texts(Context& ctx, const TextBatch& texts) const override {  // N texts -> (N, E)
    const Tensor x = text_model_(ctx, texts);                               // (N, T, D)
    return text_head_(ctx, pick(ctx, x, [&](std::size_t) { return texts.length - 1; }));
  }

  Siglip(const Weights& w, const VitConfig& vision, const TextTowerConfig& text)
      : DualEncoderModel(std::exp(scalar(w, "logit_scale")), scalar(w, "logit_bias"), true),
        vision_model_(w / "vision_model", vision),
        head_(w / "vision_model" / "head", vision),
        text_model_(w / "text_model", text),
        text_head_(w / "text_model" / "head", text.hidden_size, text.projection_size) {
    w.expect_all_used();
  }
  static VitConfig vision_config(const Json& config) {
    const Json vision = config.find("vision_config");
    if (!vision.is_object()) throw ConfigError(config.file(), "/vision_config", "missing");
    if (!vision.get<bool>("vision_use_head", true)) throw UnsupportedError("SigLIP without its pooling head (" + config.file() + ")");
    return VitConfig::from(vision, "siglip_vision_model");
  }

  Vit vision_model_;
  AttentionPooling head_;
  TextTower text_model_;
  Linear text_head_;
};

}  // namespace chiasm
