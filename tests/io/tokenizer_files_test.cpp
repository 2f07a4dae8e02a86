#include <chiasm/io/checkpoint.hpp>
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

using namespace chiasm;
namespace fs = std::filesystem;

namespace {

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

// Whatever a line says: ids, ids_sp, dec, dec_skip, or a pair's ids and types.
void check_lines(const Tokenizer& tokenizer, const std::string& path) {
  for (const Json& line : json_lines(path)) {
    INFO(path << ": " << line.dump().substr(0, 300));
    if (line.contains("a")) {
      const auto pair = tokenizer.encode_pair(line["a"].as_string(), line["b"].as_string());
      CHECK(pair.ids == line["ids"].as_vector<TokenId>());
      CHECK(pair.type_ids == line["type_ids"].as_vector<TokenId>());
      continue;
    }
    const auto ids = line["ids"].as_vector<TokenId>();
    const std::string_view text = line["t"].as_string();
    CHECK(tokenizer.encode(text, false) == ids);
    const auto with_special = line.contains("ids_sp") ? line["ids_sp"].as_vector<TokenId>() : ids;
    if (line.contains("ids_sp")) CHECK(tokenizer.encode(text) == with_special);
    if (line.contains("dec")) CHECK(tokenizer.decode(with_special) == line["dec"].as_string());
    if (line.contains("dec_skip")) CHECK(tokenizer.decode(with_special, true) == line["dec_skip"].as_string());
  }
}

// A checkpoint of files in memory; it keeps them.
struct Files {
  std::map<std::string, std::string> contents;
  Checkpoint checkpoint() const {
    std::vector<std::pair<std::string, std::span<const std::byte>>> spans;
    for (const auto& [name, text] : contents) spans.emplace_back(name, std::as_bytes(std::span(text)));
    return Checkpoint::from_memory(std::move(spans));
  }
};

// A field of a protocol buffer message.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(static_cast<unsigned char>(value | 0x80));
  return bytes + static_cast<char>(static_cast<unsigned char>(value));
}
std::string field(unsigned number, std::string_view bytes) { return varint(number << 3 | 2) + varint(bytes.size()) + std::string(bytes); }
std::string field(unsigned number, std::uint64_t value) { return varint(number << 3) + varint(value); }
std::string piece(std::string_view text, unsigned type = 1, float score = 0) {
  std::string number(4, '\0');
  std::memcpy(number.data(), &score, 4);
  return field(1, field(1, text) + varint(2 << 3 | 5) + number + field(3, type));
}
Tokenizer from_model(const std::string& bytes, const std::string& name = "tokenizer.model") { return Tokenizer::load(Files{{{name, bytes}}}.checkpoint()); }

}  // namespace

TEST_CASE("tiny tokenizers in older formats equal the reference", "[tokenizer]") {
  const std::string name = GENERATE("gpt2", "phi", "qwen2", "roberta", "opt", "whisper", "clip", "bert", "bert_cased", "llama", "gemma", "bpe", "unigram", "characters",
                                    "t5", "siglip", "xlm_roberta", "qwen", "tiktoken");
  INFO(name);
  const std::string folder = test_data("tokenizer/files/" + name);
  check_lines(Tokenizer::load(folder), folder + "/expected.jsonl");
  // The same from memory.
  Files files;
  for (const auto& entry : fs::directory_iterator(folder)) files.contents[entry.path().filename().string()] = bytes_of(entry.path().string());
  const Checkpoint memory = files.checkpoint();
  const Tokenizer again = Tokenizer::load(memory);
  const std::string text = "The bicycle is there, isn't it?  12 \xC3\xBC";
  CHECK(again.encode(text) == Tokenizer::load(folder).encode(text));
}

