// A language model with gated cross-attention as a machine: prompts in pieces, batches, what comes after the prompt. Its numbers are held against
// the reference in tests/models.
#include "support/near.hpp"
#include "support/random_decoder.hpp"

#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/modules/gated_decoder.hpp>

using namespace chiasm;

namespace {

constexpr TokenId image = 7;
constexpr std::size_t latents = 5, media_width = 20;
const std::vector<TokenId> prompt = {1, 9, image, 4, 4, image, image, 5, 11, 12};

GatedDecoder make_model(GatedLayers layers, std::size_t blocks) {
  RandomWeights random(3);
  const GatedCrossAttentionConfig c{.hidden_size = 48, .media_width = media_width, .heads = 3, .head_dim = 8};
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::string block = std::to_string(i) + ".";
    for (const char* norm : {"attn.norm", "ff.0"}) {
      random.add(block + norm + ".weight", Shape{48}, 0.1, 1);
      random.add(block + norm + ".bias", Shape{48}, 0.1);
    }
    random.add(block + "attn.to_q.weight", Shape{24, 48}, 0.3);
    random.add(block + "attn.to_kv.weight", Shape{48, media_width}, 0.3);
    random.add(block + "attn.to_out.weight", Shape{48, 24}, 0.3);
    random.add(block + "ff.1.weight", Shape{192, 48}, 0.15);
    random.add(block + "ff.3.weight", Shape{48, 192}, 0.1);
    random.add(block + "attn_gate", Shape{1}, 0.1, 0.9);
    random.add(block + "ff_gate", Shape{1}, 0.1, 0.9);
  }
  const Weights w = random.weights();
  std::vector<GatedCrossAttention> gated;
  for (std::size_t i = 0; i < blocks; ++i) gated.emplace_back(w / i, c);
  const DecoderConfig config = small_decoder();
  return GatedDecoder(std::make_unique<Decoder>(random_decoder(config), config), std::move(gated), layers);
}

Tensor pictures(std::size_t count, std::uint64_t seed = 5) {
  RandomWeights random(seed);
  random.add("media", Shape{count, latents, media_width}, 1);
  return random.weights().get("media").to_f32();
}

Tensor read(Context& ctx, const LanguageModel& lm, std::span<const TokenId> ids, KvCache& cache) { return lm.forward(ctx, lm.embed(ctx, ids), cache); }

}  // namespace

TEST_CASE("a prompt with pictures in pieces gives what it gives in one go") {
  Context ctx;
  const GatedDecoder blind = make_model({.first = 0, .interval = 2}, 2);
  const auto lm = blind.bind(ctx, pictures(3), media_runs(prompt, image));
  KvCache whole = lm->new_cache(), pieces = lm->new_cache();
  const Tensor expected = read(ctx, *lm, prompt, whole);
  std::size_t done = 0;
  for (const std::size_t count : {1u, 3u, 1u, 1u, 4u}) {
    CHECK(largest_difference(read(ctx, *lm, std::span(prompt).subspan(done, count), pieces), expected.slice(done, count)) < 2e-5);
    done += count;
  }
  CHECK(pieces.length() == prompt.size());
}

TEST_CASE("what follows a prompt sees what its last position sees") {
  Context ctx;
  const GatedDecoder blind = make_model({.first = 2, .interval = 3}, 1);
  const Tensor media = pictures(3);
  std::vector<TokenId> longer = prompt;
  longer.insert(longer.end(), {20, 21, 22});
  const auto lm = blind.bind(ctx, media, media_runs(prompt, image)), known = blind.bind(ctx, media, media_runs(longer, image));
  KvCache cache = lm->new_cache(), whole = known->new_cache();
  const Tensor expected = read(ctx, *known, longer, whole);
  (void)read(ctx, *lm, prompt, cache);
  for (std::size_t i = prompt.size(); i < longer.size(); ++i)
    CHECK(largest_difference(read(ctx, *lm, std::span(longer).subspan(i, 1), cache), expected.slice(i, 1)) < 2e-5);
}

TEST_CASE("pictures matter where they are seen, and only there") {
  Context ctx;
  const GatedDecoder blind = make_model({.first = 0, .interval = 1}, 3);
  const Tensor media = pictures(3);
  Tensor changed = media.clone();
  for (std::size_t i = 0; i < latents; ++i) changed.row(latents + i)[3] += 5;  // the second
  const auto a = blind.bind(ctx, media, media_runs(prompt, image)), b = blind.bind(ctx, changed, media_runs(prompt, image));
  KvCache one = a->new_cache(), other = b->new_cache(), none = blind.new_cache();
  const Tensor x = read(ctx, *a, prompt, one), y = read(ctx, *b, prompt, other), z = read(ctx, blind, prompt, none);
  CHECK(largest_difference(x.slice(0, 5), y.slice(0, 5)) == 0);
  CHECK(largest_difference(x.slice(5, 1), y.slice(5, 1)) > 1e-3);
  CHECK(largest_difference(x.slice(0, 2), z.slice(0, 2)) < 1e-6);  // before the first picture
  CHECK(largest_difference(x.slice(2, 1), z.slice(2, 1)) > 1e-3);
}

