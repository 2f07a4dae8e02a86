// What guessing brings: tokens per second with and without, in turns, and the ratio. Captions come from the bundled models. What a real model would say to
// larger requests is dictated to a Llama of 1.1 billion random parameters, which does all its work: a text read off a picture (the prompt has it, with other
// words here and there), and prose that was nowhere before. Drafts are dictated the same, with so many words of a hundred wrong.
#include "models/block_weights.hpp"
#include "models/measure.hpp"
#include "models/shapes.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <cctype>
#include <fstream>
#include <sstream>

namespace {

using namespace chiasm;

/// A language model that says what it is told to: token `script[p]` behind position p - 1.
class DictatedLm final : public LanguageModel {
 public:
  /// `wrong` of a hundred positions, spread evenly, say something else.
  DictatedLm(const LanguageModel& lm, std::vector<TokenId> script, std::size_t wrong = 0) : lm_(lm), script_(std::move(script)), wrong_(wrong) {}

  std::size_t vocab_size() const noexcept override { return lm_.vocab_size(); }
  std::size_t hidden_size() const noexcept override { return lm_.hidden_size(); }
  KvCache new_cache() const override { return lm_.new_cache(); }
  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return lm_.embed(ctx, ids); }
  using LanguageModel::forward;
  Tensor forward(Context& ctx, View x, std::span<const Sequence> batch, const BlockHook* hook) const override {
    end_ = batch[0].cache->length() + x.rows();
    return lm_.forward(ctx, x, batch, hook);
  }
  Tensor logits(Context& ctx, View hidden) const override {
    Tensor scores = lm_.logits(ctx, hidden);
    for (std::size_t t = 0; t < scores.rows(); ++t) {
      const std::size_t next = end_ - scores.rows() + t + 1;
      TokenId id = script_[next % script_.size()];
      if (next * 7919 % 100 < wrong_) id = id % 31000 + 1;
      scores.row(t)[id] = 1e6f;
    }
    return scores;
  }

 private:
  const LanguageModel& lm_;
  std::vector<TokenId> script_;
  std::size_t wrong_;
  mutable std::size_t end_ = 0;  // positions that the last pass reached
};

