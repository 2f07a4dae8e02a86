/// Matmul: shapes, strides, thread counts, errors.
#include <chiasm/nn/matmul.hpp>

#include "kernels/oracle.hpp"
#include "support/catch.hpp"

using namespace chiasm;

namespace {

struct Stored {
  oracle::Stored bytes;
  Weight weight;
};
Stored weight(std::size_t outputs, std::size_t depth, DType kind, unsigned seed) {
  Stored s{oracle::store(oracle::random(outputs * depth, seed), kind), {}};
  s.weight = Weight("w", kind, Shape{outputs, depth}, static_cast<const std::byte*>(s.bytes.data()), nullptr, "memory");
  return s;
}

}  // namespace

TEST_CASE("matmul equals the oracle through strides, bias, activation and residual in place") {
  for (const Isa isa : kernels::available()) {
    Context ctx({.threads = 2, .isa = name(isa)});
    for (const DType kind : {DType::f32, DType::f16, DType::bf16})
      for (const std::size_t tokens : {1u, 3u, 9u, 70u}) {
        INFO(name(isa) << " " << name(kind) << " " << tokens);
        constexpr std::size_t depth = 150, outputs = 333, xs = 160, ys = 340;
        const std::vector<float> x = oracle::random(tokens * xs, 1), bias = oracle::random(outputs, 2);
        std::vector<float> y = oracle::random(tokens * ys, 3);
        const std::vector<float> before = y;
        const Stored w = weight(outputs, depth, kind, 4);
        const MutView to(y.data(), Shape{tokens, outputs}, ys);
        matmul(ctx, View(x.data(), Shape{tokens, depth}, xs), w.weight, to,
               {.bias = bias.data(), .activation = Activation::gelu, .residual = to});
        std::size_t wrong = 0;
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t n = 0; n < outputs; ++n) {
            double sum = static_cast<double>(bias[n]), size = std::abs(sum);
            for (std::size_t k = 0; k < depth; ++k) {
              const double product = static_cast<double>(x[t * xs + k]) * static_cast<double>(w.bytes.values[n * depth + k]);
              sum += product;
              size += std::abs(product);
            }
            const double want = oracle::activation(Activation::gelu, sum) + static_cast<double>(before[t * ys + n]);
            wrong += !(std::abs(static_cast<double>(y[t * ys + n]) - want) <=
                       1.2 * oracle::sum_tolerance(depth, size) + 1e-6 * std::abs(want));
          }
          for (std::size_t n = outputs; n < ys; ++n) wrong += y[t * ys + n] != before[t * ys + n];
        }
        CHECK(wrong == 0);
      }
  }
}

TEST_CASE("matmul gives the same bits for every number of threads") {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16})
      for (const std::size_t tokens : {1u, 5u, 40u, 300u}) {
        constexpr std::size_t depth = 320;
        for (const std::size_t outputs : {20u, 700u}) {
          const std::vector<float> x = oracle::random(tokens * depth, 1);
          const Stored w = weight(outputs, depth, DType::bf16, 2);
          std::vector<float> one(tokens * outputs), many(tokens * outputs);
          Context single({.threads = 1, .isa = name(isa), .compute = compute}),
              triple({.threads = 3, .isa = name(isa), .compute = compute});
          matmul(single, View(x.data(), Shape{tokens, depth}), w.weight, MutView(one.data(), Shape{tokens, outputs}));
          matmul(triple, View(x.data(), Shape{tokens, depth}), w.weight, MutView(many.data(), Shape{tokens, outputs}));
          INFO(name(isa) << " " << tokens << " " << outputs);
          CHECK(one == many);
        }
      }
}

TEST_CASE("several products of one x are the products one by one") {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16})
      for (const std::size_t tokens : {2u, 50u}) {
        INFO(name(isa) << " " << tokens);
        Context ctx({.threads = 3, .isa = name(isa), .compute = compute});
        constexpr std::size_t depth = 130;
        const std::vector<float> x = oracle::random(tokens * depth, 1), bias = oracle::random(40, 2);
        const Stored w[3] = {weight(300, depth, DType::bf16, 3), weight(40, depth, DType::f32, 4),
                             weight(171, depth, DType::f16, 5)};
        std::vector<float> joint(tokens * 511), apart(tokens * 511);
        const View from(x.data(), Shape{tokens, depth});
        const MutView to(joint.data(), Shape{tokens, 511}), other(apart.data(), Shape{tokens, 511});
        Epilogue epilogue;
        epilogue.bias = bias.data();
        const Product products[] = {{&w[0].weight, to.column_slice(0, 300)},
                                    {&w[1].weight, to.column_slice(300, 40), epilogue},
                                    {&w[2].weight, to.column_slice(340, 171)}};
        matmul(ctx, from, products);
        matmul(ctx, from, w[0].weight, other.column_slice(0, 300));
        matmul(ctx, from, w[1].weight, other.column_slice(300, 40), epilogue);
        matmul(ctx, from, w[2].weight, other.column_slice(340, 171));
        CHECK(joint == apart);
      }
}

TEST_CASE("matmul says what does not fit") {
  Context ctx({.threads = 1});
  const std::vector<float> x(12);
  std::vector<float> y(12);
  const Stored w = weight(3, 4, DType::f32, 1);
  CHECK_THROWS_AS(matmul(ctx, View(x.data(), Shape{2, 5}), w.weight, MutView(y.data(), Shape{2, 3})), ShapeError);
  CHECK_THROWS_AS(matmul(ctx, View(x.data(), Shape{2, 4}), w.weight, MutView(y.data(), Shape{2, 4})), ShapeError);
  CHECK_THROWS_AS(matmul(ctx, View(x.data(), Shape{2, 4}), w.weight, MutView(y.data(), Shape{2, 3}),
                         {.residual = View(x.data(), Shape{1, 3})}),
                  ShapeError);
  const Weight integers("w", DType::i8, Shape{3, 4}, static_cast<const std::byte*>(w.bytes.data()), nullptr, "memory");
  CHECK_THROWS_AS(matmul(ctx, View(x.data(), Shape{2, 4}), integers, MutView(y.data(), Shape{2, 3})), UnsupportedError);
  ctx.cancel_token().cancel();
  CHECK_THROWS_AS(matmul(ctx, View(x.data(), Shape{2, 4}), w.weight, MutView(y.data(), Shape{2, 3})), Cancelled);
}
