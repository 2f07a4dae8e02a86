// The encoder-decoder as a machine: what its language models share and what they do not, pieces, batches, tiers, cancelling. Its numbers are held
// against the reference in tests/models.
#include "support/catch.hpp"
#include "support/near.hpp"
#include "support/random_t5.hpp"

#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/pipelines/generation.hpp>

#include <thread>

namespace {

using Ids = std::vector<chiasm::TokenId>;
using Bound = std::shared_ptr<const chiasm::LanguageModel>;

const Ids source = {3, 14, 15, 66, 65, 35, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 8, 41, 1};
const Ids other_source = {27, 18, 28, 1};
// Longer than relative_attention_max_distance.
const Ids target = {0, 57, 72, 15, 66, 49, 1, 59, 33, 60, 75, 4, 81, 12, 30, 7, 44, 21, 9, 70, 2, 16};

chiasm::Tensor run(chiasm::Context& ctx, const chiasm::LanguageModel& lm, std::span<const chiasm::TokenId> ids, chiasm::KvCache& cache) {
  return lm.forward(ctx, lm.embed(ctx, ids), cache);
}
chiasm::Tensor run(chiasm::Context& ctx, const chiasm::LanguageModel& lm, std::span<const chiasm::TokenId> ids) {
  chiasm::KvCache cache = lm.new_cache();
  return run(ctx, lm, ids, cache);
}

chiasm::GenerateOptions exactly(std::size_t tokens) {
  chiasm::GenerateOptions options;
  options.max_new_tokens = tokens;
  options.eos_token_id = Ids();
  return options;
}

Ids greedy(chiasm::Context& ctx, const chiasm::LanguageModel& lm, std::size_t count) {
  const Ids start = {0};
  chiasm::Generation answer{ctx, lm, lm.embed(ctx, start), exactly(count), start};
  Ids ids;
  while (const auto token = answer.next()) ids.push_back(*token);
  return ids;
}

}  // namespace

TEST_CASE("a decoder's prompt in pieces gives what it gives in one go") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx;
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  chiasm::KvCache pieces = lm->new_cache();
  const chiasm::Tensor expected = run(ctx, *lm, target);
  std::size_t done = 0;
  for (const std::size_t count : {4u, 1u, 1u, 9u, 1u, 6u}) {
    CHECK(largest_difference(run(ctx, *lm, std::span(target).subspan(done, count), pieces), expected.slice(done, count)) < 2e-5);
    done += count;
  }
  CHECK(done == target.size());
  CHECK(pieces.length() == target.size());
  CHECK(lm->stable_length() == 0);
}

TEST_CASE("sequences of a batch share the encoder's output and nothing else") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx;
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  chiasm::KvCache a = lm->new_cache(), b = lm->new_cache(), alone_a = lm->new_cache(), alone_b = lm->new_cache();
  const auto first = std::span(target).first(19), second = std::span(target).subspan(3, 6);
  (void)run(ctx, *lm, first, a);
  (void)run(ctx, *lm, first, alone_a);
  // One goes on where the other begins: rows of different lengths and positions in one pass.
  Ids both = {7, 8};
  both.insert(both.end(), second.begin(), second.end());
  const chiasm::Sequence batch[] = {{&a, 2}, {&b, 6}};
  const chiasm::Tensor together = lm->forward(ctx, lm->embed(ctx, both), batch);
  CHECK(largest_difference(together.slice(0, 2), run(ctx, *lm, std::span(both).first(2), alone_a)) < 2e-5);
  CHECK(largest_difference(together.slice(2, 6), run(ctx, *lm, second, alone_b)) < 2e-5);
}

TEST_CASE("each input has a language model of its own, which outlives the encoder-decoder") {
  chiasm::Context ctx;
  auto t5 = std::make_unique<chiasm::T5>(random_t5(small_t5()), small_t5());
  const Bound lm = t5->bind(ctx, t5->embed(ctx, source));
  const chiasm::Tensor before = run(ctx, *lm, target);
  const Bound other = t5->decoder(ctx, t5->encode(ctx, t5->embed(ctx, other_source)));
  const chiasm::Tensor of_other = run(ctx, *other, target), unbound = run(ctx, t5->decoder(), target);
  CHECK(largest_difference(of_other, before) > 1e-2);
  CHECK(largest_difference(unbound, before) > 1e-2);
  t5.reset();
  CHECK(largest_difference(run(ctx, *lm, target), before) == 0);
  CHECK(largest_difference(run(ctx, *other, target), of_other) == 0);
}

