// Whole models of published widths, of whose deep parts the first layers: reading pictures and a prompt up to the logits of the first token, and one
// more token. BLIP-2 over OPT-2.7B (4 of 39 layers of the tower, 8 of 32 of the language model), one picture and 16 words; OpenFlamingo-3B (6 of 24
// layers of the language model, a gated block before each), three pictures and 96 tokens; IDEFICS-9B (8 of 32 and 4 of 32), two pictures and 96 tokens.
#include "family_shapes.hpp"
#include "measure.hpp"

#include <chiasm/nn/concat.hpp>

namespace {

using namespace chiasm;

struct Blip2 {
  Blip2(DType dtype, Compute compute)
      : see(shapes::laid_out(shapes::random_vit(shapes::vit_g_224(4), dtype), compute), shapes::vit_g_224(4)),
        read(shapes::laid_out(random_qformer(QFormerConfig(), dtype, RandomWeights(1, shapes::period)), compute), QFormerConfig()),
        speak(shapes::laid_out(shapes::random_opt(shapes::opt_2_7b(8), dtype), compute), shapes::opt_2_7b(8)) {
    RandomWeights random(3, shapes::period);
    random.add("weight", Shape{2560, 768}, 1 / std::sqrt(768.0), 0, dtype);
    random.add("bias", Shape{2560}, 0.1);
    project = Linear(shapes::laid_out(random.weights(), compute), 768, 2560);
  }

  static constexpr std::size_t pictures = 1, side = 224, tokens = 16;
  const LanguageModel& model() const { return speak; }
  std::shared_ptr<const LanguageModel> bind(Context&, View, std::span<const TokenId>) const { return {}; }
  Tensor features(Context& ctx, View pixels) const { return project(ctx, read(ctx, see.post_layernorm(ctx, see(ctx, pixels)))); }  // (1, 32, D)
  Tensor input(Context& ctx, View features, std::span<const TokenId> ids) const { return concat(ctx, {features[0], speak.embed(ctx, ids)}); }

  Vit see;
  QFormer read;
  Opt speak;
  Linear project;
};

struct OpenFlamingo {
  OpenFlamingo(DType dtype, Compute compute)
      : see(shapes::laid_out(shapes::random_vit(shapes::vit_l_224(), dtype), compute), shapes::vit_l_224()),
        resample(shapes::laid_out(shapes::random_resampler(shapes::open_flamingo_resampler, dtype), compute), shapes::open_flamingo_resampler),
        speak(std::make_unique<Mpt>(shapes::laid_out(shapes::random_mpt(shapes::mpt_1b(6), dtype), compute), shapes::mpt_1b(6)), shapes::random_gates(shapes::open_flamingo_3b_gate, 6, dtype), {0, 1}) {}

  static constexpr std::size_t pictures = 3, side = 224, tokens = 96;
  const LanguageModel& model() const { return speak; }
  std::shared_ptr<const LanguageModel> bind(Context& ctx, View media, std::span<const TokenId> ids) const { return speak.bind(ctx, media, media_runs(ids, 1)); }
  Tensor features(Context& ctx, View pixels) const {  // (N, 64, 1024)
    const Tensor seen = see(ctx, pixels);             // (N, 257, 1024)
    Tensor patches = ctx.empty(Shape{seen.shape()[0], seen.shape()[1] - 1, seen.columns()});
    for (std::size_t n = 0; n < patches.shape()[0]; ++n) std::memcpy(patches.row(n * 256), seen.row(n * 257 + 1), 256 * seen.columns() * sizeof(float));
    return resample(ctx, patches);
  }
  Tensor input(Context& ctx, View, std::span<const TokenId> ids) const { return speak.embed(ctx, ids); }

  Vit see;
  PerceiverResampler resample;
  GatedDecoder speak;
};

struct Idefics {
  Idefics(DType dtype, Compute compute)
      : see(shapes::laid_out(shapes::random_vit(shapes::vit_h_224(8), dtype), compute), shapes::vit_h_224(8)),
        resample(shapes::laid_out(shapes::random_resampler(shapes::idefics_resampler, dtype), compute), shapes::idefics_resampler),
        speak(std::make_unique<Decoder>(shapes::laid_out(random_decoder(shapes::llama_7b(4), dtype, RandomWeights(1, shapes::period)), compute), shapes::llama_7b(4)),
              shapes::random_gates(shapes::idefics_9b_gate, 1, dtype), {0, 4}) {}

