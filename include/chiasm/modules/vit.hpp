/// ViT: the vision towers of CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) and BLIP-2 (EVA-CLIP, arXiv:2303.15389). arXiv:2010.11929.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/encoder_layer.hpp>
#include <chiasm/nn/patch_embedding.hpp>
#include <chiasm/nn/position_table.hpp>

#include <span>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct VitConfig {
  std::size_t hidden_size = 768, intermediate_size = 3072, num_hidden_layers = 12, num_attention_heads = 12;
  std::size_t num_channels = 3, image_size = 224, patch_size = 32;
  Activation hidden_act = Activation::quick_gelu;
  float layer_norm_eps = 1e-5f;
  // CLIP has a class token, a norm before the first block and patches without bias; SigLIP has neither token nor norm, and a bias.
  bool class_token = true, pre_norm = true, patch_bias = false;
  bool post_norm = true;  // false: the file ends with the last block
  // EVA-CLIP has a class token and a bias, but no norm; one matrix makes queries, keys and values; class token and positions are [1, ., D].
  bool fused_qkv = false, qkv_bias = true;

  /// From a `vision_config`; `default_type` where it does not name its type. Throws ConfigError, UnsupportedError.
  static VitConfig from(const Json& config, std::string_view default_type = "clip_vision_model") {
    const std::string type = config.get<std::string>("model_type", std::string(default_type));
    VitConfig c;
    if (type == "siglip_vision_model") {
      c.patch_size = 16;
      c.hidden_act = Activation::gelu_tanh;
      c.layer_norm_eps = 1e-6f;
      c.class_token = c.pre_norm = false;
      c.patch_bias = true;
    } else if (type == "blip_2_vision_model" || type == "instructblip_vision_model") {
      c.hidden_size = 1408, c.intermediate_size = 6144, c.num_hidden_layers = 39, c.num_attention_heads = 16;
      c.patch_size = 14;
      c.hidden_act = Activation::gelu;
      c.layer_norm_eps = 1e-6f;
      c.pre_norm = false;
      c.patch_bias = c.fused_qkv = true;
      c.qkv_bias = config.get<bool>("qkv_bias", true);
    } else if (type != "clip_vision_model" && type != "clip") {
      throw UnsupportedError("vision tower '" + type + "' (" + config.file() + ")");
    }
    c.hidden_size = config_size(config, "hidden_size", c.hidden_size);
    c.intermediate_size = config_size(config, "intermediate_size", c.intermediate_size);
    c.num_hidden_layers = config_layers(config, "num_hidden_layers", c.num_hidden_layers);
    c.num_attention_heads = config_size(config, "num_attention_heads", c.num_attention_heads);
    config_divides(config, "num_attention_heads", c.num_attention_heads, c.hidden_size);
    c.num_channels = config_size(config, "num_channels", c.num_channels);
    c.image_size = config_size(config, "image_size", c.image_size);
    c.patch_size = config_size(config, "patch_size", c.patch_size);
    if (c.patch_size > c.image_size) config.fail("'patch_size' is larger than 'image_size'");
    if (!config.find("hidden_act").is_null()) c.hidden_act = config_activation(config, "hidden_act", {});
    c.layer_norm_eps = static_cast<float>(config_positive(config, "layer_norm_eps", static_cast<double>(c.layer_norm_eps)));
    return c;
  }

  /// Patches along a side of the image that the model was trained with.
  std::size_t grid() const noexcept { return image_size / patch_size; }
};

class Vit {
 public:
  /// Names of the released checkpoints, below `vision_model.`. Throws WeightError.
  Vit(const Weights& w, const VitConfig& c)
      : config_(c),
        class_embedding_(class_embedding(w / "embeddings", c)),
        patch_embedding_(w / "embeddings" / "patch_embedding", c.num_channels, c.patch_size, c.hidden_size, c.patch_bias),
        position_embedding_(position_embedding(w / "embeddings", c)) {
    if (c.pre_norm) pre_layrnorm_ = LayerNorm(w / "pre_layrnorm", c.hidden_size, c.layer_norm_eps);
    const EncoderLayerConfig layer{c.hidden_size, c.intermediate_size, c.num_attention_heads, c.hidden_act, c.layer_norm_eps, c.fused_qkv, c.qkv_bias};
    layers_.reserve(c.num_hidden_layers);
    for (std::size_t i = 0; i < c.num_hidden_layers; ++i) layers_.emplace_back(w / "encoder" / "layers" / i, layer);
    if (c.post_norm) post_layernorm_ = LayerNorm(w / "post_layernorm", c.hidden_size, c.layer_norm_eps);
    (w / "embeddings").ignore("position_ids");
  }

