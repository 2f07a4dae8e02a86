// The vision tower on pictures of its own size and of others, against transformers (tests/golden/vit/make.py).
#include "support/catch.hpp"
#include "support/paths.hpp"

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
