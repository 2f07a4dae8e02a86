// The decoder as a machine: pieces, batches, threads, tiers, cancelling, memory. Its numbers are held against the reference in tests/models.
#include "support/catch.hpp"
#include "support/random_decoder.hpp"

#include <chiasm/kernels/dispatch.hpp>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::size_t> allocations{0};
}  // namespace

// Not inlined: the compiler would otherwise see malloc and free behind new and delete, and warn of a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* block = std::malloc(size == 0 ? 1 : size)) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  ++allocations;
  const auto align = static_cast<std::size_t>(alignment);
  if (void* block = std::aligned_alloc(align, (size + align - 1) / align * align)) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* block) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

namespace {

const std::vector<chiasm::TokenId> prompt = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43};

double largest_difference(chiasm::View a, chiasm::View b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0;
  for (std::size_t i = 0; i < a.rows(); ++i)
    for (std::size_t j = 0; j < a.columns(); ++j) worst = std::max(worst, std::abs(static_cast<double>(a.row(i)[j]) - static_cast<double>(b.row(i)[j])));
  return worst;
}

chiasm::Tensor run(chiasm::Context& ctx, const chiasm::Decoder& decoder, std::span<const chiasm::TokenId> ids, chiasm::KvCache& cache) {
  return decoder.forward(ctx, decoder.embed(ctx, ids), cache);
}

std::vector<chiasm::TokenId> greedy(chiasm::Context& ctx, const chiasm::Decoder& decoder, std::size_t count) {
  chiasm::KvCache cache = decoder.new_cache();
  std::vector<chiasm::TokenId> ids = prompt;
  chiasm::Tensor hidden = run(ctx, decoder, ids, cache);
  for (std::size_t i = 0; i < count; ++i) {
    const chiasm::Tensor logits = decoder.logits(ctx, hidden.slice(hidden.rows() - 1, 1));
    ids.push_back(static_cast<chiasm::TokenId>(ctx.kernels().argmax(logits.data(), logits.size())));
    hidden = run(ctx, decoder, std::span(ids).last(1), cache);
  }
  return ids;
}

}  // namespace

TEST_CASE("a prompt in pieces gives what it gives in one go") {
  for (const std::size_t window : {std::size_t{0}, std::size_t{5}}) {
    chiasm::DecoderConfig config = small_decoder();
    if (window != 0) config.windows.assign(config.num_hidden_layers, window);
    const chiasm::Decoder decoder(random_decoder(config), config);
    chiasm::Context ctx;
    chiasm::KvCache whole = decoder.new_cache(), pieces = decoder.new_cache();
    const chiasm::Tensor expected = run(ctx, decoder, prompt, whole);
    std::size_t done = 0;
    for (const std::size_t count : {4u, 1u, 1u, 6u, 1u}) {
      const chiasm::Tensor part = run(ctx, decoder, std::span(prompt).subspan(done, count), pieces);
      CHECK(largest_difference(part, expected.slice(done, count)) < 2e-5);
      done += count;
    }
    CHECK(done == prompt.size());
    CHECK(pieces.length() == prompt.size());
  }
}

TEST_CASE("long prompts go through the blocks in pieces") {
  chiasm::DecoderConfig config = small_decoder();
  config.windows = {0, 700, 0};
  config.rope.type = chiasm::RopeType::dynamic, config.rope.factor = 2, config.rope.max_position_embeddings = 64;  // angles are those of the whole length
  const chiasm::Decoder decoder(random_decoder(config), config);
  std::vector<chiasm::TokenId> ids(4500);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<chiasm::TokenId>(i * i % 89);
  std::vector<std::size_t> told;
  chiasm::ContextOptions options;
  options.on_progress = [&](std::string_view, std::size_t done, std::size_t) { told.push_back(done); };
  chiasm::Context ctx(options);

  const std::size_t lengths[] = {2600, 40, 300, 1560};
  std::vector<chiasm::KvCache> caches;
  for (std::size_t i = 0; i < 4; ++i) caches.push_back(decoder.new_cache());
  const chiasm::Sequence batch[] = {{&caches[0], lengths[0]}, {&caches[1], lengths[1]}, {&caches[2], lengths[2]}, {&caches[3], lengths[3]}};
  const chiasm::Tensor together = decoder.forward(ctx, decoder.embed(ctx, ids), batch);
  CHECK(std::is_sorted(told.begin(), told.end()));
  CHECK(told.size() > config.num_hidden_layers);
  CHECK(told.back() == config.num_hidden_layers);

  const auto hook = [](std::size_t, chiasm::MutView) {};
  const chiasm::BlockHook nothing = hook;  // is shown all rows at once
  for (std::size_t i = 0, first = 0; i < 4; first += lengths[i++]) {
    chiasm::KvCache alone = decoder.new_cache(), whole = decoder.new_cache();
    const auto own = std::span(ids).subspan(first, lengths[i]);
    const chiasm::Sequence one[] = {{&whole, own.size()}};
    CHECK(largest_difference(together.slice(first, own.size()), run(ctx, decoder, own, alone)) < 2e-5);
    CHECK(largest_difference(together.slice(first, own.size()), decoder.forward(ctx, decoder.embed(ctx, own), one, &nothing)) < 2e-5);
    CHECK(caches[i].length() == own.size());
  }
}

