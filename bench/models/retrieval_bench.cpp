// BLIP-2's retrieval: a picture to its 32 vectors and 16 texts to theirs (ITC), and a picture beside each of 16 texts of 16 tokens (ITM). Of the 39 layers
// of the vision tower the first four.
#include "measure.hpp"
#include "shapes.hpp"
#include "support/random_qformer.hpp"

#include <chiasm/io/json.hpp>
#include <chiasm/models/blip2_itm.hpp>

namespace {

using namespace chiasm;

constexpr std::size_t texts = 16, length = 16;

Weights below(const std::string& parent, const Weights& weights) {
  return weights.renamed([&](std::string_view name) { return parent + "." + std::string(name); });
}

std::unique_ptr<const Blip2Itm> random_blip2_itm(DType dtype) {
  QFormerConfig c;
  c.text = true;
  RandomWeights heads(3, shapes::period);
  for (const auto& [name, out] : {std::pair("vision_projection", 256u), std::pair("text_projection", 256u), std::pair("itm_head", 2u)}) {
    heads.add(std::string(name) + ".weight", Shape{out, c.hidden_size}, 1 / std::sqrt(static_cast<double>(c.hidden_size)), 0, dtype);
    heads.add(std::string(name) + ".bias", Shape{out}, 0.1);
  }
  const Weights weights = below("vision_model", shapes::random_vit(shapes::vit_g_224(4), dtype))
                              .merged(below("qformer", random_qformer(c, dtype, RandomWeights(2, shapes::period))))
                              .merged(heads.weights());
  return std::make_unique<const Blip2Itm>(weights, Json::parse(R"({"model_type": "blip-2", "vision_config": {"num_hidden_layers": 4}, "qformer_config": {}})"));
}

const Blip2Itm& blip2_itm(DType weights) {
  return measure::only<Blip2Itm>("blip2_itm/" + std::string(name(weights)), [&] { return random_blip2_itm(weights); });
}

enum class Work { embed_image, embed_texts, match };

void run(benchmark::State& state, const std::string& name, Work work, DType weights, Compute compute) {
  const Blip2Itm& model = blip2_itm(weights);
  Context& ctx = measure::context(compute);
  Tensor pixels = ctx.empty(Shape{1, 3, 224, 224});
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  std::vector<TokenId> ids(texts * length);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 30000);
  const TextBatch batch{ids, length, {}};
  measure::run(state, name, [&] {
    const Tensor result = work == Work::embed_image ? model.embed_images(ctx, pixels)   // (1, 32, 256)
                          : work == Work::embed_texts ? model.embed_texts(ctx, batch)   // (16, 256)
                                                      : model.match(ctx, pixels, batch);  // (16, 2)
    benchmark::DoNotOptimize(result.data());
  });
  measure::add_machine(state, ctx);
  state.SetItemsProcessed(static_cast<std::int64_t>(work == Work::embed_image ? 1 : texts) * state.iterations());
}

const bool registered = [] {
  for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)})
    for (const auto& [title, work] : {std::pair("embed_image", Work::embed_image), std::pair("embed_16_texts", Work::embed_texts), std::pair("match_16_texts", Work::match)}) {
      const std::string name = measure::label(std::string("blip2_itm/") + title, weights, compute);
      benchmark::RegisterBenchmark(name.c_str(), run, name, work, weights, compute)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    }
  return true;
}();

}  // namespace
