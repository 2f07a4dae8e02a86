// Flan-T5 base, 250 million parameters: reading a text of 128 and 512 tokens, what the decoder then keeps of it, and one more token for one sequence and
// for four beams, with 32 positions written.
#include "measure.hpp"
#include "shapes.hpp"
#include "support/random_t5.hpp"

namespace {

using namespace chiasm;

T5Config flan_t5_base() {
  T5Config c;
  c.d_model = 768, c.d_kv = 64, c.d_ff = 2048, c.num_layers = c.num_decoder_layers = c.num_heads = 12;
  c.dense_act_fn = Activation::gelu_tanh, c.is_gated_act = true;
  c.scale_decoder_outputs = false;
  return c;
}

const T5& t5(DType weights) {
  const T5Config c = flan_t5_base();
  return measure::only<T5>("flan_t5_base/" + std::string(name(weights)), [&] {
    return std::make_unique<const T5>(random_t5(c, weights, RandomWeights(1, shapes::period)), c);
  });
}

std::vector<TokenId> text(std::size_t length) {
  std::vector<TokenId> ids(length);
  for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 32000);
  return ids;
}

/// Numbers in the matrices of one block without its cross-attention, and in those of the latter.
double block_size(const T5Config& c) { return static_cast<double>(c.d_model * (4 * c.num_heads * c.d_kv + 3 * c.d_ff)); }
double cross_size(const T5Config& c) { return static_cast<double>(4 * c.d_model * c.num_heads * c.d_kv); }

void encode(benchmark::State& state, const std::string& name, DType weights, Compute compute, std::size_t length, std::size_t) {
  const T5& model = t5(weights);
  const T5Config& c = model.config();
  Context& ctx = measure::context(compute);
  const std::vector<TokenId> ids = text(length);
  const double seconds = measure::run(state, name, [&] { benchmark::DoNotOptimize(model.encode(ctx, model.embed(ctx, ids)).data()); });
  const auto tokens = static_cast<double>(length), layers = static_cast<double>(c.num_layers);
  measure::add_machine(state, ctx);
  measure::add_flops(state, ctx, layers * (2 * tokens * block_size(c) + 4 * tokens * tokens * static_cast<double>(c.num_heads * c.d_kv)), seconds);
  state.SetItemsProcessed(static_cast<std::int64_t>(length) * state.iterations());
}

/// The keys and values of the cross-attention.
void keep(benchmark::State& state, const std::string& name, DType weights, Compute compute, std::size_t length, std::size_t) {
  const T5& model = t5(weights);
  const T5Config& c = model.config();
  Context& ctx = measure::context(compute);
  const Tensor encoded = model.encode(ctx, model.embed(ctx, text(length)));
  const double seconds = measure::run(state, name, [&] { benchmark::DoNotOptimize(model.decoder(ctx, encoded).get()); });
  measure::add_machine(state, ctx);
  measure::add_flops(state, ctx, static_cast<double>(c.num_decoder_layers * length) * cross_size(c), seconds);  // two of its four matrices
}

void decode(benchmark::State& state, const std::string& name, DType weights, Compute compute, std::size_t length, std::size_t beams) {
  constexpr std::size_t written = 32;
  const T5& model = t5(weights);
  const T5Config& c = model.config();
  Context& ctx = measure::context(compute);
  const auto lm = model.bind(ctx, model.embed(ctx, text(length)));
  std::vector<KvCache> caches(beams);
  std::vector<Sequence> batch;
  for (KvCache& cache : caches) {
    cache = lm->new_cache();
    (void)lm->forward(ctx, lm->embed(ctx, text(written)), cache);
    batch.push_back({&cache, 1});
  }
  const std::vector<TokenId> ids = text(beams);
  const double seconds = measure::run(state, name, [&] {
    for (KvCache& cache : caches) cache.truncate(written);
    benchmark::DoNotOptimize(lm->logits(ctx, lm->forward(ctx, lm->embed(ctx, ids), batch)).data());  // (beams, 32128)
  });
  // Of the cross-attention, the matrices of keys and values are not read again.
  const double numbers = static_cast<double>(c.num_decoder_layers) * (block_size(c) + cross_size(c) / 2) + static_cast<double>(c.vocab_size * c.d_model);
  measure::add_machine(state, ctx);
  measure::add_bytes(state, ctx, numbers * static_cast<double>(size_of(weights)), seconds);
  state.SetItemsProcessed(static_cast<std::int64_t>(beams) * state.iterations());
}

const bool registered = [] {
  // One model at a time, so all of its work comes in a row.
  for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)}) {
    const auto add = [weights = weights, compute = compute](const std::string& work, auto run, std::size_t length, std::size_t beams) {
      const std::string name = measure::label("flan_t5_base/" + work, weights, compute);
      benchmark::RegisterBenchmark(name.c_str(), run, name, weights, compute, length, beams)
          ->UseRealTime()
          ->MinTime(measure::min_seconds)
          ->Unit(benchmark::kMillisecond);
    };
    add("encode_128", encode, 128, 1);
    add("encode_512", encode, 512, 1);
    add("keep_512", keep, 512, 1);
    add("decode_512", decode, 512, 1);
    add("decode_512_beams_4", decode, 512, 4);
  }
  return true;
}();

}  // namespace
