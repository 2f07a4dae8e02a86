// T5: what config.json may say, and where files keep the embeddings and the head. Its numbers are held against the reference in golden_test.
#include "support/catch.hpp"
#include "support/near.hpp"
#include "support/random_t5.hpp"

#include <chiasm/io/checkpoint.hpp>

namespace {

using Ids = std::vector<chiasm::TokenId>;
const Ids source = {3, 14, 15, 66, 65, 35, 79, 1}, target = {0, 57, 72, 15};

chiasm::T5Config read(const std::string& members) { return chiasm::T5Config::from(chiasm::Json::parse("{" + members + "}", "config.json")); }

chiasm::Tensor logits(const chiasm::T5& t5) {
  chiasm::Context ctx;
  const auto lm = t5.bind(ctx, t5.embed(ctx, source));
  chiasm::KvCache cache = lm->new_cache();
  return lm->logits(ctx, lm->forward(ctx, lm->embed(ctx, target), cache));
}
chiasm::Tensor logits(const chiasm::Weights& w, const chiasm::T5Config& c) {
  const chiasm::T5 t5(w, c);
  w.expect_all_used();
  return logits(t5);
}

/// `w` with a table beside its embeddings: them times `factor`.
chiasm::Weights with_copy(const chiasm::Weights& w, const std::string& name, float factor) {
  auto values = std::make_shared<chiasm::Tensor>(w.get("shared.weight").to_f32());
  for (float& value : values->values()) value *= factor;
  const auto* const bytes = reinterpret_cast<const std::byte*>(values->data());
  return w.with(chiasm::Weight(name, chiasm::DType::f32, values->shape(), bytes, values, "random"));
}

}  // namespace

TEST_CASE("T5's configuration has the defaults of its class") {
  const chiasm::T5Config c = read("");
  CHECK(c.vocab_size == 32128);
  CHECK(c.d_model == 512);
  CHECK(c.d_kv == 64);
  CHECK(c.d_ff == 2048);
  CHECK(c.num_layers == 6);
  CHECK(c.num_decoder_layers == 6);
  CHECK(c.num_heads == 8);
  CHECK(c.relative_attention_num_buckets == 32);
  CHECK(c.relative_attention_max_distance == 128);
  CHECK(c.dense_act_fn == chiasm::Activation::relu);
  CHECK_FALSE(c.is_gated_act);
  CHECK(c.layer_norm_epsilon == 1e-6f);
  CHECK(c.scale_decoder_outputs);
  CHECK(read(R"("num_layers": 4)").num_decoder_layers == 4);
  CHECK(read(R"("num_layers": 4, "num_decoder_layers": null)").num_decoder_layers == 4);
  CHECK(read(R"("num_layers": 4, "num_decoder_layers": 2)").num_decoder_layers == 2);
}

