/// Operations on rows and elements of every available tier against the oracle.
#include "kernels/oracle.hpp"
#include "support/catch.hpp"

#include <algorithm>

using namespace chiasm;
using kernels::Table;

namespace {

const std::size_t sizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 1024, 1027};

bool close(float have, double want, double relative, double absolute = 1e-37) {
  if (std::isnan(want)) return std::isnan(have);
  if (std::isinf(want)) return static_cast<double>(have) == want;
  return std::abs(static_cast<double>(have) - want) <= relative * std::abs(want) + absolute;
}

template <class F>
void each_tier(F f) {
  for (const Isa isa : kernels::available()) {
    INFO(name(isa));
    f(kernels::table(isa));
  }
}

}  // namespace

TEST_CASE("activations: every float near and far") {
  std::vector<float> x;
  for (float a = -110.0f; a < 110.0f; a += 0.00731f) x.push_back(a);
  for (float a = 1e-30f; a < 1e30f; a *= 1.7f) x.push_back(a), x.push_back(-a);
  x.push_back(0.0f);
  std::vector<float> y(x.size());
  each_tier([&](const Table& table) {
    for (int i = 0; i <= static_cast<int>(Activation::relu); ++i) {
      const auto a = static_cast<Activation>(i);
      table.activate(a, x.data(), y.data(), x.size());
      double worst = 0;
      float at = 0;
      for (std::size_t j = 0; j < x.size(); ++j) {
        const double want = oracle::activation(a, static_cast<double>(x[j]));
        // Some eight roundings in a row. An error of 2^-24 in the exponent's argument u is a relative error of u 2^-24: that
        // bounds the far tails.
        const double u = a == Activation::gelu        ? 0.5 * static_cast<double>(x[j]) * static_cast<double>(x[j])
                         : a == Activation::gelu_tanh ? 1.6 * std::abs(static_cast<double>(x[j])) *
                                                            (1 + 0.044715 * static_cast<double>(x[j]) * static_cast<double>(x[j]))
                                                      : 1.702 * std::abs(static_cast<double>(x[j]));
        const double allowed = (8 + 4 * std::min(u, 110.0)) * 0x1p-24 * std::abs(want) +
                               1.5e-37 * std::max(1.0, std::abs(static_cast<double>(x[j])));
        const double off = std::abs(static_cast<double>(y[j]) - want) / allowed;
        if (!(off <= worst)) worst = off, at = x[j];
      }
      INFO("activation " << i << " at " << at);
      CHECK(worst <= 1.0);
    }
    const float special[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
    for (int i = 0; i <= static_cast<int>(Activation::relu); ++i) {
      float out[2];
      table.activate(static_cast<Activation>(i), special, out, 2);
      CHECK(std::isnan(out[0]));
      CHECK(out[1] == std::numeric_limits<float>::infinity());
    }
  });
}

TEST_CASE("elements") {
  each_tier([&](const Table& table) {
    for (const std::size_t n : sizes) {
      INFO(n);
      const std::vector<float> a = oracle::random(n + 1, 1), b = oracle::random(n + 1, 2);
      std::vector<float> y(n + 2, 5.0f);
      bool good = true;
      table.add(a.data() + 1, b.data(), y.data(), n);
      for (std::size_t i = 0; i < n; ++i) good &= y[i] == a[i + 1] + b[i];
      table.mul(a.data() + 1, b.data(), y.data(), n);
      for (std::size_t i = 0; i < n; ++i) good &= y[i] == a[i + 1] * b[i];
      table.scale(0.3f, a.data() + 1, y.data(), n);
      for (std::size_t i = 0; i < n; ++i) good &= y[i] == a[i + 1] * 0.3f;
      table.axpy(0.7f, b.data(), y.data(), n);
      for (std::size_t i = 0; i < n; ++i)
        good &=
            close(y[i], static_cast<double>(a[i + 1] * 0.3f) + static_cast<double>(0.7f) * static_cast<double>(b[i]), 1e-7, 4e-7);
      table.gated(Activation::silu, a.data(), b.data() + 1, y.data(), n);
      for (std::size_t i = 0; i < n; ++i)
        good &=
            close(y[i], oracle::activation(Activation::silu, static_cast<double>(a[i])) * static_cast<double>(b[i + 1]), 1e-6);
      CHECK(good);
      CHECK(y[n] == 5.0f);
      double sum = 0, size = 0;
      for (std::size_t i = 0; i < n; ++i) {
        sum += static_cast<double>(a[i]) * static_cast<double>(b[i + 1]);
        size += std::abs(static_cast<double>(a[i]) * static_cast<double>(b[i + 1]));
      }
      CHECK(std::abs(static_cast<double>(table.dot(a.data(), b.data() + 1, n)) - sum) <= oracle::sum_tolerance(n, size));
      const auto first =
          static_cast<std::size_t>(std::max_element(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n)) - a.begin());
      CHECK(table.argmax(a.data(), n) == (n == 0 ? 0 : first));
    }
    const float ties[] = {1, 3, 2, 3, 3};
    CHECK(table.argmax(ties, 5) == 1);
  });
}

