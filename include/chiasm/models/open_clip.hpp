/// OpenCLIP: vision towers of CLIP in open_clip's files, or in those of transformers, and how open_clip prepares pictures for them.
/// https://github.com/mlfoundations/open_clip (names and settings). CLIP, arXiv:2103.00020.
#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/modules/vit.hpp>

#include <array>
#include <optional>
#include <string>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

/// A folder's vision tower: `const Vit see{tower.weights, tower.config};`
struct ClipVision {
  VitConfig config;
  Weights weights;                      // as Vit names them
  ImageProcessorConfig image_transform;  // open_clip's, for pictures of this tower's size

  /// Of open_clip's weights (`visual.*`) with open_clip_config.json, or of transformers' (`vision_model.*`) with config.json. A `quick_gelu` counts
  /// before what the folder says: OpenAI's weights want it, and open_clip switches it on for them by their name alone. Throws FileError, FormatError,
  /// ConfigError, WeightError, UnsupportedError.
  static ClipVision open(const Checkpoint& folder, std::optional<bool> quick_gelu = {}) {
    ClipVision tower{{}, weights_of(folder), {}};
    const Json settings = folder.json("open_clip_config.json"), model = settings.find("model_cfg");
    if (model.is_object()) {
      tower.config = config_from(model);
    } else {
      const Json config = folder.config(), part = config.find("vision_config");
      tower.config = VitConfig::from(part.is_object() ? part : config);
    }
    if (quick_gelu) tower.config.hidden_act = *quick_gelu ? Activation::quick_gelu : Activation::gelu;
    tower.image_transform = transform_from(model.is_object() ? settings.find("preprocess_cfg") : folder.preprocessor_config(), tower.config.image_size);
    tower.weights = normalise(tower.weights);
    return tower;
  }

  /// open_clip's own file, where there are others beside it: the hub's folders hold the tower under timm's or transformers' names, too.
  static Weights weights_of(const Checkpoint& folder) {
    for (const char* const file : {"open_clip_model.safetensors", "open_clip_pytorch_model.bin"})
      if (folder.has(file)) return folder.weights(file);
    return folder.weights();
  }

  /// From open_clip's `model_cfg`. Throws ConfigError, UnsupportedError.
  static VitConfig config_from(const Json& model) {
    const Json vision = model["vision_cfg"];
    for (const char* const key : {"timm_model_name", "ls_init_value", "attentional_pool", "attn_pooler_queries", "norm_kwargs", "act_kwargs", "pos_embed_type", "no_ln_pre"}) {
      const Json value = vision.find(key);
      if (!value.is_null() && !(value.is_bool() && !value.as_bool()) && !(value.is_string() && value.as_string() == "learnable"))
        throw UnsupportedError(std::string("open_clip's vision tower with '") + key + "' (" + model.file() + ")");
    }
    VitConfig c;
    c.hidden_size = config_size(vision, "width", 768);
    c.num_hidden_layers = config_layers(vision, "layers", 12);
    const std::size_t head_width = config_size(vision, "head_width", 64);
    config_divides(vision, "head_width", head_width, c.hidden_size);
    c.num_attention_heads = c.hidden_size / head_width;
    const double mlp_width = static_cast<double>(c.hidden_size) * config_positive(vision, "mlp_ratio", 4.0);
    if (!(mlp_width >= 1 && mlp_width <= 1 << 24)) vision.fail("'mlp_ratio' makes layers of " + std::to_string(mlp_width));
    c.intermediate_size = static_cast<std::size_t>(mlp_width);
    c.patch_size = config_size(vision, "patch_size", 16);
    const Json size = vision.find("image_size");
    if (size.is_array() && (size.size() != 2 || size.at(0).as_int() != size.at(1).as_int())) throw UnsupportedError("open_clip's vision tower for pictures of " + size.dump());
    if (size.is_array() && size.at(0).as_int() < 1) size.fail("is no size");
    c.image_size = size.is_array() ? static_cast<std::size_t>(size.at(0).as_int()) : config_size(vision, "image_size", 224);
    if (c.patch_size > c.image_size) vision.fail("'patch_size' is larger than 'image_size'");
    c.hidden_act = model.get<bool>("quick_gelu", false) ? Activation::quick_gelu : Activation::gelu;
    return c;
  }