TEST_CASE("beams of a prompt with pictures share a pass") {
  Context ctx;
  const GatedDecoder blind = make_model({.first = 0, .interval = 1}, 3);
  const auto lm = blind.bind(ctx, pictures(3), media_runs(prompt, image));
  KvCache a = lm->new_cache(), b = lm->new_cache(), short_one = lm->new_cache(), alone_a = lm->new_cache(), alone_b = lm->new_cache(), alone_short = lm->new_cache();
  for (KvCache* cache : {&a, &b, &alone_a, &alone_b}) (void)read(ctx, *lm, prompt, *cache);
  for (KvCache* cache : {&short_one, &alone_short}) (void)read(ctx, *lm, std::span(prompt).first(1), *cache);
  // Two that answer, and one that is still reading.
  const std::vector<TokenId> ids = {30, 31, 9, image, 4, 4, image};
  const Sequence batch[] = {{&a, 1}, {&b, 1}, {&short_one, 5}};
  const Tensor together = lm->forward(ctx, lm->embed(ctx, ids), batch);
  CHECK(largest_difference(together.slice(0, 1), read(ctx, *lm, std::span(ids).first(1), alone_a)) < 2e-5);
  CHECK(largest_difference(together.slice(1, 1), read(ctx, *lm, std::span(ids).subspan(1, 1), alone_b)) < 2e-5);
  CHECK(largest_difference(together.slice(2, 5), read(ctx, *lm, std::span(ids).subspan(2, 5), alone_short)) < 2e-5);
}

TEST_CASE("gated blocks stand where they are asked to") {
  Context ctx;
  for (const GatedLayers layers : {GatedLayers{0, 1}, GatedLayers{0, 2}, GatedLayers{1, 2}, GatedLayers{2, 3}}) {
    const GatedDecoder blind = make_model(layers, 3);
    std::vector<std::string> order;
    ContextOptions options;
    options.on_tensor = [&](std::string_view name, View) {
      if (!name.starts_with("layer.")) order.emplace_back(name);
    };
    Context observing(options);
    KvCache cache = blind.new_cache();
    std::vector<std::size_t> hooked;
    const auto hook = [&](std::size_t layer, MutView) { hooked.push_back(layer); };
    const BlockHook before_block = hook;
    const Sequence one[] = {{&cache, prompt.size()}};
    (void)blind.forward(observing, blind.embed(ctx, prompt), one, &before_block);
    std::vector<std::string> expected;
    for (std::size_t layer = 0; layer < 3; ++layer) {
      if (layer >= layers.first && (layer - layers.first) % layers.interval == 0) expected.push_back("xattn." + std::to_string((layer - layers.first) / layers.interval));
      expected.push_back("hidden." + std::to_string(layer));
    }
    expected.push_back("hidden.3");
    CHECK(order == expected);
    CHECK(hooked == std::vector<std::size_t>{0, 1, 2});
  }
  CHECK_THROWS_AS(make_model({.first = 0, .interval = 0}, 1), ArgumentError);
}

TEST_CASE("a cache of a prompt with pictures serves another one where earlier positions do not depend on later pictures") {
  Context ctx;
  const GatedDecoder blind = make_model({.first = 0, .interval = 1}, 3);
  const Tensor media = pictures(3);
  CHECK(blind.stable_length() == static_cast<std::size_t>(-1));
  CHECK(blind.bind(ctx, media, media_runs(prompt, image))->stable_length() == static_cast<std::size_t>(-1));
  CHECK(blind.bind(ctx, media, media_runs(prompt, image, {.only_immediate = false}))->stable_length() == 0);
  CHECK(blind.bind(ctx, media, media_runs(std::span(prompt).subspan(2), image, {.only_immediate = false}))->stable_length() == static_cast<std::size_t>(-1));
}

TEST_CASE("text that sees more pictures than there are is refused") {
  Context ctx;
  const GatedDecoder blind = make_model({.first = 0, .interval = 1}, 3);
  CHECK_THROWS_AS(blind.bind(ctx, pictures(2), media_runs(prompt, image)), ShapeError);
  CHECK_THROWS_AS(blind.bind(ctx, View(), media_runs(prompt, image)), ShapeError);
}

TEST_CASE("a bound model outlives the one that it was bound with") {
  Context ctx;
  std::shared_ptr<const GatedDecoder> lm;
  {
    const GatedDecoder blind = make_model({.first = 0, .interval = 1}, 3);
    lm = blind.bind(ctx, pictures(3), media_runs(prompt, image));
  }
  KvCache cache = lm->new_cache();
  CHECK(read(ctx, *lm, prompt, cache).rows() == prompt.size());
}

TEST_CASE("every tier and every number of threads sees the same") {
  const GatedDecoder blind = make_model({.first = 0, .interval = 1}, 3);
  const Tensor media = pictures(3);
  const auto run = [&](Context& ctx) {
    const auto lm = blind.bind(ctx, media, media_runs(prompt, image));
    KvCache cache = lm->new_cache();
    return read(ctx, *lm, prompt, cache);
  };
  Context scalar{{.threads = 1, .isa = "scalar"}};
  const Tensor expected = run(scalar);
  for (const Isa isa : kernels::available()) {
    INFO(name(isa));
    Context one{{.threads = 1, .isa = name(isa)}}, many{{.threads = 3, .isa = name(isa)}};
    const Tensor x = run(one);
    CHECK(largest_difference(x, expected) < 2e-5);
    CHECK(largest_difference(x, run(many)) == 0);
  }
}
