// Tokenizers: megabytes of text per second on one thread, and the time to load. The tiny tokenizers of tests/golden always;
// published ones where CHIASM_TOKENIZERS names a folder of them, one subfolder with a tokenizer.json each.
#include <chiasm/io/tokenizer.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#ifndef CHIASM_SOURCE_DIR
#define CHIASM_SOURCE_DIR "."
#endif

namespace {

using namespace chiasm;

// Prose, code, numbers and other scripts, in an order that does not repeat.
const std::string& mixed_text() {
  static const std::string text = [] {
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
  for (auto _ : state) tokens = tokenizer.encode(mixed_text()).size();
  state.SetBytesProcessed(static_cast<std::int64_t>(mixed_text().size()) * state.iterations());
  state.counters["bytes/token"] = static_cast<double>(mixed_text().size()) / static_cast<double>(tokens);
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
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      for (const char* name : {"tokenizer.json", "ref_tokenizer.json"})
        if (std::filesystem::exists(entry.path() / name)) published.push_back((entry.path() / name).string());
    std::sort(published.begin(), published.end());
    files.insert(files.end(), published.begin(), published.end());
  }
  for (const std::string& file : files) {
    const std::string name = std::filesystem::path(file).parent_path().filename().string();
    const auto add = [&](const std::string& what, void (*run)(benchmark::State&, const std::string&)) {
      benchmark::RegisterBenchmark(("tokenizer/" + what + "/" + name).c_str(), run, file)->Unit(benchmark::kMillisecond);
    };
    add("encode", encode);
    add("encode_prompts", encode_prompts);
    add("decode", decode);
    add("stream", stream);
    add("load", load);
  }
  return true;
}();

}  // namespace
