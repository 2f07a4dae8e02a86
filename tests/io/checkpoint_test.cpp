#include <chiasm/io/checkpoint.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/thrown.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

using namespace chiasm;

namespace {

std::string tensor_file(const std::string& name) {
  const std::string header = "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}";
  std::string bytes(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(8, '\0');
}

const std::string index_text = R"({"weight_map": {"a": "x1.safetensors", "b": "x2.safetensors"}})";

/// One set of files, opened as a folder and from memory.
class Files {
 public:
  Files(std::initializer_list<std::pair<const std::string, std::string>> files) : files_(files) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    for (const auto& [name, text] : files_) {
      std::filesystem::create_directories((folder_ / name).parent_path());
      std::ofstream(folder_ / name, std::ios::binary) << text;
    }
  }
  ~Files() { std::filesystem::remove_all(folder_); }
  std::string folder() const { return folder_.string(); }
  Checkpoint open(bool memory, CheckpointOptions options = {}) const {
    if (!memory) return Checkpoint::open(folder(), std::move(options));
    std::vector<std::pair<std::string, std::span<const std::byte>>> spans;
    for (const auto& [name, text] : files_) spans.emplace_back(name, std::as_bytes(std::span(text.data(), text.size())));
    return Checkpoint::from_memory(std::move(spans), std::move(options));
  }

 private:
  std::map<std::string, std::string> files_;
  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / "chiasm_checkpoint_test";
};

}  // namespace

TEST_CASE("a checkpoint from a folder and from memory") {
  const Files files{{"config.json", R"({"model_type": "llava", "vision_config": {"hidden_size": 32}})"},
                     {"generation_config.json", R"({"eos_token_id": 2})"},
                     {"tokenizer_config.json", R"({"add_bos_token": true})"},
                     {"chat_template.jinja", "{{ messages }}"},
                     {"model.safetensors", tensor_file("lm_head.weight")}};
  for (const bool memory : {false, true}) {
    INFO(memory);
    const Checkpoint checkpoint = files.open(memory, {.weights = WeightKind::bf16});
    CHECK(checkpoint.model_type() == "llava");
    CHECK(checkpoint.config()["vision_config"]["hidden_size"].as_int() == 32);
    CHECK(checkpoint.generation_config()["eos_token_id"].as_int() == 2);
    CHECK(checkpoint.tokenizer_config().get("add_bos_token", false));
    CHECK(checkpoint.preprocessor_config().is_null());
    CHECK(checkpoint.processor_config().is_null());
    CHECK(checkpoint.read("chat_template.jinja") == "{{ messages }}");
    CHECK(checkpoint.has("tokenizer_config.json"));
    CHECK_FALSE(checkpoint.has("tokenizer.json"));
    CHECK_THROWS_AS(checkpoint.read("tokenizer.json"), FileError);
    CHECK(checkpoint.weights().get("lm_head.weight", {2, 1}).dtype() == DType::bf16);
    CHECK(checkpoint.path("a.json") == checkpoint.name() + "/a.json");
    // Marks of use belong to one tree.
    CHECK_THROWS_AS(checkpoint.weights().expect_all_used(), WeightError);
  }
}

TEST_CASE("shards, and how reading goes on") {
  const Files files{{"config.json", "{}"}, {"model.safetensors.index.json", index_text}, {"x1.safetensors", tensor_file("a")}, {"x2.safetensors", tensor_file("b")}};
  for (const bool memory : {false, true}) {
    std::string heard;
    const Checkpoint checkpoint = files.open(memory, {.on_progress = [&](std::string_view file, std::size_t done, std::size_t total) {
                                               heard += std::string(file) + " " + std::to_string(done) + "/" + std::to_string(total) + ";";
                                             }});
    CHECK(checkpoint.weights().names() == std::vector<std::string>{"a", "b"});
    CHECK(heard == "x1.safetensors 1/2;x2.safetensors 2/2;");
  }
}

TEST_CASE("a missing shard names the index") {
  const Files files{{"model.safetensors.index.json", index_text}, {"x1.safetensors", tensor_file("a")}};
  for (const bool memory : {false, true}) {
    CHECK_THROWS_AS(files.open(memory).weights(), FileError);
    CHECK(message_of([&] { files.open(memory).weights(); }).find("x2.safetensors: not there, but model.safetensors.index.json names it") != std::string::npos);
  }
}

