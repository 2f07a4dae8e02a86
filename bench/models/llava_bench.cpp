// LLaVA end to end: CLIP's ViT-L/14-336 without its last block, the projector, the 1.1B Llama. A picture and a question of 40 tokens to the first token; the 64
// tokens after it. The picture half has bf16 weights.
#include "block_weights.hpp"
#include "measure.hpp"
#include "shapes.hpp"

namespace {

using namespace chiasm;

constexpr std::size_t question = 40, answer_length = 64;

struct Llava {
  Vit vit;
  Projector projector;
  Decoder speak;

  /// The question's first token, the picture, the rest of the question; the first token's logits.
  Tensor read(Context& ctx, View pixels, KvCache& cache) const {
    const int layer[] = {-2};
    const Tensor seen = vit.hidden_states(ctx, pixels, layer);                                    // (1, 577, 1024)
    const Tensor image = projector(ctx, seen.view()[0].slice(1, seen.shape()[1] - 1));            // (576, 2048)
    std::vector<TokenId> ids(question);
    for (std::size_t i = 0; i < question; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 31000);
    const Tensor words = speak.embed(ctx, ids);                                                   // (40, 2048)
    const std::size_t width = speak.hidden_size();
    Tensor x = ctx.empty(Shape{question + image.rows(), width});
    std::memcpy(x.data(), words.data(), width * sizeof(float));
    std::memcpy(x.data() + width, image.data(), image.bytes());
    std::memcpy(x.data() + width + image.size(), words.data() + width, (question - 1) * width * sizeof(float));
    const Tensor hidden = speak.forward(ctx, x, cache);                                           // (616, 2048)
    return speak.logits(ctx, hidden.slice(x.rows() - 1, 1));                                      // (1, 32000)
  }
};

const Llava& llava(const std::string& weights, Compute compute) {
  return measure::only<Llava>("llava_1b/" + measure::kind_of(weights, compute), [&] {
    const VitConfig vision = shapes::vit_l_336();
    const DecoderConfig text = shapes::llama_1b();
    const DType sight = weights == "f32" ? DType::f32 : DType::bf16;
    const Weights speech = shapes::random_llama(text, weights);
    return std::make_unique<const Llava>(
        Llava{Vit(shapes::laid_out(shapes::random_vit(vision, sight), compute), vision),
              Projector(shapes::laid_out(shapes::random_projector(vision.hidden_size, text.hidden_size, sight), compute), vision.hidden_size, text.hidden_size, Activation::gelu, true),
              Decoder(weights == "bf16" ? shapes::laid_out(speech, compute) : speech, text)});
  });
}

Tensor picture(Context& ctx) {
  Tensor pixels = ctx.empty(Shape{1, 3, 336, 336});
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  return pixels;
}

void first_token(benchmark::State& state, const std::string& name, const std::string& weights, Compute compute) {
  const Llava& model = llava(weights, compute);
  Context& ctx = measure::context(compute);
  const Tensor pixels = picture(ctx);
  KvCache cache = model.speak.new_cache();
  measure::run(state, name, [&] {
    cache.truncate(0);
    benchmark::DoNotOptimize(model.read(ctx, pixels, cache).data());
  });
  measure::add_machine(state, ctx);
}

void answer(benchmark::State& state, const std::string& name, const std::string& weights, Compute compute) {
  const Llava& model = llava(weights, compute);
  Context& ctx = measure::context(compute);
  KvCache cache = model.speak.new_cache();
  model.read(ctx, picture(ctx), cache);
  const std::size_t length = cache.length();
  const std::vector<TokenId> id{1};
  const double seconds = measure::run(state, name, [&] {
    cache.truncate(length);
    for (std::size_t i = 0; i < answer_length; ++i) benchmark::DoNotOptimize(model.speak.logits(ctx, model.speak.forward(ctx, model.speak.embed(ctx, id), cache)).data());
  });
  measure::add_machine(state, ctx);
  state.counters["tok/s"] = static_cast<double>(answer_length) / seconds;
}

const bool registered = [] {
  for (const auto& [weights, compute] : {std::pair("f32", Compute::f32), std::pair("bf16", Compute::bf16), std::pair("q8_0", Compute::bf16), std::pair("q4_0", Compute::bf16),
                                         std::pair("q4_k_m", Compute::bf16)}) {
    const auto add = [weights = std::string(weights), compute = compute](const char* work, auto run) {
      const std::string name = std::string("llava_1b/") + work + "/weights:" + weights + "/compute:" + (compute == Compute::f32 ? "f32" : "bf16");
      benchmark::RegisterBenchmark(name.c_str(), run, name, weights, compute)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    };
    add("first_token", first_token);
    add("answer", answer);
  }
  return true;
}();

}  // namespace
