// PrefixCache: how much of a prompt has been read before.
#include "support/catch.hpp"

#include <chiasm/chiasm.hpp>

namespace {

using Ids = std::vector<chiasm::TokenId>;

/// A model of two layers that can do nothing but be asked for its caches.
class Layout final : public chiasm::LanguageModel {
 public:
  std::size_t vocab_size() const noexcept override { return 10; }
  std::size_t hidden_size() const noexcept override { return 4; }
  chiasm::KvCache new_cache() const override { return chiasm::KvCache(2, 1, 4, 4); }
  std::size_t stable_length() const noexcept override { return stable; }
  chiasm::Tensor embed(chiasm::Context&, std::span<const chiasm::TokenId>) const override { return {}; }
  chiasm::Tensor forward(chiasm::Context&, chiasm::View, std::span<const chiasm::Sequence>, const chiasm::BlockHook*) const override { return {}; }
  chiasm::Tensor logits(chiasm::Context&, chiasm::View) const override { return {}; }
  std::size_t stable = 1000;
};

struct Fixture {
  chiasm::Context ctx;
  Layout lm;

  /// Keys tell position and id.
  chiasm::Prefix prefix(Ids ids, std::vector<chiasm::PreparedPrompt::Picture> pictures = {}) {
    chiasm::Prefix prefix{ids, std::move(pictures), lm.new_cache(), ctx.compute(), std::string(ctx.isa())};
    chiasm::Tensor rows = ctx.empty(chiasm::Shape{ids.size(), 4});
    for (std::size_t t = 0; t < ids.size(); ++t)
      for (std::size_t i = 0; i < 4; ++i) rows.row(t)[i] = static_cast<float>(100 * t) + static_cast<float>(ids[t]);
    for (std::size_t layer = 0; layer < 2; ++layer) prefix.cache[layer].append(ctx, rows, rows);
    return prefix;
  }
  static chiasm::PreparedPrompt prompt(Ids ids, std::vector<chiasm::PreparedPrompt::Picture> pictures = {}) {
    chiasm::PreparedPrompt prompt;
    prompt.ids = std::move(ids);
    prompt.pictures = std::move(pictures);
    return prompt;
  }
  std::size_t shared(const chiasm::Prefix& prefix, const chiasm::PreparedPrompt& prompt) { return prefix.shared(ctx, lm, prompt); }
};

}  // namespace

TEST_CASE("what a prefix has in common with a prompt") {
  Fixture f;
  const chiasm::Prefix words = f.prefix({1, 2, 3, 4});
  CHECK(f.shared(words, f.prompt({1, 2, 3, 4, 5})) == 4);
  CHECK(f.shared(words, f.prompt({1, 2, 3, 4})) == 3);  // the last position's result is wanted
  CHECK(f.shared(words, f.prompt({1, 2})) == 1);
  CHECK(f.shared(words, f.prompt({1, 2, 9, 4, 5})) == 2);
  CHECK(f.shared(words, f.prompt({9, 2, 3})) == 0);
  CHECK(f.shared(words, f.prompt({1})) == 0);
  CHECK(f.shared(chiasm::Prefix(), f.prompt({1, 2})) == 0);

  SECTION("a picture counts whole, and by its content") {
    const chiasm::Digest cat{1, 1}, dog{2, 2};
    const chiasm::Prefix shown = f.prefix({1, 7, 7, 7, 2, 3}, {{1, 3, cat}});
    CHECK(f.shared(shown, f.prompt({1, 7, 7, 7, 2, 4}, {{1, 3, cat}})) == 5);
    CHECK(f.shared(shown, f.prompt({1, 7, 7, 7, 2, 4}, {{1, 3, dog}})) == 1);
    CHECK(f.shared(shown, f.prompt({1, 7, 7, 7, 7, 4}, {{1, 4, cat}})) == 1);
    CHECK(f.shared(shown, f.prompt({1, 7, 7, 7, 2, 4})) == 1);  // the same ids as words
    CHECK(f.shared(words, f.prompt({1, 2, 3, 4, 5}, {{2, 2, cat}})) == 2);
    const chiasm::Prefix two = f.prefix({7, 1, 7, 2}, {{0, 1, cat}, {2, 1, dog}});
    CHECK(f.shared(two, f.prompt({7, 1, 7, 2, 5}, {{0, 1, cat}, {2, 1, dog}})) == 4);
    CHECK(f.shared(two, f.prompt({7, 1, 7, 2, 5}, {{0, 1, cat}, {2, 1, cat}})) == 2);
    CHECK(f.shared(two, f.prompt({7, 1, 7, 2, 5}, {{0, 1, dog}, {2, 1, dog}})) == 0);
  }
  SECTION("not where a longer prompt changes its beginning") {
    f.lm.stable = 5;
    CHECK(f.shared(words, f.prompt({1, 2, 3, 4, 5})) == 4);
    CHECK(f.shared(words, f.prompt({1, 2, 3, 4, 5, 6})) == 0);
    f.lm.stable = 3;
    CHECK(f.shared(words, f.prompt({1, 2})) == 0);
  }
  SECTION("not from another precision or other kernels") {
    chiasm::Prefix other = f.prefix({1, 2, 3, 4});
    other.compute = chiasm::Compute::bf16;
    CHECK(f.shared(other, f.prompt({1, 2, 3, 4, 5})) == 0);
    other.compute = f.ctx.compute();
    other.isa = "another";
    CHECK(f.shared(other, f.prompt({1, 2, 3, 4, 5})) == 0);
  }
}

