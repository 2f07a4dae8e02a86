/// What holding an answer to a constraint costs a token, on vocabularies of 32'000 and 150'000 tokens: finding the allowed tokens, once and again,
/// and taking the others out of a row of scores. A decode step of a 1.1B model takes about 65'000 us on the machine of bench/results.
#include <chiasm/io/constraint.hpp>
#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/modules/decoder.hpp>
#include <chiasm/pipelines/generation.hpp>

#include "models/shapes.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <map>

using namespace chiasm;

namespace {

/// Byte-level words in the proportions of a published vocabulary: all bytes, then words of 1 to 12 letters, most with a blank before them, some with
/// digits and JSON's signs.
const Tokenizer& tokenizer(std::size_t size) {
  static std::map<std::size_t, Tokenizer> made;
  if (const auto found = made.find(size); found != made.end()) return found->second;
  std::string json = R"({"model": {"type": "BPE", "merges": [], "vocab": {)";
  std::uint64_t seed = 1;
  const auto below = [&](std::uint64_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
  };
  std::map<std::string, std::size_t> words;
  const auto add = [&](const std::string& word) { words.try_emplace(word, words.size()); };
  char32_t next = 256;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string letter;
    unicode::append(letter, visible ? byte : next++);
    add(letter);
  }
  while (words.size() < size) {
    const std::uint64_t kind = below(20);
    std::string word = below(3) ? "\xC4\xA0" : "";
    for (std::uint64_t i = 1 + below(12); i > 0; --i) {
      if (kind < 16)
        word += static_cast<char>('a' + below(26));
      else if (kind < 18)
        word += static_cast<char>('0' + below(10));
      else if (kind < 19)
        word += "\",:{}[] .-_"[below(11)] == ' ' ? std::string("\xC4\xA0") : std::string(1, "\",:{}[]-.-_"[below(11)]);
      else
        unicode::append(word, static_cast<char32_t>(0xC0 + below(60)));
    }
    add(word);
  }
  bool first = true;
  for (const auto& [word, id] : words) {
    std::string escaped;
    for (const char c : word) escaped += c == '"' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
    json += (first ? "\"" : ",\"") + escaped + "\":" + std::to_string(id);
    first = false;
  }
  json += R"(}}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"}, "added_tokens": [{"id": )" + std::to_string(size) +
          R"(, "content": "<end>", "special": true}]})";
  return made.emplace(size, Tokenizer::from_json(Json::parse(json))).first->second;
}

Constraint make(int kind) {
  switch (kind) {
    case 0: return Constraint::choices({"red", "green", "blue", "yellow", "none of them"});
    case 1: return Constraint::regex("[A-Z][a-z]+( [a-z]+){3,40}\\.");
    default:
      return Constraint::json_schema(std::string_view(
          R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "notes": {"type": "array", "items": {"type": "string", "maxLength": 200}},
              "child": {"$ref": "#"}}, "required": ["name", "age", "notes"]})"));
  }
}
constexpr const char* names[] = {"choices", "regex", "schema"};

/// Answers of up to 128 tokens, drawn evenly from what is allowed. `warm`: the constraint has been used before.
void masks(benchmark::State& state, std::size_t size, int kind, bool warm) {
  const auto vocabulary = Constraint::vocabulary(tokenizer(size));
  GenerateOptions options;
  options.max_new_tokens = 128;
  options.eos_token_id = std::vector<TokenId>{static_cast<TokenId>(size)};
  options.constraint = make(kind).on(vocabulary);
  std::vector<float> scores(size + 1);
  std::size_t tokens = 0;
  const auto answer = [&](std::uint64_t seed) {
    const DecodingRules rules(options, scores.size(), 1, 0);
    DecodingScratch scratch;
    std::vector<TokenId> ids;
    do {
      std::fill(scores.begin(), scores.end(), 0.0f);  // as a model would write them: in the time measured, too
      rules(ids, scores, scratch);
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      std::size_t word = static_cast<std::size_t>(seed >> 33) % scratch.allowed.size();
      while (scratch.allowed[word] == 0) word = (word + 1) % scratch.allowed.size();
      ids.push_back(static_cast<TokenId>(word * 64 + static_cast<std::size_t>(std::countr_zero(scratch.allowed[word]))));
      ++tokens;
    } while (!rules.finished(ids, scratch));
  };
  if (warm)
    for (std::uint64_t seed = 1; seed < 9; ++seed) answer(seed);
  tokens = 0;
  std::uint64_t seed = 0;
  for (auto _ : state) {
    if (!warm) {
      state.PauseTiming();
      options.constraint = make(kind).on(vocabulary);
      state.ResumeTiming();
    }
    answer(++seed % 8 + 1);
  }
  state.counters["us/token"] = benchmark::Counter(static_cast<double>(tokens) / 1e6, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void compile(benchmark::State& state, int kind) {
  for (auto _ : state) benchmark::DoNotOptimize(make(kind).source().size());
}

void vocabulary_of(benchmark::State& state, std::size_t size) {
  const Tokenizer& words = tokenizer(size);
  for (auto _ : state) benchmark::DoNotOptimize(Constraint::vocabulary(words));
}

/// Decoding of a 1.1B shape, free and held to the schema: tokens per second of 48 tokens.
void decode(benchmark::State& state, bool held) {
  static const DecoderConfig config = shapes::llama_1b();
  static const Weights weights = random_decoder(config, DType::bf16, RandomWeights(1, shapes::period));
  static const Decoder lm(weights, config);
  Context ctx;
  GenerateOptions options;
  options.max_new_tokens = 128;
  options.eos_token_id = std::vector<TokenId>{31999};
  if (held) options.constraint = make(2).on(tokenizer(31999));
  std::size_t tokens = 0;
  for (auto _ : state) {
    const std::vector<TokenId> prompt{1, 2, 3, 4};
    Generation answer(ctx, lm, lm.embed(ctx, prompt), options, prompt);
    for (int i = 0; i < 48 && answer.next(); ++i) ++tokens;
  }
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

const int registered = [] {
  for (const std::size_t size : {std::size_t{31999}, std::size_t{151999}}) {
    const std::string words = std::to_string(size + 1);
    benchmark::RegisterBenchmark(("vocabulary/" + words).c_str(), [=](benchmark::State& state) { vocabulary_of(state, size); })->Unit(benchmark::kMillisecond);
    for (int kind = 0; kind < 3; ++kind)
      for (const bool warm : {false, true})
        benchmark::RegisterBenchmark(("mask/" + words + "/" + names[kind] + (warm ? "/again" : "/first")).c_str(), [=](benchmark::State& state) { masks(state, size, kind, warm); })
            ->Unit(benchmark::kMillisecond);
  }
  for (int kind = 0; kind < 3; ++kind)
    benchmark::RegisterBenchmark((std::string("compile/") + names[kind]).c_str(), [=](benchmark::State& state) { compile(state, kind); })->Unit(benchmark::kMillisecond);
  for (const bool held : {false, true})
    benchmark::RegisterBenchmark(held ? "decode_1b/schema" : "decode_1b/free", [=](benchmark::State& state) { decode(state, held); })->Unit(benchmark::kMillisecond);
  return 0;
}();

}  // namespace
