// One gated cross-attention block: of OpenFlamingo-3B and of IDEFICS-9B. What it adds to reading a prompt of 256 tokens with four pictures, whose keys and
// values it makes then, and to each token of the answer.
#include "family_shapes.hpp"
#include "measure.hpp"

namespace {

using namespace chiasm;

constexpr std::size_t latents = 64, pictures = 4, prompt = 256;

const GatedCrossAttentionConfig& open_flamingo = shapes::open_flamingo_3b_gate;
const GatedCrossAttentionConfig& idefics = shapes::idefics_9b_gate;

/// Numbers in the matrices that a row goes through.
double size(const GatedCrossAttentionConfig& c) {
  const auto width = static_cast<double>(c.hidden_size), inner = static_cast<double>(c.heads * c.head_dim);
  return 2 * width * inner + (c.gated_mlp ? 3 : 2) * width * static_cast<double>(c.intermediate_size);
}

/// Of `rows` rows that see one picture each, and of the keys and values of `media` pictures.
double flops(const GatedCrossAttentionConfig& c, std::size_t rows, std::size_t media) {
  const auto inner = static_cast<double>(c.heads * c.head_dim);
  return static_cast<double>(rows) * (2 * size(c) + 4 * static_cast<double>(latents) * inner) +
         static_cast<double>(media * latents) * 4 * static_cast<double>(c.media_width) * inner;
}

void block(benchmark::State& state, const std::string& name, const GatedCrossAttentionConfig& c, bool answers, DType weights, Compute compute) {
  const GatedCrossAttention& look = measure::only<GatedCrossAttention>("gated/" + std::to_string(c.hidden_size) + std::string(chiasm::name(weights)), [&] {
    return std::make_unique<const GatedCrossAttention>(shapes::random_gate(c, weights), c);
  });
  Context& ctx = measure::context(compute);
  const auto filled = [&](Shape shape) {
    Tensor x = ctx.empty(shape);
    for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
    return x;
  };
  const Tensor media = filled(Shape{pictures, latents, c.media_width});
  const std::size_t rows = answers ? 1 : prompt;
  MediaKeysValues kv = look.keys_values(ctx, media);
  Tensor x = filled(Shape{rows, c.hidden_size});
  std::vector<MediaRun> runs;
  for (std::size_t n = answers ? pictures - 1 : 0; n < pictures; ++n) runs.push_back({answers ? 1 : prompt / pictures, n, 1, false});
  const double seconds = measure::run(state, name, [&] {
    if (!answers) kv = look.keys_values(ctx, media);
    look(ctx, x, kv, runs);
    for (std::size_t t = 0; t < rows; ++t) ctx.kernels().scale(0.25f, x.row(t), x.row(t), x.columns());  // or it would grow from run to run
    benchmark::DoNotOptimize(x.data());
  });
  measure::add_machine(state, ctx);
  if (answers) measure::add_bytes(state, ctx, size(c) * static_cast<double>(size_of(weights)), seconds);  // one block alone stays in a large cache
  else measure::add_flops(state, ctx, flops(c, rows, pictures), seconds);
}

const bool registered = [] {
  for (const auto& [model, config] : {std::pair("open_flamingo_3b", &open_flamingo), std::pair("idefics_9b", &idefics)})
    for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)})
      for (const auto& [what, answers] : {std::pair("prompt_256", false), std::pair("token", true)}) {
        const std::string name = measure::label("cross_attention_" + std::string(model) + "/" + what, weights, compute);
        benchmark::RegisterBenchmark(name.c_str(), block, name, *config, answers, weights, compute)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
      }
  return true;
}();

}  // namespace