/// One id for a word or a mark, whatever its number: what a large vocabulary makes of plain text, nearly.
std::vector<TokenId> words(const std::string& file, std::size_t count) {
  std::ifstream stream(std::string(CHIASM_SOURCE_DIR) + "/" + file);
  std::vector<TokenId> ids;
  std::string word;
  const auto flush = [&] {
    if (word.empty()) return;
    std::uint32_t hash = 2166136261u;
    for (const char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
    ids.push_back(static_cast<TokenId>(3 + hash % 31000));
    word.clear();
  };
  for (char c; ids.size() < count && stream.get(c);) {
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (!letter) flush();
    if (!std::isspace(static_cast<unsigned char>(c))) word += c;
    if (!letter) flush();
  }
  ids.resize(std::min(ids.size(), count));
  return ids;
}

/// Generates both ways in turns, and compares medians: other load on the machine is in few runs. `run(options)` gives the times.
template <class Run>
void compare(benchmark::State& state, const GenerateOptions& plain, const GenerateOptions& guessing, Run run) {
  std::vector<double> seconds[2];  // of the same tokens
  std::size_t tokens = 0, proposed = 0, accepted = 0;
  (void)run(plain);
  for (auto _ : state)
    for (const bool guesses : {false, true}) {
      const GenerationTimes times = run(guesses ? guessing : plain);
      seconds[guesses].push_back(times.decode_seconds);
      if (!guesses) continue;
      tokens += times.decode_tokens;
      proposed += times.proposed_tokens;
      accepted += times.accepted_tokens;
    }
  for (std::vector<double>& runs : seconds) std::sort(runs.begin(), runs.end());
  const double without = seconds[0][seconds[0].size() / 2], with = seconds[1][seconds[1].size() / 2], count = static_cast<double>(tokens);
  state.counters["plain_tok/s"] = count / static_cast<double>(state.iterations()) / without;
  state.counters["tok/s"] = count / static_cast<double>(state.iterations()) / with;
  state.counters["ratio"] = without / with;
  state.counters["best_ratio"] = seconds[0][0] / seconds[1][0];
  state.counters["%guessed"] = 100 * static_cast<double>(accepted) / count;
  state.counters["%right"] = proposed == 0 ? 0 : 100 * static_cast<double>(accepted) / static_cast<double>(proposed);
}

void captions(benchmark::State& state, const std::string& style) {
  const Pipeline vlm = load(std::string(CHIASM_SOURCE_DIR) + "/examples/models/shapes-" + style);
  Context& ctx = measure::context(Compute::f32);
  std::vector<Image> images;
  for (int i = 1; i <= 12; ++i)
    images.push_back(load_image(std::string(CHIASM_SOURCE_DIR) + "/examples/pictures/shapes-" + (i < 10 ? "0" : "") + std::to_string(i) + ".png"));
  GenerateOptions plain, guessing;
  guessing.lookup.emplace();
  compare(state, plain, guessing, [&](const GenerateOptions& options) {
    GenerationTimes sum;
    for (const Image& image : images) {
      const GenerationTimes times = vlm.generate(ctx, vlm.caption_prompt(image), options).times;
      sum.decode_tokens += times.decode_tokens;
      sum.decode_seconds += times.decode_seconds;
      sum.proposed_tokens += times.proposed_tokens;
      sum.accepted_tokens += times.accepted_tokens;
    }
    return sum;
  });
  measure::add_machine(state, ctx);
}

struct Models {
  std::unique_ptr<const Decoder> large, small;
};
const Models& models(const std::string& weights, Compute compute) {
  return measure::only<Models>("speculative/" + measure::kind_of(weights, compute), [&] {
    const DecoderConfig large = shapes::llama_1b();
    DecoderConfig small = shapes::llama_1b(4);  // of a tenth of the work
    small.hidden_size = 1024, small.intermediate_size = 2816, small.num_attention_heads = 16;
    auto both = std::make_unique<Models>();
    const auto random = [&](const DecoderConfig& c) {
      const Weights made = shapes::random_llama(c, weights);
      return std::make_unique<const Decoder>(weights == "bf16" ? shapes::laid_out(made, compute) : made, c);
    };
    both->large = random(large), both->small = random(small);
    return std::unique_ptr<const Models>(std::move(both));
  });
}

constexpr std::size_t length = 160;  // of prompts and answers

/// "repeat": the answer is the prompt's text, each 25th word another. "prose": it is another text.
void dictated(benchmark::State& state, const std::string& weights, Compute compute, bool repeats, std::size_t wrong, bool looks_up, bool drafts) {
  const Models& lms = models(weights, compute);
  Context& ctx = measure::context(compute);
  const std::vector<TokenId> prompt = words("LICENSE", length), prose = words("README.md", 3 * length);
  std::vector<TokenId> script = prompt;
  for (std::size_t i = 0; i <= length; ++i)
    script.push_back(repeats ? (i % 25 == 24 ? static_cast<TokenId>(2) : prompt[i % length]) : prose[prose.size() - length - 1 + i]);
  const DictatedLm lm(*lms.large, script), draft(*lms.small, script, wrong);
  GenerateOptions plain, guessing;
  plain.max_new_tokens = guessing.max_new_tokens = length;
  if (looks_up) guessing.lookup.emplace();
  if (drafts) guessing.draft = &draft;
  compare(state, plain, guessing, [&](const GenerateOptions& options) {
    Generation generation(ctx, lm, lm.embed(ctx, prompt), options, prompt);
    while (generation.next()) {}
    return generation.times();
  });
  measure::add_machine(state, ctx);
}

const bool registered = [] {
  const auto add = [](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(("speculative/" + name).c_str(), run)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
  };
  for (const char* const style : {"llava", "blip2", "flamingo"})
    add("caption/" + std::string(style) + "/lookup", [style](benchmark::State& state) { captions(state, style); });
  for (const auto& [format, precision] : {std::pair("f32", Compute::f32), std::pair("bf16", Compute::f32), std::pair("bf16", Compute::bf16), std::pair("q4_0", Compute::bf16)}) {
    const std::string weights = format, kind = "/llama_1b/weights:" + weights + "/compute:" + std::string(name(precision));
    const Compute compute = precision;
    for (const bool repeats : {true, false})
      add((repeats ? "repeat/lookup" : "prose/lookup") + kind, [=](benchmark::State& state) { dictated(state, weights, compute, repeats, 0, true, false); });
    for (const std::size_t wrong : {10u, 30u, 90u})
      add("prose/draft_wrong_" + std::to_string(wrong) + kind, [=](benchmark::State& state) { dictated(state, weights, compute, false, wrong, false, true); });
    add("repeat/both" + kind, [=](benchmark::State& state) { dictated(state, weights, compute, true, 30, true, true); });
  }
  return true;
}();

}  // namespace
