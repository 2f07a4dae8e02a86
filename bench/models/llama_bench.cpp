// Llamas of 1.1 and 7 billion parameters and a Qwen2 of half a billion: reading a prompt of 128 and 512 tokens, and one more token with 128 positions in
// the cache. Weights as floats, or in the formats of GGUF files.
#include "block_weights.hpp"
#include "measure.hpp"
#include "shapes.hpp"

namespace {

using namespace chiasm;

struct Model {
  std::string name;
  DecoderConfig (*config)();
  bool tied = false;
};

struct Run {
  Model model;
  std::string weights;
  Compute compute;
  std::size_t length;
};

const Decoder& decoder(const Run& run) {
  const DecoderConfig c = run.model.config();
  return measure::only<Decoder>(run.model.name + "/" + measure::kind_of(run.weights, run.compute), [&] {
    const Weights weights = shapes::random_llama(c, run.weights, run.model.tied);
    return std::make_unique<const Decoder>(run.weights == "bf16" ? shapes::laid_out(weights, run.compute) : weights, c);
  });
}

std::vector<TokenId> prompt(std::size_t length) {
  std::vector<TokenId> ids(length);
  for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 31000);
  return ids;
}

void prefill(benchmark::State& state, const std::string& name, const Run& run) {
  const Decoder& lm = decoder(run);
  Context& ctx = measure::context(run.compute);
  const std::vector<TokenId> ids = prompt(run.length);
  KvCache cache = lm.new_cache();
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(0);
    const Tensor hidden = lm.forward(ctx, lm.embed(ctx, ids), cache);                        // (T, 2048)
    benchmark::DoNotOptimize(lm.logits(ctx, hidden.slice(run.length - 1, 1)).data());        // (1, 32000)
  });
  const DecoderConfig& c = lm.config();
  const auto tokens = static_cast<double>(run.length), width = static_cast<double>(c.num_attention_heads * c.head_dim);
  const double head = static_cast<double>(c.vocab_size * c.hidden_size);
  measure::add_machine(state, ctx);
  // Half of the scores are masked.
  const double attention = 2 * tokens * tokens * width * static_cast<double>(c.num_hidden_layers);
  measure::add_flops(state, ctx, 2 * tokens * (shapes::matrix_size(c) - head) + 2 * head + attention, seconds);
  state.SetItemsProcessed(static_cast<std::int64_t>(run.length) * state.iterations());
}

void decode(benchmark::State& state, const std::string& name, const Run& run) {
  const Decoder& lm = decoder(run);
  const DecoderConfig& c = lm.config();
  Context& ctx = measure::context(run.compute);
  KvCache cache = lm.new_cache();
  Tensor past = ctx.empty(Shape{run.length, c.num_key_value_heads * c.head_dim});
  for (std::size_t i = 0; i < past.size(); ++i) past.data()[i] = static_cast<float>(i * 7919 % 1009) / 500.0f - 1.0f;
  for (std::size_t i = 0; i < cache.layers(); ++i) cache[i].append(ctx, past, past);
  const std::vector<TokenId> id = prompt(1);
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(run.length);
    benchmark::DoNotOptimize(lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, id), cache)).data());  // (1, 32000)
  });
  measure::add_machine(state, ctx);
  measure::add_bytes(state, ctx, shapes::matrix_bytes(c, run.weights, run.model.tied), seconds);
  state.SetItemsProcessed(state.iterations());
}

const bool registered = [] {
  // One model at a time, so all of its work comes in a row.
  const auto add = [](const Run& run, const char* work, auto measured) {
    const std::string name = run.model.name + "/" + work + "/weights:" + run.weights + "/compute:" + std::string(chiasm::name(run.compute));
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { measured(state, name, run); })
        ->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
  };
  const auto all = [&](const Model& model, const char* weights, Compute compute) {
    add({model, weights, compute, 128}, "prefill_128", prefill);
    add({model, weights, compute, 512}, "prefill_512", prefill);
    add({model, weights, compute, 128}, "decode_128", decode);
  };
  const Model llama_1b{"llama_1b", [] { return shapes::llama_1b(); }}, qwen2{"qwen2_0.5b", shapes::qwen2_0_5b, true}, llama_7b{"llama_7b", [] { return shapes::llama_7b(); }};
  all(llama_1b, "f32", Compute::f32);
  all(llama_1b, "bf16", Compute::f32);
  for (const char* weights : {"bf16", "q8_0", "q4_0", "q4_k_m"}) all(llama_1b, weights, Compute::bf16);
  all(llama_1b, "q8_row", Compute::i8);
  for (const char* weights : {"q8_0", "q4_0", "q4_k_m"}) all(qwen2, weights, Compute::bf16);
  for (const char* weights : {"q4_0", "q4_k_m"}) add({llama_7b, weights, Compute::bf16, 128}, "decode_128", decode);
  return true;
}();

}  // namespace
