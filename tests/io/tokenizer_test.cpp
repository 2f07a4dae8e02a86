#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer.hpp>

#include "support/catch.hpp"
#include "support/corpus.hpp"
#include "support/paths.hpp"
#include "support/reference_tokenizers.hpp"

#include <fstream>
#include <thread>

using namespace chiasm;

namespace {

void check_stream(const Tokenizer& tokenizer, const Json& line, const char* ids) {
  TokenStream stream(tokenizer, line["skip"].as_bool());
  std::string said;
  bool agreed = true;
  auto chunk = line["chunks"].begin();
  for (const TokenId id : line[ids].as_vector<TokenId>()) {
    const auto piece = stream.push(id);
    if (piece) {
      CHECK(unicode::is_valid(*piece));
      said += *piece;
    }
    if (!(chunk != line["chunks"].end())) continue;
    const Json want = *chunk;
    ++chunk;
    // {"error": ..}: the decoder unsaid a piece, where the reference gives up.
    if (want.is_object()) agreed = false;
    if (!agreed) continue;
    CHECK(piece.has_value() == want.is_string());
    if (piece && want.is_string()) CHECK(*piece == want.as_string());
  }
  const bool prefix = line["full"].as_string().starts_with(said);
  said += stream.flush();
  if (agreed && prefix) CHECK(said == line["full"].as_string());
}

// One tokenizer against the lines of the reference: {t | b64, ids, ids_sp, dec, dec_skip}, {a, b, ids, type_ids}, {stream, skip, chunks, full}.
void check_lines(const Tokenizer& tokenizer, const std::string& path) {
  for (const Json& line : json_lines(path)) {
    INFO(path << ": " << line.dump().substr(0, 300));
    if (line.contains("a")) {
      const auto pair = tokenizer.encode_pair(line["a"].as_string(), line["b"].as_string());
      CHECK(pair.ids == line["ids"].as_vector<TokenId>());
      CHECK(pair.type_ids == line["type_ids"].as_vector<TokenId>());
    } else if (line.contains("stream")) {
      check_stream(tokenizer, line, "stream");
    } else {
      const std::string text = input(line);
      const auto ids = line["ids_sp"].as_vector<TokenId>();
      CHECK(tokenizer.encode(text, false) == line["ids"].as_vector<TokenId>());
      CHECK(tokenizer.encode(text) == ids);
      CHECK(tokenizer.decode(ids) == line["dec"].as_string());
      CHECK(tokenizer.decode(ids, true) == line["dec_skip"].as_string());
    }
  }
}

std::string with_parts(const Json& base, const Json& parts) {
  std::string text = "{\"model\":" + base["model"].dump();
  for (const Json part : parts) text += ",\"" + std::string(part.key()) + "\":" + part.dump();
  return text + "}";
}

// A tokenizer.json around a model and other parts.
Tokenizer small(const std::string& model, const std::string& rest = "") {
  return Tokenizer::from_json(Json::parse("{\"model\":" + model + (rest.empty() ? "" : "," + rest) + "}"));
}
const std::string abc = R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";

}  // namespace

TEST_CASE("tiny tokenizers equal the reference", "[tokenizer]") {
  const std::string name = GENERATE("llama", "qwen2", "clip", "siglip", "t5", "bert", "opt");
  check_lines(Tokenizer::load(test_data("tokenizer/" + name)), test_data("tokenizer/" + name + "/expected.jsonl"));
}

TEST_CASE("every part of a tokenizer.json equals the reference", "[tokenizer]") {
  const Json base = Json::read(test_data("tokenizer/llama/tokenizer.json"));
  for (const Json& line : json_lines(test_data("tokenizer/components.jsonl"))) {
    INFO(line["parts"].dump());
    const Tokenizer tokenizer = Tokenizer::from_json(Json::parse(with_parts(base, line["parts"])));
    for (const Json text : line["texts"]) {
      INFO(text["t"].dump());
      const auto ids = text["ids"].as_vector<TokenId>();
      CHECK(tokenizer.encode(text["t"].as_string()) == ids);
      if (text.contains("dec")) CHECK(tokenizer.decode(ids) == text["dec"].as_string());
    }
    if (const Json pair = line.find("pair"); !pair.is_null()) {
      const auto encoding = tokenizer.encode_pair(pair["a"].as_string(), pair["b"].as_string());
      CHECK(encoding.ids == pair["ids"].as_vector<TokenId>());
      CHECK(encoding.type_ids == pair["type_ids"].as_vector<TokenId>());
    }
  }
}

