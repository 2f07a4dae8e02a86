/// Linear layers of block formats: against the same numbers in f32, in every tier, by one thread and by several.
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/nn/linear.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace chiasm;

namespace {

Tensor waves(std::size_t rows, std::size_t columns) {
  Tensor x(Shape{rows, columns});
  for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = std::sin(0.37f * static_cast<float>(i));
  return x;
}

/// The largest difference, as a part of the largest number.
double difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double most = 0, top = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i])));
    top = std::max(top, std::abs(static_cast<double>(b.data()[i])));
  }
  return most / top;
}

/// Rounded activations: bf16 and eight bits leave about a hundredth of the largest of sums of 300 products.
double tolerance(Compute compute) { return compute == Compute::f32 ? 1e-5 : 2e-2; }

}  // namespace

TEST_CASE("Linear of blocks: every kind, from rows and from panels, for any number of threads") {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16}) {
      Context one = context_of(isa, compute, 1), three = context_of(isa, compute, 3);
      for (const DType type : blocks::types) {
        const Weight w = blocks::random(type, 200, 300, 3);
        const Linear linear(w, Tensor{}), plain(w.to(DType::f32), Tensor{});
        for (const std::size_t tokens : {1u, 5u, 12u, 40u}) {
          INFO(name(isa) << " compute " << static_cast<int>(compute) << " " << name(type) << " " << tokens);
          const Tensor x = waves(tokens, 300), y = linear(one, x);
          CHECK(difference(y, plain(one, x)) < tolerance(compute));
          CHECK(same(linear(three, x), y));
          Tensor from_rows(y.shape());  // packed for this product alone
          matmul(three, x, w, from_rows.view());
          CHECK(same(from_rows, y));
        }
      }
    }
}

TEST_CASE("products of one x with blocks of several kinds and with floats") {
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    Context ctx = context_of(kernels::available().back(), compute, 2);
    const Weight weights[] = {pack(blocks::random(DType::q4_k, 70, 512, 1)), pack(blocks::random(DType::q6_k, 33, 512, 2)),
                              blocks::random(DType::q8_0, 16, 512, 3), blocks::random(DType::q4_0, 20, 512, 4).to(DType::bf16)};
    for (const std::size_t count : {2u, 3u, 4u})
      for (const std::size_t tokens : {1u, 8u, 9u, 50u}) {
        const Tensor x = waves(tokens, 512);
        std::vector<Tensor> ys;
        std::vector<chiasm::Product> products;
        for (std::size_t i = 0; i < count; ++i) {
          ys.emplace_back(Shape{tokens, weights[i].shape()[0]});
          products.push_back({&weights[i], ys.back().view(), {}});
        }
        matmul(ctx, x, products);
        for (std::size_t i = 0; i < count; ++i) {
          INFO(count << " " << tokens << " " << i);
          Tensor want(ys[i].shape());
          matmul(ctx, x, weights[i].to(DType::f32), want.view());
          CHECK(difference(ys[i], want) < tolerance(compute));
        }
      }
  }
}

TEST_CASE("a gate and what it lets through, in blocks") {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16})
      for (const std::size_t tokens : {3u, 45u}) {
        Context ctx = context_of(isa, compute, 2);
        const Weight gate = blocks::random(DType::q4_k, 96, 256, 1), up = blocks::random(DType::q4_k, 96, 256, 2), down = blocks::random(DType::q5_0, 64, 96, 3);
        const auto run = [&](auto form) {
          const Weights w({form(gate, "gate"), form(up, "up"), form(down, "down")}, "blocks");
          const Linear both(w.renamed([](std::string_view n) { return std::string(n) + ".weight"; }), {{"gate", 96, false}, {"up", 96, false}}, 256);
          const Linear last(w.get("down"), Tensor{});
          return last(ctx, both.operand(ctx, waves(tokens, 256), Activation::silu));
        };
        const Tensor y = run([](const Weight& w, const char* called) { return Weight(called, w.dtype(), w.shape(), w.data(), w.owner(), "blocks"); });
        const Tensor want = run([](const Weight& w, const char* called) {
          const Weight plain = w.to(DType::f32);
          return Weight(called, plain.dtype(), plain.shape(), plain.data(), plain.owner(), "blocks");
        });
        INFO(name(isa) << " compute " << static_cast<int>(compute) << " " << tokens);
        CHECK(difference(y, want) < 2 * tolerance(compute));
      }
}