TEST_CASE("softmax, layer norm, rms norm") {
  each_tier([&](const Table& table) {
    for (const std::size_t n : sizes) {
      INFO(n);
      const std::vector<float> x = oracle::random(n + 1, 1, 3.0f), w = oracle::random(n, 2), b = oracle::random(n, 3);
      std::vector<float> y(n + 1, 5.0f);
      double top = -1e30, total = 0, mean = 0, variance = 0, square = 0;
      for (std::size_t i = 0; i < n; ++i) top = std::max(top, static_cast<double>(x[i]));
      for (std::size_t i = 0; i < n; ++i) {
        total += std::exp(static_cast<double>(x[i]) - top);
        mean += static_cast<double>(x[i]) / static_cast<double>(n);
        square += static_cast<double>(x[i]) * static_cast<double>(x[i]) / static_cast<double>(n);
      }
      for (std::size_t i = 0; i < n; ++i)
        variance += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean) / static_cast<double>(n);
      bool good = true;
      table.softmax(x.data(), y.data(), n);
      for (std::size_t i = 0; i < n; ++i) good &= close(y[i], std::exp(static_cast<double>(x[i]) - top) / total, 3e-6);
      CHECK(good);
      table.layer_norm(x.data(), w.data(), b.data(), 1e-5f, y.data(), n);
      for (std::size_t i = 0; i < n; ++i)
        good &= close(y[i],
                      (static_cast<double>(x[i]) - mean) / std::sqrt(variance + 1e-5) * static_cast<double>(w[i]) +
                          static_cast<double>(b[i]),
                      1e-6, n == 2 ? 1e-4 : 4e-6);
      CHECK(good);
      table.layer_norm(x.data(), nullptr, nullptr, 1e-5f, y.data(), n);
      for (std::size_t i = 0; i < n; ++i)
        good &= close(y[i], (static_cast<double>(x[i]) - mean) / std::sqrt(variance + 1e-5), 1e-6, n == 2 ? 1e-4 : 4e-6);
      CHECK(good);
      table.rms_norm(x.data(), w.data(), 1e-6f, y.data(), n);
      for (std::size_t i = 0; i < n; ++i)
        good &= close(y[i], static_cast<double>(x[i]) / std::sqrt(square + 1e-6) * static_cast<double>(w[i]), 2e-6);
      CHECK(good);
      CHECK(y[n] == 5.0f);
    }
    const float inf = std::numeric_limits<float>::infinity(), hidden[] = {-inf, -inf, -inf}, one[] = {-inf, 2, -inf};
    float y[3];
    table.softmax(hidden, y, 3);
    CHECK((y[0] == 0 && y[1] == 0 && y[2] == 0));
    table.softmax(one, y, 3);
    CHECK((y[0] == 0 && y[1] == 1 && y[2] == 0));
  });
}

TEST_CASE("rope rotates halves") {
  each_tier([&](const Table& table) {
    for (const std::size_t half : {0u, 1u, 5u, 8u, 16u, 20u, 32u}) {
      const std::size_t head_dim = 2 * half + 3, heads = 3;
      std::vector<float> x = oracle::random(heads * head_dim, 1), before = x, c = oracle::random(half, 2),
                         s = oracle::random(half, 3);
      table.rope(x.data(), heads, head_dim, c.data(), s.data(), half);
      bool good = true;
      for (std::size_t h = 0; h < heads; ++h) {
        const float *from = before.data() + h * head_dim, *to = x.data() + h * head_dim;
        for (std::size_t i = 0; i < half; ++i) {
          const double a = from[i], b = from[half + i], cosine = c[i], sine = s[i];
          good &= close(to[i], a * cosine - b * sine, 0, 1.2e-7 * (std::abs(a * cosine) + std::abs(b * sine)));
          good &= close(to[half + i], b * cosine + a * sine, 0, 1.2e-7 * (std::abs(b * cosine) + std::abs(a * sine)));
        }
        for (std::size_t i = 2 * half; i < head_dim; ++i) good &= to[i] == from[i];
      }
      CHECK(good);
    }
  });
}

TEST_CASE("conversions equal the scalar types, bit for bit") {
  std::vector<float> values = oracle::random(1000, 1, 10.0f);
  for (float a = 1e-12f; a < 1e6f; a *= 1.3f) values.push_back(a), values.push_back(-a);
  for (const float a :
       {0.0f, -0.0f, 65504.0f, 65519.0f, 65520.0f, 1e9f, 1.0f + 0x1p-8f, 1.0f + 0x3p-8f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f})
    values.push_back(a), values.push_back(-a);
  values.push_back(std::numeric_limits<float>::infinity());
  values.push_back(std::numeric_limits<float>::quiet_NaN());
  values.push_back(std::bit_cast<float>(0x7fffffffu));
  each_tier([&](const Table& table) {
    for (const DType kind : {DType::f32, DType::f16, DType::bf16}) {
      const oracle::Stored want = oracle::store(values, kind);
      const std::size_t size = size_of(kind);
      for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{17}, values.size()}) {
        std::vector<unsigned char> bytes(n * size + 2, 0xee);
        table.from_f32[static_cast<std::size_t>(kind)](values.data(), bytes.data() + 1, n);
        bool good = bytes[n * size + 1] == 0xee;
        for (std::size_t i = 0; i < n; ++i)
          if (!std::isnan(values[i]))
            good &= std::memcmp(bytes.data() + 1 + i * size, want.bytes.data() + 1 + i * size, size) == 0;
        std::vector<float> back(n + 1, 5.0f);
        table.to_f32[static_cast<std::size_t>(kind)](bytes.data() + 1, back.data(), n);
        for (std::size_t i = 0; i < n; ++i) good &= std::isnan(values[i]) ? std::isnan(back[i]) : back[i] == want.values[i];
        good &= back[n] == 5.0f;
        INFO(name(kind) << " " << n);
        CHECK(good);
      }
    }
  });
}
