// Relative position biases: which distances share a bucket, and that attention finds each bias where its distance is.
#include "support/catch.hpp"
#include "support/random_weights.hpp"

#include <chiasm/nn/relative_position_bias.hpp>

namespace {

chiasm::Weights table(std::size_t buckets, std::size_t heads) {
  RandomWeights random;
  random.add("weight", chiasm::Shape{buckets, heads}, 1);
  return random.weights();
}

}  // namespace

TEST_CASE("distances fall into the reference's buckets") {
  // The first distance of each bucket, of T5Attention._relative_position_bucket in transformers 5.23.
  struct Reference {
    std::size_t buckets, max_distance;
    bool bidirectional;
    std::vector<std::size_t> first;
  };
  const Reference references[] = {
      {32, 128, true, {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91}},
      {32, 128, false, {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                        16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113}},
      {12, 20, true, {0, 1, 2, 3, 6, 11}},
      {12, 20, false, {0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 14, 17}},
      {13, 17, true, {0, 1, 2, 3, 6, 10}},
      {13, 17, false, {0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 15}},
      {4, 8, true, {0, 1}},
      {4, 8, false, {0, 1, 2, 4}},
      {18, 729, true, {0, 1, 2, 3, 4, 12, 33, 91, 258}},
      {18, 729, false, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 24, 39, 64, 104, 169, 275, 448}},
  };
  for (const Reference& reference : references) {
    INFO(reference.buckets << " buckets up to " << reference.max_distance << (reference.bidirectional ? " both ways" : ""));
    const chiasm::RelativePositionBias bias(table(reference.buckets, 1), reference.buckets, reference.max_distance, 1, reference.bidirectional);
    std::size_t bucket = 0;
    for (std::size_t distance = 0; distance < 3000; ++distance) {
      while (bucket + 1 < reference.first.size() && reference.first[bucket + 1] <= distance) ++bucket;
      REQUIRE(bias.bucket(distance, false) == bucket);
      if (distance > 0) REQUIRE(bias.bucket(distance, true) == (reference.bidirectional ? bucket + reference.buckets / 2 : 0));
    }
  }
}

TEST_CASE("attention adds the bias of each distance") {
  constexpr std::size_t heads = 3, head_dim = 5, keys = 40, queries = 7, offset = 20;
  const chiasm::RelativePositionBias bias(table(8, heads), 8, 16, heads, true);
  chiasm::Context ctx;
  const auto random = [&](std::uint64_t seed, std::size_t rows) {
    RandomWeights values(seed);
    values.add("x", chiasm::Shape{rows, heads * head_dim}, 0.5);
    return values.weights().tensor("x", chiasm::Shape{rows, heads * head_dim});
  };
  const chiasm::Tensor q = random(1, queries), k = random(2, keys), v = random(3, keys);
  chiasm::Attend attend;
  attend.heads = attend.kv_heads = heads;
  attend.head_dim = attend.v_dim = head_dim;
  attend.offset = offset;
  const chiasm::KvView kv{k.data(), v.data(), keys, heads * head_dim, head_dim, heads * head_dim, head_dim};
  const chiasm::DistanceBias distances = bias(ctx, offset + queries - 1, keys - 1 - offset);
  distances.add_to(attend);
  const chiasm::Tensor y = chiasm::attention(ctx, q, kv, attend);

  // The same with one head at a time and the biases in a mask.
  for (std::size_t h = 0; h < heads; ++h) {
    chiasm::Tensor mask(chiasm::Shape{queries, keys});
    for (std::size_t i = 0; i < queries; ++i)
      for (std::size_t j = 0; j < keys; ++j) {
        const std::size_t at = offset + i, bucket = bias.bucket(j > at ? j - at : at - j, j > at);
        mask.row(i)[j] = table(8, heads).tensor("weight", chiasm::Shape{8, heads}).row(bucket)[h];
      }
    chiasm::Attend one;
    one.head_dim = one.v_dim = head_dim;
    one.mask = mask;
    const std::size_t begin = h * head_dim;
    const chiasm::KvView head{k.data() + begin, v.data() + begin, keys, heads * head_dim, 0, heads * head_dim, 0};
    chiasm::Tensor want(chiasm::Shape{queries, head_dim});
    chiasm::attention(ctx, q.view().column_slice(begin, head_dim), head, want, one);
    for (std::size_t i = 0; i < queries; ++i)
      for (std::size_t d = 0; d < head_dim; ++d) CHECK(y.row(i)[begin + d] == Approx(want.row(i)[d]).margin(1e-5));
  }
}

TEST_CASE("buckets that cannot hold the distances are refused") {
  CHECK_THROWS_AS(chiasm::RelativePositionBias(table(2, 1), 2, 128, 1, true), chiasm::ArgumentError);
  CHECK_THROWS_AS(chiasm::RelativePositionBias(table(32, 1), 32, 16, 1, false), chiasm::ArgumentError);
  CHECK_THROWS_AS(chiasm::RelativePositionBias(table(32, 2), 32, 128, 3, false), chiasm::WeightError);
}