TEST_CASE("published tokenizers equal the reference", "[tokenizer][shared]") {
  if (!reference_tokenizers()) return;
  const auto [name, file] = GENERATE(table<std::string, std::string>({{"llama2", "llama2/ref_tokenizer.json"},
                                                                      {"llama2-nonlegacy", "llama2/ref_tokenizer_nonlegacy.json"},
                                                                      {"llava15", "llava15/ref_tokenizer.json"},
                                                                      {"mistral-v1", "mistral-v1/ref_tokenizer.json"},
                                                                      {"mistral-v3", "mistral-v3/ref_tokenizer.json"},
                                                                      {"phi3", "phi3/tokenizer.json"},
                                                                      {"phi3v", "phi3v/tokenizer.json"},
                                                                      {"qwen", "qwen/ref_tokenizer.json"},
                                                                      {"qwen2_5_vl", "qwen2_5_vl/ref_tokenizer.json"},
                                                                      {"clip", "clip/tokenizer.json"},
                                                                      {"llama3", "llama3/ref_tokenizer.json"},
                                                                      {"gpt2", "gpt2/ref_tokenizer.json"},
                                                                      {"opt", "opt-roberta/ref_tokenizer.json"},
                                                                      {"roberta", "opt-roberta/roberta_tokenizer.json"},
                                                                      {"smollm2", "smollm2/tokenizer.json"},
                                                                      {"gpt-neox", "gpt-neox/ref_tokenizer.json"},
                                                                      {"t5", "t5/tokenizer.json"},
                                                                      {"bert", "bert-base-uncased/ref_tokenizer.json"},
                                                                      {"kosmos2", "kosmos2/ref_tokenizer.json"},
                                                                      {"internlm2", "internlm2/ref_tokenizer.json"},
                                                                      {"xlm-r", "xlm-r/ref_tokenizer.json"},
                                                                      {"whisper-large-v3", "whisper-large-v3/tokenizer.json"}}));
  INFO(name);
  const Tokenizer tokenizer = Tokenizer::load(*reference_tokenizers() + "/" + file);
  const auto corpus = json_lines(*shared_data("io/text/corpus.jsonl"));
  for (const Json& line : json_lines(*shared_data("io/tokens/" + name + ".jsonl"))) {
    const std::string text = input(corpus[line["i"].as<std::size_t>()]);
    INFO(text);
    const auto ids = line["ids"].as_vector<TokenId>();
    const auto with_special = line.contains("ids_sp") ? line["ids_sp"].as_vector<TokenId>() : ids;
    CHECK(tokenizer.encode(text, false) == ids);
    CHECK(tokenizer.encode(text) == with_special);
    CHECK(tokenizer.decode(with_special) == line["dec"].as_string());
    CHECK(tokenizer.decode(with_special, true) == line[line.contains("dec_skip") ? "dec_skip" : "dec"].as_string());
  }
  if (const auto path = shared_data("io/tokens/" + name + ".stream.jsonl")) {
    for (const Json& line : json_lines(*path)) {
      INFO(line.dump().substr(0, 300));
      check_stream(tokenizer, line, "ids");
    }
  }
  for (const Json& line : json_lines(*shared_data("io/tokens/" + name + ".pairs.jsonl"))) {
    const auto pair = tokenizer.encode_pair(line["a"].as_string(), line["b"].as_string());
    CHECK(pair.ids == line["ids"].as_vector<TokenId>());
    CHECK(pair.type_ids == line["type_ids"].as_vector<TokenId>());
  }
}

TEST_CASE("a checkpoint's folder names its tokens", "[tokenizer]") {
  const Tokenizer llama = Tokenizer::load(test_data("tokenizer/llama"));
  CHECK(llama.bos() == llama.id("<s>"));
  CHECK(llama.eos() == llama.id("</s>"));
  CHECK(llama.unk() == llama.id("<unk>"));
  CHECK(llama.bos() == 1);
  CHECK(llama.is_special(1));
  CHECK(llama.token(1) == "<s>");
  CHECK(llama.token(-1).empty());
  CHECK(llama.token(1 << 30).empty());
  CHECK_FALSE(llama.id("no such token"));
  CHECK(llama.decode(std::vector<TokenId>{-5, 1 << 30}) == "");
  CHECK_FALSE(Tokenizer::from_file(test_data("tokenizer/llama/tokenizer.json")).bos());
  const Tokenizer clip = Tokenizer::load(test_data("tokenizer/clip/tokenizer.json"));
  CHECK(clip.pad() == clip.eos());
  CHECK(clip.size() == 1210);
}

