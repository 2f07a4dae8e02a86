// BLIP-2's Q-Former: 32 queries read the 257 states of ViT-g, alone (BLIP-2) and beside an instruction of 32 tokens (InstructBLIP).
#include "measure.hpp"
#include "shapes.hpp"
#include "support/random_qformer.hpp"

#include <chiasm/modules/qformer.hpp>

namespace {

using namespace chiasm;

constexpr std::size_t states = 257;

const QFormer& qformer(DType weights) {
  QFormerConfig c;
  c.text = true;
  return measure::only<QFormer>("qformer/" + std::string(name(weights)), [&] {
    return std::make_unique<const QFormer>(random_qformer(c, weights, RandomWeights(1, shapes::period)), c);
  });
}

/// Operations with `words` beside the queries; a multiplication and an addition are two.
double flops(const QFormerConfig& c, std::size_t words) {
  const auto width = static_cast<double>(c.hidden_size), inner = static_cast<double>(c.intermediate_size), from = static_cast<double>(c.encoder_hidden_size);
  const auto queries = static_cast<double>(c.num_query_tokens), rows = queries + static_cast<double>(words), keys = static_cast<double>(states);
  const double layer = 2 * rows * width * (4 * width + 2 * inner) + 4 * rows * rows * width;
  const double cross = 4 * width * (queries * width + keys * from) + 4 * queries * keys * width;
  const std::size_t layers = c.num_hidden_layers, crossing = (layers + c.cross_attention_frequency - 1) / c.cross_attention_frequency;
  return static_cast<double>(layers) * layer + static_cast<double>(crossing) * cross;
}

void read(benchmark::State& state, const std::string& name, DType weights, Compute compute, std::size_t words) {
  const QFormer& model = qformer(weights);
  Context& ctx = measure::context(compute);
  Tensor image = ctx.empty(Shape{1, states, model.config().encoder_hidden_size});
  for (std::size_t i = 0; i < image.size(); ++i) image.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  std::vector<TokenId> ids(words);
  for (std::size_t i = 0; i < words; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 30000);
  const double seconds = measure::run(state, name, [&] {
    const Tensor seen = words == 0 ? model(ctx, image) : model(ctx, image, TextBatch{ids, words, {}});  // (1, 32 + words, 768)
    benchmark::DoNotOptimize(seen.data());
  });
  measure::add_machine(state, ctx);
  measure::add_flops(state, ctx, flops(model.config(), words), seconds);
}

const bool registered = [] {
  const auto add = [](const std::string& work, std::size_t words) {
    for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)}) {
      const std::string name = measure::label(work, weights, compute);
      benchmark::RegisterBenchmark(name.c_str(), read, name, weights, compute, words)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    }
  };
  add("qformer/read", 0);
  add("qformer/read_beside_32", 32);
  return true;
}();

}  // namespace
