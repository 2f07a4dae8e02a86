// Perceiver Resamplers, one picture at a time: OpenFlamingo's behind ViT-L/14, and IDEFICS-9B's behind ViT-H/14.
#include "family_shapes.hpp"
#include "measure.hpp"

namespace {

using namespace chiasm;

struct Work {
  PerceiverResamplerConfig config;
  std::size_t seen;  // rows of a picture
};

const Work open_flamingo{shapes::open_flamingo_resampler, 256};
const Work idefics{shapes::idefics_resampler, 257};

double flops(const Work& work) {
  const PerceiverResamplerConfig& c = work.config;
  const auto width = static_cast<double>(c.width), inner = static_cast<double>(c.heads * c.head_dim), latents = static_cast<double>(c.latents);
  const double rows = static_cast<double>(work.seen) + latents;
  const double attention = 4 * rows * width * inner + 4 * latents * width * inner + 4 * latents * rows * inner;
  return static_cast<double>(c.depth) * (attention + 4 * latents * width * static_cast<double>(c.intermediate_size));
}

void resample(benchmark::State& state, const std::string& name, const Work& work, DType weights, Compute compute) {
  const PerceiverResampler& resampler = measure::only<PerceiverResampler>(
      "perceiver/" + std::to_string(work.config.width) + std::string(chiasm::name(weights)),
      [&] { return std::make_unique<const PerceiverResampler>(shapes::random_resampler(work.config, weights), work.config); });
  Context& ctx = measure::context(compute);
  Tensor seen = ctx.empty(Shape{1, work.seen, work.config.width});
  for (std::size_t i = 0; i < seen.size(); ++i) seen.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  const double seconds = measure::run(state, name, [&] { benchmark::DoNotOptimize(resampler(ctx, seen).data()); });  // (1, 64, D)
  measure::add_machine(state, ctx);
  measure::add_flops(state, ctx, flops(work), seconds);
}

const bool registered = [] {
  for (const auto& [name, work] : {std::pair("perceiver_open_flamingo/read", &open_flamingo), std::pair("perceiver_idefics_9b/read", &idefics)})
    for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)}) {
      const std::string label = measure::label(name, weights, compute);
      benchmark::RegisterBenchmark(label.c_str(), resample, label, *work, weights, compute)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    }
  return true;
}();

}  // namespace