TEST_CASE("a prefix is taken over where most of it is wanted, copied where most of it is not") {
  Fixture f;
  chiasm::PrefixCache cache(1 << 20);
  cache.put(f.prefix({1, 2, 3, 4, 5, 6}));
  const std::size_t bytes = cache.bytes();
  REQUIRE(bytes > 0);

  const chiasm::Prefix part = cache.take(f.ctx, f.lm, f.prompt({1, 2, 9, 9}));
  CHECK(part.ids == Ids{1, 2});
  REQUIRE(part.cache.length() == 2);
  CHECK(part.cache[1].view().keys[4] == 102.0f);
  CHECK(cache.bytes() == bytes);

  const chiasm::Prefix most = cache.take(f.ctx, f.lm, f.prompt({1, 2, 3, 4, 9}));
  CHECK(most.ids == Ids{1, 2, 3, 4});
  CHECK(most.cache.length() == 4);
  CHECK(cache.bytes() == 0);
  CHECK(cache.take(f.ctx, f.lm, f.prompt({1, 2, 3, 4, 9})).ids.empty());
}

TEST_CASE("the longest prefix is found; the least recently used goes first") {
  Fixture f;
  const std::size_t bytes = f.prefix({1, 2, 3}).bytes();
  chiasm::PrefixCache cache(2 * bytes);
  cache.put(f.prefix({1, 2, 3}));
  cache.put(f.prefix({1, 5, 6}));
  chiasm::Prefix found = cache.take(f.ctx, f.lm, f.prompt({1, 2, 3, 4}));
  CHECK(found.ids == Ids{1, 2, 3});
  cache.put(std::move(found));
  cache.put(f.prefix({8, 8, 8}));  // {1, 5, 6} goes
  CHECK(cache.bytes() == 2 * bytes);
  CHECK(cache.take(f.ctx, f.lm, f.prompt({1, 5, 6, 4})).ids == Ids{1});
  CHECK(cache.take(f.ctx, f.lm, f.prompt({8, 8, 8, 4})).ids == Ids{8, 8, 8});

  chiasm::PrefixCache none(0);
  none.put(f.prefix({1, 2, 3}));
  CHECK(none.bytes() == 0);
  cache.clear();
  CHECK(cache.bytes() == 0);
}

TEST_CASE("who observes, sees everything computed: no prefix") {
  Fixture f;
  chiasm::PrefixCache cache(1 << 20);
  cache.put(f.prefix({1, 2, 3}));
  chiasm::ContextOptions observing;
  observing.on_tensor = [](std::string_view, chiasm::View) {};
  chiasm::Context observed(observing);
  CHECK(cache.take(observed, f.lm, f.prompt({1, 2, 3, 4})).ids.empty());
}
