#include <chiasm/io/checkpoint.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/temporary_folder.hpp"
#include "support/thrown.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

using namespace chiasm;

namespace {

/// A GGUF file in the making; its tensors are f32 and count up from 0.
class Maker {
 public:
  Maker& add(std::string_view key, std::uint32_t value) { return value_(key, Gguf::Type::u32, number(value)); }
  Maker& add(std::string_view key, std::int32_t value) { return value_(key, Gguf::Type::i32, number(value)); }
  Maker& add(std::string_view key, float value) { return value_(key, Gguf::Type::f32, number(value)); }
  Maker& add(std::string_view key, bool value) { return value_(key, Gguf::Type::boolean, std::string(1, value ? '\1' : '\0')); }
  Maker& add(std::string_view key, const char* value) { return value_(key, Gguf::Type::string, string(value)); }
  Maker& add(std::string_view key, std::initializer_list<float> list) { return value_(key, Gguf::Type::array, array(Gguf::Type::f32, list)); }
  Maker& add(std::string_view key, std::initializer_list<std::int32_t> list) { return value_(key, Gguf::Type::array, array(Gguf::Type::i32, list)); }
  /// `shape` in PyTorch's order; `type` as ggml counts them.
  Maker& tensor(std::string_view name, std::initializer_list<std::size_t> shape, std::uint32_t type = 0) {
    tensors_ += string(name) + number(static_cast<std::uint32_t>(shape.size()));
    for (auto extent = std::rbegin(shape); extent != std::rend(shape); ++extent) tensors_ += number(static_cast<std::int64_t>(*extent));
    tensors_ += number(type) + number(std::uint64_t{data_.size()});
    const std::size_t count = Shape(shape).size();
    for (std::size_t i = 0; i < count; ++i) data_ += number(static_cast<float>(i));
    data_.append((32 - data_.size() % 32) % 32, '\0');
    ++tensor_count_;
    return *this;
  }
  /// The file, or its metadata alone.
  std::string text(bool tensors = true) const {
    std::string all = "GGUF" + number(std::uint32_t{3}) + number(tensors ? tensor_count_ : 0) + number(value_count_) + values_;
    if (!tensors) return all;
    all += tensors_;
    all.append((32 - all.size() % 32) % 32, '\0');
    return all + data_;
  }
  std::span<const std::byte> keep() {
    kept_ = text();
    return std::as_bytes(std::span(kept_.data(), kept_.size()));
  }