  /// open_clip's `image_transform` for evaluation: the shorter side to `side`, bicubic, and the middle. From a `preprocess_cfg`, or the colours of a
  /// preprocessor_config.json. Throws ConfigError, UnsupportedError.
  static ImageProcessorConfig transform_from(const Json& file, std::size_t side) {
    const auto colour = [&](const char* key, const char* other, std::array<double, 3> values) {
      const Json list = file.find(key).is_null() ? file.find(other) : file.find(key);
      if (list.is_null()) return values;
      const std::vector<double> numbers = list.as_vector<double>();
      if (numbers.size() != 3) list.fail("has " + std::to_string(numbers.size()) + " values, expected 3");
      std::copy(numbers.begin(), numbers.end(), values.begin());
      for (const double value : values)
        if (std::string_view(key) == "std" && !(value > 0)) list.fail("holds " + std::to_string(value) + ", expected values above 0");
      return values;
    };
    ImageProcessorConfig c;
    c.image_processor_type = "open_clip";
    c.do_convert_rgb = false;
    c.resize_in_mode = true;
    c.size.shortest_edge = c.crop_size.height = c.crop_size.width = static_cast<int>(side);
    c.do_center_crop = c.crop_rounds = true;
    c.image_mean = colour("mean", "image_mean", {0.48145466, 0.4578275, 0.40821073});
    c.image_std = colour("std", "image_std", {0.26862954, 0.26130258, 0.27577711});
    const std::string interpolation = file.get<std::string>("interpolation", "bicubic"), mode = file.get<std::string>("resize_mode", "shortest");
    if (interpolation == "bilinear") c.resample = Resample::bilinear;
    else if (interpolation != "bicubic" && interpolation != "random") throw UnsupportedError("interpolation '" + interpolation + "' (" + file.file() + ")");
    if (mode != "shortest") throw UnsupportedError("resize_mode '" + mode + "' (" + file.file() + ")");
    return c;
  }

  /// The names of both kinds of files as Vit has them. Text towers and projections stay behind.
  static Weights normalise(const Weights& file) {
    if (!file.contains("visual")) return file.contains("vision_model") ? file / "vision_model" : file;
    Weights w = (file / "visual").renamed([](std::string_view name) {
      if (name == "proj") return std::string();
      std::string result(name);
      for (const auto& [theirs, ours] : {std::pair<std::string_view, std::string_view>{"class_embedding", "embeddings.class_embedding"},
                                         {"positional_embedding", "embeddings.position_embedding.weight"},
                                         {"conv1.", "embeddings.patch_embedding."},
                                         {"ln_pre.", "pre_layrnorm."},
                                         {"ln_post.", "post_layernorm."},
                                         {"transformer.resblocks.", "encoder.layers."},
                                         {".ln_1.", ".layer_norm1."},
                                         {".ln_2.", ".layer_norm2."},
                                         {".attn.", ".self_attn."},
                                         {".mlp.c_fc.", ".mlp.fc1."},
                                         {".mlp.c_proj.", ".mlp.fc2."}}) {
        const std::size_t at = result.find(theirs);
        if (theirs.starts_with('.') ? at != std::string::npos : at == 0) result.replace(at, theirs.size(), ours);
      }
      return result;
    });
    for (const std::string& name : w.names()) {  // queries, keys and values are one matrix
      const std::size_t at = name.rfind(".in_proj_");
      if (at == std::string::npos) continue;
      const Weight all = w.stored(name);
      if (all.shape().rank() == 0 || all.shape()[0] % 3 != 0) continue;  // to be found missing
      const std::size_t rows = all.shape()[0] / 3;
      for (std::size_t part = 0; part < 3; ++part) w = w.with(name.substr(0, at) + "." + "qkv"[part] + "_proj." + name.substr(at + 9), all.slice(part * rows, rows));
    }
    return w;
  }
};

}  // namespace chiasm
