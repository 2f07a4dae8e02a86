/// Compute::i8 with weights of one scale a row: against the same numbers in f32 and against whole numbers, packed and in rows, by one thread and by several.
#include <chiasm/core/conversion.hpp>
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/nn/linear.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

using namespace chiasm;

namespace {

Weight bytes(std::size_t rows, std::size_t columns, unsigned seed) { return pack(blocks::random(DType::q8_row, rows, columns, seed)); }

/// The size of the difference, as a share of the size of `b`.
double difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double squares = 0, size = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double e = static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i]);
    squares += e * e;
    size += static_cast<double>(b.data()[i]) * static_cast<double>(b.data()[i]);
  }
  return std::sqrt(squares / size);
}

Operand operand_of(Context& ctx, const Tensor& x) {
  return Operand::of_rows(ctx, x.shape(), [&](std::size_t i, float* y) { std::memcpy(y, x.row(i), x.columns() * sizeof(float)); });
}

struct Size {
  std::size_t tokens, depth, inner, outputs;
};
constexpr Size sizes[] = {{17, 40, 33, 5}, {70, 1024, 100, 48}, {65, 1030, 48, 31}, {33, 300, 2100, 70}, {1, 64, 64, 16}, {5, 31, 31, 31}, {370, 64, 130, 33}, {40, 2500, 96, 17}, {128, 96, 1500, 64}};

}  // namespace

TEST_CASE("Compute::i8: products, and chains of them, by any number of threads") {
  for (const Isa isa : kernels::available())
    for (const Size& s : sizes) {
      INFO(name(isa) << " " << s.tokens << "x" << s.depth << " to " << s.inner << " to " << s.outputs);
      Context one = context_of(isa, Compute::i8, 1), three = context_of(isa, Compute::i8, 3), exact = context_of(isa, Compute::f32, 2);
      const Weight up = bytes(s.inner, s.depth, 1), gate = bytes(s.inner, s.depth, 2), down = bytes(s.outputs, s.inner, 3);
      const Tensor x = random_tensor(Shape{s.tokens, s.depth}, 4), bias = random_tensor(Shape{s.inner}, 5), more = random_tensor(Shape{s.inner}, 6), residual = random_tensor(Shape{s.tokens, s.outputs}, 7);
      const auto run = [&](Context& ctx, bool packed, bool gated) {
        Tensor y = residual.clone();
        const Operand from = packed ? operand_of(ctx, x) : Operand(x);
        const Operand h = matmul_operand(ctx, from, {&up, bias.data()}, Activation::silu, gated ? Factor{&gate, more.data()} : Factor());
        matmul(ctx, h, down, y, {nullptr, Activation::none, y});
        return y;
      };
      for (const bool gated : {false, true}) {
        const Tensor y = run(one, true, gated);
        CHECK(difference(y, run(exact, false, gated)) < 0.03);
        CHECK(same(run(one, false, gated), y));
        CHECK(same(run(three, true, gated), y));
      }
    }
}

TEST_CASE("Compute::i8 on tiles: the sums are those of whole numbers") {
  if (kernels::available().back() != Isa::amx) return;
  Context ctx = context_of(Isa::amx, Compute::i8, 2);
  for (const std::size_t depth : {1u, 63u, 64u, 65u, 700u, 1024u})  // one scale for all of a token
    for (const std::size_t tokens : {17u, 33u, 70u}) {
      const Weight w = bytes(50, depth, 1);
      const Tensor x = random_tensor(Shape{tokens, depth}, 2), bias = random_tensor(Shape{50}, 3), values = w.to_f32();
      Tensor y(Shape{tokens, 50});
      matmul(ctx, x, w, y, {bias.data()});
      double worst = 0;
      for (std::size_t t = 0; t < tokens; ++t) {
        float top = 0;
        for (std::size_t k = 0; k < depth; ++k) top = std::max(top, std::abs(x.row(t)[k]));
        for (std::size_t n = 0; n < 50; ++n) {
          double sum = 0, size = std::abs(static_cast<double>(bias.data()[n]));
          for (std::size_t k = 0; k < depth; ++k) {
            const double product = std::nearbyint(static_cast<double>(x.row(t)[k] * (127.0f / top))) * static_cast<double>(values.row(n)[k]);
            sum += product, size += std::abs(product * static_cast<double>(top) / 127);
          }
          const double want = sum * static_cast<double>(top) / 127 + static_cast<double>(bias.data()[n]);
          worst = std::max(worst, std::abs(static_cast<double>(y.row(t)[n]) - want) / size);
        }
      }
      INFO(tokens << "x" << depth);
      CHECK(worst < 5e-7);
    }
}