TEST_CASE("malformed tokenizers are refused by name", "[tokenizer]") {
  CHECK_THROWS_AS(Tokenizer::from_file("no/such/tokenizer.json"), FileError);
  CHECK_THROWS_AS(Tokenizer::load(test_data("tokenizer")), FileError);
  CHECK_THROWS_AS(Tokenizer::from_json(Json::parse("[]")), ConfigError);
  CHECK_THROWS_AS(Tokenizer::from_json(Json::parse("{}")), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"BPE","vocab":{"a":0},"merges":["a b"]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b","c"]]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"BPE","vocab":{"a":-1},"merges":[]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"BPE","vocab":{"a":2000000000},"merges":[]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"BPE","dropout":0.1,"vocab":{"a":0},"merges":[]})"), UnsupportedError);
  CHECK_THROWS_AS(small(R"({"type":"Unigram","vocab":[]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"Unigram","unk_id":5,"vocab":[["a",-1.0]]})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"WordPiece","unk_token":"[UNK]","vocab":{"a":0}})"), ConfigError);
  CHECK_THROWS_AS(small(R"({"type":"Telepathy"})"), UnsupportedError);
  CHECK_THROWS_AS(small(abc, R"("normalizer":{"type":"Telepathy"})"), UnsupportedError);
  CHECK_THROWS_AS(small(abc, R"("normalizer":{"type":"Precompiled","precompiled_charsmap":"////"})"), ConfigError);
  CHECK_THROWS_AS(small(abc, R"("pre_tokenizer":{"type":"Telepathy"})"), UnsupportedError);
  CHECK_THROWS_AS(small(abc, R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"[z-a]"},"behavior":"Isolated","invert":false})"), ConfigError);
  CHECK_THROWS_AS(small(abc, R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a)\\1"},"behavior":"Isolated","invert":false})"), UnsupportedError);
  CHECK_THROWS_AS(small(abc, R"("pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Sideways","invert":false})"), ConfigError);
  CHECK_THROWS_AS(small(abc, R"("post_processor":{"type":"Telepathy"})"), UnsupportedError);
  CHECK_THROWS_AS(small(abc, R"("decoder":{"type":"Telepathy"})"), UnsupportedError);
  CHECK_THROWS_AS(
      small(abc, R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}],"pair":[],"special_tokens":{}})"),
      ConfigError);
  // What is needed and missing is said when it is needed.
  const Tokenizer no_unknown = small(R"({"type":"Unigram","vocab":[["a",-1.0]]})");
  CHECK(no_unknown.encode("aa") == std::vector<TokenId>{0, 0});
  CHECK_THROWS_AS(no_unknown.encode("b"), ConfigError);
}

TEST_CASE("the malformed files of the reference collection", "[tokenizer][shared]") {
  const auto manifest = shared_data("io/robust/manifest.json");
  if (!manifest) return;
  std::size_t count = 0;
  for (const Json entry : Json::read(*manifest)) {
    const std::string file = entry.contains("file") ? entry["file"].as<std::string>() : std::string(entry.key());
    if (file.find("json/tok") == std::string::npos) continue;
    const std::string expect = entry["expect"].as<std::string>(), path = *shared_data("io/robust/" + file);
    INFO(file << ": " << expect);
    ++count;
    if (expect == "ok") {
      CHECK(Tokenizer::from_file(path).encode("ab") == std::vector<TokenId>{2});
    } else if (expect == "unsupported") {
      CHECK_THROWS_AS(Tokenizer::from_file(path), UnsupportedError);
    } else if (expect == "bad_json" || expect == "too_deep") {
      CHECK_THROWS_AS(Tokenizer::from_file(path), FormatError);
    } else if (expect == "ok_or_reject") {
      std::optional<Tokenizer> tokenizer;
      try {
        tokenizer = Tokenizer::from_file(path);
      } catch (const ConfigError&) {
      }
      if (tokenizer) CHECK(tokenizer->encode("ab") == std::vector<TokenId>{2});
    } else {
      CHECK_THROWS_AS(Tokenizer::from_file(path), ConfigError);
    }
  }
  CHECK(count > 8);
}