 private:
  template <class T>
  static std::string number(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string string(std::string_view text) { return number(std::uint64_t{text.size()}) + std::string(text); }
  template <class T>
  static std::string array(Gguf::Type type, std::initializer_list<T> list) {
    std::string bytes = number(static_cast<std::uint32_t>(type)) + number(std::uint64_t{list.size()});
    for (const T value : list) bytes += number(value);
    return bytes;
  }
  Maker& value_(std::string_view key, Gguf::Type type, const std::string& bytes) {
    values_ += string(key) + number(static_cast<std::uint32_t>(type)) + bytes;
    ++value_count_;
    return *this;
  }
  std::string values_, tensors_, data_, kept_;
  std::uint64_t tensor_count_ = 0, value_count_ = 0;
};

/// A text model of two heads, width 8.
Maker text(const char* arch = "llama") {
  const std::string prefix = std::string(arch) + ".";
  Maker m;
  m.add("general.architecture", arch).add(prefix + "embedding_length", 8u).add(prefix + "block_count", 1u).add(prefix + "feed_forward_length", 12u);
  m.add(prefix + "attention.head_count", 2u).add(prefix + "attention.layer_norm_rms_epsilon", 1e-5f).add(prefix + "context_length", 64u);
  m.tensor("token_embd.weight", {10, 8}).tensor("output_norm.weight", {8}).tensor("blk.0.attn_q.weight", {8, 8}).tensor("blk.0.attn_k.weight", {8, 8});
  return m;
}

/// A tower of width `width`, whose projector ends in 8.
Maker tower(std::size_t width = 4, std::size_t inner = 6, float deviation = 0.5f) {
  Maker m;
  m.add("general.architecture", "clip").add("clip.has_vision_encoder", true).add("clip.vision.embedding_length", static_cast<std::uint32_t>(width));
  m.add("clip.vision.feed_forward_length", static_cast<std::uint32_t>(inner)).add("clip.vision.attention.head_count", 2u).add("clip.vision.image_size", 28u);
  m.add("clip.vision.patch_size", 14u).add("clip.vision.attention.layer_norm_epsilon", 1e-5f);
  m.add("clip.vision.image_mean", {0.48145466f, 0.5f, 0.25f}).add("clip.vision.image_std", {0.5f, deviation, 0.5f});
  m.tensor("v.class_embd", {width}).tensor("v.blk.0.ln1.weight", {width}).tensor("v.blk.1.ln1.weight", {width}).tensor("mm.0.weight", {8, width});
  return m.tensor("mm.2.weight", {8, 8}).tensor("mm.0.bias", {8}).tensor("model.image_newline", {8});
}

Checkpoint open(Maker& model) { return Checkpoint::from_memory({{"model.gguf", model.keep()}}, {}, "m"); }
Checkpoint open(Maker& model, Maker& mmproj) { return Checkpoint::from_memory({{"model.gguf", model.keep()}, {"mmproj.gguf", mmproj.keep()}}, {}, "m"); }

struct Folder : TemporaryFolder {
  Folder() : TemporaryFolder("chiasm_gguf_model_test") {}
};

}  // namespace

TEST_CASE("a file, its folder, and both in memory are the same checkpoint") {
  const std::string folder = test_data("cases/gguf_llava15/model");
  const Checkpoint file = Checkpoint::open(folder + "/tiny.gguf"), whole = Checkpoint::open(folder);
  REQUIRE(file.gguf() != nullptr);
  REQUIRE(file.gguf()->mmproj);
  CHECK(file.name() == folder + "/tiny.gguf");
  CHECK(file.path("config.json") == folder + "/tiny.gguf");
  CHECK(file.model_type() == "llava");
  CHECK_FALSE(file.has("tokenizer.json"));
  CHECK(file.generation_config().is_null());
  CHECK(file.config()["text_config"]["model_type"].as_string() == "llama");
  CHECK(file.config()["vision_config"]["num_hidden_layers"].as_int() == 2);
  CHECK(file.config()["image_token_index"].as_int() == file.config()["text_config"]["vocab_size"].as_int());  // no token in it is for pictures
  CHECK(file.image_processor_config()["do_pad"].as_bool());
  CHECK(whole.config().dump() == file.config().dump());
  CHECK(whole.weights().names() == file.weights().names());

  const FileMap text = FileMap::open(folder + "/tiny.gguf"), mmproj = FileMap::open(folder + "/mmproj-tiny.gguf");
  const Checkpoint memory = Checkpoint::from_memory({{"a.gguf", text.bytes()}, {"mmproj-b.gguf", mmproj.bytes()}});
  CHECK(memory.config().dump() == file.config().dump());
  CHECK(memory.weights().names() == file.weights().names());
  CHECK(Checkpoint::open(test_data("cases/gguf_llava16/model")).model_type() == "llava_next");
  CHECK(Checkpoint::open(test_data("cases/qwen2/model")).gguf() == nullptr);
}

TEST_CASE("rows of queries and keys come in transformers' order, a head at a time") {
  Maker model = text();
  const Weights weights = open(model).weights();
  const Tensor rows = weights.get("model.layers.0.self_attn.q_proj.weight", Shape{8, 8}).to_f32();
  const std::size_t expected[] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (std::size_t i = 0; i < 8; ++i)
    for (std::size_t j = 0; j < 8; ++j) CHECK(rows.row(i)[j] == static_cast<float>(expected[i] * 8 + j));
  CHECK(weights.tensor("model.norm.weight", Shape{8}).data()[3] == 3);
  Maker qwen = text("qwen2");
  CHECK(open(qwen).weights().get("model.layers.0.self_attn.q_proj.weight", Shape{8, 8}).to_f32().row(1)[0] == 8);
}

TEST_CASE("metadata become a configuration") {
  Maker model = text();
  model.add("llama.attention.head_count_kv", 1u).add("llama.rope.freq_base", 500000.0f).add("llama.rope.scaling.type", "linear").add("llama.rope.scaling.factor", 4.0f);
  model.add("tokenizer.ggml.eos_token_id", 2u).add("tokenizer.ggml.eot_token_id", 7u).tensor("blk.0.ffn_down.bias", {8});
  const Json config = open(model).config();
  CHECK(config["vocab_size"].as_int() == 10);
  CHECK(config["head_dim"].as_int() == 4);
  CHECK(config["num_key_value_heads"].as_int() == 1);
  CHECK(config["rms_norm_eps"].as_double() == 1e-5);
  CHECK(config["rope_theta"].as_double() == 500000);
  CHECK(config["rope_scaling"].dump() == R"({"rope_type":"linear","factor":4})");
  CHECK(config["eos_token_id"].dump() == "[2,7]");
  CHECK(config["mlp_bias"].as_bool());
  CHECK_FALSE(config["attention_bias"].as_bool());
  Maker window = text();
  CHECK(open(window.add("llama.attention.sliding_window", 16u)).model_type() == "mistral");

  // What stands for "none".
  Maker none = text();
  none.add("tokenizer.ggml.bos_token_id", -1).add("tokenizer.ggml.eos_token_id", 0xffffffffu).add("tokenizer.ggml.eot_token_id", 3u);
  CHECK(open(none).config().find("bos_token_id").is_null());
  CHECK(open(none).config()["eos_token_id"].dump() == "[3]");
  Maker unscaled = text().add("llama.rope.scaling.type", "linear").add("llama.rope.scaling.factor", 0.0f);
  CHECK(open(unscaled).config().find("rope_scaling").is_null());
}

TEST_CASE("what cannot be is said with the key") {
  const auto config = [](Maker model) { return message_of([&] { open(model).config(); }); };
  CHECK(config(text("gemma3")) == "not supported: m/model.gguf: architecture 'gemma3', expected llama, qwen2, gptneox or mpt");
  CHECK(config(Maker()) == "m/model.gguf: general.architecture: missing");
  CHECK(config(Maker().add("general.architecture", "llama").tensor("token_embd.weight", {10, 8})) == "m/model.gguf: llama.embedding_length: missing");
  CHECK(config(text().add("llama.expert_count", 8u)) == "not supported: m/model.gguf: llama.expert_count is 8");
  CHECK(config(text().add("llama.expert_count", 0u)) == "nothing thrown");
  CHECK(config(text().add("llama.logit_scale", 0.5f)) == "not supported: m/model.gguf: llama.logit_scale is 0.5");
  CHECK(config(text().add("llama.rope.dimension_count", 2u)) == "not supported: m/model.gguf: llama.rope.dimension_count is 2, heads have 4");
  CHECK(config(text().add("llama.rope.scaling.type", "longrope")) == "not supported: m/model.gguf: llama.rope.scaling.type is \"longrope\"");
  CHECK(config(text().add("llama.attention.head_count_kv", {1, 2})) == "m/model.gguf: llama.attention.head_count_kv: is [1, 2], expected an integer");
  CHECK(config(text().add("llama.attention.key_length", 0u)) == "m/model.gguf: llama.attention.key_length: is 0, expected 1 to 16777216");
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  CHECK(config(text().add("llama.rope.freq_base", nan)) == "m/model.gguf: llama.rope.freq_base: is nan, expected a finite number");
  CHECK(config(text().add("llama.rope.freq_base", 0.0f)) == "m/model.gguf: llama.rope.freq_base: is 0, expected a positive number");
  CHECK(config(text().add("llama.rope.scaling.factor", infinity)) == "m/model.gguf: llama.rope.scaling.factor: is inf, expected a finite number");
  CHECK(config(text().add("llama.rope.scaling.factor", -2.0f)) == "m/model.gguf: llama.rope.scaling.factor: is -2, expected a positive number");
  CHECK(config(text("gptneox").add("gptneox.attention.layer_norm_epsilon", -1.0f)) == "m/model.gguf: gptneox.attention.layer_norm_epsilon: is -1, expected a positive number");
  CHECK(config(Maker().add("general.architecture", "llama").tensor("token_embd.weight", {256, 256}, 39)).find("'token_embd.weight' is MXFP4, which is not read") !=
        std::string::npos);
  CHECK(config(Maker().add("general.architecture", "llama").tensor("token_embd.weight", {})) == "m/model.gguf: 'token_embd.weight' is f32 (), expected a matrix");
  Maker alone = tower();
  CHECK(message_of([&] { Checkpoint::from_memory({{"model.gguf", alone.keep()}}, {}, "m").config(); }) ==
        "not supported: m/model.gguf: an mmproj file alone; load the text model, and this one as its mmproj");
  const auto seeing = [](Maker mmproj) {
    Maker model = text();
    return message_of([&] {
      const Checkpoint both = open(model, mmproj);
      both.config();
      both.preprocessor_config();
    });
  };
  CHECK(seeing(tower()) == "nothing thrown");
  CHECK(seeing(tower().add("clip.projector_type", "ldpv2")) == "not supported: m/mmproj.gguf: clip.projector_type is \"ldpv2\", expected \"mlp\", LLaVA's");
  CHECK(seeing(tower().add("clip.vision.image_grid_pinpoints", {28, 56, 56})) == "m/mmproj.gguf: clip.vision.image_grid_pinpoints: has 3 numbers, expected pairs");
  CHECK(seeing(tower().add("clip.vision.image_grid_pinpoints", {28, 56}).add("clip.vision.mm_patch_merge_type", "flat")).find("mm_patch_merge_type is \"flat\"") !=
        std::string::npos);
  CHECK(seeing(tower(4, 6, infinity)) == "m/mmproj.gguf: clip.vision.image_std: is inf, expected a finite number");
  CHECK(seeing(tower(4, 6, 0)) == "m/mmproj.gguf: clip.vision.image_std: is 0, expected a positive number");
  // A tower without one of its tensors has as many blocks as before.
  Maker model = text(), gap = tower().tensor("v.blk.3.ln2.weight", {4});
  CHECK(open(model, gap).config()["vision_config"]["num_hidden_layers"].as_int() == 4);
}

TEST_CASE("a tower's quirks are settled") {
  Maker model = text(), plain = tower();
  plain.tensor("v.blk.0.ffn_down.weight", {6, 4}).tensor("v.blk.0.ffn_up.weight", {4, 6}).add("clip.use_gelu", true);
  const Checkpoint legacy = open(model, plain);
  CHECK(legacy.weights().get("vision_tower.encoder.layers.0.mlp.fc1.weight").shape() == (Shape{6, 4}));
  CHECK(legacy.weights().get("vision_tower.encoder.layers.0.mlp.fc2.weight").shape() == (Shape{4, 6}));
  CHECK(legacy.weights().get("multi_modal_projector.linear_2.weight").shape() == (Shape{8, 8}));
  CHECK_FALSE(legacy.weights().contains("image_newline"));
  CHECK(legacy.weights().contains("language_model.model.embed_tokens"));
  CHECK(legacy.config()["vision_config"]["hidden_act"].as_string() == "gelu");
  CHECK(legacy.config()["vision_feature_layer"].as_int() == -1);
  CHECK(legacy.preprocessor_config()["image_mean"].dump() == "[0.48145467,0.5,0.25]");

  Maker newer = tower(4, 6).tensor("v.blk.0.ffn_down.weight", {4, 6}).tensor("v.blk.0.ffn_up.weight", {6, 4});
  CHECK(open(model, newer).weights().get("vision_tower.encoder.layers.0.mlp.fc1.weight").shape() == (Shape{6, 4}));
  // Square matrices do not tell; the newer converter says what it is.
  for (const bool said : {false, true}) {
    Maker square = tower(4, 4).tensor("v.blk.0.ffn_down.weight", {4, 4}).tensor("v.blk.0.ffn_up.weight", {4, 4});
    if (said) square.add("general.type", "mmproj");
    CHECK(open(model, square).weights().get("vision_tower.encoder.layers.0.mlp.fc1.weight").name() == (said ? "v.blk.0.ffn_up.weight" : "v.blk.0.ffn_down.weight"));
  }
  Maker next = tower().add("clip.vision.image_grid_pinpoints", {28, 56, 84, 28});  // width first
  CHECK(open(model, next).preprocessor_config()["image_grid_pinpoints"].dump() == "[[56,28],[28,84]]");
  CHECK(open(model, next).weights().contains("image_newline"));
  CHECK(open(model, next).model_type() == "llava_next");
}

TEST_CASE("a missing tensor is called what its file would call it") {
  Maker alone = text(), model = text(), mmproj = tower(), legacy = tower();
  legacy.tensor("v.blk.0.ffn_down.weight", {6, 4}).tensor("v.blk.0.ffn_up.weight", {4, 6});
  const auto missing = [](const Weights& weights, std::string_view name) { return message_of([&] { weights.get(name, Shape{5}); }); };
  const Weights words = open(alone).weights(), both = open(model, mmproj).weights();
  CHECK(missing(words, "model.layers.0.mlp.up_proj.weight") == "m/model.gguf: 'blk.0.ffn_up.weight' is missing, expected (5)");
  CHECK(missing(words / "model" / "layers" / 12, "self_attn.q_proj.bias") == "m/model.gguf: 'blk.12.attn_q.bias' is missing, expected (5)");
  CHECK(missing(words, "lm_head.weight") == "m/model.gguf: 'output.weight' is missing, expected (5)");
  CHECK(missing(words, "of.another") == "m/model.gguf: 'of.another' is missing, expected (5)");
  CHECK(missing(both / "language_model", "model.layers.0.mlp.up_proj.weight") == "m/model.gguf: 'blk.0.ffn_up.weight' is missing, expected (5)");
  CHECK(missing(both, "multi_modal_projector.linear_2.bias") == "m/mmproj.gguf: 'mm.2.bias' is missing, expected (5)");
  CHECK(missing(both, "vision_tower.embeddings.patch_embedding.weight") == "m/mmproj.gguf: 'v.patch_embd.weight' is missing, expected (5)");
  CHECK(missing(both, "vision_tower.encoder.layers.1.mlp.fc1.bias") == "m/mmproj.gguf: 'v.blk.1.ffn_up.bias' is missing, expected (5)");
  CHECK(missing(open(model, legacy).weights(), "vision_tower.encoder.layers.1.mlp.fc1.bias") == "m/mmproj.gguf: 'v.blk.1.ffn_down.bias' is missing, expected (5)");
}

TEST_CASE("which files belong together") {
  const Folder folder;
  const std::string model = folder.write("a.gguf", text().text());
  CHECK(Checkpoint::open(model).model_type() == "llama");
  const std::string fits = folder.write("mmproj-a.gguf", tower().text());
  CHECK(Checkpoint::open(model).model_type() == "llava");
  CHECK(Checkpoint::open(folder.path.string()).model_type() == "llava");
  // Of two none is taken, but the one that is asked for.
  folder.write("mmproj-b.gguf", tower().text());
  CHECK(Checkpoint::open(model).model_type() == "llama");
  CHECK(Checkpoint::open(model, {.mmproj = fits}).model_type() == "llava");
  CHECK_THROWS_AS(Checkpoint::open(model, {.mmproj = folder.path.string() + "/none"}), FileError);
  CHECK_THROWS_AS(Checkpoint::open(test_data("cases/qwen2/model"), {.mmproj = fits}), ArgumentError);
  // Nor is one of another model.
  std::filesystem::remove(folder.path / "mmproj-b.gguf");
  folder.write("mmproj-a.gguf", Maker().add("general.architecture", "clip").tensor("mm.2.weight", {16, 8}).text());
  CHECK(Checkpoint::open(model).model_type() == "llama");
  folder.write("b.gguf", text().text());
  CHECK(message_of([&] { Checkpoint::open(folder.path.string()); }).find("2 GGUF models (a.gguf, b.gguf, ...): say which one") != std::string::npos);
  std::filesystem::remove(folder.path / "a.gguf");
  std::filesystem::remove(folder.path / "b.gguf");
  CHECK(message_of([&] { Checkpoint::open(folder.path.string()); }).find("no GGUF file but mmproj-a.gguf") != std::string::npos);
  CHECK_THROWS_AS(Checkpoint::open(folder.write("x.bin", "x")), FileError);
  CHECK_THROWS_AS(Checkpoint::open(folder.write("x.gguf", "x")), FormatError);
}

TEST_CASE("a model in shards") {
  const Folder folder;
  const std::string first = folder.write("m-00001-of-00002.gguf", text().add("split.count", 2u).text());
  CHECK(message_of([&] { Checkpoint::open(first); }).find("m-00002-of-00002.gguf") != std::string::npos);
  const std::string second = folder.write("m-00002-of-00002.gguf", Maker().add("split.count", 2u).tensor("blk.0.attn_v.weight", {8, 8}).text());
  for (const std::string& path : {first, folder.path.string()}) CHECK(Checkpoint::open(path).weights().contains("model.layers.0.self_attn.v_proj.weight"));
  CHECK(message_of([&] { Checkpoint::open(second); }).find("first one's name ends in -00001-of-00002.gguf") != std::string::npos);

  // gguf-split --no-tensor-first-split: metadata alone.
  Maker metadata = text().add("split.count", 2u);
  const Folder other;
  const std::string bare = other.write("m-00001-of-00002.gguf", metadata.text(false));
  other.write("m-00002-of-00002.gguf", text().add("split.count", 2u).tensor("blk.0.ffn_down.bias", {8}).text());
  CHECK(Checkpoint::open(bare).config()["vocab_size"].as_int() == 10);
  CHECK(Checkpoint::open(bare).config()["mlp_bias"].as_bool());
  CHECK(Checkpoint::open(bare).weights().contains("model.embed_tokens.weight"));
}
