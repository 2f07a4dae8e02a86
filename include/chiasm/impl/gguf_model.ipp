#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/impl/json_string.hpp>
#include <chiasm/io/gguf_model.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <map>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// A JSON object in the making.
class JsonObject {
 public:
  JsonObject& raw(std::string_view key, std::string_view json) {
    text_ += text_.size() > 1 ? "," : "";
    append_json_string(text_, key);
    text_.append(1, ':').append(json);
    return *this;
  }
  JsonObject& add(std::string_view key, std::string_view value) {
    std::string json;
    append_json_string(json, value);
    return raw(key, json);
  }
  JsonObject& add(std::string_view key, const char* value) { return add(key, std::string_view(value)); }
  JsonObject& add(std::string_view key, bool value) { return raw(key, value ? "true" : "false"); }
  JsonObject& add(std::string_view key, std::size_t value) { return raw(key, std::to_string(value)); }
  /// The shortest digits that are this float.
  JsonObject& add(std::string_view key, float value) { return raw(key, number(value)); }

  static std::string number(float value) {
    std::array<char, 32> text{};
    return std::string(text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr);
  }
  std::string text() const { return text_ + "}"; }

 private:
  std::string text_ = "{";
};

/// One name in a GGUF file and one of transformers'.
struct GgufName {
  std::string_view gguf, name;
};

/// How an architecture's tensors are called. `blocks` are those below blk.N.
struct GgufNames {
  std::string_view arch, layers;
  std::array<GgufName, 4> whole;
  std::array<GgufName, 9> blocks;
};
inline constexpr std::array<GgufName, 9> llama_blocks = {{{"attn_norm", "input_layernorm"},
                                                          {"attn_q", "self_attn.q_proj"},
                                                          {"attn_k", "self_attn.k_proj"},
                                                          {"attn_v", "self_attn.v_proj"},
                                                          {"attn_output", "self_attn.o_proj"},
                                                          {"ffn_norm", "post_attention_layernorm"},
                                                          {"ffn_gate", "mlp.gate_proj"},
                                                          {"ffn_up", "mlp.up_proj"},
                                                          {"ffn_down", "mlp.down_proj"}}};
