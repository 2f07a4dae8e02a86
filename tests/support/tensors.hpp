/// What tests of products and attention begin with: random numbers, a context, equality to the bit.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/isa.hpp>

#include <cstring>
#include <random>

inline chiasm::Tensor random_tensor(chiasm::Shape shape, unsigned seed) {
  chiasm::Tensor x(shape);
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  for (float& value : x.values()) value = normal(engine);
  return x;
}

inline bool same(const chiasm::Tensor& a, const chiasm::Tensor& b) { return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0; }

inline chiasm::Context context_of(chiasm::Isa isa, chiasm::Compute compute, std::size_t threads) {
  chiasm::ContextOptions options;
  options.isa = name(isa);
  options.compute = compute;
  options.threads = threads;
  return chiasm::Context(options);
}