TEST_CASE("the encoder sees its whole input from every position") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx;
  Ids changed = source;
  changed.back() = 2;
  const chiasm::Tensor one = t5.encode(ctx, t5.embed(ctx, source)), two = t5.encode(ctx, t5.embed(ctx, changed));
  CHECK(largest_difference(one.slice(0, 1), two.slice(0, 1)) > 1e-4);
}

TEST_CASE("generation works on the decoder's side: one by one, batches, beams") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx;
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  const Ids start = {0}, longer = {0, 57, 72};
  const Ids expected = greedy(ctx, *lm, 24);
  REQUIRE(expected.size() == 24);
  const chiasm::Tensor x = lm->embed(ctx, start), y = lm->embed(ctx, longer);
  const chiasm::GenerationPrompt prompts[] = {{x, start}, {y, longer}, {x, start}};
  const auto batch = chiasm::generate_batch(ctx, *lm, prompts, exactly(24));
  CHECK(batch[0].ids == expected);
  CHECK(batch[2].ids == expected);
  chiasm::GenerateOptions beams = exactly(24);
  beams.num_beams = 4;
  const auto best = chiasm::beam_search(ctx, *lm, x, start, beams);
  REQUIRE(best.size() == 1);
  CHECK(best[0].ids.size() == 24);
  // max_length counts the start token, as in the reference.
  chiasm::GenerateOptions length;
  length.max_length = 5;
  length.eos_token_id = Ids();
  CHECK(chiasm::generate_batch(ctx, *lm, std::span(prompts).first(1), length)[0].ids.size() == 4);
}

TEST_CASE("an encoder-decoder gives the same tokens in every tier and with every number of threads") {
  for (const chiasm::DType dtype : {chiasm::DType::f32, chiasm::DType::bf16}) {
    const chiasm::T5 t5(random_t5(small_t5(), dtype), small_t5());
    chiasm::Context reference{{.threads = 1, .isa = "scalar"}};
    const Ids expected = greedy(reference, *t5.bind(reference, t5.embed(reference, source)), 24);
    for (const chiasm::Isa isa : chiasm::kernels::available()) {
      INFO(chiasm::name(isa));
      chiasm::Context one{{.threads = 1, .isa = chiasm::name(isa)}}, many{{.threads = 3, .isa = chiasm::name(isa)}};
      const Bound by_one = t5.bind(one, t5.embed(one, source)), by_many = t5.bind(many, t5.embed(many, source));
      CHECK(greedy(one, *by_one, 24) == expected);
      CHECK(greedy(many, *by_many, 24) == expected);
      CHECK(largest_difference(run(one, *by_one, target), run(many, *by_many, target)) == 0);  // bit for bit
    }
  }
}

TEST_CASE("two threads may write about one input") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx{{.threads = 1}};
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  const Ids expected = greedy(ctx, *lm, 16);
  Ids found[2];
  {
    std::jthread threads[2];
    for (int i = 0; i < 2; ++i)
      threads[i] = std::jthread([&lm, &ids = found[i]] {
        chiasm::Context own{{.threads = 1}};
        ids = greedy(own, *lm, 16);
      });
  }
  CHECK(found[0] == expected);
  CHECK(found[1] == expected);
}

