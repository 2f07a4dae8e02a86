// The language models of BLIP-2 and OpenFlamingo by themselves, each of about 1.3 billion parameters: OPT-1.3B, MPT-1B (ALiBi) and Pythia-1.4B (GPT-NeoX,
// attention and feed-forward side by side). Reading a prompt of 128 and 512 tokens, and one more token with 128 positions in the cache.
#include "family_shapes.hpp"
#include "measure.hpp"

#include <chiasm/models/gpt_neox.hpp>

namespace {

using namespace chiasm;

struct Model {
  std::string name;
  std::unique_ptr<const LanguageModel> (*make)(DType weights, Compute compute);
  std::size_t layers, width, vocabulary;  // feed-forward layers are four times as wide

  /// Numbers in the matrices that a token goes through.
  double block_size() const { return 12.0 * static_cast<double>(width * width); }
  double size() const { return static_cast<double>(layers) * block_size() + static_cast<double>(vocabulary * width); }
};

std::unique_ptr<const LanguageModel> opt(DType weights, Compute compute) {
  const OptConfig c = shapes::opt_1_3b();
  return std::make_unique<const Opt>(shapes::laid_out(shapes::random_opt(c, weights), compute), c);
}
std::unique_ptr<const LanguageModel> mpt(DType weights, Compute compute) {
  const MptConfig c = shapes::mpt_1b(24);
  return std::make_unique<const Mpt>(shapes::laid_out(shapes::random_mpt(c, weights), compute), c);
}
std::unique_ptr<const LanguageModel> neox(DType weights, Compute compute) {
  const GptNeoxConfig c = shapes::pythia_1_4b();
  return std::make_unique<const GptNeox>(shapes::laid_out(shapes::random_gpt_neox(c, weights), compute), c);
}

const LanguageModel& language_model(const Model& model, DType weights, Compute compute) {
  return measure::only<LanguageModel>(model.name + "/" + measure::kind_of(name(weights), compute), [&] { return model.make(weights, compute); });
}

std::vector<TokenId> prompt(std::size_t length) {
  std::vector<TokenId> ids(length);
  for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 31000);
  return ids;
}

void prefill(benchmark::State& state, const std::string& name, const Model& model, DType weights, Compute compute, std::size_t length) {
  const LanguageModel& lm = language_model(model, weights, compute);
  Context& ctx = measure::context(compute);
  const std::vector<TokenId> ids = prompt(length);
  KvCache cache = lm.new_cache();
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(0);
    const Tensor hidden = lm.forward(ctx, lm.embed(ctx, ids), cache);                   // (T, 2048)
    benchmark::DoNotOptimize(lm.logits(ctx, hidden.slice(length - 1, 1)).data());       // (1, V)
  });
  const auto tokens = static_cast<double>(length), layers = static_cast<double>(model.layers), width = static_cast<double>(model.width);
  measure::add_machine(state, ctx);
  // Half of the scores are masked; only the last token has logits.
  measure::add_flops(state, ctx, 2 * tokens * layers * model.block_size() + 2 * static_cast<double>(model.vocabulary) * width + 2 * tokens * tokens * width * layers, seconds);
  state.SetItemsProcessed(static_cast<std::int64_t>(length) * state.iterations());
}

void decode(benchmark::State& state, const std::string& name, const Model& model, DType weights, Compute compute, std::size_t length) {
  const LanguageModel& lm = language_model(model, weights, compute);
  Context& ctx = measure::context(compute);
  KvCache cache = lm.new_cache();
  (void)lm.forward(ctx, lm.embed(ctx, prompt(length)), cache);
  const std::vector<TokenId> id = prompt(1);
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(length);
    benchmark::DoNotOptimize(lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, id), cache)).data());  // (1, V)
  });
  measure::add_machine(state, ctx);
  measure::add_bytes(state, ctx, model.size() * static_cast<double>(size_of(weights)), seconds);
  state.SetItemsProcessed(state.iterations());
}

const bool registered = [] {
  // One model at a time, so all of its work comes in a row.
  for (const Model& model : {Model{"opt_1.3b", opt, 24, 2048, 50272}, Model{"mpt_1b", mpt, 24, 2048, 50368}, Model{"pythia_1.4b", neox, 24, 2048, 50304}})
    for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)}) {
      const auto add = [&model, weights = weights, compute = compute](const std::string& work, auto run, std::size_t length) {
        const std::string name = measure::label(model.name + "/" + work, weights, compute);
        benchmark::RegisterBenchmark(name.c_str(), run, name, model, weights, compute, length)
            ->UseRealTime()
            ->MinTime(measure::min_seconds)
            ->Unit(benchmark::kMillisecond);
      };
      add("prefill_128", prefill, 128);
      add("prefill_512", prefill, 512);
      add("decode_128", decode, 128);
    }
  return true;
}();

}  // namespace