  const VitConfig& config() const noexcept { return config_; }

  /// Output of the last block, before post_layernorm.
  Tensor operator()(Context& ctx, View pixels) const {  // (N, C, H, W) -> (N, T, D)
    const int last[] = {-1};
    return hidden_states(ctx, pixels, last);
  }

  /// Hidden states by their number in the reference (0: after the embeddings, i: after block i, -1: after the last), side by side.
  /// Blocks that no wanted state needs do not run, unless somebody observes. Throws ArgumentError for a number that there is not.
  Tensor hidden_states(Context& ctx, View pixels, std::span<const int> wanted) const {  // (N, C, H, W) -> (N, T, D * wanted)
    const auto number = [&](int layer) {
      const int all = static_cast<int>(layers_.size()), index = layer < 0 ? all + 1 + layer : layer;
      if (index < 0 || index > all) throw ArgumentError("Vit: hidden state " + std::to_string(layer) + " of " + std::to_string(all) + " layers");
      return static_cast<std::size_t>(index);
    };
    std::size_t last = 0;
    for (const int layer : wanted) last = std::max(last, number(layer));
    if (ctx.observed()) last = layers_.size();

    Tensor x = embeddings(ctx, pixels);  // (N, T, D)
    ctx.observe("embeddings", x);
    Tensor result = ctx.empty(Shape{x.shape()[0], x.shape()[1], x.columns() * wanted.size()});
    for (std::size_t i = 0;; ++i) {
      for (std::size_t k = 0; k < wanted.size(); ++k)
        if (number(wanted[k]) == i) {
          if (wanted.size() == 1 && i == last) return x;
          const MutView to = result.view().column_slice(k * x.columns(), x.columns());
          for (std::size_t t = 0; t < x.rows(); ++t) std::memcpy(to.row(t), x.row(t), x.columns() * sizeof(float));
        }
      if (i == last) return result;
      ctx.check_cancelled();
      layers_[i](ctx, x);
      ctx.observe("layer", i, x);
      ctx.progress("encode image", i + 1, last);
    }
  }

  /// The norm after the blocks: CLIP's pooled token, all of SigLIP's and EVA-CLIP's tokens.
  Tensor post_layernorm(Context& ctx, View x) const { return post_layernorm_(ctx, x); }

 private:
  static Tensor class_embedding(const Weights& w, const VitConfig& c) {  // (D)
    if (!c.class_token) return {};
    return c.fused_qkv ? w.tensor("class_embedding", Shape{1, 1, c.hidden_size}) : w.tensor("class_embedding", Shape{c.hidden_size});
  }
  static Tensor position_embedding(const Weights& w, const VitConfig& c) {  // (T, D)
    const Shape table{c.grid() * c.grid() + c.class_token, c.hidden_size};
    return c.fused_qkv ? w.tensor("position_embedding", Shape{1, table[0], table[1]}).reshape(table) : (w / "position_embedding").tensor("weight", table);
  }

  Tensor embeddings(Context& ctx, View pixels) const {
    const Tensor patches = patch_embedding_(ctx, pixels);  // (N, rows * columns, D)
    const std::size_t images = patches.shape()[0], count = patches.shape()[1], width = patches.columns(), first = config_.class_token;
    const std::size_t rows = pixels.shape()[2] / config_.patch_size, columns = pixels.shape()[3] / config_.patch_size, grid = config_.grid();
    const View table = position_embedding_.slice(first, grid * grid);
    const Tensor resized = rows == grid && columns == grid ? Tensor() : resize_positions(ctx, table, grid, grid, rows, columns);
    const View positions = resized.empty() ? table : resized.view();

    Tensor x = ctx.empty(Shape{images, first + count, width});  // (N, T, D)
    for (std::size_t n = 0; n < images; ++n) {
      if (config_.class_token) ctx.kernels().add(class_embedding_.data(), position_embedding_.row(0), x.row(n * (count + 1)), width);
      for (std::size_t t = 0; t < count; ++t)
        ctx.kernels().add(patches.row(n * count + t), positions.row(t), x.row(n * (first + count) + first + t), width);
    }
    return config_.pre_norm ? pre_layrnorm_(ctx, x) : std::move(x);
  }

  VitConfig config_;
  Tensor class_embedding_;
  PatchEmbedding patch_embedding_;
  Tensor position_embedding_;
  LayerNorm pre_layrnorm_;  // sic: the checkpoints' spelling
  std::vector<EncoderLayer> layers_;
  LayerNorm post_layernorm_;
};

}  // namespace chiasm