TEST_CASE("sequences of a batch do not see each other") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Decoder decoder(random_decoder(config), config);
  chiasm::Context ctx;
  chiasm::KvCache a = decoder.new_cache(), b = decoder.new_cache(), alone_a = decoder.new_cache(), alone_b = decoder.new_cache();
  const auto first = std::span(prompt).first(5), second = std::span(prompt).subspan(5, 8);
  (void)run(ctx, decoder, first, a);
  (void)run(ctx, decoder, first, alone_a);
  // One goes on where the other begins: rows of different lengths and positions in one pass.
  std::vector<chiasm::TokenId> both = {7, 8};
  both.insert(both.end(), second.begin(), second.end());
  const chiasm::Sequence batch[] = {{&a, 2}, {&b, 8}};
  const chiasm::Tensor together = decoder.forward(ctx, decoder.embed(ctx, both), batch);
  CHECK(largest_difference(together.slice(0, 2), run(ctx, decoder, std::span(both).first(2), alone_a)) < 2e-5);
  CHECK(largest_difference(together.slice(2, 8), run(ctx, decoder, second, alone_b)) < 2e-5);
}

TEST_CASE("every tier and every number of threads gives the same tokens") {
  for (const chiasm::DType dtype : {chiasm::DType::f32, chiasm::DType::f16, chiasm::DType::bf16}) {
    const chiasm::DecoderConfig config = small_decoder();
    const chiasm::Decoder decoder(random_decoder(config, dtype), config);
    chiasm::Context reference{{.threads = 1, .isa = "scalar"}};
    const std::vector<chiasm::TokenId> expected = greedy(reference, decoder, 24);
    for (const chiasm::Isa isa : chiasm::kernels::available()) {
      chiasm::KvCache one_cache = decoder.new_cache(), many_cache = decoder.new_cache();
      chiasm::Context one{{.threads = 1, .isa = chiasm::name(isa)}}, many{{.threads = 3, .isa = chiasm::name(isa)}};
      INFO(chiasm::name(isa));
      CHECK(greedy(one, decoder, 24) == expected);
      CHECK(greedy(many, decoder, 24) == expected);
      CHECK(largest_difference(run(one, decoder, prompt, one_cache), run(many, decoder, prompt, many_cache)) == 0);  // bit for bit
    }
  }
}

TEST_CASE("cancelling takes effect before the next block") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Decoder decoder(random_decoder(config), config);
  chiasm::Context ctx;
  chiasm::KvCache cache = decoder.new_cache();
  std::size_t blocks = 0;
  const auto hook = [&](std::size_t, chiasm::MutView) {
    if (++blocks == 2) ctx.cancel_token().cancel();
  };
  const chiasm::BlockHook before_block = hook;
  const chiasm::Tensor x = decoder.embed(ctx, prompt);
  const chiasm::Sequence one[] = {{&cache, prompt.size()}};
  CHECK_THROWS_AS(decoder.forward(ctx, x, one, &before_block), chiasm::Cancelled);
  CHECK(blocks == 2);
  ctx.cancel_token().reset();
  chiasm::KvCache fresh = decoder.new_cache();
  CHECK(largest_difference(run(ctx, decoder, prompt, cache), run(ctx, decoder, prompt, fresh)) == 0);
}

TEST_CASE("the hook may change what the next block reads") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Decoder decoder(random_decoder(config), config);
  chiasm::Context ctx;
  chiasm::KvCache cache = decoder.new_cache(), other = decoder.new_cache();
  std::vector<std::size_t> layers;
  const auto hook = [&](std::size_t layer, chiasm::MutView hidden) {
    layers.push_back(layer);
    hidden.row(0)[0] += 1.0f;
  };
  const chiasm::BlockHook before_block = hook;
  const chiasm::Tensor x = decoder.embed(ctx, prompt);
  const chiasm::Sequence one[] = {{&cache, prompt.size()}};
  const chiasm::Tensor changed = decoder.forward(ctx, x, one, &before_block);
  CHECK(layers == std::vector<std::size_t>{0, 1, 2});
  CHECK(largest_difference(changed, run(ctx, decoder, prompt, other)) > 1e-3);
}