TEST_CASE("the only safetensors file counts, whatever its name") {
  const Files files{{"weights.safetensors", tensor_file("a")}, {"pytorch_model.bin", "x"}};
  for (const bool memory : {false, true}) CHECK(files.open(memory).weights().names() == std::vector<std::string>{"a"});
}

TEST_CASE("a checkpoint without readable weights says what it looked for") {
  for (const bool memory : {false, true}) {
    INFO(memory);
    const Files none{{"config.json", "{}"}};
    CHECK_THROWS_AS(none.open(memory).weights(), FileError);
    CHECK(message_of([&] { none.open(memory).weights(); }).find("looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin") != std::string::npos);
    for (const char* other : {"tf_model.h5", "model.gguf"}) {
      const Files files{{"config.json", "{}"}, {other, "x"}};
      CHECK_THROWS_AS(files.open(memory).weights(), UnsupportedError);
      CHECK(message_of([&] { files.open(memory).weights(); }).find(other) != std::string::npos);
    }
    const Files two{{"a.safetensors", tensor_file("a")}, {"b.safetensors", tensor_file("b")}};
    CHECK_THROWS_AS(two.open(memory).weights(), FileError);
  }
}

TEST_CASE("a folder that is none") {
  CHECK_THROWS_AS(Checkpoint::open("/there/is/no/such/folder"), FileError);
  const Files files{{"config.json", "{}"}};
  CHECK_THROWS_AS(Checkpoint::open(files.folder() + "/config.json"), FileError);
  CHECK_THROWS_AS(Checkpoint::open(""), FileError);
}

TEST_CASE("two files of one name in memory are refused") {
  CHECK_THROWS_AS(Checkpoint::from_memory({{"a", {}}, {"a", {}}}), ArgumentError);
}

TEST_CASE("a config.json that is missing, broken or senseless") {
  const auto type_of = [](const char* config, bool memory) { return Files{{"config.json", config}}.open(memory).model_type(); };
  for (const bool memory : {false, true}) {
    CHECK_THROWS_AS(Files{}.open(memory).config(), FileError);
    CHECK_THROWS_AS(type_of("", memory), FormatError);
    CHECK_THROWS_AS(type_of("{\"model_type\": \"lla", memory), FormatError);
    CHECK_THROWS_AS(type_of("null", memory), ConfigError);
    CHECK_THROWS_AS(type_of("[1, 2]", memory), ConfigError);
    CHECK_THROWS_AS(type_of("{}", memory), ConfigError);
    CHECK_THROWS_AS(type_of("{\"model_type\": 3}", memory), ConfigError);
    CHECK_THROWS_AS(type_of("{\"model_type\": null}", memory), ConfigError);
  }
  const Files files{};
  std::filesystem::create_directories(files.folder() + "/config.json");
  std::filesystem::create_directories(files.folder() + "/model.safetensors");
  CHECK_THROWS_AS(files.open(false).config(), FileError);
  CHECK_THROWS_AS(files.open(false).weights(), FileError);
}

TEST_CASE("a config.json of 200 MB is refused") {
  const Files files{{"config.json", "[\"" + std::string(200 << 20, 'a')}};
  CHECK_THROWS_AS(files.open(false).config(), FormatError);
}

TEST_CASE("every checkpoint of the reference opens") {
  const auto cases = shared_data("golden/cases");
  if (!cases) return;
  std::size_t opened = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(*cases)) {
    if (entry.path().filename() != "config.json") continue;
    INFO(entry.path());
    const Checkpoint checkpoint = Checkpoint::open(entry.path().parent_path().string());
    CHECK_FALSE(checkpoint.model_type().empty());
    CHECK(checkpoint.weights().bytes() > 0);
    ++opened;
  }
  CHECK(opened > 30);
}

TEST_CASE("a checkpoint inside a checkpoint") {
  const Files files{{"config.json", "{}"}, {"words/config.json", R"({"model_type": "inner"})"}, {"words/more/x.json", "[1]"}, {"wordsmith.json", "{}"}};
  for (const bool memory : {false, true}) {
    const Checkpoint words = files.open(memory).subfolder("words");
    CHECK(words.model_type() == "inner");
    CHECK(words.subfolder("more").json("x.json").size() == 1);
    CHECK_FALSE(words.has("wordsmith.json"));
    CHECK(words.path("config.json") == files.open(memory).path("words/config.json"));
    CHECK_THROWS_AS(files.open(memory).subfolder("swords"), FileError);
  }
}
