// The Q-Former against the paper's equations in double precision, and what its batches may not change.
#include "support/catch.hpp"
#include "support/random_qformer.hpp"

namespace {

using chiasm::QFormer;
using chiasm::QFormerConfig;
using chiasm::Shape;
using chiasm::Tensor;
using chiasm::TextBatch;
using chiasm::TokenId;
using chiasm::View;
using chiasm::Weights;
using Rows = std::vector<std::vector<double>>;

Tensor random_image(std::size_t pictures, std::size_t states, std::size_t width, std::uint64_t seed = 5) {
  RandomWeights random(seed);
  random.add("x", Shape{pictures, states, width}, 1);
  return random.weights().tensor("x", Shape{pictures, states, width});
}

Rows rows_of(View x) {
  Rows rows(x.rows());
  for (std::size_t i = 0; i < x.rows(); ++i) rows[i].assign(x.row(i), x.row(i) + x.columns());
  return rows;
}

Rows linear(const Weights& w, const Rows& x) {
  const Tensor weight = w.get("weight").to_f32(), bias = w.get("bias").to_f32();
  Rows y(x.size(), std::vector<double>(bias.size()));
  for (std::size_t t = 0; t < x.size(); ++t)
    for (std::size_t o = 0; o < bias.size(); ++o) {
      y[t][o] = static_cast<double>(bias.data()[o]);
      for (std::size_t i = 0; i < x[t].size(); ++i) y[t][o] += static_cast<double>(weight.row(o)[i]) * x[t][i];
    }
  return y;
}

Rows norm(const Weights& w, Rows x) {
  const Tensor weight = w.get("weight").to_f32(), bias = w.get("bias").to_f32();
  for (auto& row : x) {
    double mean = 0, variance = 0;
    for (const double value : row) mean += value / static_cast<double>(row.size());
    for (const double value : row) variance += (value - mean) * (value - mean) / static_cast<double>(row.size());
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = (row[i] - mean) / std::sqrt(variance + 1e-12) * static_cast<double>(weight.data()[i]) + static_cast<double>(bias.data()[i]);
  }
  return x;
}

Rows sum(Rows a, const Rows& b) {
  for (std::size_t t = 0; t < a.size(); ++t)
    for (std::size_t i = 0; i < a[t].size(); ++i) a[t][i] += b[t][i];
  return a;
}

Rows attend(const Weights& w, std::size_t heads, const Rows& x, const Rows& states) {
  const Rows q = linear(w / "attention" / "query", x), k = linear(w / "attention" / "key", states), v = linear(w / "attention" / "value", states);
  const std::size_t width = q[0].size(), dim = width / heads;
  Rows mixed(x.size(), std::vector<double>(width));
  for (std::size_t t = 0; t < x.size(); ++t)
    for (std::size_t h = 0; h < heads; ++h) {
      std::vector<double> p(states.size());
      double total = 0;
      for (std::size_t s = 0; s < states.size(); ++s) {
        double score = 0;
        for (std::size_t d = 0; d < dim; ++d) score += q[t][h * dim + d] * k[s][h * dim + d];
        total += p[s] = std::exp(score / std::sqrt(static_cast<double>(dim)));
      }
      for (std::size_t s = 0; s < states.size(); ++s)
        for (std::size_t d = 0; d < dim; ++d) mixed[t][h * dim + d] += p[s] / total * v[s][h * dim + d];
    }
  return norm(w / "output" / "LayerNorm", sum(linear(w / "output" / "dense", mixed), x));
}

Rows feed_forward(const Weights& w, const std::string& suffix, const Rows& x) {
  Rows h = linear(w / ("intermediate" + suffix) / "dense", x);
  for (auto& row : h)
    for (double& value : row) value *= 0.5 * (1 + std::erf(value / std::sqrt(2.0)));
  return norm(w / ("output" + suffix) / "LayerNorm", sum(linear(w / ("output" + suffix) / "dense", h), x));
}

/// One sequence, as the papers have it: queries (if `image` is there), then the text.
Rows oracle(const Weights& w, const QFormerConfig& c, const Rows* image, const std::vector<TokenId>& text) {
  Rows x;
  if (image != nullptr) x = rows_of(w.tensor("query_tokens", Shape{1, c.num_query_tokens, c.hidden_size}));
  const std::size_t queries = x.size();
  for (std::size_t t = 0; t < text.size(); ++t) {
    const Rows words = rows_of(w.get("embeddings.word_embeddings.weight").to_f32()), places = rows_of(w.get("embeddings.position_embeddings.weight").to_f32());
    x.push_back(sum({words[static_cast<std::size_t>(text[t])]}, {places[t]})[0]);
  }
  x = norm(w / "embeddings" / "layernorm", x);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const Weights layer = w / "encoder" / "layer" / i;
    const Rows a = attend(layer / "attention", c.num_attention_heads, x, x);
    const auto split = a.begin() + static_cast<std::ptrdiff_t>(queries);
    Rows q(a.begin(), split), words(split, a.end());
    if (queries > 0 && i % c.cross_attention_frequency == 0) q = attend(layer / "crossattention", c.num_attention_heads, q, *image);
    if (queries > 0) q = feed_forward(layer, "_query", q);
    if (!words.empty()) words = feed_forward(layer, "", words);
    x = q;
    x.insert(x.end(), words.begin(), words.end());
  }
  return x;
}

