#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/gguf.hpp>
#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer.hpp>

#include "support/catch.hpp"
#include "support/corpus.hpp"
#include "support/paths.hpp"
#include "support/reference_tokenizers.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

using namespace chiasm;
namespace fs = std::filesystem;

namespace {

/// A GGUF file of metadata alone, written value by value.
class Metadata {
 public:
  Metadata& add(const std::string& key, const std::string& value) { return put(key, 8, string(value)); }
  Metadata& add(const std::string& key, const char* value) { return put(key, 8, string(value)); }
  Metadata& add(const std::string& key, std::uint32_t value) { return put(key, 4, number(value)); }
  Metadata& add(const std::string& key, std::int32_t value) { return put(key, 5, number(value)); }
  Metadata& add(const std::string& key, bool value) { return put(key, 7, std::string(1, value ? '\1' : '\0')); }
  Metadata& add(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = number(std::uint32_t{8}) + number(std::uint64_t{values.size()});
    for (const std::string& value : values) bytes += string(value);
    return put(key, 9, bytes);
  }
  Metadata& add(const std::string& key, const std::vector<float>& values) { return array(key, 6, values); }
  Metadata& add(const std::string& key, const std::vector<std::int32_t>& values) { return array(key, 5, values); }
  Metadata& remove(const std::string& key) { return values_.erase(key), *this; }

  std::string bytes() const {
    std::string file = "GGUF" + number(std::uint32_t{3}) + number(std::uint64_t{0}) + number(std::uint64_t{values_.size()});
    for (const auto& [key, value] : values_) file += string(key) + value;
    return file;
  }
  /// The caller keeps `storage`.
  Gguf open(std::string& storage) const {
    storage = bytes();
    return Gguf::parse(FileMap(std::as_bytes(std::span(storage)), "vocabulary.gguf"));
  }