  static constexpr std::size_t pictures = 2, side = 224, tokens = 96;
  const LanguageModel& model() const { return speak; }
  std::shared_ptr<const LanguageModel> bind(Context& ctx, View media, std::span<const TokenId> ids) const { return speak.bind(ctx, media, media_runs(ids, 1)); }
  Tensor features(Context& ctx, View pixels) const { return resample(ctx, see(ctx, pixels)); }  // (N, 64, 1280)
  Tensor input(Context& ctx, View, std::span<const TokenId> ids) const { return speak.embed(ctx, ids); }

  Vit see;
  PerceiverResampler resample;
  GatedDecoder speak;
};

/// Words, and the media token 1 at even distances; BLIP-2's pictures stand before them.
template <class Model>
std::vector<TokenId> prompt() {
  std::vector<TokenId> ids(Model::tokens);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(2 + i * 7919 % 31000);
  for (std::size_t n = 0; n < Model::pictures; ++n) ids[n * Model::tokens / Model::pictures] = 1;
  return ids;
}

template <class Model>
Tensor pictures(Context& ctx) {
  Tensor pixels = ctx.empty(Shape{Model::pictures, 3, Model::side, Model::side});
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  return pixels;
}

template <class Model>
void forward(benchmark::State& state, const std::string& name, const std::string& family, DType weights, Compute compute) {
  const Model& m = measure::only<Model>(family + measure::kind_of(chiasm::name(weights), compute), [&] { return std::make_unique<const Model>(weights, compute); });
  Context& ctx = measure::context(compute);
  const Tensor pixels = pictures<Model>(ctx);
  const std::vector<TokenId> ids = prompt<Model>();
  KvCache cache = m.model().new_cache();
  measure::run(state, name, [&] {
    cache.truncate(0);
    const Tensor seen = m.features(ctx, pixels);
    const auto bound = m.bind(ctx, seen, ids);
    const LanguageModel& lm = bound ? *bound : m.model();
    const Tensor hidden = lm.forward(ctx, m.input(ctx, seen, ids), cache);
    benchmark::DoNotOptimize(lm.logits(ctx, hidden.slice(hidden.rows() - 1, 1)).data());
  });
  measure::add_machine(state, ctx);
}

template <class Model>
void decode(benchmark::State& state, const std::string& name, const std::string& family, DType weights, Compute compute) {
  const Model& m = measure::only<Model>(family + measure::kind_of(chiasm::name(weights), compute), [&] { return std::make_unique<const Model>(weights, compute); });
  Context& ctx = measure::context(compute);
  const std::vector<TokenId> ids = prompt<Model>(), next = {7};
  const Tensor seen = m.features(ctx, pictures<Model>(ctx));
  const auto bound = m.bind(ctx, seen, ids);
  const LanguageModel& lm = bound ? *bound : m.model();
  KvCache cache = lm.new_cache();
  (void)lm.forward(ctx, m.input(ctx, seen, ids), cache);
  const std::size_t length = cache.length();
  measure::run(state, name, [&] {
    cache.truncate(length);
    benchmark::DoNotOptimize(lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, next), cache)).data());
  });
  measure::add_machine(state, ctx);
  state.SetItemsProcessed(state.iterations());
}

template <class Model>
void add(const std::string& family) {
  for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)})
    for (const auto& [work, run] : {std::pair("forward", &forward<Model>), std::pair("decode", &decode<Model>)}) {
      const std::string name = measure::label(family + "/" + work, weights, compute);
      benchmark::RegisterBenchmark(name.c_str(), run, name, family, weights, compute)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    }
}

const bool registered = (add<Blip2>("blip2_opt_2.7b"), add<OpenFlamingo>("open_flamingo_3b"), add<Idefics>("idefics_9b"), true);

}  // namespace