TEST_CASE("T5's feed-forward is what the configuration calls it") {
  using chiasm::Activation;
  const auto is = [](const std::string& members, Activation activation, bool gated) {
    INFO(members);
    const chiasm::T5Config c = read(members);
    CHECK(c.dense_act_fn == activation);
    CHECK(c.is_gated_act == gated);
  };
  is(R"("feed_forward_proj": "relu")", Activation::relu, false);
  is(R"("feed_forward_proj": "gelu")", Activation::gelu, false);
  is(R"("feed_forward_proj": "gated-gelu")", Activation::gelu_tanh, true);
  is(R"("feed_forward_proj": "gated-silu")", Activation::silu, true);
  is(R"("feed_forward_proj": "gated-relu")", Activation::relu, true);
  // What a file says of the two halves goes before the name of the whole, as in the reference.
  is(R"("feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": true)", Activation::gelu_tanh, true);
  is(R"("feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu")", Activation::gelu, true);
  is(R"("dense_act_fn": "gelu_new", "is_gated_act": true)", Activation::gelu_tanh, true);
  CHECK_THROWS_AS(read(R"("feed_forward_proj": "gelu-gated")"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("feed_forward_proj": "gated-gelu-new")"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("feed_forward_proj": "gated-")"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("feed_forward_proj": "snake")"), chiasm::ConfigError);
}

TEST_CASE("T5's outputs are scaled where the head once was the embeddings") {
  CHECK(read(R"("tie_word_embeddings": true)").scale_decoder_outputs);
  CHECK(read(R"("tie_word_embeddings": null)").scale_decoder_outputs);
  CHECK_FALSE(read(R"("tie_word_embeddings": false)").scale_decoder_outputs);
  CHECK_FALSE(read(R"("tie_word_embeddings": true, "scale_decoder_outputs": false)").scale_decoder_outputs);
  CHECK(read(R"("tie_word_embeddings": false, "scale_decoder_outputs": true)").scale_decoder_outputs);

  chiasm::T5Config c = small_t5();
  const chiasm::Tensor scaled = logits(random_t5(c), c);
  c.scale_decoder_outputs = false;
  chiasm::Tensor plain = logits(random_t5(c), c);
  for (float& value : plain.values()) value /= std::sqrt(static_cast<float>(c.d_model));
  CHECK(largest_difference(scaled, plain) < 1e-6);
}

TEST_CASE("T5's configuration is checked before anything is read") {
  CHECK_THROWS_AS(read(R"("relative_attention_num_buckets": 3)"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("relative_attention_max_distance": 16)"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("d_kv": 0)"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("num_layers": 1000000000)"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("num_heads": -8)"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("layer_norm_epsilon": 0)"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"("tie_word_embeddings": "no")"), chiasm::ConfigError);
}

TEST_CASE("T5's embeddings and head are found under all their names") {
  const chiasm::T5Config c = small_t5();
  const chiasm::Weights tied = random_t5(c);
  const chiasm::Tensor expected = logits(tied, c);
  const auto under = [&](const std::string& name) {
    return tied.renamed([&](std::string_view old) { return old == "shared.weight" ? name : std::string(old); });
  };
  for (const char* const name : {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}) {
    INFO(name);
    CHECK(largest_difference(logits(under(name), c), expected) == 0);
    CHECK(largest_difference(logits(with_copy(tied, name, 1), c), expected) == 0);
    // A table that differs counts: the reference ties only what is equal.
    CHECK(largest_difference(logits(with_copy(tied, name, -2), c), expected) > 1e-2);
  }
  chiasm::Tensor negative = logits(with_copy(tied, "lm_head.weight", -2), c);
  for (float& value : negative.values()) value /= -2;
  CHECK(largest_difference(negative, expected) < 1e-6);
  CHECK_THROWS_AS(chiasm::T5(under("wte.weight"), c), chiasm::WeightError);
}

TEST_CASE("T5's weights that do not fit the configuration are named") {
  chiasm::T5Config c = small_t5();
  const chiasm::Weights weights = random_t5(c);
  const auto wrong = [&](const chiasm::T5Config& config) {
    try {
      const chiasm::T5 t5(weights, config);
    } catch (const chiasm::WeightError& error) {
      return error.tensor + " " + error.want;
    }
    return std::string();
  };
  c.d_kv = 13;
  CHECK(wrong(c) == "encoder.block.0.layer.0.SelfAttention.q.weight (39, 40)");
  c = small_t5();
  c.relative_attention_num_buckets = 16;
  CHECK(wrong(c) == "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight (16, 3)");
  c = small_t5();
  c.is_gated_act = false;
  CHECK(wrong(c) == "encoder.block.0.layer.1.DenseReluDense.wi.weight (60, 40)");
  c = small_t5();
  c.num_decoder_layers = 4;
  CHECK(wrong(c) == "decoder.block.3.layer.0.layer_norm.weight (40)");
  c.num_decoder_layers = 2;
  const chiasm::Weights longer = random_t5(small_t5());
  const chiasm::T5 shorter(longer, c);
  CHECK_THROWS_AS(longer.expect_all_used(), chiasm::WeightError);
}

TEST_CASE("the bias that old T5 files have in the cross-attention is left alone") {
  const chiasm::T5Config c = small_t5();
  RandomWeights random;
  random.add("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", chiasm::Shape{32, 3}, 1);
  const chiasm::Weights old = random_t5(c).merged(random.weights());
  CHECK(largest_difference(logits(old, c), logits(random_t5(c), c)) == 0);
}