TEST_CASE("patterns", "[tokenizer]") {
  const auto matches = [](std::string_view source, std::string_view text) {
    const Pattern pattern(source);
    std::string found;
    Pattern::Search search(pattern, text);
    while (const auto match = search.next()) found += "[" + std::string(text.substr(match->begin, match->end - match->begin)) + "]";
    return found;
  };
  CHECK(matches("a+?b|c", "aabca") == "[aab][c]");
  CHECK(matches("(?i:'s)", "I'S 's '\xC5\xBF") == "['S]['s]['\xC5\xBF]");
  CHECK(matches("a{2}|b{,2}c", "aaabbbc") == "[aa][bbc]");
  CHECK(matches("a++a|b", "aab") == "[b]");
  CHECK(matches("(?<!a|xy)b", "abxybcb") == "[b]");
  CHECK(matches("(?:a*)*b", "aaab") == "[aaab]");
  CHECK(matches("[^\\s\\p{L}]+", "ab 12,\xE6\xBC\xA2") == "[12,]");
  CHECK(matches("x*", "axb") == "[][x][]");
  CHECK(matches("a{1", "a{1") == "[a{1]");
  for (const char* bad : {"(", ")", "[a", "*a", "a{3,2}", "\\", "[z-a]", "(?<n", "\\p{L", "\\x{110000}", "a{1000000}"}) CHECK_THROWS_AS(Pattern(bad), FormatError);
  for (const char* other : {"(a)\\1", "\\K", "(?(1)a)", "\\p{Klingon}", "(?<=a*)b", "((((a{1000}){1000}){1000}))", "\\X"}) CHECK_THROWS_AS(Pattern(other), UnsupportedError);
  CHECK_THROWS_AS(Pattern(std::string(100000, '(')), UnsupportedError);
  CHECK_THROWS_AS(matches("(?:a+)+b", std::string(60, 'a')), UnsupportedError);
  CHECK_THROWS_AS(matches("(a|b|ab)*c", std::string(3000, 'a')), UnsupportedError);
}

TEST_CASE("hand-written scanners do what their patterns say", "[tokenizer]") {
  // (?:) makes the same expression one that no scanner is written for.
  for (const char* source : {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
                             R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
                             R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
                             R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)"}) {
    const Pattern fast(source), general(std::string(source) + "(?:)");
    const std::string_view parts[] = {" ", "  ", "\n", "\r", "\t", "\xC2\xA0", "a", "S", "'", "'s", "'LL", "'\xC5\xBF", "7", "12345", "\xC2\xBD", "!", "?!",
                                      "\xE6\xBC\xA2", "\xF0\x9F\x91\x8D", "<|endoftext|>", "<|", "\xCC\x81"};
    std::uint32_t random = 1;
    const auto next = [&](std::uint32_t below) { return (random = random * 1664525U + 1013904223U) / 65536U % below; };
    for (int round = 0; round < 4000; ++round) {
      std::string text;
      for (std::uint32_t i = 0, n = next(9); i < n; ++i) text += parts[next(static_cast<std::uint32_t>(std::size(parts)))];
      Pattern::Search a(fast, text), b(general, text);
      for (;;) {
        const auto x = a.next(), y = b.next();
        if (!x && !y) break;
        INFO(source << " on " << text);
        REQUIRE(x.has_value());
        REQUIRE(y.has_value());
        REQUIRE(x->begin == y->begin);
        REQUIRE(x->end == y->end);
      }
    }
  }
}

TEST_CASE("long texts take time in proportion", "[tokenizer]") {
  // A megabyte of one word, of blanks, of ill-formed bytes: quadratic work would not end.
  for (const char* name : {"llama", "qwen2", "clip", "t5", "bert"}) {
    const Tokenizer tokenizer = Tokenizer::load(test_data(std::string("tokenizer/") + name));
    for (const std::string& part : {std::string("a"), std::string(" "), std::string("\n"), std::string("\xFF"), std::string("\xE2\x96\x81"), std::string("<s")}) {
      std::string text;
      for (int i = 0; i < 1 << 18; ++i) text += part;
      CHECK(tokenizer.encode(text).size() <= 3 * text.size() + 2);
    }
  }
}

