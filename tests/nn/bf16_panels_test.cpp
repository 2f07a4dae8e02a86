/// Products with weights in bf16 that lie in panels: what rows give, to the bit, in every tier and precision.
#include <chiasm/core/pack.hpp>
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/nn/linear.hpp>
#include <chiasm/nn/self_attention.hpp>

#include "support/catch.hpp"
#include "support/random_weights.hpp"
#include "support/tensors.hpp"

#include <cmath>

using namespace chiasm;

namespace {

Weight bf16_rows(std::size_t outputs, std::size_t depth, std::uint64_t seed) {
  RandomWeights random(seed);
  random.add("w", Shape{outputs, depth}, 1 / std::sqrt(static_cast<double>(depth)), 0, DType::bf16);
  return random.weights().get("w");
}

/// Calls f(context) for every tier and precision, on one thread and on three.
template <class F>
void in_every_context(F f) {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16, Compute::i8})
      for (const std::size_t threads : {1u, 3u}) {
        INFO(name(isa) << ", compute " << static_cast<int>(compute) << ", " << threads << " threads");
        Context ctx = context_of(isa, compute, threads);
        f(ctx);
      }
}

}  // namespace

TEST_CASE("bf16 in panels: products, side by side and gated, equal those of rows") {
  struct Size {
    std::size_t tokens, depth, outputs, more;
  };
  // Outputs that end inside of a panel, so that the second product's parts may begin inside of one; depths that end inside of a tile and of a slab.
  constexpr Size sizes[] = {{1, 64, 16, 16}, {1, 33, 5, 40}, {3, 1000, 130, 17}, {16, 513, 96, 50}, {17, 64, 48, 31}, {33, 40, 1, 100}, {70, 1056, 66, 80}, {41, 545, 33, 15}, {700, 96, 64, 48}};
  for (const Size& s : sizes) {
    INFO(s.tokens << "x" << s.depth << " to " << s.outputs << " and " << s.more);
    const Weight rows[] = {bf16_rows(s.outputs, s.depth, 1), bf16_rows(s.more, s.depth, 2), bf16_rows(s.outputs, s.depth, 3)}, last = bf16_rows(s.outputs, s.outputs, 7);
    const Weight panels[] = {to_panels(rows[0]), to_panels(rows[1]), to_panels(rows[2])};
    const Tensor x = random_tensor(Shape{s.tokens, s.depth}, 4), bias = random_tensor(Shape{s.outputs}, 5), residual = random_tensor(Shape{s.tokens, s.outputs}, 6);
    in_every_context([&](Context& ctx) {
      const auto both = [&](const Weight& first, const Weight& second) {
        Tensor y = ctx.empty(Shape{s.tokens, s.outputs + s.more});
        Product products[2];
        products[0] = {&first, y.view().column_slice(0, s.outputs), {bias.data(), Activation::gelu, residual}};
        products[1] = {&second, y.view().column_slice(s.outputs, s.more), {}};
        matmul(ctx, x, products);
        return y;
      };
      const Tensor expected = both(rows[0], rows[1]);
      CHECK(same(both(panels[0], panels[1]), expected));
      CHECK(same(both(panels[0], rows[1]), expected));  // kinds side by side
      const auto gated = [&](const Weight& factor, const Weight& gate) {
        Tensor y = ctx.empty(Shape{s.tokens, s.outputs});
        matmul(ctx, matmul_operand(ctx, x, {&factor, bias.data()}, Activation::silu, {&gate, nullptr}), last, y);
        return y;
      };
      CHECK(same(gated(panels[0], panels[2]), gated(rows[0], rows[2])));
    });
  }
}

TEST_CASE("bf16 in panels: a layer of attention equals that of rows") {
  constexpr std::size_t length = 50, heads = 3, head_dim = 32, width = heads * head_dim;
  const Tensor x = random_tensor(Shape{2, length, width}, 1), bias = random_tensor(Shape{3 * width}, 2);
  const Weight qkv = bf16_rows(3 * width, width, 3), out = bf16_rows(width, width, 4);
  Attend attend;
  attend.heads = attend.kv_heads = heads;
  attend.head_dim = attend.v_dim = head_dim;
  attend.scale = 0.2f;
  in_every_context([&](Context& ctx) {
    const auto layer = [&](const Weight& in, const Weight& last) {
      return Linear(last, Tensor(Shape{width}))(ctx, self_attention(ctx, Linear(in, bias.clone()), x, attend, {}));
    };
    CHECK(same(layer(to_panels(qkv), to_panels(out)), layer(qkv, out)));
  });
}

TEST_CASE("bf16 in panels: read where there are tiles, and x may be rounded") {
  for (const Isa isa : kernels::available()) {
    CHECK_FALSE(reads_bf16_panels(Compute::f32, name(isa)));
    CHECK(reads_bf16_panels(Compute::bf16, name(isa)) == (isa == Isa::amx));
    CHECK(reads_bf16_panels(Compute::i8, name(isa)) == (isa == Isa::amx));
  }
  CHECK_THROWS_AS(reads_bf16_panels(Compute::bf16, "mmx"), ArgumentError);
}
