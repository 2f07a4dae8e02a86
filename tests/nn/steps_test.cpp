// Rows of a pass of few tokens are, bit for bit, what each is in a pass of its own: speculative decoding rests on it.
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/kv_cache.hpp>
#include <chiasm/nn/matmul.hpp>

#include <cmath>
#include <random>

using namespace chiasm;

namespace {

bool same_bits(View a, View b) {
  for (std::size_t t = 0; t < a.rows(); ++t)
    if (std::memcmp(a.row(t), b.row(t), a.columns() * sizeof(float)) != 0) return false;
  return a.rows() == b.rows();
}

template <class F>
void in_every_tier(F&& f) {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16}) {
      Context ctx({.threads = 2, .isa = name(isa), .compute = compute});
      INFO(name(isa) << (compute == Compute::f32 ? " f32" : " bf16"));
      f(ctx);
    }
}

}  // namespace

TEST_CASE("steps: products with weights of every kind") {
  std::vector<Weight> weights;
  const std::size_t depth = 768, outputs = 75;
  {
    auto values = std::make_shared<Tensor>(random_tensor(Shape{outputs, depth}, 1));
    const Weight f32("w", DType::f32, values->shape(), reinterpret_cast<const std::byte*>(values->data()), values, "random");
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) weights.push_back(f32.to(type));
  }
  for (const DType type : blocks::types) weights.push_back(blocks::random(type, outputs, depth, 7));
  in_every_tier([&](Context& ctx) {
    const std::size_t most = ctx.most_steps();
    const Tensor x = random_tensor(Shape{most, depth}, 2), bias = random_tensor(Shape{outputs}, 3), residual = random_tensor(Shape{most, outputs}, 4);
    for (const Weight& w : weights) {
      INFO(name(w.dtype()));
      for (const Activation activation : {Activation::none, Activation::gelu}) {
        const auto product = [&](std::size_t first, std::size_t count, MutView y) {
          matmul(ctx, x.slice(first, count), w, y, {bias.data(), activation, residual.slice(first, count)});
        };
        Tensor alone = ctx.empty(Shape{most, outputs});
        for (std::size_t t = 0; t < most; ++t) product(t, 1, alone.slice(t, 1));
        for (std::size_t count = 2; count <= most; ++count) {
          INFO(count << " rows");
          Tensor together = ctx.empty(Shape{count, outputs});
          product(0, count, together);
          CHECK(same_bits(together, alone.slice(0, count)));
        }
      }
    }
  });
}

TEST_CASE("steps: attention") {
  in_every_tier([&](Context& ctx) {
    const std::size_t most = ctx.most_steps();
    unsigned seed = 0;
    for (const std::size_t group : {1u, 3u, 8u})
      for (const std::size_t before : {0u, 61u, 300u})
        for (const int kind : {0, 1, 2, 3, 4}) {
          INFO(group << " heads a key, " << before << " positions before, kind " << kind);
          const std::size_t kv_heads = 2, heads = kv_heads * group, dim = 40, all = before + most;
          const Tensor q = random_tensor(Shape{most, heads * dim}, ++seed), k = random_tensor(Shape{all, kv_heads * dim}, ++seed), v = random_tensor(Shape{all, kv_heads * dim}, ++seed);
          const Tensor slopes = random_tensor(Shape{heads}, ++seed), distances = random_tensor(Shape{heads, 2 * all}, ++seed), mask = random_tensor(Shape{most, all}, ++seed);
          Attend attend;
          attend.heads = heads, attend.kv_heads = kv_heads, attend.head_dim = attend.v_dim = dim, attend.scale = 0.2f;
          attend.causal = kind < 4;  // 4: what an encoder has read
          attend.window = kind == 1 ? 37 : 0;
          if (kind == 2) attend.alibi_slopes = slopes.data();
          if (kind == 3) {
            attend.distance_bias = distances.data() + all;
            attend.distance_bias_head = 2 * all;
          }
          const auto run = [&](std::size_t first, std::size_t count, MutView y) {
            // A step sees a cache that ends with itself.
            const std::size_t keys = kind == 4 ? all : before + first + count;
            const KvView kv{k.data(), v.data(), keys, kv_heads * dim, dim, kv_heads * dim, dim};
            Attend here = attend;
            here.offset = before + first;
            Tensor seen;
            if (kind == 4 && group == 3) {
              seen = ctx.empty(Shape{count, keys});
              for (std::size_t t = 0; t < count; ++t) std::memcpy(seen.row(t), mask.row(first + t), keys * sizeof(float));
              here.mask = seen;
            }
            attention(ctx, q.slice(first, count), kv, y, here);
          };
          Tensor alone = ctx.empty(q.shape());
          for (std::size_t t = 0; t < most; ++t) run(t, 1, alone.slice(t, 1));
          for (std::size_t count = 2; count <= most; ++count) {
            INFO(count << " rows");
            Tensor together = ctx.empty(Shape{count, heads * dim});
            run(0, count, together);
            CHECK(same_bits(together, alone.slice(0, count)));
          }
        }
  });
}

TEST_CASE("steps: attention of several parts") {
  const std::size_t kv_heads = 2, heads = 6, dim = 40;
  const std::size_t queries[] = {1, 3, 40, 1, 0}, keys[] = {9, 70, 64, 2300, 5};
  std::vector<Tensor> q, k, v;
  for (unsigned i = 0; i < std::size(queries); ++i) {
    q.push_back(random_tensor(Shape{queries[i], heads * dim}, 3 * i));
    k.push_back(random_tensor(Shape{keys[i], kv_heads * dim}, 3 * i + 1));
    v.push_back(random_tensor(Shape{keys[i], kv_heads * dim}, 3 * i + 2));
  }
  in_every_tier([&](Context& ctx) {
    for (const KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::q8}) {
      std::vector<KvCache::Layer> caches;
      std::vector<Tensor> alone, together;
      std::vector<AttentionPart> parts;
      for (std::size_t i = 0; i < std::size(queries); ++i) {
        Attend attend;
        attend.heads = heads, attend.kv_heads = kv_heads, attend.head_dim = attend.v_dim = dim, attend.scale = 0.2f;
        attend.causal = i != 2;  // that one is a picture's
        attend.offset = attend.causal ? keys[i] - queries[i] : 0;
        caches.emplace_back(kv_heads, dim, dim, kind);
        const KvView kv = caches.back().append(ctx, k[i], v[i]);
        alone.push_back(attention(ctx, q[i], kv, attend));
        together.push_back(ctx.empty(q[i].shape()));
        parts.push_back({q[i], kv, together.back(), attend});
      }
      attention(ctx, parts);
      for (std::size_t i = 0; i < std::size(queries); ++i) CHECK(same_bits(together[i], alone[i]));
    }
  });
}