inline constexpr std::array<GgufName, 4> llama_whole = {
    {{"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}, {"rope_freqs", "rope_freqs"}}};
inline constexpr GgufNames gguf_names[] = {
    {"llama", "model.layers.", llama_whole, llama_blocks},
    {"qwen2", "model.layers.", llama_whole, llama_blocks},
    {"gptneox",
     "gpt_neox.layers.",
     {{{"token_embd", "gpt_neox.embed_in"}, {"output_norm", "gpt_neox.final_layer_norm"}, {"output", "embed_out"}}},
     {{{"attn_norm", "input_layernorm"},
       {"attn_qkv", "attention.query_key_value"},
       {"attn_output", "attention.dense"},
       {"ffn_norm", "post_attention_layernorm"},
       {"ffn_up", "mlp.dense_h_to_4h"},
       {"ffn_down", "mlp.dense_4h_to_h"}}}},
    {"mpt",
     "transformer.blocks.",
     {{{"token_embd", "transformer.wte"}, {"output_norm", "transformer.norm_f"}, {"output", "lm_head"}}},
     {{{"attn_norm", "norm_1"}, {"attn_qkv", "attn.Wqkv"}, {"attn_output", "attn.out_proj"}, {"ffn_norm", "norm_2"}, {"ffn_up", "ffn.up_proj"}, {"ffn_down", "ffn.down_proj"}}}},
};
/// A tower's, "v." before them; LLaVA's legacy converter has the two feed-forward matrices' names the wrong way round.
inline constexpr GgufName gguf_tower_whole[] = {
    {"class_embd", "embeddings.class_embedding"}, {"patch_embd", "embeddings.patch_embedding"}, {"position_embd", "embeddings.position_embedding"},
    {"pre_ln", "pre_layrnorm"}, {"post_ln", "post_layernorm"}};
inline constexpr GgufName gguf_tower_blocks[] = {
    {"ln1", "layer_norm1"}, {"ln2", "layer_norm2"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
    {"attn_out", "self_attn.out_proj"}, {"ffn_up", "mlp.fc1"}, {"ffn_down", "mlp.fc2"}};

inline std::string_view gguf_renamed(std::span<const GgufName> names, std::string_view name) {
  for (const GgufName& known : names)
    if (known.gguf == name && !name.empty()) return known.name;
  return {};
}

/// "blk.3.attn_q" -> 3 and "attn_q"; none where it is no tensor of a block.
inline std::optional<std::pair<std::string_view, std::string_view>> gguf_block(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  const std::size_t dot = name.find('.', 4);
  if (dot == std::string_view::npos || dot == 4) return std::nullopt;
  return std::pair(name.substr(4, dot - 4), name.substr(dot + 1));
}

/// transformers' name, or `name` itself: a model then says that it does not use it.
inline std::string gguf_renamed(std::string_view name, std::span<const GgufName> whole, std::span<const GgufName> blocks, std::string_view layers) {
  // ".weight" and ".bias" are the same in both; a class embedding has neither.
  const std::size_t dot = name.ends_with(".weight") || name.ends_with(".bias") ? name.rfind('.') : name.size();
  const std::string_view stem = name.substr(0, dot), ending = name.substr(dot);
  if (const auto block = gguf_block(stem)) {
    const std::string_view known = gguf_renamed(blocks, block->second);
    return known.empty() ? std::string(name) : std::string(layers).append(block->first).append(1, '.').append(known).append(ending);
  }
  const std::string_view known = gguf_renamed(whole, stem);
  return known.empty() ? std::string(name) : std::string(known).append(ending);
}

/// The same, backwards: what a file calls it.
inline std::string gguf_name(std::string_view name, std::span<const GgufName> whole, std::span<const GgufName> blocks, std::string_view layers) {
  const std::size_t dot = name.ends_with(".weight") || name.ends_with(".bias") ? name.rfind('.') : name.size();
  const std::string_view stem = name.substr(0, dot), ending = name.substr(dot);
  const auto find = [](std::span<const GgufName> names, std::string_view wanted) {
    const auto known = std::find_if(names.begin(), names.end(), [&](const GgufName& one) { return one.name == wanted; });
    return known == names.end() ? std::string_view() : known->gguf;
  };
  if (const std::size_t number = layers.size(), end = stem.find('.', number); stem.starts_with(layers) && end != std::string_view::npos)
    if (const std::string_view known = find(blocks, stem.substr(end + 1)); !known.empty())
      return std::string("blk.").append(stem.substr(number, end - number)).append(1, '.').append(known).append(ending);
  const std::string_view known = find(whole, stem);
  return known.empty() ? std::string(name) : std::string(known).append(ending);
}

inline const Weight* gguf_tensor(const Gguf& file, std::string_view name) {
  const auto found = std::find_if(file.tensors().begin(), file.tensors().end(), [&](const Weight& tensor) { return tensor.name() == name; });
  return found == file.tensors().end() ? nullptr : &*found;
}

/// A value as a float that a model can reckon with. Throw ConfigError.
inline float gguf_finite(const Gguf::Value& value) {
  const float number = value.as<float>();
  if (!std::isfinite(number)) value.fail("is " + value.describe() + ", expected a finite number");
  return number;
}
inline float gguf_positive(const Gguf::Value& value) {
  const float number = gguf_finite(value);
  if (!(number > 0)) value.fail("is " + value.describe() + ", expected a positive number");
  return number;
}

inline const GgufNames& gguf_names_of(const Gguf& text) {
  const std::string_view arch = text["general.architecture"].as_string();
  for (const GgufNames& names : gguf_names)
    if (names.arch == arch) return names;
  if (arch == "clip") throw UnsupportedError(text.file() + ": an mmproj file alone; load the text model, and this one as its mmproj");
  throw UnsupportedError(text.file() + ": architecture " + quoted(arch) + ", expected llama, qwen2, gptneox or mpt");
}

/// The metadata of a text model, "<architecture>." before the keys.
class GgufText {
 public:
  explicit GgufText(const GgufModel& model) : model_(model), file_(model.text), names_(gguf_names_of(file_)), arch_(names_.arch) {}

  std::string_view arch() const noexcept { return names_.arch; }
  std::string key(std::string_view name) const { return arch_ + "." + std::string(name); }
  const Gguf::Value* find(std::string_view name) const { return file_.find(key(name)); }
  std::size_t size(std::string_view name) const { return checked(file_[key(name)]); }
  std::size_t size(std::string_view name, std::size_t fallback) const {
    const Gguf::Value* const value = find(name);
    return value == nullptr ? fallback : checked(*value);
  }
  float number(std::string_view name, float fallback) const {
    const Gguf::Value* const value = find(name);
    return value == nullptr ? fallback : gguf_finite(*value);
  }
  float positive(std::string_view name, float fallback) const {
    const Gguf::Value* const value = find(name);
    return value == nullptr ? fallback : gguf_positive(*value);
  }

  std::size_t heads() const { return size("attention.head_count"); }
  std::size_t kv_heads() const { return size("attention.head_count_kv", heads()); }
  std::size_t head_dim() const {
    const std::size_t width = size("embedding_length"), count = heads();
    if (find("attention.key_length") == nullptr && width % count != 0)
      file_[key("attention.head_count")].fail("is " + std::to_string(count) + ", which does not divide " + std::to_string(width));
    return size("attention.key_length", width / count);
  }
  /// In whichever of the model's files it lies: the first shard may hold metadata alone.
  const Weight* tensor(std::string_view name) const {
    const Weight* found = gguf_tensor(file_, name);
    for (std::size_t i = 0; found == nullptr && i < model_.shards.size(); ++i) found = gguf_tensor(model_.shards[i], name);
    return found;
  }
  bool has(std::string_view name) const { return tensor(name) != nullptr; }

  JsonObject config() const {
    refuse_variants();
    JsonObject json;
    const Weight* const embeddings = tensor("token_embd.weight");
    if (embeddings == nullptr) {
      (void)file_.weights();  // throws if it is there, in a format that is not read
      throw WeightError(file_.file(), "token_embd.weight", "missing", "a tensor");
    }
    if (embeddings->shape().rank() != 2) throw WeightError(embeddings->file(), embeddings->name(), embeddings->describe(), "a matrix");
    json.add("vocab_size", embeddings->shape()[0]);
    if (arch() == "gptneox") gpt_neox(json);
    else if (arch() == "mpt") mpt(json);
    else llama(json);
    add_tokens(json);
    return json;
  }

 private:
  static std::size_t checked(const Gguf::Value& value) {
    const std::int64_t size = value.as_int();
    if (size < 1 || size > (std::int64_t{1} << 24)) value.fail("is " + std::to_string(size) + ", expected 1 to 16777216");
    return static_cast<std::size_t>(size);
  }

  /// Things that other models of the same architecture's name have.
  void refuse_variants() const {
    const auto refuse = [&](std::string_view name) { throw UnsupportedError(file_.file() + ": " + key(name) + " is " + find(name)->describe()); };
    if (const Gguf::Value* const experts = find("expert_count"); experts != nullptr && experts->as_int() != 0) refuse("expert_count");
    for (const std::string_view scale : {"logit_scale", "embedding_scale", "residual_scale", "attention.scale"})
      if (find(scale) != nullptr && number(scale, 0) != 0) refuse(scale);
    if (const Gguf::Value* const causal = find("attention.causal"); causal != nullptr && !causal->as_bool()) refuse("attention.causal");
  }

  void llama(JsonObject& json) const {
    const bool qwen2 = arch() == "qwen2";
    const std::size_t window = size_or_none("attention.sliding_window");
    const bool mistral = !qwen2 && window != 0;
    json.add("model_type", qwen2 ? "qwen2" : mistral ? "mistral" : "llama");
    json.add("hidden_size", size("embedding_length")).add("intermediate_size", size("feed_forward_length"));
    json.add("num_hidden_layers", size("block_count")).add("num_attention_heads", heads()).add("num_key_value_heads", kv_heads());
    json.add("head_dim", head_dim()).add("rms_norm_eps", gguf_positive(file_[key("attention.layer_norm_rms_epsilon")]));
    json.add("max_position_embeddings", size("context_length"));
    for (const std::string_view part : {"attention.value_length", "rope.dimension_count"})
      if (size(part, head_dim()) != head_dim())
        throw UnsupportedError(file_.file() + ": " + key(part) + " is " + find(part)->describe() + ", heads have " + std::to_string(head_dim()));
    if (!qwen2) json.add("attention_bias", has("blk.0.attn_output.bias")).add("mlp_bias", has("blk.0.ffn_down.bias"));
    if (window != 0) json.add("sliding_window", window);
    if (qwen2) json.add("use_sliding_window", window != 0).add("max_window_layers", std::size_t{0});
    rope(json);
  }

  void gpt_neox(JsonObject& json) const {
    json.add("model_type", "gpt_neox").add("hidden_size", size("embedding_length")).add("intermediate_size", size("feed_forward_length"));
    json.add("num_hidden_layers", size("block_count")).add("num_attention_heads", heads());
    json.add("layer_norm_eps", gguf_positive(file_[key("attention.layer_norm_epsilon")])).add("max_position_embeddings", size("context_length"));
    json.add("use_parallel_residual", file_.get<bool>(key("use_parallel_residual"), true)).add("attention_bias", has("blk.0.attn_qkv.bias"));
    // The share of a head that turns, a little more than that: what it gives is rounded down.
    const double turning = static_cast<double>(size("rope.dimension_count", head_dim()));
    json.add("rotary_pct", static_cast<float>(std::min((turning + 0.25) / static_cast<double>(head_dim()), 1.0)));
    json.add("rotary_emb_base", positive("rope.freq_base", 10000.0f));
  }

  void mpt(JsonObject& json) const {
    const std::size_t width = size("embedding_length"), inner = size("feed_forward_length", 4 * width);
    if (inner % width != 0) throw UnsupportedError(file_.file() + ": " + key("feed_forward_length") + " is " + std::to_string(inner) + ", no multiple of " + std::to_string(width));
    if (kv_heads() != heads()) throw UnsupportedError(file_.file() + ": MPT with grouped queries");
    json.add("model_type", "mpt").add("d_model", width).add("n_heads", heads()).add("n_layers", size("block_count"));
    json.add("max_seq_len", size("context_length")).add("expansion_ratio", inner / width);
    json.add("layer_norm_epsilon", positive("attention.layer_norm_epsilon", 1e-5f));
    const float bias = number("attention.max_alibi_bias", 0), clip = number("attention.clamp_kqv", 0);
    JsonObject attention;
    attention.add("alibi", bias > 0);
    if (bias > 0) attention.add("alibi_bias_max", bias);
    if (clip > 0) attention.add("clip_qkv", clip);
    json.raw("attn_config", attention.text());
  }

  void rope(JsonObject& json) const {
    json.add("rope_theta", positive("rope.freq_base", 10000.0f));
    const auto* const type = find("rope.scaling.type");
    const std::string_view factor_key = find("rope.scaling.factor") != nullptr ? "rope.scaling.factor" : "rope.scale_linear";  // the second one is of old files
    const float factor = number(factor_key, 1);
    const std::string_view form = type == nullptr ? "linear" : type->as_string();
    if (form == "none" || factor == 0 || (form == "linear" && factor == 1)) return;  // 0 stands for none, too
    (void)positive(factor_key, 1);
    if (form != "linear" && form != "yarn") throw UnsupportedError(file_.file() + ": " + key("rope.scaling.type") + " is " + type->describe());
    JsonObject scaling;
    scaling.add("rope_type", form).add("factor", factor);
    if (form == "yarn") {
      scaling.add("original_max_position_embeddings", size("rope.scaling.original_context_length", size("context_length")));
      scaling.add("beta_fast", positive("rope.scaling.yarn_beta_fast", 32)).add("beta_slow", positive("rope.scaling.yarn_beta_slow", 1));
      for (const std::string_view other : {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_log_multiplier"})
        if (const float value = number(other, 1); find(other) != nullptr && value != 1 && value != 0)
          throw UnsupportedError(file_.file() + ": " + key(other) + " is " + find(other)->describe());
    }
    json.raw("rope_scaling", scaling.text());
  }

  std::size_t size_or_none(std::string_view name) const {
    const Gguf::Value* const value = find(name);
    return value == nullptr || value->as_int() == 0 ? 0 : checked(*value);
  }

  void add_tokens(JsonObject& json) const {
    const auto id = [&](std::string_view name) -> std::optional<std::size_t> {
      const Gguf::Value* const value = file_.find("tokenizer.ggml." + std::string(name) + "_token_id");
      if (value == nullptr || value->as_int() == -1 || value->as_int() == 0xffffffff) return std::nullopt;  // written for "none"
      return value->as<std::uint32_t>();
    };
    if (const auto bos = id("bos")) json.add("bos_token_id", *bos);
    std::string ends;
    for (const std::string_view end : {"eos", "eot", "eom"})
      if (const auto token = id(end)) ends += (ends.empty() ? "[" : ",") + std::to_string(*token);
    if (!ends.empty()) json.raw("eos_token_id", ends + "]");
  }

  const GgufModel& model_;
  const Gguf& file_;  // with the metadata
  const GgufNames& names_;
  std::string arch_;
};

/// The metadata of an mmproj.
class GgufTower {
 public:
  explicit GgufTower(const Gguf& file) : file_(file) {
    if (file["general.architecture"].as_string() != "clip")
      throw UnsupportedError(file.file() + ": architecture " + file["general.architecture"].describe() + ", of an mmproj \"clip\" was expected");
    if (!file.get<bool>("clip.has_vision_encoder", false)) throw UnsupportedError(file.file() + ": no vision encoder");
    for (const std::string_view key : {"clip.projector_type", "clip.vision.projector_type"})
      if (const Gguf::Value* const type = file.find(key); type != nullptr && type->as_string() != "mlp")
        throw UnsupportedError(file.file() + ": " + std::string(key) + " is " + type->describe() + ", expected \"mlp\", LLaVA's");
    swapped_ = swapped();
  }

  bool class_token() const { return gguf_tensor(file_, "v.class_embd") != nullptr; }
  bool anyres() const {
    const Gguf::Value* const pinpoints = file_.find("clip.vision.image_grid_pinpoints");
    return pinpoints != nullptr && pinpoints->size() > 0;
  }

  /// The tower's vision_config.
  JsonObject config() const {
    JsonObject json;
    json.add("model_type", class_token() ? "clip_vision_model" : "siglip_vision_model");
    for (const auto& [key, name] : {std::pair("hidden_size", "embedding_length"), std::pair("intermediate_size", "feed_forward_length"),
                                    std::pair("num_attention_heads", "attention.head_count"), std::pair("image_size", "image_size"), std::pair("patch_size", "patch_size")})
      json.add(key, size(name));
    json.add("num_hidden_layers", blocks()).add("layer_norm_eps", gguf_positive(file_["clip.vision.attention.layer_norm_epsilon"]));
    // The files do not tell an exact GELU from an approximated one: CLIP's are exact, SigLIP's are not.
    const bool gelu = file_.get<bool>("clip.use_gelu", false), silu = file_.get<bool>("clip.use_silu", false);
    json.add("hidden_act", silu ? "silu" : !gelu ? "quick_gelu" : class_token() ? "gelu" : "gelu_pytorch_tanh");
    return json;
  }

  /// What a LLaVA's configuration has beside its two parts.
  void add_to(JsonObject& json) const {
    json.add("model_type", anyres() ? "llava_next" : "llava").raw("vision_config", config().text());
    std::string layers = "-1";  // the file ends with the block whose states are wanted
    if (const Gguf::Value* const wanted = file_.find("clip.vision.feature_layer")) {
      layers.clear();
      for (std::size_t i = 0; i < wanted->size(); ++i) layers += (i == 0 ? "[" : ",") + std::to_string((*wanted)[i].as<std::int32_t>());
      layers += layers.empty() ? "[]" : "]";
    }
    json.raw("vision_feature_layer", layers).add("vision_feature_select_strategy", class_token() ? "default" : "full");
    json.add("projector_hidden_act", "gelu").add("multimodal_projector_bias", gguf_tensor(file_, "mm.0.bias") != nullptr || gguf_tensor(file_, "mm.bias") != nullptr);
    if (const Gguf::Value* const merge = file_.find("clip.vision.mm_patch_merge_type"); anyres() && merge != nullptr && merge->as_string() != "spatial_unpad")
      throw UnsupportedError(file_.file() + ": clip.vision.mm_patch_merge_type is " + merge->describe() + ", expected \"spatial_unpad\"");
  }

  JsonObject preprocessor() const {
    const std::size_t side = size("image_size");
    const std::string square = JsonObject().add("height", side).add("width", side).text();
    JsonObject json;
    json.add("image_processor_type", anyres() ? "LlavaNextImageProcessor" : "LlavaImageProcessor").add("do_pad", true).add("do_center_crop", true);
    json.raw("size", JsonObject().add("shortest_edge", side).text()).raw("crop_size", square).add("resample", std::size_t{3});
    for (const std::string_view key : {"image_mean", "image_std"}) {
      const Gguf::Value& channels = file_["clip.vision." + std::string(key)];
      if (channels.size() != 3) channels.fail("is " + channels.describe() + ", expected 3 numbers");
      std::string list;
      for (std::size_t i = 0; i < 3; ++i)
        list += (i == 0 ? "[" : ",") + JsonObject::number(key == "image_std" ? gguf_positive(channels[i]) : gguf_finite(channels[i]));
      json.raw(key, list + "]");
    }
    if (!anyres()) return json;
    // Width and height of each; transformers has the height first.
    const Gguf::Value& pinpoints = file_["clip.vision.image_grid_pinpoints"];
    const std::vector<std::uint32_t> extents = pinpoints.as_vector<std::uint32_t>();
    if (extents.size() % 2 != 0) pinpoints.fail("has " + std::to_string(extents.size()) + " numbers, expected pairs");
    std::string list;
    for (std::size_t i = 0; i < extents.size(); i += 2)
      list += std::string(list.empty() ? "[" : ",") + "[" + std::to_string(extents[i + 1]) + "," + std::to_string(extents[i]) + "]";
    json.raw("image_grid_pinpoints", list + "]");
    return json;
  }

  /// transformers' name of a tensor.
  std::string renamed(std::string_view name) const {
    if (name == "model.image_newline" || name == "v.image_newline") return anyres() ? "image_newline" : "";
    for (const auto& [from, to] : {std::pair("mm.0.", "linear_1."), std::pair("mm.2.", "linear_2."), std::pair("mm.", "linear_1.")}) {
      if (!name.starts_with(from)) continue;
      const std::string_view rest = name.substr(std::string_view(from).size());
      return rest == "weight" || rest == "bias" ? std::string("multi_modal_projector.") + to + std::string(rest) : std::string(name);
    }
    if (!name.starts_with("v.")) return std::string(name);
    std::string result = gguf_renamed(name.substr(2), gguf_tower_whole, gguf_tower_blocks, "encoder.layers.");
    if (const std::size_t at = result.find(".mlp.fc"); swapped_ && at != std::string::npos) result[at + 7] = result[at + 7] == '1' ? '2' : '1';
    return "vision_tower." + result;
  }
  /// The same, backwards.
  std::string name_of(std::string_view name) const {
    if (name == "image_newline") return "model.image_newline";
    for (const auto& [from, to] : {std::pair("multi_modal_projector.linear_1.", "mm.0."), std::pair("multi_modal_projector.linear_2.", "mm.2.")})
      if (name.starts_with(from)) return to + std::string(name.substr(std::string_view(from).size()));
    constexpr std::string_view tower = "vision_tower.";
    if (!name.starts_with(tower)) return std::string(name);
    std::string inside(name.substr(tower.size()));
    if (const std::size_t at = inside.find(".mlp.fc"); swapped_ && at != std::string::npos) inside[at + 7] = inside[at + 7] == '1' ? '2' : '1';
    return "v." + gguf_name(inside, gguf_tower_whole, gguf_tower_blocks, "encoder.layers.");
  }

 private:
  std::size_t size(std::string_view name) const {
    const Gguf::Value& value = file_["clip.vision." + std::string(name)];
    const std::int64_t size = value.as_int();
    if (size < 1 || size > (std::int64_t{1} << 24)) value.fail("is " + std::to_string(size) + ", expected 1 to 16777216");
    return static_cast<std::size_t>(size);
  }

  /// Up to the last one that is there: legacy files have a block less than the tower, as LLaVA never runs the last one.
  std::size_t blocks() const {
    std::size_t count = 0;
    for (const Weight& tensor : file_.tensors()) {
      const auto block = tensor.name().starts_with("v.") ? gguf_block(std::string_view(tensor.name()).substr(2)) : std::nullopt;
      std::uint32_t number = 0;
      if (!block || std::from_chars(block->first.data(), block->first.data() + block->first.size(), number).ec != std::errc()) continue;
      count = std::max(count, std::size_t{number} + 1);
    }
    return std::min(count, file_.tensors().size());  // a number may be anything
  }

  /// Whether "ffn_down" is the matrix that goes up. Where both are square, only files of the newer converter name them by what they do.
  bool swapped() const {
    const Weight *const down = gguf_tensor(file_, "v.blk.0.ffn_down.weight"), *const up = gguf_tensor(file_, "v.blk.0.ffn_up.weight");
    if (down == nullptr || up == nullptr) return false;
    const std::size_t width = size("embedding_length");
    if (down->shape().columns() == up->shape().columns()) return file_.get<std::string>("general.type", "") != "mmproj";
    return down->shape().columns() == width;
  }

  const Gguf& file_;
  bool swapped_ = false;
};

/// Orders of rows, one for each number of heads.
class GgufRows {
 public:
  /// llama.cpp turns neighbours in a head, transformers the one half with the other: row i of the first half is there row 2 i, of the second 2 i + 1.
  Weights::RowOrder halves(std::size_t heads, std::size_t rows) {
    if (heads == 0 || rows % (2 * heads) != 0) return nullptr;
    return order(heads, rows, [&](std::size_t head, std::size_t i) {
      const std::size_t d = rows / heads, half = d / 2;
      return head * d + (i < half ? 2 * i : 2 * (i - half) + 1);
    });
  }
  /// GPT-NeoX: all queries, all keys, all values there, a head's three next to each other here.
  Weights::RowOrder heads_apart(std::size_t heads, std::size_t rows) {
    if (heads == 0 || rows % (3 * heads) != 0) return nullptr;
    return order(heads, rows, [&](std::size_t head, std::size_t i) {
      const std::size_t d = rows / heads / 3;
      return i / d * (rows / 3) + head * d + i % d;
    });
  }

 private:
  template <class Row>
  Weights::RowOrder order(std::size_t heads, std::size_t rows, Row row) {
    Weights::RowOrder& known = known_[{heads, rows}];
    if (known) return known;
    std::vector<std::uint32_t> order(rows);
    for (std::size_t i = 0, each = rows / heads; i < rows; ++i) order[i] = static_cast<std::uint32_t>(row(i / each, i % each));
    return known = std::make_shared<const std::vector<std::uint32_t>>(std::move(order));
  }
  std::map<std::pair<std::size_t, std::size_t>, Weights::RowOrder> known_;
};

}  // namespace detail

CHIASM_INLINE bool GgufModel::fit(const Gguf& text, const Gguf& mmproj) {
  const Gguf::Value* const arch = text.find("general.architecture");
  if (arch == nullptr || !arch->is_string()) return false;
  const Gguf::Value* const width = text.find(std::string(arch->as_string()) + ".embedding_length");
  if (width == nullptr || !width->is_integer()) return false;
  for (const std::string_view last : {"mm.2.weight", "mm.0.weight", "mm.weight"})
    if (const Weight* const projection = detail::gguf_tensor(mmproj, last))
      return std::cmp_equal(projection->shape()[0], width->as_int());
  return false;
}

CHIASM_INLINE Json GgufModel::config() const {
  const detail::JsonObject words = detail::GgufText(*this).config();
  if (!mmproj) return Json::parse(words.text(), text.file());
  detail::JsonObject both;
  both.raw("text_config", words.text());
  detail::GgufTower(*mmproj).add_to(both);
  // Where the vocabulary has no token for a picture, it is the one behind the last.
  std::size_t id = 0;
  if (const Gguf::Value* const tokens = text.find("tokenizer.ggml.tokens"))
    while (id < tokens->size() && (*tokens)[id].as_string() != "<image>") ++id;
  both.add("image_token_index", id);
  return Json::parse(both.text(), text.file());
}

CHIASM_INLINE Json GgufModel::preprocessor_config() const {
  if (!mmproj) return {};
  return Json::parse(detail::GgufTower(*mmproj).preprocessor().text(), mmproj->file());
}

CHIASM_INLINE Weights GgufModel::weights(WeightKind kind) const {
  const detail::GgufText words(*this);
  const detail::GgufNames& names = detail::gguf_names_of(text);
  Weights all = text.weights(kind);
  for (const Gguf& shard : shards) all = all.merged(shard.weights());
  detail::GgufRows rows;
  const std::size_t heads = words.heads(), kv_heads = words.kv_heads();
  all = all.reordered([&](const Weight& weight) -> Weights::RowOrder {
    const auto block = detail::gguf_block(weight.name());
    if (!block || weight.shape().rank() == 0) return nullptr;
    const std::size_t count = weight.shape()[0];
    if (names.arch == "llama" && block->second.starts_with("attn_q.")) return rows.halves(heads, count);
    if (names.arch == "llama" && block->second.starts_with("attn_k.")) return rows.halves(kv_heads, count);
    if (names.arch == "gptneox" && block->second.starts_with("attn_qkv.")) return rows.heads_apart(heads, count);
    return nullptr;
  });
  const std::string prefix = mmproj ? "language_model." : "";
  all = all.renamed([&](std::string_view name) { return prefix + detail::gguf_renamed(name, names.whole, names.blocks, names.layers); });
  if (mmproj) {
    const detail::GgufTower tower(*mmproj);
    all = all.merged(mmproj->weights().renamed([&](std::string_view name) { return tower.renamed(name); }));
  }
  return all.coming_from([model = *this, &names, prefix](std::string_view name) -> Weights::Origin {
    if (!name.starts_with(prefix)) return {model.mmproj->file(), detail::GgufTower(*model.mmproj).name_of(name)};
    return {model.text.file(), detail::gguf_name(name.substr(prefix.size()), names.whole, names.blocks, names.layers)};
  });
}

}  // namespace chiasm
