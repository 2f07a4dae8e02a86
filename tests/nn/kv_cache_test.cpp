/// KvCache in each of its kinds: the same whatever the pieces, the threads and the copies.
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/kv_cache.hpp>

#include "kernels/oracle.hpp"
#include "support/catch.hpp"

#include <algorithm>

using namespace chiasm;

namespace {

constexpr std::size_t heads = 2, dim = 40, positions = 2500;

std::vector<float> contents(Context& ctx, const KvCache::Layer& layer) {
  Tensor keys = ctx.empty(Shape{layer.length(), layer.key_width()}), values = ctx.empty(Shape{layer.length(), layer.value_width()});
  layer.read(keys, values);
  std::vector<float> all(keys.values().begin(), keys.values().end());
  all.insert(all.end(), values.values().begin(), values.values().end());
  return all;
}

}  // namespace

TEST_CASE("a cache of any kind holds the same, whatever the pieces, copies and threads") {
  const std::vector<float> numbers = oracle::random(positions * heads * dim, 1), more = oracle::random(positions * heads * dim, 2),
                           asked = oracle::random(4 * heads * dim, 3);
  const View k(numbers.data(), Shape{positions, heads * dim}), v(more.data(), Shape{positions, heads * dim}), q(asked.data(), Shape{2, 2 * heads * dim});
  for (const KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::q8})
    for (const Compute compute : {Compute::f32, Compute::bf16}) {
      INFO(static_cast<int>(kind) << " " << static_cast<int>(compute));
      ContextOptions options;
      options.threads = 1, options.kv = kind, options.compute = compute;
      Context ctx(options);
      options.threads = 3;
      Context three(options);
      KvCache whole(1, heads, dim, dim), pieces(1, heads, dim, dim), copy, tail;
      whole[0].append(ctx, k, v);
      CHECK(whole.kind() == kind);
      for (std::size_t at = 0, step = 1; at < positions; at += step, step = step * 3 % 97 + 1) {
        step = std::min(step, positions - at);
        pieces[0].append(three, k.slice(at, step), v.slice(at, step));
      }
      const std::vector<float> want = contents(ctx, whole[0]);
      CHECK(contents(ctx, pieces[0]) == want);
      copy.copy_head(ctx, whole, 1001);
      copy[0].truncate(333);
      copy[0].append(ctx, k.slice(333, positions - 333), v.slice(333, positions - 333));
      CHECK(contents(ctx, copy[0]) == want);
      tail.copy_head(ctx, whole, 45);
      tail.copy_tail(ctx, whole, 45);
      CHECK(contents(ctx, tail[0]) == want);

      Attend attend;
      attend.heads = 2 * heads, attend.kv_heads = heads, attend.head_dim = attend.v_dim = dim, attend.scale = 0.1f, attend.causal = true, attend.offset = positions - 2;
      const Tensor y = attention(ctx, q, whole[0].view(), attend);  // in stretches
      for (const KvCache* const other : {&pieces, &copy, &tail}) {
        const Tensor same = attention(three, q, (*other)[0].view(), attend);
        CHECK(std::equal(y.values().begin(), y.values().end(), same.values().begin()));
      }
      // As attention to the numbers that it holds.
      const KvView held{want.data(), want.data() + positions * heads * dim, positions, heads * dim, dim, heads * dim, dim};
      Context exact({.threads = 1});
      const Tensor reference = attention(exact, q, held, attend);
      double worst = 0;
      for (std::size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(y.data()[i]) - static_cast<double>(reference.data()[i])));
      CHECK(worst < (compute == Compute::f32 ? 1e-6 : 4e-3));
    }
}
