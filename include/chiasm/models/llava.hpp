/// LLaVA: a vision tower's patches, projected, stand in the language model's input. 1.5: arXiv:2310.03744. NeXT (1.6) also cuts the
/// image into tiles at one of several resolutions: llava-vl.github.io/blog/2024-01-30-llava-next.
#pragma once

#include <chiasm/models/text_model.hpp>
#include <chiasm/modules/projector.hpp>
#include <chiasm/modules/vit.hpp>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

enum class FeatureStrategy : std::uint8_t {
  patches,  // "default": without the class token
  full,
};

struct LlavaConfig {
  VitConfig vision;
  std::vector<int> vision_feature_layer = {-2};  // several stand side by side
  FeatureStrategy vision_feature_select_strategy = FeatureStrategy::patches;
  Activation projector_hidden_act = Activation::gelu;
  bool multimodal_projector_bias = true;
  TokenId image_token_index = 32000;
  bool anyres = false;  // NeXT: tiles, unpadding, image_newline

  /// From config.json of `llava` or `llava_next`. Throws ConfigError, UnsupportedError.
  static LlavaConfig from(const Json& config) {
    if (config.contains("mm_vision_tower")) throw UnsupportedError("LLaVA in the original repository's layout (" + config.file() + "): use a checkpoint in the transformers layout");
    LlavaConfig c;
    c.anyres = config.get<std::string>("model_type", "llava") == "llava_next";
    const Json vision = config.find("vision_config");
    if (vision.is_object()) {
      c.vision = VitConfig::from(vision);
    } else {  // the class default is CLIP ViT-L/14-336
      c.vision.hidden_size = 1024, c.vision.intermediate_size = 4096, c.vision.num_hidden_layers = 24, c.vision.num_attention_heads = 16;
      c.vision.image_size = 336, c.vision.patch_size = 14;
    }
    const Json layer = config.find("vision_feature_layer");
    if (layer.is_array()) c.vision_feature_layer = layer.as_vector<int>();
    else if (!layer.is_null()) c.vision_feature_layer = {layer.as<int>()};
    if (c.vision_feature_layer.empty()) layer.fail("is empty");
    const int layers = static_cast<int>(c.vision.num_hidden_layers);
    for (const int index : c.vision_feature_layer)
      if (index < -layers - 1 || index > layers) layer.fail("is " + std::to_string(index) + ", the tower has " + std::to_string(layers) + " layers");
    const std::string strategy = config.get<std::string>("vision_feature_select_strategy", "default");
    if (strategy == "full") c.vision_feature_select_strategy = FeatureStrategy::full;
    else if (strategy != "default") config["vision_feature_select_strategy"].fail("is '" + strategy + "', expected default or full");
    c.projector_hidden_act = config_activation(config, "projector_hidden_act", "gelu");
    c.multimodal_projector_bias = config.get<bool>("multimodal_projector_bias", true);
    c.image_token_index = config.get<TokenId>("image_token_index", config.get<TokenId>("image_token_id", 32000));
    return c;
  }
};

/// How an image was cut up: NeXT's features need it to undo the padding.
struct ImageTiling {
  std::size_t height = 0, width = 0;  // of the image as it was, in pixels
  std::size_t rows = 0, columns = 0;  // of tiles; 0: the base view alone
};

class Llava {
 public:
  /// From a checkpoint in any of normalise()'s layouts and its config.json. Throws ConfigError, UnsupportedError, WeightError.
  Llava(const Weights& checkpoint, const Json& config) : Llava(normalise(checkpoint), config, LlavaConfig::from(config)) {}

  const LlavaConfig& config() const noexcept { return config_; }
  const LanguageModel& language_model() const noexcept { return *language_model_; }

  /// What stands for one picture in the language model's input. `pixels` holds its views: one, or with tiles the whole first.
  /// Throws ShapeError (also for views that are not the tiling's), ArgumentError, Cancelled.
  Tensor image_features(Context& ctx, View pixels, const ImageTiling& tiling) const {  // (views, 3, H, W) -> (n, D)
    Tensor projected;                                                                  // (views, T, D)
    {
      Tensor seen;                                                                     // (views, T [+ 1], Dv * layers)
      {
        const Context::Scope scope(ctx, "vision");
        seen = vision_tower_.hidden_states(ctx, pixels, config_.vision_feature_layer);
      }
      const bool drop = config_.vision_feature_select_strategy == FeatureStrategy::patches;
      projected = multi_modal_projector_(ctx, drop ? without_first(ctx, seen) : std::move(seen));
    }
    ctx.observe("projector", projected);
    Tensor features = config_.anyres ? merge_tiles(ctx, projected, tiling) : flatten(std::move(projected));
    ctx.observe("image_features", features);
    return features;
  }

