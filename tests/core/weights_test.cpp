#include <chiasm/core/weights.hpp>

#include "support/catch.hpp"
#include "support/thrown.hpp"

#include <cstring>
#include <vector>

using namespace chiasm;

namespace {
Weight make(const std::string& name, Shape shape, DType dtype = DType::f32) {
  auto bytes = std::make_shared<std::vector<std::byte>>(shape.size() * size_of(dtype));
  return Weight(name, dtype, shape, bytes->data(), bytes, "model.safetensors");
}
Weights tree(WeightKind kind = WeightKind::keep) {
  return Weights({make("model.layers.0.q.weight", {4, 3}, DType::bf16), make("model.layers.0.q.bias", {4}, DType::bf16), make("model.layers.10.q.weight", {4, 3}),
                  make("model.layers.1.q.weight", {4, 3}), make("ids", {2}, DType::i64), make("modelx.weight", {1})},
                 "folder", kind);
}
}  // namespace

TEST_CASE("a tree of names") {
  const Weights w = tree();
  const Weights layer = w / "model" / "layers" / 1;
  CHECK(layer.prefix() == "model.layers.1.");
  CHECK(layer.names() == std::vector<std::string>{"q.weight"});
  CHECK(w.contains("model"));
  CHECK(w.contains("ids"));
  CHECK_FALSE(w.contains("mode"));
  CHECK_FALSE(w.contains("model.layers.2"));
  CHECK((w / "model").contains("layers.1"));
  CHECK(w.names().size() == 6);
  CHECK(w.bytes() == 24 + 8 + 48 + 48 + 16 + 4);
  CHECK((w / "model" / "layers" / 0).bytes() == 32);
  CHECK(w.source() == "folder");
  CHECK(Weights().names().empty());
}

TEST_CASE("taking a tensor checks its shape and says what it found") {
  const Weights layer = tree() / "model" / "layers" / 0;
  CHECK(layer.get("q.weight", {4, 3}).dtype() == DType::bf16);
  CHECK(layer.tensor("q.bias", {4}).shape() == Shape{4});
  const auto wrong = caught<WeightError>([&] { layer.get("q.weight", {5, 3}); });
  CHECK(std::string(wrong.what()) == "model.safetensors: 'model.layers.0.q.weight' is bf16 (4, 3), expected (5, 3)");
  const auto missing = caught<WeightError>([&] { layer.get("k.weight", {4, 3}); });
  CHECK(std::string(missing.what()) == "folder: 'model.layers.0.k.weight' is missing, expected (4, 3)");
  CHECK_THROWS_AS(layer.get("k.weight"), WeightError);
  CHECK_THROWS_AS(layer.tensor("q.bias", {5}), WeightError);
}

TEST_CASE("WeightKind converts matrices, and vectors to f32") {
  const auto kind_of = [](WeightKind kind, const char* name) { return tree(kind).get(name).dtype(); };
  CHECK(kind_of(WeightKind::keep, "model.layers.0.q.weight") == DType::bf16);
  CHECK(kind_of(WeightKind::keep, "ids") == DType::f32);
  CHECK(kind_of(WeightKind::f32, "model.layers.0.q.weight") == DType::f32);
  CHECK(kind_of(WeightKind::bf16, "model.layers.1.q.weight") == DType::bf16);
  CHECK(kind_of(WeightKind::bf16, "model.layers.0.q.bias") == DType::f32);
}

TEST_CASE("expect_all_used finds what nothing took") {
  const Weights w = tree();
  w.get("model.layers.0.q.weight");
  w.get("model.layers.0.q.bias");
  (w / "model" / "layers" / 0).expect_all_used();
  const auto unused = caught<WeightError>([&] { w.expect_all_used(); });
  CHECK(unused.tensor == "ids");
  CHECK(unused.have.find("one of 4") != std::string::npos);
  w.ignore("ids");
  (w / "model").ignore("q.weight");
  CHECK(caught<WeightError>([&] { w.expect_all_used(); }).tensor == "modelx.weight");
  w.tensor("modelx.weight", {1});
  w.expect_all_used();
}

TEST_CASE("renamed, merged and extended trees") {
  const Weights w = tree();
  const Weights other = (w / "model").renamed([](std::string_view name) {
    return name.ends_with("bias") ? std::string() : "lm." + std::string(name);
  });
  CHECK(other.names() == std::vector<std::string>{"lm.layers.0.q.weight", "lm.layers.1.q.weight", "lm.layers.10.q.weight"});
  // A message says the name that the file has.
  CHECK(caught<WeightError>([&] { other.get("lm.layers.1.q.weight", {1}); }).tensor == "model.layers.1.q.weight");
  CHECK_THROWS_AS(w.renamed([](std::string_view) { return std::string("one"); }), WeightError);

  CHECK(w.merged(other).names().size() == 9);
  CHECK_THROWS_AS(w.merged(w), WeightError);
  CHECK(w.with(make("ids", {7})).get("ids").shape() == Shape{7});
  CHECK(w.with(make("more", {7})).names().size() == 7);

  // What one of them takes is used in all.
  other.get("lm.layers.0.q.weight");
  other.get("lm.layers.10.q.weight");
  other.expect_all_used();
  CHECK(caught<WeightError>([&] { (w / "model").expect_all_used(); }).tensor == "model.layers.0.q.bias");
}

TEST_CASE("two tensors of one name are refused") {
  CHECK_THROWS_AS(Weights({make("a", {1}), make("a", {1})}, "two"), WeightError);
}

TEST_CASE("a tree that takes note finds all that is wrong") {
  std::vector<WeightError> findings;
  const Weights w = tree().noting(findings);
  const Weights layer = (w / "model" / "layers" / 0).renamed([](std::string_view name) { return std::string(name); });
  CHECK(layer.get("q.weight", {4, 3}).dtype() == DType::bf16);  // as it is
  CHECK(layer.get("q.weight", {3, 4}).shape() == Shape{3, 4});
  CHECK(layer.get("k.weight", {1 << 20, 1 << 10}).shape() == Shape{1 << 20, 1 << 10});
  CHECK(layer.get("scale").to_f32().data()[0] == 0);
  CHECK(layer.tensor("k.bias", {4}).data()[3] == 0);
  layer.expect_all_used();
  REQUIRE(findings.size() == 5);
  CHECK(std::string(findings[0].what()) == "model.safetensors: 'model.layers.0.q.weight' is bf16 (4, 3), expected (3, 4)");
  CHECK(findings[1].have == "missing");
  CHECK(findings[1].want == "(1048576, 1024)");
  CHECK(findings[2].tensor == "scale");
  CHECK(findings[3].tensor == "k.bias");
  CHECK(findings[4].tensor == "model.layers.0.q.bias");
  CHECK_THROWS_AS(layer.tensor("table", {1 << 20, 1 << 10}), ShapeError);
  CHECK_THROWS_AS(tree().get("k.weight", {1}), WeightError);
}