void check_equal(View have, const Rows& want) {
  REQUIRE(have.rows() == want.size());
  for (std::size_t t = 0; t < want.size(); ++t)
    for (std::size_t i = 0; i < want[t].size(); ++i) REQUIRE(static_cast<double>(have.row(t)[i]) == Approx(want[t][i]).margin(2e-5));
}

}  // namespace

TEST_CASE("a Q-Former computes the papers' equations") {
  chiasm::Context ctx;
  for (const std::size_t frequency : {1u, 2u, 3u}) {
    QFormerConfig c = small_qformer(true);
    c.cross_attention_frequency = frequency;
    const Weights w = random_qformer(c);
    const QFormer qformer(w, c);
    const Tensor image = random_image(1, 7, c.encoder_hidden_size);
    const Rows states = rows_of(image);
    const std::vector<TokenId> text = {3, 30, 0, 7};
    check_equal(qformer(ctx, image), oracle(w, c, &states, {}));
    check_equal(qformer(ctx, image, TextBatch{text, text.size(), {}}), oracle(w, c, &states, text));
    check_equal(qformer.text(ctx, TextBatch{text, text.size(), {}}), oracle(w, c, nullptr, text));
  }
}

TEST_CASE("a Q-Former without text has no weights for it") {
  chiasm::Context ctx;
  const QFormerConfig c = small_qformer(false);
  const Weights w = random_qformer(c);
  const QFormer qformer(w, c);
  w.expect_all_used();
  const Tensor image = random_image(1, 7, c.encoder_hidden_size);
  const Rows states = rows_of(image);
  check_equal(qformer(ctx, image), oracle(w, c, &states, {}));
  const std::vector<TokenId> text = {1};
  CHECK_THROWS_AS(qformer(ctx, image, TextBatch{text, 1, {}}), chiasm::ArgumentError);
}

TEST_CASE("batches of a Q-Former: pictures, texts and their padding do not change each other") {
  chiasm::Context ctx;
  const QFormerConfig c = small_qformer(true);
  const QFormer qformer(random_qformer(c), c);
  const Tensor images = random_image(2, 7, c.encoder_hidden_size);
  const auto equal = [](View a, View b) {
    REQUIRE(a.rows() == b.rows());
    for (std::size_t t = 0; t < a.rows(); ++t)
      for (std::size_t i = 0; i < a.columns(); ++i) REQUIRE(a.row(t)[i] == Approx(b.row(t)[i]).margin(1e-5));
  };
  const Tensor both = qformer(ctx, images);
  CHECK(both.shape() == (Shape{2, 5, 24}));
  for (std::size_t n = 0; n < 2; ++n) equal(both.view()[n], qformer(ctx, images.slice(n, 1)));

  // Two texts of 4 and 2 words, the second one padded with a word that must not be seen.
  const std::vector<TokenId> first = {3, 30, 0, 7}, second = {9, 2}, padded = {3, 30, 0, 7, 9, 2, 11, 12};
  const std::vector<std::size_t> used = {4, 2};
  const TextBatch batch{padded, 4, used};
  const Tensor shared = qformer(ctx, images.slice(0, 1), batch), own = qformer(ctx, images, batch), texts = qformer.text(ctx, batch);
  CHECK(shared.shape() == (Shape{2, 9, 24}));
  CHECK(texts.shape() == (Shape{2, 4, 24}));
  equal(shared.view()[0], qformer(ctx, images.slice(0, 1), TextBatch{first, 4, {}}));
  equal(shared.view()[1].slice(0, 7), qformer(ctx, images.slice(0, 1), TextBatch{second, 2, {}}));
  equal(own.view()[1].slice(0, 7), qformer(ctx, images.slice(1, 1), TextBatch{second, 2, {}}));
  equal(texts.view()[1].slice(0, 2), qformer.text(ctx, TextBatch{second, 2, {}}));
}