TEST_CASE("long and short words merge alike", "[tokenizer]") {
  // The same word alone, where a scan finds the next merge, and many times without a break, where a heap does.
  const Tokenizer tokenizer = small(R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"aba":3,"ba":4,"aa":5,"c":6},"merges":["a a","a b","ab a","b a"]})");
  std::string word = "abaabbabaaab", text;
  std::vector<TokenId> ids;
  for (int i = 0; i < 40; ++i) {
    text += word + "c";
    for (const TokenId id : tokenizer.encode(word + "c")) ids.push_back(id);
  }
  CHECK(tokenizer.encode(text) == ids);
  // And so many times that positions are sorted by rank.
  const std::string once = text;
  const std::vector<TokenId> its = ids;
  while (text.size() < 100000) {
    text += once;
    ids.insert(ids.end(), its.begin(), its.end());
  }
  CHECK(tokenizer.encode(text) == ids);
  // Merges that call for an earlier one at once, and letters without any order.
  const Tokenizer contrary = small(
      R"({"type":"BPE","vocab":{"a":0,"b":1,"c":2,"abc":3,"ab":4,"bc":5,"abcabc":6,"ca":7,"aa":8,"x":9},"merges":["ab c","abc abc","a b","a bc","b c","c a","a a"]})");
  std::string letters;
  ids.clear();
  std::uint32_t random = 1;
  while (letters.size() < 60000) {
    std::string part;
    for (int i = 0; i < 30; ++i) part += "abc"[(random = random * 1664525U + 1013904223U) / 65536U % 3];
    part += 'x';  // nothing merges over it
    for (const TokenId id : contrary.encode(part)) ids.push_back(id);
    letters += part;
  }
  CHECK(contrary.encode(letters) == ids);
  CHECK(contrary.encode(letters.substr(0, 31 * 40)) == std::vector<TokenId>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(contrary.encode(letters.substr(0, 31 * 40)).size())));
}

TEST_CASE("a stream holds back unfinished characters and hands out the rest", "[tokenizer]") {
  const Tokenizer tokenizer = Tokenizer::load(test_data("tokenizer/qwen2"));
  const std::string text = "caf\xC3\xA9 \xF0\x9F\x91\x8D \xE6\xBC\xA2";
  const auto ids = tokenizer.encode(text);
  TokenStream stream(tokenizer);
  std::string said;
  for (const TokenId id : ids) {
    const auto piece = stream.push(id);
    if (!piece) continue;
    CHECK(unicode::is_valid(*piece));
    said += *piece;
  }
  CHECK(said + stream.flush() == text);
  CHECK(stream.flush().empty());
  // An unfinished tail comes out of flush().
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) stream.push(ids[i]);
  CHECK(unicode::is_valid(stream.flush()));
  // Bytes that never become a character do not pile up.
  const TokenId byte = *tokenizer.id("\xC4\xA2");
  std::size_t pieces = 0;
  for (int i = 0; i < 5000; ++i) pieces += stream.push(byte).has_value() ? 1 : 0;
  CHECK(pieces >= 4);
}

TEST_CASE("a tokenizer is shared between threads", "[tokenizer]") {
  const Tokenizer tokenizer = Tokenizer::load(test_data("tokenizer/llama"));
  const std::string text = "The small red bicycle near the old castle shows a strange picture.";
  const auto want = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += tokenizer.encode(text) != want || tokenizer.decode(want, true) != text ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("unicode", "[tokenizer]") {
  CHECK(std::string(unicode::version()) == "15.0.0");
  CHECK(unicode::replace_invalid("\xF0\x9F\x98 x") == "\xEF\xBF\xBD x");
  CHECK(unicode::replace_invalid("\xED\xA0\x80") == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(unicode::normalise("e\xCC\x81", unicode::Form::nfc) == "\xC3\xA9");
  CHECK(unicode::normalise("\xEA\xB0\x81", unicode::Form::nfd) == "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8");
  CHECK(unicode::normalise("\xEF\xAC\x81", unicode::Form::nfkc) == "fi");
  CHECK(unicode::lower("\xC4\xB0\xCE\xA3") == "i\xCC\x87\xCF\x83");
  CHECK(unicode::grapheme_end("\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9x", 0) == 11);
  CHECK(unicode::script(0x6F22) == unicode::script_named("han"));
}