TEST_CASE("a file alone says what it can", "[tokenizer]") {
  const std::string folder = test_data("tokenizer/files/");
  const auto same = [](const Tokenizer& a, const Tokenizer& b) {
    const std::string text = "The bicycle is  there, isn't it? <s> <mask> \xE5\x9B\xBE\xE5\x83\x8F 12";
    CHECK(a.size() == b.size());
    CHECK(a.encode(text) == b.encode(text));
    CHECK(a.encode_pair(text, "a").type_ids == b.encode_pair(text, "a").type_ids);
  };
  const auto alone = [&](const std::string& name, const std::string& file) {
    return Tokenizer::load(Files{{{file, bytes_of(folder + name + "/" + file)}}}.checkpoint());
  };
  const auto two = [&](const std::string& name) {
    return Tokenizer::load(Files{{{"vocab.json", bytes_of(folder + name + "/vocab.json")}, {"merges.txt", bytes_of(folder + name + "/merges.txt")}}}.checkpoint());
  };
  for (const char* file : {"vocab.json", "merges.txt"}) same(Tokenizer::load(folder + "gpt2/" + file), Tokenizer::load(folder + "gpt2"));
  same(two("gpt2"), Tokenizer::load(folder + "gpt2"));
  same(two("roberta"), Tokenizer::load(folder + "roberta"));
  same(two("clip"), Tokenizer::load(folder + "clip"));
  same(alone("bert", "vocab.txt"), Tokenizer::load(folder + "bert"));
  same(alone("bert_cased", "vocab.txt"), Tokenizer::load(folder + "bert_cased"));
  same(alone("t5", "spiece.model"), Tokenizer::load(folder + "t5"));
  same(alone("xlm_roberta", "sentencepiece.bpe.model"), Tokenizer::load(folder + "xlm_roberta"));
  same(alone("qwen", "qwen.tiktoken"), Tokenizer::load(folder + "qwen/qwen.tiktoken"));
  // tokenizer.json comes first, and the name of a file decides otherwise.
  const Files both{{{"tokenizer.json", bytes_of(test_data("tokenizer/llama/tokenizer.json"))}, {"tokenizer.model", bytes_of(folder + "llama/tokenizer.model")}}};
  same(Tokenizer::load(both.checkpoint()), Tokenizer::from_file(test_data("tokenizer/llama/tokenizer.json")));
  same(Tokenizer::load(both.checkpoint(), "tokenizer.model"), Tokenizer::load(folder + "llama"));
}

TEST_CASE("the configuration beside a tokenizer.model counts", "[tokenizer]") {
  Files files{{{"tokenizer.model", bytes_of(test_data("tokenizer/files/llama/tokenizer.model"))}}};
  const Tokenizer plain = Tokenizer::load(files.checkpoint());
  CHECK(plain.encode("a") == std::vector<TokenId>{*plain.bos(), plain.encode("a", false)[0]});
  CHECK(plain.encode_pair("a", "a").type_ids == std::vector<TokenId>{0, 0, 1, 1});
  files.contents["tokenizer_config.json"] = R"({"tokenizer_class":"LlamaTokenizer","add_bos_token":false,"add_eos_token":true,"added_tokens_decoder":{"900":{"content":"<image>","special":true}},"pad_token":"<pad>"})";
  const Tokenizer other = Tokenizer::load(files.checkpoint());
  CHECK(other.encode("a").back() == *other.eos());
  CHECK(other.encode("a").size() == 2);
  CHECK(other.pad() == other.id("<pad>"));
  CHECK(other.id("<image>") == static_cast<TokenId>(plain.size()));
  CHECK(other.encode("<image>", false) == std::vector<TokenId>{*other.id("<image>")});
  // Behind a special token, sentencepiece's manner has a blank, that of "legacy": false has none.
  files.contents["tokenizer_config.json"] = R"({"tokenizer_class":"LlamaTokenizer","legacy":false})";
  CHECK(plain.encode("</s>the", false) != Tokenizer::load(files.checkpoint()).encode("</s>the", false));
}