TEST_CASE("both layouts of a Q-Former's names become one") {
  const std::vector<std::string> retrieval = {"query_tokens", "embeddings.word_embeddings.weight", "qformer.layernorm.weight", "qformer.encoder.layer.0.attention.output.dense.bias",
                                              "vision_model.embeddings.class_embedding"};
  std::vector<chiasm::Weight> tensors;
  for (const std::string& name : retrieval) tensors.emplace_back(name, chiasm::DType::f32, Shape{0}, nullptr, nullptr, "file");
  const std::vector<std::string> names = {"qformer.embeddings.layernorm.weight", "qformer.embeddings.word_embeddings.weight",
                                          "qformer.encoder.layer.0.attention.output.dense.bias", "qformer.query_tokens", "vision_model.embeddings.class_embedding"};
  const Weights once = QFormer::normalise(Weights(tensors, "file"));
  CHECK(once.names() == names);
  CHECK(QFormer::normalise(once).names() == names);  // InstructBLIP has them already
}

TEST_CASE("a Q-Former's configuration: defaults of the classes, the width of the vision tower, who reads text") {
  const auto read = [](const char* text) { return QFormerConfig::from(chiasm::Json::parse(text, "config.json")); };
  const QFormerConfig plain = read(R"({"model_type": "blip-2"})");
  CHECK((plain.num_query_tokens == 32 && plain.hidden_size == 768 && plain.num_hidden_layers == 12 && plain.encoder_hidden_size == 1408));
  CHECK_FALSE(plain.text);
  CHECK(read(R"({"model_type": "instructblip", "num_query_tokens": 4})").text);
  CHECK(read(R"({"model_type": "blip-2", "qformer_config": {"use_qformer_text_input": true}})").text);
  CHECK(read(R"({"vision_config": {"hidden_size": 48}, "qformer_config": {"encoder_hidden_size": 1408}})").encoder_hidden_size == 48);
  CHECK_THROWS_AS(read(R"({"qformer_config": {"num_attention_heads": 5}})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"qformer_config": {"cross_attention_frequency": 0}})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"num_query_tokens": 0})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"qformer_config": {"layer_norm_eps": -1}})"), chiasm::ConfigError);
}

TEST_CASE("what a Q-Former cannot take is said") {
  chiasm::Context ctx;
  const QFormerConfig c = small_qformer(true);
  const QFormer qformer(random_qformer(c), c);
  const Tensor image = random_image(1, 7, c.encoder_hidden_size), three = random_image(3, 7, c.encoder_hidden_size), wide = random_image(1, 7, 21);
  const std::vector<TokenId> text = {3, 30}, unknown = {31, 0}, longer(10, 1);
  const std::vector<std::size_t> two = {1, 1}, beyond = {3};
  CHECK_THROWS_AS(qformer(ctx, wide), chiasm::ShapeError);
  CHECK_THROWS_AS(qformer(ctx, image.view()[0]), chiasm::ShapeError);
  CHECK_THROWS_AS(qformer(ctx, three, TextBatch{text, 1, {}}), chiasm::ShapeError);  // 3 pictures, 2 texts
  CHECK_THROWS_AS(qformer(ctx, image, TextBatch{unknown, 2, {}}), chiasm::ArgumentError);
  CHECK_THROWS_AS(qformer(ctx, image, TextBatch{longer, 10, {}}), chiasm::ArgumentError);
  CHECK_THROWS_AS(qformer(ctx, image, TextBatch{}), chiasm::ArgumentError);
  CHECK_THROWS_AS(qformer(ctx, image, TextBatch{text, 2, two}), chiasm::ArgumentError);
  CHECK_THROWS_AS(qformer(ctx, image, TextBatch{text, 2, beyond}), chiasm::ArgumentError);
  CHECK_THROWS_AS(QFormer(random_qformer(small_qformer(false)), c), chiasm::WeightError);
}

TEST_CASE("a Q-Former shows its layers and where it looks, and can be stopped") {
  const QFormerConfig c = small_qformer(true);
  const QFormer qformer(random_qformer(c), c);
  const Tensor image = random_image(1, 7, c.encoder_hidden_size);
  std::vector<std::string> tensors, looks;
  chiasm::ContextOptions options;
  options.on_tensor = [&](std::string_view name, View) { tensors.emplace_back(name); };
  options.on_attention = [&](const chiasm::AttentionWeights& attention) {
    looks.push_back(std::string(attention.name) + "." + std::to_string(attention.layer));
    const bool cross = attention.name == "cross_attention";
    CHECK(attention.weights.shape() == (Shape{3, 5, cross ? 7u : 5u}));
  };
  chiasm::Context watched(options);
  (void)qformer(watched, image);
  CHECK(tensors == std::vector<std::string>{"layer.0", "layer.1", "layer.2", "last_hidden_state"});
  CHECK(looks == std::vector<std::string>{"self_attention.0", "cross_attention.0", "self_attention.1", "self_attention.2", "cross_attention.2"});

  chiasm::CancelToken token;
  chiasm::ContextOptions stopping;
  stopping.cancel = token;
  chiasm::Context stopped(stopping);
  token.cancel();
  CHECK_THROWS_AS(qformer(stopped, image), chiasm::Cancelled);
}
