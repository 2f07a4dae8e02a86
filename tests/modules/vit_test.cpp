// The vision tower on pictures of its own size and of others, against transformers (tests/golden/vit/make.py).
#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/random_weights.hpp"

#include <chiasm/io/safetensors.hpp>
#include <chiasm/modules/vit.hpp>

namespace {

double relative(chiasm::View a, const chiasm::Weight& b) {
  const chiasm::Tensor want = b.to_f32();
  REQUIRE(a.shape() == want.shape());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(want.data()[i])));
    largest = std::max(largest, std::abs(static_cast<double>(want.data()[i])));
  }
  return worst / largest;
}

}  // namespace

TEST_CASE("position embeddings follow the size of the picture") {
  const chiasm::Weights w = chiasm::read_safetensors(test_data("vit/model.safetensors"));
  const chiasm::Vit vit(w / "vision_model", chiasm::VitConfig::from(chiasm::Json::read(test_data("vit/config.json"))));
  chiasm::Context ctx;
  for (const std::string name : {"same", "larger", "smaller"}) {
    INFO(name);
    const chiasm::Tensor pixels = w.get(name + ".pixels").to_f32();
    const int first[] = {0};
    CHECK(relative(vit.hidden_states(ctx, pixels, first), w.get(name + ".embeddings")) < 1e-5);
    CHECK(relative(vit(ctx, pixels), w.get(name + ".last")) < 1e-4);
  }
}

TEST_CASE("hidden states stand side by side in the order they are asked for") {
  const chiasm::Weights w = chiasm::read_safetensors(test_data("vit/model.safetensors"));
  const chiasm::Vit vit(w / "vision_model", chiasm::VitConfig::from(chiasm::Json::read(test_data("vit/config.json"))));
  chiasm::Context ctx;
  const chiasm::Tensor pixels = w.get("same.pixels").to_f32();
  const int both[] = {-1, 0}, last[] = {2};
  const chiasm::Tensor pair = vit.hidden_states(ctx, pixels, both), one = vit.hidden_states(ctx, pixels, last);
  CHECK(pair.shape() == (chiasm::Shape{1, 26, 64}));
  for (std::size_t t = 0; t < 26; ++t)
    for (std::size_t d = 0; d < 32; ++d) REQUIRE(pair.row(t)[d] == one.row(t)[d]);
  CHECK(relative(chiasm::Tensor(chiasm::Shape{1, 26, 32}, [&] {
                   std::vector<float> second;
                   for (std::size_t t = 0; t < 26; ++t) second.insert(second.end(), pair.row(t) + 32, pair.row(t) + 64);
                   return second;
                 }()), w.get("same.embeddings")) < 1e-5);
  const int beyond[] = {3}, before[] = {-4};
  CHECK_THROWS_AS(vit.hidden_states(ctx, pixels, beyond), chiasm::ArgumentError);
  CHECK_THROWS_AS(vit.hidden_states(ctx, pixels, before), chiasm::ArgumentError);
  const chiasm::Tensor tiny(chiasm::Shape{1, 3, 7, 40});
  CHECK_THROWS_AS(vit(ctx, tiny), chiasm::ShapeError);
}

