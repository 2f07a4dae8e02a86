// Linear and the patch embedding on it: what they refuse, and pixels whose rows lie apart.
#include "support/catch.hpp"
#include "support/random_weights.hpp"

#include <chiasm/nn/patch_embedding.hpp>

#include <algorithm>

using namespace chiasm;

TEST_CASE("a weight of one's own is a matrix, and its bias has a value per output") {
  RandomWeights random;
  random.add("matrix", Shape{6, 4}, 1);
  random.add("cube", Shape{6, 2, 2}, 1);
  const Weights w = random.weights();
  CHECK_THROWS_AS(Linear(w.get("cube"), Tensor()), ShapeError);
  CHECK_THROWS_AS(Linear(w.get("matrix"), Tensor(Shape{5})), ShapeError);
  const Linear linear(w.get("matrix"), Tensor(Shape{6}));
  CHECK(linear.in_features() == 4);
  CHECK(linear.out_features() == 6);
}

TEST_CASE("patches of a part of a picture are those of its copy") {
  RandomWeights random;
  random.add("weight", Shape{5, 3, 2, 2}, 1);
  random.add("pixels", Shape{1, 3, 4, 10}, 1);
  const Weights w = random.weights();
  const PatchEmbedding embedding(w, 3, 2, 5, false);
  Context ctx;
  const Tensor pixels = w.get("pixels").to_f32();
  const View part = pixels.view().column_slice(3, 6);
  Tensor copy = ctx.empty(part.shape());
  for (std::size_t i = 0; i < part.rows(); ++i) std::copy_n(part.row(i), part.columns(), copy.row(i));
  const Tensor a = embedding(ctx, part), b = embedding(ctx, copy);
  REQUIRE(a.shape() == (Shape{1, 6, 5}));
  CHECK(std::equal(a.data(), a.data() + a.size(), b.data()));
}
