// A Llama of 1.1 billion parameters: reading a prompt of 128 and 512 tokens, and one more token with 128 positions in the cache.
#include "measure.hpp"
#include "shapes.hpp"

namespace {

using namespace chiasm;

const Decoder& llama(DType weights) {
  const DecoderConfig c = shapes::llama_1b();
  return measure::only<Decoder>("llama_1b/" + std::string(name(weights)), [&] {
    return std::make_unique<const Decoder>(random_decoder(c, weights, RandomWeights(1, shapes::period)), c);
  });
}

std::vector<TokenId> prompt(std::size_t length) {
  std::vector<TokenId> ids(length);
  for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 31000);
  return ids;
}

void prefill(benchmark::State& state, const std::string& name, DType weights, Compute compute, std::size_t length) {
  const Decoder& lm = llama(weights);
  Context& ctx = measure::context(compute);
  const std::vector<TokenId> ids = prompt(length);
  KvCache cache = lm.new_cache();
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(0);
    const Tensor hidden = lm.forward(ctx, lm.embed(ctx, ids), cache);                    // (T, 2048)
    benchmark::DoNotOptimize(lm.logits(ctx, hidden.slice(length - 1, 1)).data());        // (1, 32000)
  });
  const DecoderConfig& c = lm.config();
  const auto tokens = static_cast<double>(length), width = static_cast<double>(c.num_attention_heads * c.head_dim);
  const double head = static_cast<double>(c.vocab_size * c.hidden_size);
  measure::add_machine(state, ctx);
  // Half of the scores are masked.
  const double attention = 2 * tokens * tokens * width * static_cast<double>(c.num_hidden_layers);
  measure::add_flops(state, ctx, 2 * tokens * (shapes::matrix_size(c) - head) + 2 * head + attention, seconds);
  state.SetItemsProcessed(static_cast<std::int64_t>(length) * state.iterations());
}

void decode(benchmark::State& state, const std::string& name, DType weights, Compute compute, std::size_t length) {
  const Decoder& lm = llama(weights);
  const DecoderConfig& c = lm.config();
  Context& ctx = measure::context(compute);
  KvCache cache = lm.new_cache();
  Tensor past = ctx.empty(Shape{length, c.num_key_value_heads * c.head_dim});
  for (std::size_t i = 0; i < past.size(); ++i) past.data()[i] = static_cast<float>(i * 7919 % 1009) / 500.0f - 1.0f;
  for (std::size_t i = 0; i < cache.layers(); ++i) cache[i].append(ctx, past, past);
  const std::vector<TokenId> id = prompt(1);
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(length);
    benchmark::DoNotOptimize(lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, id), cache)).data());  // (1, 32000)
  });
  const double bytes = shapes::matrix_size(c) * static_cast<double>(size_of(weights)), limit = measure::memory_rate(ctx);
  measure::add_machine(state, ctx);
  state.SetItemsProcessed(state.iterations());
  state.counters["GB/s"] = 1e-9 * bytes / seconds;
  if (limit > 0) state.counters["%memory"] = 1e-7 * bytes / seconds / limit;
}

const bool registered = [] {
  // One model at a time, so all of its work comes in a row.
  for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)}) {
    const auto add = [weights = weights, compute = compute](const std::string& work, auto run, std::size_t length) {
      const std::string name = measure::label("llama_1b/" + work, weights, compute);
      benchmark::RegisterBenchmark(name.c_str(), run, name, weights, compute, length)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    };
    add("prefill_128", prefill, 128);
    add("prefill_512", prefill, 512);
    add("decode_128", decode, 128);
  }
  return true;
}();

}  // namespace
