// The text tower's own rules: padding that is not seen, and what it refuses. Its numbers are held against the reference in tests/models.
#include "support/catch.hpp"
#include "support/random_weights.hpp"

#include <chiasm/modules/text_tower.hpp>

using namespace chiasm;

namespace {

TextTowerConfig small_tower() {
  TextTowerConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 2, c.num_attention_heads = 2, c.max_position_embeddings = 6;
  return c;
}

Weights random_tower(const TextTowerConfig& c) {
  RandomWeights random;
  const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
    random.add(name + ".weight", Shape{out, in}, 0.3);
    random.add(name + ".bias", Shape{out}, 0.1);
  };
  const auto norm = [&](const std::string& name) {
    random.add(name + ".weight", Shape{c.hidden_size}, 0.1, 1);
    random.add(name + ".bias", Shape{c.hidden_size}, 0.1);
  };
  random.add("embeddings.token_embedding.weight", Shape{c.vocab_size, c.hidden_size}, 1);
  random.add("embeddings.position_embedding.weight", Shape{c.max_position_embeddings, c.hidden_size}, 1);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "encoder.layers." + std::to_string(i) + ".";
    norm(layer + "layer_norm1");
    norm(layer + "layer_norm2");
    for (const char* const name : {"q_proj", "k_proj", "v_proj", "out_proj"}) linear(layer + "self_attn." + name, c.hidden_size, c.hidden_size);
    linear(layer + "mlp.fc1", c.intermediate_size, c.hidden_size);
    linear(layer + "mlp.fc2", c.hidden_size, c.intermediate_size);
  }
  norm("final_layer_norm");
  return random.weights();
}

}  // namespace

TEST_CASE("padding that is not used is not seen") {
  TextTowerConfig config = small_tower();
  config.causal = false;
  const TextTower tower(random_tower(config), config);
  Context ctx;
  const TokenId padded[] = {1, 2, 3, 0, 0, 4, 5, 6, 7, 8}, alone[] = {1, 2, 3};
  const std::size_t used[] = {3, 5};
  const Tensor both = tower(ctx, {padded, 5, used}), one = tower(ctx, {alone, 3, {}});
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t d = 0; d < config.hidden_size; ++d) CHECK(both.row(t)[d] == Approx(one.row(t)[d]).margin(1e-5));
}

TEST_CASE("texts that do not fit the tower are refused") {
  const TextTowerConfig config = small_tower();
  const TextTower tower(random_tower(config), config);
  Context ctx;
  const TokenId ids[] = {1, 2, 3, 4, 5, 6, 7, 8}, beyond[] = {20};
  const std::size_t used[] = {3};
  CHECK_THROWS_AS(tower(ctx, {ids, 8, {}}), ArgumentError);
  CHECK_THROWS_AS(tower(ctx, {ids, 3, {}}), ArgumentError);
  CHECK_THROWS_AS(tower(ctx, {ids, 0, {}}), ArgumentError);
  CHECK_THROWS_AS(tower(ctx, {ids, 4, used}), ArgumentError);  // two texts, one length
  CHECK_THROWS_AS(tower(ctx, {beyond, 1, {}}), ArgumentError);
}