TEST_CASE("a decode step allocates nothing once it is warm") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Decoder decoder(random_decoder(config, chiasm::DType::bf16), config);
  chiasm::Context ctx;
  chiasm::KvCache cache = decoder.new_cache();
  (void)run(ctx, decoder, prompt, cache);
  const auto step = [&] {
    const chiasm::TokenId id[] = {5};
    const chiasm::Tensor hidden = run(ctx, decoder, id, cache);
    (void)decoder.logits(ctx, hidden);
  };
  for (int i = 0; i < 4; ++i) step();
  const std::size_t before = allocations;
  for (int i = 0; i < 16; ++i) step();
  CHECK(allocations - before == 0);
}

TEST_CASE("weights that do not fit the configuration are named") {
  chiasm::DecoderConfig config = small_decoder();
  const chiasm::Weights weights = random_decoder(config);
  config.intermediate_size = 81;
  try {
    const chiasm::Decoder decoder(weights, config);
    FAIL("no exception");
  } catch (const chiasm::WeightError& error) {
    CHECK(error.tensor == "model.layers.0.mlp.gate_proj.weight");
    CHECK(error.have == "f32 (80, 48)");
    CHECK(error.want == "(81, 48)");
  }
  config = small_decoder();
  config.num_hidden_layers = 2;
  const chiasm::Decoder decoder(weights, config);
  CHECK_THROWS_AS(weights.expect_all_used(), chiasm::WeightError);
}

TEST_CASE("ids and shapes out of range are refused") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Decoder decoder(random_decoder(config), config);
  chiasm::Context ctx;
  chiasm::KvCache cache = decoder.new_cache();
  const chiasm::TokenId large[] = {97}, negative[] = {-1};
  CHECK_THROWS_AS(decoder.embed(ctx, large), chiasm::ArgumentError);
  CHECK_THROWS_AS(decoder.embed(ctx, negative), chiasm::ArgumentError);
  const chiasm::Tensor narrow(chiasm::Shape{2, 47});
  CHECK_THROWS_AS(decoder.forward(ctx, narrow, cache), chiasm::ShapeError);
  const chiasm::Tensor x(chiasm::Shape{2, 48});
  const chiasm::Sequence wrong[] = {{&cache, 3}};
  CHECK_THROWS_AS(decoder.forward(ctx, x, wrong), chiasm::ShapeError);
  chiasm::KvCache shallow(2, config.num_key_value_heads, config.head_dim, config.head_dim), none;
  CHECK_THROWS_AS(decoder.forward(ctx, x, shallow), chiasm::ShapeError);
  CHECK_THROWS_AS(decoder.forward(ctx, x, none), chiasm::ShapeError);
  const chiasm::Sequence twice[] = {{&cache, 1}, {&cache, x.rows() - 1}};
  CHECK_THROWS_AS(decoder.forward(ctx, x, twice), chiasm::ShapeError);
}

TEST_CASE("an exception between layers leaves every cache of the batch as it was") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Decoder decoder(random_decoder(config), config);
  chiasm::Context ctx;
  chiasm::KvCache a = decoder.new_cache(), b = decoder.new_cache();
  (void)run(ctx, decoder, std::span(prompt).first(4), a);
  const auto hook = [](std::size_t layer, chiasm::MutView) {
    if (layer == 2) throw chiasm::ArgumentError("from a hook");
  };
  const chiasm::BlockHook before_block = hook;
  const chiasm::Tensor x = decoder.embed(ctx, std::span(prompt).first(5));
  const chiasm::Sequence batch[] = {{&a, 2}, {&b, 3}};
  CHECK_THROWS_AS(decoder.forward(ctx, x, batch, &before_block), chiasm::ArgumentError);
  for (std::size_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    CHECK(a[layer].length() == 4);
    CHECK(b[layer].length() == 0);
  }
}

TEST_CASE("without a head of its own the embeddings are the head") {
  const chiasm::DecoderConfig config = small_decoder();
  const chiasm::Weights headless = random_decoder(config).renamed([](std::string_view name) { return name == "lm_head.weight" ? std::string() : std::string(name); });
  const chiasm::Decoder decoder(headless, config);
  chiasm::Context ctx;
  const chiasm::TokenId id[] = {7};
  const chiasm::Tensor x = decoder.embed(ctx, id), logits = decoder.logits(ctx, x);
  CHECK(logits.data()[7] == Approx(ctx.kernels().dot(x.data(), x.data(), x.size())).epsilon(1e-4));
}
