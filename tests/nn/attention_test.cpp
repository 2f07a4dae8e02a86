/// Attention: heads and blocks put together, thread counts, errors.
#include <chiasm/nn/attention.hpp>

#include "kernels/oracle.hpp"
#include "support/catch.hpp"

using namespace chiasm;

TEST_CASE("attention equals the oracle and does not depend on the number of threads") {
  constexpr std::size_t queries = 200, keys = 230, heads = 6, kv_heads = 2, head_dim = 20, v_dim = 12, group = heads / kv_heads;
  const std::vector<float> q = oracle::random(queries * heads * head_dim, 1), k = oracle::random(kv_heads * keys * head_dim, 2),
                           v = oracle::random(kv_heads * keys * v_dim, 3);
  const KvView kv{k.data(), v.data(), keys, head_dim, keys * head_dim, v_dim, keys * v_dim};
  Attend attend;
  attend.heads = heads, attend.kv_heads = kv_heads, attend.head_dim = head_dim, attend.v_dim = v_dim;
  attend.scale = 0.25f, attend.causal = true, attend.offset = keys - queries;
  for (const Isa isa : kernels::available()) {
    INFO(name(isa));
    Context single({.threads = 1, .isa = name(isa)}), triple({.threads = 3, .isa = name(isa)});
    const View rows(q.data(), Shape{queries, heads * head_dim});
    const Tensor y = attention(single, rows, kv, attend), other = attention(triple, rows, kv, attend);
    CHECK(std::equal(y.values().begin(), y.values().end(), other.values().begin()));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < queries; i += 7)
      for (std::size_t h = 0; h < heads; ++h) {
        std::vector<double> p(keys);
        double total = 0;
        for (std::size_t j = 0; j <= attend.offset + i; ++j) {
          for (std::size_t d = 0; d < head_dim; ++d)
            p[j] += static_cast<double>(q[(i * heads + h) * head_dim + d]) *
                    static_cast<double>(k[(h / group * keys + j) * head_dim + d]);
          total += p[j] = std::exp(0.25 * p[j]);
        }
        for (std::size_t d = 0; d < v_dim; ++d) {
          double want = 0;
          for (std::size_t j = 0; j <= attend.offset + i; ++j)
            want += p[j] / total * static_cast<double>(v[(h / group * keys + j) * v_dim + d]);
          wrong += !(std::abs(static_cast<double>(y.data()[(i * heads + h) * v_dim + d]) - want) <= 5e-6);
        }
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("attention says what does not fit") {
  Context ctx({.threads = 1});
  const std::vector<float> q(24);
  const KvView kv{q.data(), q.data(), 2, 4, 8, 4, 8};
  Attend attend;
  attend.heads = 2, attend.kv_heads = 2, attend.head_dim = 4, attend.v_dim = 4;
  CHECK_NOTHROW(attention(ctx, View(q.data(), Shape{3, 8}), kv, attend));
  CHECK_THROWS_AS(attention(ctx, View(q.data(), Shape{3, 7}), kv, attend), ShapeError);
  attend.mask = View(q.data(), Shape{3, 3});
  CHECK_THROWS_AS(attention(ctx, View(q.data(), Shape{3, 8}), kv, attend), ShapeError);
  attend.mask = {};
  attend.kv_heads = 0;
  CHECK_THROWS_AS(attention(ctx, View(q.data(), Shape{3, 8}), kv, attend), ShapeError);
}

TEST_CASE("attention shows where it looks") {
  const std::size_t heads = 4, kv_heads = 2, queries = 5, keys = 9, head_dim = 6;
  std::vector<float> q(queries * heads * head_dim), k(kv_heads * keys * head_dim), v(kv_heads * keys * head_dim), slopes(heads), mask(queries * keys),
      distances(heads * 32);
  unsigned state = 7;
  for (auto* numbers : {&q, &k, &v, &slopes, &mask, &distances})
    for (float& x : *numbers) x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 0x1p23f - 1.0f;
  mask[2] = mask[keys] = -std::numeric_limits<float>::infinity();
  const KvView kv{k.data(), v.data(), keys, head_dim, keys * head_dim, head_dim, keys * head_dim};
  for (const bool causal : {false, true}) {
    std::string seen;
    Tensor weights;
    ContextOptions options;
    options.threads = 2;
    options.on_attention = [&](const AttentionWeights& attention) {
      const View shown = attention.weights;
      seen = std::string(attention.name) + " " + std::to_string(attention.layer) + " " + std::to_string(attention.first_query);
      weights = Tensor(shown.shape());
      for (std::size_t i = 0; i < shown.rows(); ++i) std::copy(shown.row(i), shown.row(i) + shown.columns(), weights.row(i));
    };
    Context ctx(options);
    Attend attend;
    attend.heads = heads, attend.kv_heads = kv_heads, attend.head_dim = attend.v_dim = head_dim, attend.scale = 0.4f, attend.causal = causal;
    attend.offset = 4, attend.window = causal ? 6 : 0, attend.mask = View(mask.data(), Shape{queries, keys});
    attend.alibi_slopes = slopes.data(), attend.distance_bias = distances.data() + 16, attend.distance_bias_head = 32;
    (void)attention(ctx, View(q.data(), Shape{queries, heads * head_dim}), kv, attend);
    CHECK(seen.empty());  // it has no name
    attend.name = "self_attn", attend.layer = 3, attend.first_query = 4;
    const Context::Scope scope(ctx, "lm");
    const Tensor y = attention(ctx, View(q.data(), Shape{queries, heads * head_dim}), kv, attend);
    CHECK(seen == "lm.self_attn 3 4");
    REQUIRE(weights.shape() == Shape{heads, queries, keys});
    double worst = 0;
    for (std::size_t h = 0; h < heads; ++h)
      for (std::size_t i = 0; i < queries; ++i) {
        const float* const p = weights.row(h * queries + i);
        for (std::size_t d = 0; d < head_dim; ++d) {
          double want = 0;
          for (std::size_t j = 0; j < keys; ++j) want += static_cast<double>(p[j]) * static_cast<double>(v[(h / 2 * keys + j) * head_dim + d]);
          worst = std::max(worst, std::abs(want - static_cast<double>(y.row(i)[h * head_dim + d])));
        }
      }
    CHECK(worst < 1e-5);
  }
}