 private:
  template <class T>
  static std::string number(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string string(std::string_view text) { return number(std::uint64_t{text.size()}) + std::string(text); }
  Metadata& put(const std::string& key, std::uint32_t type, const std::string& bytes) { return values_[key] = number(type) + bytes, *this; }
  template <class T>
  Metadata& array(const std::string& key, std::uint32_t type, const std::vector<T>& values) {
    std::string bytes = number(type) + number(std::uint64_t{values.size()});
    for (const T value : values) bytes += number(value);
    return put(key, 9, bytes);
  }
  std::map<std::string, std::string> values_;
};

Tokenizer tokenizer_of(const Metadata& metadata) {
  std::string storage;
  return Tokenizer::from_gguf(metadata.open(storage));
}

// "a b c" with merges, byte-level.
Metadata letters() {
  Metadata metadata;
  metadata.add("general.architecture", "gpt2").add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", "gpt-2");
  metadata.add("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "c", "ab", "abc", "<|im_end|>", "<end>", "[PAD7]"});
  metadata.add("tokenizer.ggml.token_type", std::vector<std::int32_t>{1, 1, 1, 1, 1, 3, 4, 4});
  metadata.add("tokenizer.ggml.merges", std::vector<std::string>{"a b", "ab c"}).add("tokenizer.ggml.eos_token_id", std::uint32_t{6});
  return metadata;
}

// A SentencePiece vocabulary by scores.
Metadata pieces() {
  Metadata metadata;
  metadata.add("general.architecture", "llama").add("tokenizer.ggml.model", "llama");
  metadata.add("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "ab", "\xE2\x96\x81\x61", "<image>"});
  metadata.add("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -9, -8, -7, -2, -1, -1000});
  metadata.add("tokenizer.ggml.token_type", std::vector<std::int32_t>{2, 3, 3, 1, 1, 1, 1, 1, 4});
  metadata.add("tokenizer.ggml.bos_token_id", std::uint32_t{1}).add("tokenizer.ggml.eos_token_id", std::uint32_t{2}).add("tokenizer.ggml.unknown_token_id", std::uint32_t{0});
  return metadata;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

void check_lines(const Tokenizer& tokenizer, const std::string& path, bool words) {
  for (const Json& line : json_lines(path)) {
    // The files of BERT's vocabularies cannot hold a U+2581 of the text.
    if (words && line.dump().find("\xE2\x96\x81") != std::string::npos) continue;
    INFO(path << ": " << line.dump().substr(0, 300));
    if (line.contains("a")) {
      const auto pair = tokenizer.encode_pair(line["a"].as_string(), line["b"].as_string());
      CHECK(pair.ids == line["ids"].as_vector<TokenId>());
      CHECK(pair.type_ids == line["type_ids"].as_vector<TokenId>());
      continue;
    }
    const auto ids = line["ids"].as_vector<TokenId>();
    CHECK(tokenizer.encode(line["t"].as_string(), false) == ids);
    const auto with_special = line.contains("ids_sp") ? line["ids_sp"].as_vector<TokenId>() : ids;
    if (line.contains("ids_sp")) CHECK(tokenizer.encode(line["t"].as_string()) == with_special);
    if (line.contains("dec")) CHECK(tokenizer.decode(with_special) == line["dec"].as_string());
    if (line.contains("dec_skip")) CHECK(tokenizer.decode(with_special, true) == line["dec_skip"].as_string());
  }
}

}  // namespace

TEST_CASE("tiny vocabularies in GGUF files equal the reference", "[tokenizer][gguf]") {
  const std::string name = GENERATE("gpt2", "qwen2", "roberta", "bert", "bert_cased", "llama", "gemma", "t5");
  const std::string file = test_data("tokenizer/gguf/" + name + ".gguf");
  const Tokenizer tokenizer = Tokenizer::load(file);
  check_lines(tokenizer, name == "t5" ? test_data("tokenizer/gguf/t5.jsonl") : test_data("tokenizer/files/" + name + "/expected.jsonl"), name.starts_with("bert"));
  // A filler is never found, what was added is.
  for (const char* filler : {"[PAD9999]", "[PAD901]", "[PAD904]"})
    if (const auto id = tokenizer.id(filler)) CHECK(tokenizer.encode(filler, false) != std::vector<TokenId>{*id});
  if (const auto image = tokenizer.id("<image>")) CHECK(tokenizer.encode("<image>", false) == std::vector<TokenId>{*image});
}

TEST_CASE("a GGUF vocabulary's types, flags and named tokens count", "[tokenizer][gguf]") {
  const Tokenizer bpe = tokenizer_of(letters());
  CHECK(bpe.size() == 8);
  CHECK(bpe.encode("abcab") == std::vector<TokenId>{4, 3});
  CHECK(bpe.encode("a<|im_end|><end>b") == std::vector<TokenId>{0, 5, 6, 1});
  CHECK(bpe.is_special(5));
  CHECK(bpe.decode(std::vector<TokenId>{0, 5, 1}, true) == "ab");
  CHECK(bpe.eos() == 6);
  CHECK_FALSE(bpe.bos());
  CHECK(bpe.ends() == std::vector<TokenId>{6, 5});
  CHECK(tokenizer_of(letters().add("tokenizer.ggml.bos_token_id", std::uint32_t{5}).add("tokenizer.ggml.add_bos_token", true).add("tokenizer.ggml.add_eos_token", true)).encode("a") ==
        std::vector<TokenId>{5, 0, 6});
  // Files from before tokenizer.ggml.pre, and "none" in the manner of old converters.
  CHECK(tokenizer_of(letters().remove("tokenizer.ggml.pre")).encode("abc") == std::vector<TokenId>{4});
  CHECK_FALSE(tokenizer_of(letters().add("tokenizer.ggml.padding_token_id", std::uint32_t{0xFFFFFFFF})).pad());
  CHECK_FALSE(tokenizer_of(letters().add("tokenizer.ggml.padding_token_id", std::int32_t{-1})).pad());

  const Tokenizer llama = tokenizer_of(pieces());
  CHECK(llama.encode("ab a") == std::vector<TokenId>{1, 7, 5, 7});
  CHECK(llama.encode("b<image>b", false) == std::vector<TokenId>{3, 5, 8, 3, 5});
  CHECK(llama.encode("z", false) == std::vector<TokenId>{3, 0});
  CHECK(llama.decode(std::vector<TokenId>{1, 7, 5, 8}, true) == "ab<image>");
  CHECK(llama.ends() == std::vector<TokenId>{2});
  CHECK(tokenizer_of(pieces().add("tokenizer.ggml.add_space_prefix", false)).encode("ab a", false) == std::vector<TokenId>{6, 7});
  CHECK(tokenizer_of(pieces().add("tokenizer.ggml.add_bos_token", false).add("tokenizer.ggml.add_eos_token", true)).encode("ab") == std::vector<TokenId>{7, 5, 2});
  CHECK(tokenizer_of(pieces().remove("tokenizer.ggml.token_type")).encode("a</s>", false) == std::vector<TokenId>{7, 2});
  // An empty token keeps its id.
  CHECK(tokenizer_of(pieces().add("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "", "\xE2\x96\x81\x61", "<image>"})).encode("ab", false) ==
        std::vector<TokenId>{7, 5});
}

TEST_CASE("every known tokenizer.ggml.pre can be loaded", "[tokenizer][gguf]") {
  for (const char* pre : {"llama-bpe", "smaug-bpe", "qwen2", "stablelm2", "qwen35", "gpt-2", "mpt", "roberta-bpe", "starcoder", "command-r", "falcon", "deepseek-coder", "deepseek-v3", "tekken",
                          "gpt-4o", "bloom", "viking", "seed-coder", "bailingmoe"}) {
    INFO(pre);
    const Tokenizer tokenizer = tokenizer_of(letters().add("tokenizer.ggml.pre", pre));
    CHECK(tokenizer.encode("abc", false) == std::vector<TokenId>{4});
    CHECK(tokenizer.decode(std::vector<TokenId>{4, 0}) == "abca");
  }
}

TEST_CASE("metadata that make no sense are refused by file and key", "[tokenizer][gguf]") {
  const auto refused = [](const Metadata& metadata, const std::string& key) {
    INFO(key);
    try {
      tokenizer_of(metadata);
    } catch (const ConfigError& error) {
      CHECK(error.file == "vocabulary.gguf");
      CHECK(error.pointer == key);
      return;
    }
    FAIL("no ConfigError");
  };
  const std::string base = "tokenizer.ggml.";
  using Strings = std::vector<std::string>;
  for (const char* key : {"model", "tokens", "merges"}) refused(letters().remove(base + key), base + key);
  for (const char* key : {"model", "tokens", "scores"}) refused(pieces().remove(base + key), base + key);
  refused(letters().add("general.architecture", "llama").remove(base + "pre"), base + "pre");
  for (const char* key : {"model", "tokens", "merges", "token_type", "pre"}) refused(letters().add(base + key, std::uint32_t{1}), base + key);
  for (const char* key : {"scores", "precompiled_charsmap"}) refused(pieces().add(base + key, Strings{"a"}), base + key);
  for (const char* key : {"tokens", "merges"}) refused(letters().add(base + key, std::vector<float>{1}), base + key);
  refused(letters().add(base + "tokens", Strings{}), base + "tokens");
  refused(letters().add(base + "token_type", std::vector<std::int32_t>{1}), base + "token_type");
  refused(pieces().add(base + "scores", std::vector<float>{1}), base + "scores");
  refused(pieces().add(base + "scores", std::vector<float>{0, 0, 0, -9, std::numeric_limits<float>::quiet_NaN(), -7, -2, -1, -1000}), base + "scores");
  for (const char* merge : {"a", "ab", " ", "", "a z", "z a", "c c", "a  b"}) refused(letters().add(base + "merges", Strings{"a b", merge}), base + "merges");
  refused(letters().add(base + "tokens", Strings{"a", "b", "c", "ab", "abc", "x", "a", "y"}), base + "tokens");   // twice
  refused(letters().add(base + "tokens", Strings{"a", "b", "c", "ab", "abc", "x", "\xFF", "y"}), base + "tokens");  // no UTF-8
  for (const char* key : {"eos_token_id", "bos_token_id", "padding_token_id", "unknown_token_id", "eot_token_id"}) {
    refused(letters().add(base + key, std::uint32_t{8}), base + key);
    refused(letters().add(base + key, std::int32_t{-2}), base + key);
    refused(letters().add(base + key, "a"), base + key);
  }
  refused(pieces().add(base + "unknown_token_id", std::int32_t{-1}), base + "unknown_token_id");
  for (const char* key : {"add_bos_token", "add_eos_token"}) refused(letters().add(base + key, "yes"), base + key);
  CHECK_THROWS_AS(tokenizer_of(letters().add(base + "model", "telepathy")), UnsupportedError);
  CHECK_THROWS_AS(tokenizer_of(letters().add(base + "pre", "telepathy")), UnsupportedError);
  CHECK_THROWS_AS(tokenizer_of(letters().add(base + "pre", "qwen2 megrez")), UnsupportedError);
  CHECK_THROWS_AS(tokenizer_of(pieces().add(base + "precompiled_charsmap", std::vector<std::int32_t>{1, 2})), ConfigError);
  // Tokens whose merges are out of proportion to the file.
  Strings runs = {"<unk>"};
  std::vector<float> scores = {0};
  std::vector<std::int32_t> types = {2};
  for (std::size_t i = 1; i < 3000; ++i) runs.emplace_back(i, 'a'), scores.push_back(0), types.push_back(1);
  CHECK_THROWS_AS(tokenizer_of(Metadata().add(base + "model", "llama").add(base + "tokens", runs).add(base + "scores", scores).add(base + "token_type", types)), FormatError);
}

TEST_CASE("a damaged GGUF vocabulary never does worse than an error", "[tokenizer][gguf]") {
  const std::string name = GENERATE("llama", "qwen2", "t5", "bert");
  const std::string whole = text_of(test_data("tokenizer/gguf/" + name + ".gguf"));
  std::uint32_t random = 1;
  const auto next = [&](std::size_t below) { return (random = random * 1664525U + 1013904223U) / 256U % below; };
  for (int round = 0; round < 60; ++round) {
    std::string bytes = whole.substr(0, round % 8 == 0 ? next(whole.size()) : whole.size());
    for (std::size_t i = 0; i < 1 + next(4) && !bytes.empty(); ++i) bytes[round % 2 == 0 ? next(bytes.size()) : next(std::min<std::size_t>(bytes.size(), 1500))] = static_cast<char>(next(256));
    std::string text;
    try {
      const Tokenizer tokenizer = Tokenizer::from_gguf(Gguf::parse(FileMap(std::as_bytes(std::span(bytes)), "damaged.gguf")));
      text = tokenizer.decode(tokenizer.encode("The bicycle \xEF\xAC\x81 12"));
    } catch (const Error&) {
    }
    CHECK(unicode::is_valid(text));
  }
}

TEST_CASE("the chat template comes out of a GGUF file", "[gguf][chat]") {
  std::string storage;
  Metadata metadata = letters();
  CHECK_FALSE(ChatTemplate::find(metadata.open(storage)));
  metadata.add("tokenizer.chat_template", "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}");
  metadata.add("tokenizer.chat_template.tool_use", "tools");
  const Gguf file = metadata.open(storage);
  const TemplateValue variables = TemplateValue::dict({{"messages", make_messages(std::vector<ChatMessage>{{"user", {{"text", "hi"}}}}, ContentForm::text)}, {"eos_token", "<end>"}});
  CHECK(ChatTemplate::find(file)->render(variables) == "user: hi<end>");
  CHECK(ChatTemplate::find(file, "tool_use")->render(variables) == "tools");
  CHECK_THROWS_AS(ChatTemplate::find(file, "rag"), ConfigError);
  std::string other, broken;
  CHECK_THROWS_AS(ChatTemplate::find(metadata.add("tokenizer.chat_template", std::uint32_t{1}).open(other)), ConfigError);
  try {
    ChatTemplate::find(metadata.add("tokenizer.chat_template", "{% for").open(broken));
    FAIL("no FormatError");
  } catch (const FormatError& error) {
    CHECK(error.file == "vocabulary.gguf (tokenizer.chat_template)");
  }
}

TEST_CASE("llama.cpp's vocabularies give llama.cpp's ids", "[tokenizer][gguf][shared]") {
  if (!reference_tokenizers()) return;
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(*reference_tokenizers() + "/llama.cpp")) {
    const std::string path = entry.path().string();
    if (entry.path().extension() != ".gguf") continue;
    ++files;
    const Tokenizer tokenizer = Tokenizer::load(path);
    if (!fs::exists(path + ".inp") || !fs::exists(path + ".out")) continue;
    const std::string texts = text_of(path + ".inp"), separator = "\n__ggml_vocab_test__\n";
    std::istringstream lines(text_of(path + ".out"));
    std::size_t at = 0, count = 0;
    for (std::string line; std::getline(lines, line); ++count) {
      const std::size_t end = texts.find(separator, at);
      REQUIRE(end != std::string::npos);
      const std::string text = texts.substr(at, end - at);
      at = end + separator.size();
      std::istringstream numbers(line);
      std::vector<TokenId> ids;
      for (TokenId id = 0; numbers >> id;) ids.push_back(id);
      INFO(path << ": " << text);
      CHECK(tokenizer.encode(text, false) == ids);
    }
    CHECK(count == 46);
    CHECK(at == texts.size());
  }
  CHECK(files >= 11);
}

TEST_CASE("published vocabularies in GGUF files equal the models' own tokenizers", "[tokenizer][gguf][shared]") {
  if (!reference_tokenizers()) return;
  const auto corpus = json_lines(*shared_data("io/text/corpus.jsonl"));
  // Not all have the same tokens beside the model's.
  const std::vector<std::tuple<const char*, const char*, TokenId>> cases = {
      {"llama-spm", "llama2", 32000}, {"llama-bpe", "llama3", 128256}, {"gpt-2", "gpt2", 50257}, {"qwen2", "qwen2_5_vl", 151646}, {"mpt", "gpt-neox", 50277},
      {"gpt-neox", "gpt-neox", 50277}, {"bert-bge", "bert", 30522}, {"nomic-bert-moe", "xlm-r", 250002}, {"phi-3", "phi3", 32064}};
  for (const auto& [gguf, name, common] : cases) {
    const Tokenizer tokenizer = Tokenizer::load(*reference_tokenizers() + "/llama.cpp/ggml-vocab-" + gguf + ".gguf");
    std::size_t compared = 0;
    for (const Json& line : json_lines(*shared_data(std::string("io/tokens/") + name + ".jsonl"))) {
      const std::string text = input(corpus[line["i"].as<std::size_t>()]);
      const auto ids = line["ids"].as_vector<TokenId>();
      if (std::any_of(ids.begin(), ids.end(), [&, most = common](TokenId id) { return id >= most; })) continue;
      INFO(gguf << ": " << text);
      CHECK(tokenizer.encode(text, false) == ids);
      CHECK(tokenizer.decode(ids) == tokenizer.decode(tokenizer.encode(text, false)));
      ++compared;
    }
    CHECK(compared > 300);
  }
}