TEST_CASE("cancelling an encoder-decoder takes effect between blocks and leaves the caches as they were") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx;
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  chiasm::KvCache cache = lm->new_cache();
  (void)run(ctx, *lm, std::span(target).first(3), cache);
  std::vector<std::size_t> blocks;
  const auto hook = [&](std::size_t layer, chiasm::MutView) {
    blocks.push_back(layer);
    if (blocks.size() == 2) ctx.cancel_token().cancel();
  };
  const chiasm::BlockHook before_block = hook;
  const chiasm::Tensor x = lm->embed(ctx, std::span(target).subspan(3, 4));
  const chiasm::Sequence one[] = {{&cache, 4}};
  CHECK_THROWS_AS(lm->forward(ctx, x, one, &before_block), chiasm::Cancelled);
  CHECK(blocks == std::vector<std::size_t>{0, 1});
  CHECK(cache.length() == 3);
  CHECK_THROWS_AS(t5.bind(ctx, x), chiasm::Cancelled);
  ctx.cancel_token().reset();
  const chiasm::Tensor expected = run(ctx, *lm, std::span(target).first(7));
  CHECK(largest_difference(run(ctx, *lm, std::span(target).subspan(3, 4), cache), expected.slice(3, 4)) < 2e-5);
}

TEST_CASE("what an encoder-decoder does can be watched") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  std::vector<std::string> names, attention;
  std::vector<std::size_t> first_queries;
  chiasm::ContextOptions options;
  options.on_tensor = [&](std::string_view name, chiasm::View) {
    if (name.find("hidden.") != std::string_view::npos) names.emplace_back(name);
  };
  options.on_attention = [&](const chiasm::AttentionWeights& seen) {
    attention.push_back(std::string(seen.name) + "." + std::to_string(seen.layer));
    if (seen.name == "cross_attn") {
      CHECK(seen.weights.shape() == chiasm::Shape{small_t5().num_heads, 2, source.size()});
      first_queries.push_back(seen.first_query);
    }
  };
  chiasm::Context ctx(options);
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  CHECK(names == std::vector<std::string>{"encoder_hidden.0", "encoder_hidden.1", "encoder_hidden.2"});
  CHECK(attention == std::vector<std::string>{"encoder.self_attn.0", "encoder.self_attn.1"});
  names.clear(), attention.clear();
  chiasm::KvCache cache = lm->new_cache();
  (void)run(ctx, *lm, std::span(target).first(2), cache);
  (void)run(ctx, *lm, std::span(target).subspan(2, 2), cache);
  CHECK(names == std::vector<std::string>{"hidden.0", "hidden.1", "hidden.2", "hidden.3", "hidden.0", "hidden.1", "hidden.2", "hidden.3"});
  CHECK(std::vector<std::string>(attention.begin(), attention.begin() + 4) == std::vector<std::string>{"self_attn.0", "cross_attn.0", "self_attn.1", "cross_attn.1"});
  CHECK(first_queries == std::vector<std::size_t>{0, 0, 0, 2, 2, 2});
}

TEST_CASE("shapes and ids that do not fit an encoder-decoder are refused") {
  const chiasm::T5 t5(random_t5(small_t5()), small_t5());
  chiasm::Context ctx;
  const Ids outside = {83}, negative = {-1};
  CHECK_THROWS_AS(t5.embed(ctx, outside), chiasm::ArgumentError);
  CHECK_THROWS_AS(t5.embed(ctx, negative), chiasm::ArgumentError);
  CHECK_THROWS_AS(t5.encode(ctx, chiasm::Tensor(chiasm::Shape{3, 39})), chiasm::ShapeError);
  CHECK_THROWS_AS(t5.encode(ctx, chiasm::Tensor(chiasm::Shape{0, 40})), chiasm::ShapeError);
  CHECK_THROWS_AS(t5.decoder(ctx, chiasm::Tensor(chiasm::Shape{3, 39})), chiasm::ShapeError);
  CHECK_THROWS_AS(t5.decoder(ctx, chiasm::Tensor(chiasm::Shape{0, 40})), chiasm::ShapeError);
  const Bound lm = t5.bind(ctx, t5.embed(ctx, source));
  chiasm::KvCache other(2, 3, 12, 12), cache = lm->new_cache();
  CHECK_THROWS_AS(run(ctx, *lm, target, other), chiasm::ShapeError);
  CHECK_THROWS_AS(lm->forward(ctx, chiasm::Tensor(chiasm::Shape{3, 39}), cache), chiasm::ShapeError);
  CHECK(cache.length() == 0);
}