  /// The layouts of released checkpoints, of present transformers and of its models in memory, as
  /// vision_tower.*, multi_modal_projector.*, language_model.{model.*,lm_head.weight}, image_newline.
  static Weights normalise(const Weights& checkpoint) {
    return checkpoint.renamed([](std::string_view name) {
      std::string result(name);
      const auto replace = [&](std::string_view prefix, std::string_view with) {
        if (!std::string_view(result).starts_with(prefix)) return false;
        result.replace(0, prefix.size(), with);
        return true;
      };
      if (replace("model.language_model.", "language_model.model.") || replace("lm_head.", "language_model.lm_head.")) return result;
      replace("model.", "");
      replace("vision_tower.vision_model.", "vision_tower.");
      return result;
    });
  }

 private:
  Llava(const Weights& w, const Json& config, LlavaConfig c)
      : config_(as_far_as_there(std::move(c), w / "vision_tower")),
        vision_tower_(w / "vision_tower", config_.vision),
        language_model_(make_text_model(w / "language_model", config.find("text_config"))),
        multi_modal_projector_(w / "multi_modal_projector", config_.vision.hidden_size * config_.vision_feature_layer.size(),
                               language_model_->hidden_size(), config_.projector_hidden_act, config_.multimodal_projector_bias) {
    if (config_.anyres) image_newline_ = w.tensor("image_newline", Shape{language_model_->hidden_size()});
    (w / "vision_tower").ignore("vision_tower.head.");  // SigLIP's pooling, which LLaVA does not use
    w.expect_all_used();
  }

  /// The tower's last norm is never run, and files made for LLaVA alone leave it out.
  static LlavaConfig as_far_as_there(LlavaConfig c, const Weights& tower) {
    c.vision.post_norm = tower.contains("post_layernorm");
    return c;
  }

  static Tensor without_first(Context& ctx, View x) {  // (N, T, D) -> (N, T - 1, D)
    const std::size_t images = x.shape()[0], count = x.shape()[1] - 1, width = x.columns();
    Tensor y = ctx.empty(Shape{images, count, width});
    for (std::size_t n = 0; n < images; ++n) std::memcpy(y.row(n * count), x.row(n * (count + 1) + 1), count * width * sizeof(float));
    return y;
  }

  static Tensor flatten(Tensor x) {  // (N, T, D) -> (N T, D)
    const Shape flat{x.rows(), x.columns()};
    return std::move(x).reshape(flat);
  }

  /// The base view, then the tiles as one picture without its padding, each of its rows ended by image_newline.
  Tensor merge_tiles(Context& ctx, View x, const ImageTiling& tiling) const {  // (1 + tiles, p * p, D) -> (n, D)
    const std::size_t width = x.columns(), patches = x.shape()[1], tiles = tiling.rows * tiling.columns;
    if (x.shape()[0] != 1 + tiles) throw ShapeError("Llava", x.shape().to_string() + " for " + std::to_string(tiles) + " tiles");
    const auto put = [&](float*& to, const float* from) { to = std::copy(from, from + width, to); };
    if (tiles == 0) {
      Tensor y = ctx.empty(Shape{patches + 1, width});
      float* to = std::copy(x.data(), x.data() + patches * width, y.data());
      put(to, image_newline_.data());
      return y;
    }
    const std::size_t side = config_.vision.grid();
    if (tiling.height == 0 || tiling.width == 0) throw ArgumentError("Llava: tiles of a picture without a size");
    if (side * side != patches) throw ShapeError("Llava", x.shape().to_string() + ", expected " + std::to_string(side * side) + " patches a view");
    std::size_t top = 0, left = 0, bottom = tiling.rows * side, right = tiling.columns * side;
    // The image filled the tiles along one axis and was centred along the other: those cells go.
    const double image_width = static_cast<double>(tiling.width), image_height = static_cast<double>(tiling.height);
    const double grid_width = static_cast<double>(right), grid_height = static_cast<double>(bottom);
    const auto rounded = [](double cells) { return static_cast<std::size_t>(std::nearbyint(cells * 1e7) / 1e7); };
    if (image_width / image_height > grid_width / grid_height) {
      top = (bottom - std::min(bottom, rounded(image_height * (grid_width / image_width)))) / 2;
      bottom -= top;
    } else {
      left = (right - std::min(right, rounded(image_width * (grid_height / image_height)))) / 2;
      right -= left;
    }
    Tensor y = ctx.empty(Shape{patches + (bottom - top) * (right - left + 1), width});
    float* to = std::copy(x.data(), x.data() + patches * width, y.data());
    for (std::size_t row = top; row < bottom; ++row) {
      for (std::size_t column = left; column < right; ++column) {
        const std::size_t tile = 1 + row / side * tiling.columns + column / side;
        put(to, x.row(tile * patches + row % side * side + column % side));
      }
      put(to, image_newline_.data());
    }
    return y;
  }

  LlavaConfig config_;
  Vit vision_tower_;
  std::unique_ptr<LanguageModel> language_model_;
  Projector multi_modal_projector_;
  Tensor image_newline_;
};

}  // namespace chiasm
