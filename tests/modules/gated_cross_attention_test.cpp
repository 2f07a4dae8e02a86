// Gated cross-attention in OpenFlamingo's and IDEFICS's forms, against their own code (tests/golden/gated/make.py), and which text sees which picture.
#include "support/catch.hpp"
#include "support/near.hpp"
#include "support/paths.hpp"

#include <chiasm/io/safetensors.hpp>
#include <chiasm/modules/gated_cross_attention.hpp>

using namespace chiasm;

namespace {

constexpr TokenId image = 7, end = 2;
const GatedCrossAttentionConfig flamingo{.hidden_size = 24, .media_width = 20, .heads = 3, .head_dim = 8};

GatedCrossAttentionConfig idefics(bool qk_norm) {
  return {.hidden_size = 24, .media_width = 20, .heads = 3, .head_dim = 8, .intermediate_size = 40, .hidden_act = Activation::silu, .norm_eps = 1e-6f,
          .rms_norm = true, .gated_mlp = true, .qk_norm = qk_norm};
}

std::vector<TokenId> reference_ids(const Weights& w) {
  const Tensor ids = w.get("ids").to_f32();
  return std::vector<TokenId>(ids.values().begin(), ids.values().end());
}

Tensor run(Context& ctx, const GatedCrossAttention& block, View text, View media, std::span<const MediaRun> runs) {
  Tensor x(text.shape());
  for (std::size_t t = 0; t < x.rows(); ++t) std::memcpy(x.row(t), text.row(t), x.columns() * sizeof(float));
  block(ctx, x, block.keys_values(ctx, media), runs);
  return x;
}

using Row = std::vector<std::size_t>;  // the media that it sees
std::vector<Row> rows(const std::vector<MediaRun>& runs) {
  std::vector<Row> all;
  for (const MediaRun& run : runs)
    for (std::size_t t = 0; t < run.rows; ++t) {
      Row row;
      for (std::size_t i = 0; i < run.count; ++i) row.push_back(run.first + i);
      all.push_back(row);
    }
  return all;
}

}  // namespace

TEST_CASE("text sees the last picture before it") {
  const std::vector<TokenId> ids = {1, 9, image, 4, 4, image, image, 5};
  CHECK(rows(media_runs(ids, image)) == std::vector<Row>{{}, {}, {0}, {0}, {0}, {1}, {2}, {2}});
  CHECK(media_runs(ids, image).size() == 4);
  CHECK(media_runs({}, image).empty());
  CHECK(rows(media_runs(std::vector<TokenId>{1, 2}, image)) == std::vector<Row>{{}, {}});
}

TEST_CASE("text sees all pictures before it where that is wanted") {
  const std::vector<TokenId> ids = {1, image, 4, image, 5};
  const std::vector<MediaRun> runs = media_runs(ids, image, {.only_immediate = false});
  CHECK(rows(runs) == std::vector<Row>{{0, 1}, {0}, {0}, {0, 1}, {0, 1}});
  CHECK(runs[0].mean);
  CHECK(!runs[1].mean);
  CHECK(!runs[2].mean);
  CHECK(rows(media_runs(std::vector<TokenId>{1, 2}, image, {.only_immediate = false})) == std::vector<Row>{{}, {}});
}

TEST_CASE("the end of a document hides its pictures") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const std::vector<MediaRun> runs = media_runs(reference_ids(w), image, {.end = end});
  const Tensor mask = w.get("idefics.mask").to_f32();
  const std::vector<Row> seen = rows(runs);
  REQUIRE(seen.size() == mask.rows());
  for (std::size_t t = 0; t < mask.rows(); ++t) {
    Row row;
    for (std::size_t n = 0; n < mask.columns(); ++n)
      if (mask.row(t)[n] != 0) row.push_back(n);
    CHECK(seen[t] == row);
  }
}

TEST_CASE("a gated block of OpenFlamingo") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const std::vector<TokenId> ids = reference_ids(w);
  const Tensor text = w.get("text").to_f32(), media = w.get("flamingo.perceiver.y").to_f32();
  Context ctx;
  for (const std::string name : {"immediate", "all"}) {
    INFO(name);
    const GatedCrossAttention block(w / "flamingo" / name, flamingo);
    CHECK(largest_difference(run(ctx, block, text, media, media_runs(ids, image, {.only_immediate = name == "immediate"})), w.get("flamingo." + name + ".y")) < 1e-5);
  }
}

