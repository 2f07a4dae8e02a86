// Image encoders, one picture at a time: ViT-L/14-336 as LLaVA-1.5 uses it (23 of 24 blocks, then the projector), ViT-B/16-224, and the first 4 of the 39
// blocks of BLIP-2's ViT-g/14-224.
#include "measure.hpp"
#include "shapes.hpp"

namespace {

using namespace chiasm;

/// As loading makes them.
Weights in(DType weights, Compute compute, Weights (*random)(const VitConfig&, DType), const VitConfig& c) {
  return weights == DType::q8_row ? random(c, DType::bf16).converting({.kind = WeightKind::i8}) : shapes::laid_out(random(c, weights), compute);
}

struct Encoder {
  Vit vit;
  Projector projector;
};

Tensor picture(Context& ctx, const VitConfig& c) {
  Tensor pixels = ctx.empty(Shape{1, c.num_channels, c.image_size, c.image_size});
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  return pixels;
}

void llava(benchmark::State& state, const std::string& name, DType weights, Compute compute) {
  const VitConfig c = shapes::vit_l_336();
  static constexpr std::size_t width = 4096;
  const Encoder& encoder = measure::only<Encoder>("vit_l_336/" + measure::kind_of(chiasm::name(weights), compute), [&] {
    return std::make_unique<const Encoder>(Encoder{Vit(in(weights, compute, shapes::random_vit, c), c),
                                                   Projector(in(weights, compute, [](const VitConfig& v, DType dtype) { return shapes::random_projector(v.hidden_size, width, dtype); }, c), c.hidden_size,
                                                             width, Activation::gelu, true)});
  });
  Context& ctx = measure::context(compute);
  const Tensor pixels = picture(ctx, c);
  const int layer[] = {-2};
  const double seconds = measure::run(state, name, [&] {
    const Tensor seen = encoder.vit.hidden_states(ctx, pixels, layer);                                       // (1, 577, 1024)
    const Tensor image = encoder.projector(ctx, seen.view()[0].slice(1, seen.shape()[1] - 1));               // (576, 4096)
    benchmark::DoNotOptimize(image.data());
  });
  const auto in = static_cast<double>(c.hidden_size), out = static_cast<double>(width);
  measure::add_machine(state, ctx);
  measure::add_flops(state, ctx, shapes::flops(c, c.num_hidden_layers - 1) + 2 * static_cast<double>(c.grid() * c.grid()) * out * (in + out), seconds);
}

void tower(benchmark::State& state, const std::string& name, DType weights, Compute compute, const std::string& model, const VitConfig& c) {
  const Vit& vit = measure::only<Vit>(model + "/" + measure::kind_of(chiasm::name(weights), compute), [&] { return std::make_unique<const Vit>(in(weights, compute, shapes::random_vit, c), c); });
  Context& ctx = measure::context(compute);
  const Tensor pixels = picture(ctx, c);
  const double seconds = measure::run(state, name, [&] { benchmark::DoNotOptimize(vit(ctx, pixels).data()); });  // (1, T, D)
  measure::add_machine(state, ctx);
  measure::add_flops(state, ctx, shapes::flops(c, c.num_hidden_layers), seconds);
}

void vit_b(benchmark::State& state, const std::string& name, DType weights, Compute compute) {
  tower(state, name, weights, compute, "vit_b_224", shapes::vit_b_224());
}
void vit_g(benchmark::State& state, const std::string& name, DType weights, Compute compute) {
  tower(state, name, weights, compute, "vit_g_224_4_blocks", shapes::vit_g_224(4));
}

const bool registered = [] {
  const auto add = [](const std::string& work, void (*run)(benchmark::State&, const std::string&, DType, Compute)) {
    for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16),
                                          std::pair(DType::q8_row, Compute::i8)}) {
      const std::string name = measure::label(work, weights, compute);
      benchmark::RegisterBenchmark(name.c_str(), run, name, weights, compute)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    }
  };
  add("vit_l_336/encode", llava);
  add("vit_b_224/encode", vit_b);
  add("vit_g_224_4_blocks/encode", vit_g);
  return true;
}();

}  // namespace