TEST_CASE("malformed tokenizer files are refused by name", "[tokenizer]") {
  const auto refused = [](const std::string& bytes, const std::string& name) {
    INFO(name << ": " << bytes.substr(0, 60));
    try {
      Tokenizer::load(Files{{{name, bytes}}}.checkpoint());
    } catch (const FormatError& error) {
      CHECK(error.file == "<memory>/" + name);
      return;
    }
    FAIL("no FormatError");
  };
  const std::string spec = field(2, field(3, std::uint64_t{2})), unk = piece("<unk>", 2);
  CHECK(from_model(unk + piece("a") + spec).encode("a", false) == std::vector<TokenId>{0, 1});  // the blank in front is unknown
  CHECK(from_model(unk + piece("\xE2\x96\x81") + piece("a") + spec).encode("ab", false) == std::vector<TokenId>{1, 2, 0});
  refused("", "tokenizer.model");
  refused(unk, "tokenizer.model");                                              // no trainer_spec
  refused(spec, "tokenizer.model");                                             // no pieces
  refused(piece("a") + spec, "tokenizer.model");                                // nothing unknown
  refused(unk + piece("b", 2) + spec, "tokenizer.model");                       // two unknown
  refused(unk + piece("a") + piece("a") + spec, "tokenizer.model");             // twice
  refused(unk + piece("") + spec, "tokenizer.model");                           // empty
  refused(unk + piece("\xFF") + spec, "tokenizer.model");                       // no UTF-8
  refused(unk + piece("a", 9) + spec, "tokenizer.model");                       // unknown type
  refused(unk + piece("a", 1, std::numeric_limits<float>::quiet_NaN()) + spec, "tokenizer.model");
  refused(unk + field(2, field(3, std::uint64_t{7})), "tokenizer.model");       // unknown kind
  refused(unk + field(2, field(3, std::uint64_t{2}) + field(35, std::uint64_t{1})), "tokenizer.model");  // byte_fallback without bytes
  refused(unk + spec + "\x0A\x7F", "tokenizer.model");                          // longer than the file
  refused(unk + spec + "\x0B", "tokenizer.model");                              // a group
  refused(unk + spec + std::string(11, '\xFF'), "tokenizer.model");             // an endless number
  refused(unk + spec + std::string("\x12\x02\x19\x01", 4), "tokenizer.model");  // a cut number
  std::string runs = unk;
  for (int i = 1; i < 3000; ++i) runs += piece(std::string(static_cast<std::size_t>(i), 'a'));
  refused(runs + spec, "tokenizer.model");  // merges out of proportion
  CHECK_THROWS_AS(from_model(unk + field(2, field(3, std::uint64_t{3}))), UnsupportedError);
  CHECK_THROWS_AS(from_model(unk + field(2, field(3, std::uint64_t{2}) + field(24, std::uint64_t{1}))), UnsupportedError);
  CHECK_THROWS_AS(from_model(unk + spec + field(3, field(2, "no map"))), ConfigError);
  refused("QQ== 0\n", "qwen.tiktoken");  // not every byte
  refused("QQ==\n", "qwen.tiktoken");
  refused("Q\xC3\xBC== 1\n", "qwen.tiktoken");
  refused("QQ== x\n", "qwen.tiktoken");
  refused("QQ== 1\nQQ== 2\n", "qwen.tiktoken");
  refused("", "qwen.tiktoken");
  refused("", "vocab.txt");
  refused("a\xFF\n", "vocab.txt");
  CHECK_THROWS_AS(Tokenizer::load(Files{{{"vocab.txt", "a\nb\n"}}}.checkpoint()), ConfigError);  // no [UNK]
  const auto merged = [](const std::string& vocab, const std::string& merges) { return Tokenizer::load(Files{{{"vocab.json", vocab}, {"merges.txt", merges}}}.checkpoint()); };
  const std::string abc = R"({"a":0,"b":1,"ab":2,"<|endoftext|>":3})";
  CHECK(merged(abc, "#version: 0.2\na b\n").encode("ab") == std::vector<TokenId>{2});
  CHECK(merged(abc, "a b").encode("ab") == std::vector<TokenId>{2});
  CHECK_THROWS_AS(merged(abc, "a\n"), FormatError);
  CHECK_THROWS_AS(merged(abc, "a b c\n"), FormatError);
  CHECK_THROWS_AS(merged(abc, "a \xFF\n"), FormatError);
  CHECK_THROWS_AS(merged(abc, "a z\n"), ConfigError);
  CHECK_THROWS_AS(merged("[1]", "a b\n"), ConfigError);
  CHECK_THROWS_AS(merged("{", "a b\n"), FormatError);
  CHECK_THROWS_AS(merged(R"({"a":"b"})", ""), ConfigError);
  CHECK_THROWS_AS(Tokenizer::load(Files{{{"vocab.json", abc}}}.checkpoint()), FileError);
  CHECK_THROWS_AS(Tokenizer::load(Files{{{"config.json", "{}"}}}.checkpoint()), FileError);
  CHECK_THROWS_AS(Tokenizer::load(Files{{{"spiece.model", unk + spec}, {"tokenizer_config.json", R"({"tokenizer_class":"XLNetTokenizer"})"}}}.checkpoint()), UnsupportedError);
}

TEST_CASE("a damaged SentencePiece file never does worse than an error", "[tokenizer]") {
  const std::string whole = bytes_of(test_data("tokenizer/files/t5/spiece.model"));
  std::uint32_t random = 1;
  const auto next = [&](std::size_t below) { return (random = random * 1664525U + 1013904223U) / 256U % below; };
  for (int round = 0; round < 150; ++round) {
    std::string bytes = whole.substr(0, round % 3 == 0 ? next(whole.size()) : whole.size());
    // The map is most of the file: hit the pieces and the specification, too.
    for (std::size_t i = 0; i < 1 + next(4) && !bytes.empty(); ++i) bytes[round % 2 == 0 ? next(bytes.size()) : next(std::min<std::size_t>(bytes.size(), 2500))] = static_cast<char>(next(256));
    std::string text;
    try {
      const Tokenizer tokenizer = from_model(bytes, "spiece.model");
      text = tokenizer.decode(tokenizer.encode("The bicycle \xEF\xAC\x81 12"));
    } catch (const Error&) {
    }
    CHECK(unicode::is_valid(text));
  }
}