TEST_CASE("an operand in eight bits goes to weights of other kinds too") {
  for (const Isa isa : kernels::available()) {
    Context ctx = context_of(isa, Compute::i8, 2), exact = context_of(isa, Compute::f32, 2);
    const Tensor x = random_tensor(Shape{50, 512}, 1);
    const Weight row = bytes(40, 512, 2), q4 = pack(blocks::random(DType::q4_0, 33, 512, 3)), q5 = pack(blocks::random(DType::q5_0, 33, 512, 6)), bf16 = blocks::random(DType::q8_0, 20, 512, 4).to(DType::bf16);
    const Operand packed = operand_of(ctx, x);
    const Weight* const kinds[] = {&row, &q4, &bf16};
    std::vector<Tensor> ys;
    std::vector<Product> products;
    for (const Weight* w : kinds) ys.emplace_back(Shape{50, w->shape()[0]});
    for (std::size_t i = 0; i < 3; ++i) products.push_back({kinds[i], ys[i].view(), {}});
    matmul(ctx, packed, products);
    for (std::size_t i = 0; i < 3; ++i) {
      INFO(name(isa) << " " << name(kinds[i]->dtype()));
      Tensor want(ys[i].shape());
      matmul(exact, x, kinds[i]->to(DType::f32), want);
      CHECK(difference(ys[i], want) < 0.03);
    }
    // And weights of other kinds make operands for those in bytes.
    const Weight last = bytes(24, 33, 5), inner = pack(blocks::random(DType::q8_row, 33, 512, 3));
    for (const Weight* const first : {&q4, &inner})
      for (const Weight* const gate : {static_cast<const Weight*>(nullptr), &q5, &inner}) {
        Tensor y(Shape{50, 24}), want(Shape{50, 24});
        matmul(ctx, matmul_operand(ctx, packed, {first}, Activation::gelu, {gate}), last, y);
        matmul(exact, matmul_operand(exact, x, {first}, Activation::gelu, {gate}), last, want);
        INFO(name(isa) << " " << name(first->dtype()) << " gate " << (gate == nullptr ? "none" : name(gate->dtype())));
        CHECK(difference(y, want) < 0.04);
      }
  }
}

TEST_CASE("Compute::i8: tokens of zeros, and of numbers that are none") {
  for (const Isa isa : kernels::available()) {
    INFO(name(isa));
    Context ctx = context_of(isa, Compute::i8, 2);
    const Weight up = bytes(64, 96, 1), down = bytes(20, 64, 2);
    Tensor x = random_tensor(Shape{40, 96}, 3);
    const auto run = [&] {
      Tensor y(Shape{40, 20});
      matmul(ctx, matmul_operand(ctx, operand_of(ctx, x), {&up}, Activation::gelu), down, y);
      return y;
    };
    std::fill(x.row(7), x.row(7) + 96, 0.0f);
    const Tensor before = run();
    for (std::size_t n = 0; n < 20; ++n) CHECK(before.row(7)[n] == 0);
    for (const float none : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      x.row(33)[5] = none;
      const Tensor y = run();
      for (std::size_t t = 0; t < 40; ++t)
        for (std::size_t n = 0; n < 20; ++n) CHECK((t == 33 ? std::isnan(y.row(t)[n]) : y.row(t)[n] == before.row(t)[n]));
    }
  }
}
