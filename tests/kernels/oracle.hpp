/// Oracle: what the kernels should give, in double precision, plainly; and random data to ask for.
#pragma once

#include <chiasm/kernels/dispatch.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace oracle {

inline double activation(chiasm::Activation a, double x) {
  using chiasm::Activation;
  switch (a) {
    case Activation::none:
      return x;
    case Activation::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::quick_gelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::relu:
      return x > 0 ? x : 0;
  }
  return x;
}

inline std::vector<float> random(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(engine);
  return values;
}

/// A weight of `kind` at an odd address, and the values that it holds.
struct Stored {
  std::vector<unsigned char> bytes;
  std::vector<float> values;
  const void* data() const { return bytes.data() + 1; }
};
inline Stored store(const std::vector<float>& values, chiasm::DType kind) {
  Stored s;
  const std::size_t size = chiasm::size_of(kind);
  s.bytes.resize(values.size() * size + 1);
  s.values.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    unsigned char* const to = s.bytes.data() + 1 + i * size;
    if (kind == chiasm::DType::f16) {
      const auto half = chiasm::f16::from(values[i]);
      std::memcpy(to, &half, size);
      s.values[i] = static_cast<float>(half);
    } else if (kind == chiasm::DType::bf16) {
      const auto half = chiasm::bf16::from(values[i]);
      std::memcpy(to, &half, size);
      s.values[i] = static_cast<float>(half);
    } else {
      std::memcpy(to, &values[i], size);
      s.values[i] = values[i];
    }
  }
  return s;
}

/// 64-byte aligned memory that goes when it goes out of scope.
struct Aligned {
  explicit Aligned(std::size_t bytes) : data(::operator new(bytes + 1, std::align_val_t(64))) {}
  ~Aligned() { ::operator delete(data, std::align_val_t(64)); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  void* data;
};

/// A sum of n products in f32, in whatever order, is off by at most (n + 1) 2^-24 times the sum of the absolute products (Higham,
/// Accuracy and Stability, 3.1); sums of random signs stay far below.
inline double sum_tolerance(std::size_t n, double absolute_sum) {
  return (static_cast<double>(n) + 4) * 0x1p-24 * absolute_sum + 1e-30;
}

/// What memory for results holds beforehand.
inline constexpr float untouched = -77.0f;

/// A product with its bias, and by how much it may be off.
struct Sum {
  double value = 0, tolerance = 0;
};

/// Checks `out`, where a product of (tokens, outputs) was written with its epilogue: `sum(t, n)` is element n of token t before activation and
/// residual. Rows' padding, and the float behind the last row, must be untouched.
template <class F>
void check_product(const chiasm::kernels::Output& out, std::size_t tokens, std::size_t outputs, F sum) {
  std::size_t wrong = 0;
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* const y = out.y + t * out.stride;
    for (std::size_t n = 0; n < outputs; ++n) {
      const Sum product = sum(t, n);
      // Activations' slopes are below 1.2; they add a few ulp of their own.
      double want = activation(out.activation, product.value), tolerance = 1.2 * product.tolerance + 4e-7 * std::abs(want);
      if (out.residual != nullptr) {
        const double residual = out.residual[t * out.residual_stride + n];
        want += residual;
        tolerance += 0x1p-23 * (std::abs(want) + std::abs(residual));
      }
      if (!(std::abs(static_cast<double>(y[n]) - want) <= tolerance) && wrong++ == 0) {
        CAPTURE(t, n, y[n], want, tolerance);
        CHECK(false);
      }
    }
    for (std::size_t n = outputs; n < out.stride; ++n) wrong += y[n] != untouched;
  }
  wrong += out.y[tokens * out.stride] != untouched;
  CHECK(wrong == 0);
}

}  // namespace oracle