TEST_CASE("published tokenizers without a tokenizer.json equal the reference", "[tokenizer][shared]") {
  if (!reference_tokenizers()) return;
  struct Case {
    const char *name, *path;
    std::vector<const char*> files;      // besides what `more` holds
    std::map<std::string, std::string> more;
  };
  const std::string opt_config = R"({"model_type":"blip-2","text_config":{"model_type":"opt"}})";
  const std::vector<Case> cases = {
      {"llama2", "llama2", {"tokenizer.model"}, {}},
      {"llama2", "llama2", {"tokenizer.model", "tokenizer_config.json"}, {}},
      {"llama2-nonlegacy", "llama2", {"tokenizer.model"}, {{"tokenizer_config.json", R"({"tokenizer_class":"LlamaTokenizer","legacy":false})"}}},
      {"llava15", "llama2", {"tokenizer.model"}, {{"tokenizer_config.json", R"({"tokenizer_class":"LlamaTokenizer","added_tokens_decoder":{
        "32000":{"content":"<image>","special":true},"32001":{"content":"<pad>","special":true}},"pad_token":"<pad>"})"}}},
      {"llava15", "llama2", {"tokenizer.model"}, {{"added_tokens.json", R"({"<pad>":32001,"<image>":32000})"}, {"special_tokens_map.json", R"({"extra_special_tokens":["<image>"],"pad_token":"<pad>"})"}}},
      {"llama3", "llama3", {"tokenizer.model"}, {}},
      {"mistral-v1", "mistral-v1", {"tokenizer.model"}, {}},
      {"mistral-v3", "mistral-v3", {"tokenizer.model"}, {}},
      {"internlm2", "internlm2", {"tokenizer.model"}, {}},
      {"t5", "t5", {"spiece.model"}, {}},
      {"t5", "t5", {"spiece.model", "tokenizer_config.json"}, {}},
      {"kosmos2", "kosmos2", {"sentencepiece.bpe.model"}, {}},
      {"gpt2", "gpt2", {"vocab.json", "merges.txt"}, {}},
      {"roberta", "opt-roberta", {"vocab.json", "merges.txt"}, {}},
      {"opt", "opt-roberta", {"vocab.json", "merges.txt"}, {{"config.json", opt_config}}},
      {"qwen2_5_vl", "qwen2_5_vl", {"vocab.json", "merges.txt", "tokenizer_config.json"}, {}},
      {"whisper-large-v3", "whisper-large-v3", {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"}, {}},
      {"bert", "bert-base-uncased", {"vocab.txt"}, {}},
      {"qwen", "qwen", {"qwen.tiktoken"}, {}},
  };
  const auto corpus = json_lines(*shared_data("io/text/corpus.jsonl"));
  for (const Case& one : cases) {
    Files files;
    for (const char* file : one.files) files.contents[file] = bytes_of(*reference_tokenizers() + "/" + one.path + "/" + file);
    for (const auto& [file, text] : one.more) files.contents[file] = text;
    const Tokenizer tokenizer = Tokenizer::load(files.checkpoint());
    for (const Json& line : json_lines(*shared_data(std::string("io/tokens/") + one.name + ".jsonl"))) {
      const std::string text = input(corpus[line["i"].as<std::size_t>()]);
      INFO(one.name << ", " << files.contents.size() << " files: " << text);
      const auto ids = line["ids"].as_vector<TokenId>();
      const auto with_special = line.contains("ids_sp") ? line["ids_sp"].as_vector<TokenId>() : ids;
      CHECK(tokenizer.encode(text, false) == ids);
      CHECK(tokenizer.encode(text) == with_special);
      CHECK(tokenizer.decode(with_special) == line["dec"].as_string());
      CHECK(tokenizer.decode(with_special, true) == line[line.contains("dec_skip") ? "dec_skip" : "dec"].as_string());
    }
    for (const Json& line : json_lines(*shared_data(std::string("io/tokens/") + one.name + ".pairs.jsonl"))) {
      const auto pair = tokenizer.encode_pair(line["a"].as_string(), line["b"].as_string());
      CHECK(pair.ids == line["ids"].as_vector<TokenId>());
      CHECK(pair.type_ids == line["type_ids"].as_vector<TokenId>());
    }
    for (const Json& line : json_lines(*shared_data(std::string("io/tokens/") + one.name + ".stream.jsonl")))
      CHECK(tokenizer.decode(line["ids"].as_vector<TokenId>(), line["skip"].as_bool()) == line["full"].as_string());
  }
}