TEST_CASE("EVA-CLIP's one matrix of queries, keys and values does what CLIP's three do") {
  using chiasm::Shape;
  chiasm::VitConfig eva, clip;
  eva.hidden_size = 16, eva.intermediate_size = 24, eva.num_hidden_layers = 2, eva.num_attention_heads = 2, eva.image_size = 16, eva.patch_size = 8;
  eva.hidden_act = chiasm::Activation::gelu;
  eva.pre_norm = false;
  eva.patch_bias = true;
  clip = eva;
  eva.fused_qkv = true;
  for (const bool bias : {true, false}) {
    eva.qkv_bias = bias;
    RandomWeights random;
    std::vector<std::string> names;
    const auto add = [&](const std::string& name, Shape shape) {
      random.add(name, shape, 0.3, shape.rank() == 1 ? 0.5 : 0);
      names.push_back(name);
    };
    const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
      add(name + ".weight", Shape{out, in});
      add(name + ".bias", Shape{out});
    };
    add("embeddings.class_embedding", Shape{1, 1, 16});
    add("embeddings.position_embedding", Shape{1, 5, 16});
    add("embeddings.patch_embedding.weight", Shape{16, 3, 8, 8});
    add("embeddings.patch_embedding.bias", Shape{16});
    add("post_layernorm.weight", Shape{16});
    add("post_layernorm.bias", Shape{16});
    for (const std::string layer : {"encoder.layers.0.", "encoder.layers.1."}) {
      for (const char* const norm : {"layer_norm1", "layer_norm2"}) {
        add(layer + norm + ".weight", Shape{16});
        add(layer + norm + ".bias", Shape{16});
      }
      add(layer + "self_attn.qkv.weight", Shape{48, 16});
      if (bias) add(layer + "self_attn.qkv.bias", Shape{48});
      linear(layer + "self_attn.projection", 16, 16);
      linear(layer + "mlp.fc1", 24, 16);
      linear(layer + "mlp.fc2", 16, 24);
    }
    const chiasm::Weights fused = random.weights();
    chiasm::Weights split = fused.renamed([](std::string_view name) {
      std::string result(name);
      if (const std::size_t at = result.find("projection"); at != std::string::npos) result.replace(at, 10, "out_proj");
      return result.find(".qkv.") != std::string::npos || result == "embeddings.position_embedding" || result == "embeddings.class_embedding" ? std::string() : result;
    });
    split = split.with("embeddings.position_embedding.weight", fused.get("embeddings.position_embedding").reshape(Shape{5, 16}));
    split = split.with("embeddings.class_embedding", fused.get("embeddings.class_embedding").reshape(Shape{16}));
    for (const std::string layer : {"encoder.layers.0.self_attn.", "encoder.layers.1.self_attn."})
      for (std::size_t part = 0; part < 3; ++part) {
        const std::string name = layer + std::string(1, "qkv"[part]) + "_proj";
        split = split.with(name + ".weight", fused.get(layer + "qkv.weight").slice(16 * part, 16));
        auto zeros = std::make_shared<chiasm::Tensor>(Shape{16});
        const chiasm::Weight none("zeros", chiasm::DType::f32, Shape{16}, reinterpret_cast<const std::byte*>(zeros->data()), zeros, "zeros");
        split = split.with(name + ".bias", bias ? fused.get(layer + "qkv.bias").slice(16 * part, 16) : none);
      }
    const chiasm::Vit one(fused, eva), three(split, clip);
    fused.expect_all_used();
    chiasm::Context ctx;
    RandomWeights noise(9);
    noise.add("pixels", Shape{2, 3, 24, 16}, 1);  // of another size than its own, too
    const chiasm::Weights pictures = noise.weights();
    const chiasm::Tensor pixels = pictures.get("pixels").to_f32();
    const chiasm::Tensor a = one(ctx, pixels), b = three(ctx, pixels);
    CHECK(a.shape() == (Shape{2, 7, 16}));
    REQUIRE(a.shape() == b.shape());
    for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(a.data()[i] == Approx(b.data()[i]).margin(1e-6));
  }
}

TEST_CASE("BLIP-2's vision towers: defaults of their class") {
  const auto read = [](const char* text) { return chiasm::VitConfig::from(chiasm::Json::parse(text, "config.json"), "blip_2_vision_model"); };
  const chiasm::VitConfig plain = read("{}");
  CHECK((plain.hidden_size == 1408 && plain.num_hidden_layers == 39 && plain.num_attention_heads == 16 && plain.intermediate_size == 6144));
  CHECK((plain.patch_size == 14 && plain.image_size == 224 && plain.hidden_act == chiasm::Activation::gelu && plain.layer_norm_eps == 1e-6f));
  CHECK((plain.class_token && !plain.pre_norm && plain.patch_bias && plain.fused_qkv && plain.qkv_bias));
  CHECK_FALSE(read(R"({"model_type": "instructblip_vision_model", "qkv_bias": false})").qkv_bias);
  CHECK_THROWS_AS(read(R"({"num_attention_heads": 15})"), chiasm::ConfigError);
}