TEST_CASE("a gated block of IDEFICS") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const std::vector<MediaRun> runs = media_runs(reference_ids(w), image, {.end = end});
  const Tensor text = w.get("text").to_f32();
  for (const std::string name : {"plain", "normed"}) {
    INFO(name);
    const Weights node = w / "idefics" / name;
    const GatedCrossAttention block(node / "block", idefics(name == "normed"));
    Context ctx;
    const Tensor media = node.get("perceiver.y").to_f32(), y = run(ctx, block, text, media, runs);
    CHECK(largest_difference(y, node.get("block.y")) < 1e-5);
    SECTION("rows of text in pieces: " + name) {
      const MediaKeysValues kv = block.keys_values(ctx, media);
      Tensor x = text.clone();
      std::size_t begin = 0;
      for (const MediaRun& run : runs) {
        block(ctx, x.slice(begin, run.rows), kv, std::span<const MediaRun>(&run, 1));
        begin += run.rows;
      }
      CHECK(largest_difference(x, y) < 1e-6);
    }
    SECTION("any number of threads: " + name) {
      Context one{{.threads = 1}}, three{{.threads = 3}};
      CHECK(largest_difference(run(one, block, text, media, runs), run(three, block, text, media, runs)) == 0);
    }
    SECTION("a row that sees nothing needs no media: " + name) {
      Tensor x = text.clone(), blind = text.clone();
      const MediaRun all{text.rows(), 0, 0, false};
      block(ctx, x, MediaKeysValues(), std::span<const MediaRun>(&all, 1));
      block(ctx, blind, block.keys_values(ctx, media), std::span<const MediaRun>(&all, 1));
      CHECK(largest_difference(x, blind) == 0);
      CHECK(largest_difference(x.slice(0, 2), y.slice(0, 2)) < 1e-6);
    }
  }
}

TEST_CASE("gates may be one number or one for each column, and nothing else") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const Weights block = (w / "idefics" / "plain" / "block").renamed([](std::string_view name) { return std::string(name); });
  const auto with_gate = [&](Shape shape) {
    const auto values = std::make_shared<Tensor>(shape);
    for (float& value : values->values()) value = 0.7f;
    return block.with(Weight("alpha_dense", DType::f32, shape, reinterpret_cast<const std::byte*>(values->data()), values, "memory"));
  };
  Context ctx;
  const MediaRun all{15, 0, 0, false};
  std::vector<Tensor> results;
  for (const Shape& shape : {Shape{1}, Shape{1, 1, 24}, Shape{24}, Shape{1, 1, 1}}) {
    Tensor x = w.get("text").to_f32();
    GatedCrossAttention(with_gate(shape), idefics(false))(ctx, x, MediaKeysValues(), std::span<const MediaRun>(&all, 1));
    results.push_back(std::move(x));
  }
  for (const Tensor& result : results) CHECK(largest_difference(result, results[0]) < 1e-6);
  CHECK_THROWS_AS(GatedCrossAttention(with_gate(Shape{2}), idefics(false)), WeightError);
}

TEST_CASE("media whose rows fill blocks are kept as the context keeps keys and values") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const GatedCrossAttention block(w / "flamingo" / "immediate", flamingo);
  const Tensor text = w.get("text").to_f32();
  Tensor media(Shape{3, 64, 20});
  for (std::size_t i = 0; i < media.size(); ++i) media.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
  const MediaRun runs[] = {{6, 1, 1, false}, {2, 0, 0, false}, {4, 0, 3, false}, {3, 2, 1, false}};
  Context exact{{.threads = 2}};
  const Tensor want = run(exact, block, text, media, runs);
  CHECK(block.keys_values(exact, media).layer.kind() == KvKind::f32);
  for (const KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::q8}) {
    Context ctx{{.threads = 2, .kv = kind}};
    const MediaKeysValues kept = block.keys_values(ctx, media);
    CHECK(kept.layer.kind() == kind);
    CHECK(block.keys_values(ctx, media.view().reshape(Shape{6, 32, 20})).layer.kind() == kind);
    CHECK(block.keys_values(ctx, media.view().reshape(Shape{12, 16, 20})).layer.kind() == KvKind::f32);
    const Tensor y = run(ctx, block, text, media, runs);
    CHECK(largest_difference(y, want) < (kind == KvKind::f32 ? 1e-5 : kind == KvKind::bf16 ? 0.01 : 0.03));
    Tensor alone = text.clone();  // the rows that see the last medium, with no other
    const MediaRun last{3, 0, 1, false};
    block(ctx, alone.slice(12, 3), block.keys_values(ctx, media.slice(2, 1)), std::span<const MediaRun>(&last, 1));
    CHECK(largest_difference(alone.slice(12, 3), y.slice(12, 3)) < 1e-6);
  }
}

TEST_CASE("a gated block refuses runs and media that do not fit") {
  const Weights w = read_safetensors(test_data("gated/model.safetensors"));
  const GatedCrossAttention block(w / "flamingo" / "immediate", flamingo);
  Context ctx;
  Tensor x = w.get("text").to_f32();
  const Tensor media = w.get("flamingo.perceiver.y").to_f32();
  const MediaKeysValues kv = block.keys_values(ctx, media);
  CHECK(kv.media == 4);
  CHECK(kv.rows == 5);
  const MediaRun beyond[] = {{15, 4, 1, false}}, few[] = {{14, 0, 1, false}}, good[] = {{15, 0, 1, false}};
  CHECK_THROWS_AS(block(ctx, x, kv, beyond), ShapeError);
  CHECK_THROWS_AS(block(ctx, x, kv, few), ShapeError);
  CHECK_THROWS_AS(block(ctx, x, MediaKeysValues(), good), ShapeError);
  CHECK_THROWS_AS(block.keys_values(ctx, media.view().reshape(Shape{20, 20})), ShapeError);
  CHECK_THROWS_AS(GatedCrossAttention(w / "flamingo" / "immediate", GatedCrossAttentionConfig{.hidden_size = 24, .media_width = 20, .heads = 4, .head_dim = 8}), WeightError);
}
