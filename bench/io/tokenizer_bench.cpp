// Tokenizers: megabytes of text per second on one thread, and the time to load. The tiny tokenizers of tests/golden always;
// published ones where CHIASM_TOKENIZERS names a folder of them, one subfolder with a tokenizer.json (or an older file) each. The text is the
// file that CHIASM_TOKENIZER_TEXT names, else one made here. bench/peers/tokenizer_peer.py runs this against Hugging Face's tokenizers.
#include <chiasm/io/tokenizer.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#ifndef CHIASM_SOURCE_DIR
#define CHIASM_SOURCE_DIR "."
#endif

namespace {

using namespace chiasm;

// Prose, code, numbers and other scripts, in an order that does not repeat.
const std::string& mixed_text() {
  static const std::string text = [] {
    if (const char* path = std::getenv("CHIASM_TOKENIZER_TEXT")) {
      std::ifstream file(path, std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(file), {});
    }
    const std::string_view parts[] = {
        "The quick brown fox jumps over the lazy dog. ", "What is the man in the picture holding? ", "I'd've thought they'll say we're done; it's John's.\n",
        "for (int i = 0; i < n; ++i) {\n    sum += values[i] * 0.5f;  // weighted\n}\n", "https://example.org/path/to/page?query=1&lang=en ",
        "Der Zug f\xC3\xA4hrt \xC3\xBC\x62\x65r die Br\xC3\xBC\x63ke. ", "\xE6\xBC\xA2\xE5\xAD\x97\xE3\x81\xA8\xE3\x81\x8B\xE3\x81\xAA\xE3\x80\x82",
        "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82, \xD0\xBC\xD0\xB8\xD1\x80! ", "3.14159 2718 42,000 ", "\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD "};
    std::string words;
    std::uint32_t random = 1;
    while (words.size() < 1000000) {
      random = random * 1664525U + 1013904223U;
      words += parts[random / 65536U % std::size(parts)];
      if (random % 7 == 0) {  // a word that was not there before
        for (std::uint32_t i = 0; i < 3 + random / 4096U % 7; ++i) words += static_cast<char>('a' + (random >> i * 3) % 26);
        words += ' ';
      }
    }
    return words;
  }();
  return text;
}

void encode(benchmark::State& state, const std::string& file) {
  const Tokenizer tokenizer = Tokenizer::load(file);
  std::size_t tokens = 0;
  double best = std::numeric_limits<double>::infinity();  // where other programs run, the processor time of the fastest call says most
  for (auto _ : state) {
    const std::clock_t start = std::clock();
    tokens = tokenizer.encode(mixed_text(), false).size();
    best = std::min(best, 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(mixed_text().size()) * state.iterations());
  state.counters["best_ms"] = best;
  state.counters["tokens"] = static_cast<double>(tokens);
}

// One word without an end: time per byte must not grow with its length.
void encode_word(benchmark::State& state, const std::string& file) {
  const Tokenizer tokenizer = Tokenizer::load(file);
  const auto kind = state.range(0), size = state.range(1);
  std::string word;
  std::uint32_t random = 1;
  while (static_cast<std::int64_t>(word.size()) < size) {
    random = random * 1664525U + 1013904223U;
    const std::uint32_t pick = random / 65536U;
    if (kind == 0) word += 'a';
    if (kind == 1) word += static_cast<char>('a' + pick % 26);
    if (kind == 2) word += pick % 5 == 0 ? "\xE6\xBC\xA2" : pick % 5 == 1 ? "\xC3\xBC" : pick % 5 == 2 ? "7" : pick % 5 == 3 ? "\xF0\x9F\x91\x8D" : "th";
    if (kind == 3) word += ' ';
  }
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(word, false));
  state.SetBytesProcessed(size * state.iterations());
}

void encode_prompts(benchmark::State& state, const std::string& file) {
  const Tokenizer tokenizer = Tokenizer::load(file);
  constexpr std::size_t prompt = 200;  // bytes
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(tokenizer.encode(std::string_view(mixed_text()).substr(at, prompt)));
    at = (at + prompt) % (mixed_text().size() - prompt);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(prompt) * state.iterations());
}

void decode(benchmark::State& state, const std::string& file) {
  const Tokenizer tokenizer = Tokenizer::load(file);
  const auto ids = tokenizer.encode(mixed_text());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  state.SetBytesProcessed(static_cast<std::int64_t>(mixed_text().size()) * state.iterations());
}

void stream(benchmark::State& state, const std::string& file) {
  const Tokenizer tokenizer = Tokenizer::load(file);
  const auto ids = tokenizer.encode(std::string_view(mixed_text()).substr(0, 20000));
  for (auto _ : state) {
    TokenStream pieces(tokenizer);
    for (const TokenId id : ids) benchmark::DoNotOptimize(pieces.push(id));
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(ids.size()) * state.iterations());
}

void load(benchmark::State& state, const std::string& file) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::load(file));
}

// Llama 3's pattern by its hand-written scanner, and by the general matcher: (?:) makes it an expression that has no scanner.
void pattern(benchmark::State& state, const std::string& suffix) {
  const Pattern pattern(
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)" + suffix);
  std::size_t pieces = 0;
  for (auto _ : state)
    for (Pattern::Search search(pattern, mixed_text()); search.next();) ++pieces;
  benchmark::DoNotOptimize(pieces);
  state.SetBytesProcessed(static_cast<std::int64_t>(mixed_text().size()) * state.iterations());
}
BENCHMARK_CAPTURE(pattern, scanner, std::string())->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(pattern, general, std::string("(?:)"))->Unit(benchmark::kMillisecond);

const bool registered = [] {
  std::vector<std::string> files;
  for (const char* name : {"llama", "qwen2", "clip", "t5"}) files.push_back(std::string(CHIASM_SOURCE_DIR) + "/tests/golden/tokenizer/" + name + "/tokenizer.json");
  if (const char* folder = std::getenv("CHIASM_TOKENIZERS")) {
    std::vector<std::string> published;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      for (const char* name : {"tokenizer.json", "ref_tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "qwen.tiktoken"}) {
        if (!std::filesystem::exists(entry.path() / name)) continue;
        published.push_back((entry.path() / name).string());
        break;
      }
    }
    std::sort(published.begin(), published.end());
    files.insert(files.end(), published.begin(), published.end());
  }
  for (const std::string& file : files) {
    const std::string name = std::filesystem::path(file).parent_path().filename().string();
    const auto add = [&](const std::string& what, void (*run)(benchmark::State&, const std::string&)) {
      benchmark::RegisterBenchmark(("tokenizer/" + what + "/" + name).c_str(), run, file)->Unit(benchmark::kMillisecond);
    };
    add("encode", encode);
    benchmark::RegisterBenchmark(("tokenizer/encode_word/" + name).c_str(), encode_word, file)
        ->ArgNames({"kind", "bytes"})
        ->ArgsProduct({{0, 1, 2, 3}, {1 << 16, 1 << 18, 1 << 20}})
        ->Unit(benchmark::kMillisecond);
    add("encode_prompts", encode_prompts);
    add("decode", decode);
    add("stream", stream);
    add("load", load);
  }
  return true;
}();

}  // namespace
