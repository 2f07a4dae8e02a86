/// Products of every available tier against the oracle: sizes around every edge, strides, odd addresses, splits.
#include "kernels/oracle.hpp"
#include "support/catch.hpp"

using namespace chiasm;
using kernels::Table;

namespace {

struct Product {
  std::size_t tokens, depth, outputs;
  DType kind = DType::f32;
  Activation activation = Activation::none;
  bool bias = false, residual = false, split = false;
  std::size_t compute = 0, pad = 0;
};

enum class Way { gemm, gemv, few };

/// Runs the product on `table` and compares every element; y's padding must stay as it was.
void check(const Table& table, const Product& p, Way way) {
  INFO(name(table.isa) << (way == Way::gemm ? " gemm " : way == Way::gemv ? " gemv " : " few ") << p.tokens << "x" << p.depth << "x" << p.outputs << " " << name(p.kind)
                       << " act " << static_cast<int>(p.activation) << " pad " << p.pad << " compute " << p.compute);
  const std::size_t xs = p.depth + p.pad, ys = p.outputs + p.pad, row_elements = p.depth + p.pad;
  const std::vector<float> x = oracle::random(p.tokens * xs + 1, 1), bias = oracle::random(p.outputs, 2),
                           residual = oracle::random(p.tokens * ys + 1, 3);
  const oracle::Stored w = oracle::store(oracle::random(p.outputs * row_elements + 1, 4, 0.5f), p.kind);
  std::vector<float> y(p.tokens * ys + 1, oracle::untouched);
  const kernels::Output out{y.data(), ys, p.bias ? bias.data() : nullptr, p.residual ? residual.data() : nullptr, ys, p.activation};
  const std::size_t stride = row_elements * size_of(p.kind), middle = p.split ? p.outputs / 2 : 0;

  if (way == Way::few) {
    const oracle::Aligned packed(table.few.packed_bytes(p.tokens, p.depth));
    table.few.pack(x.data(), xs, p.tokens, p.depth, packed.data);
    table.few.run({packed.data, p.tokens, p.depth, w.data(), stride, 0, middle, out});
    table.few.run({packed.data, p.tokens, p.depth, w.data(), stride, middle, p.outputs, out});
  } else if (way == Way::gemv) {
    kernels::GemvCall call{x.data(), xs, p.tokens, p.depth, w.data(), stride, 0, middle, out};
    table.gemv[static_cast<std::size_t>(p.kind)](call);
    call.output_begin = middle;
    call.output_end = p.outputs;
    table.gemv[static_cast<std::size_t>(p.kind)](call);
  } else {
    const kernels::Gemm& gemm = table.gemm[p.compute][static_cast<std::size_t>(p.kind)];
    const oracle::Aligned packed(gemm.packed_bytes(p.tokens, p.depth)), scratch(gemm.scratch_bytes);
    const std::size_t panels = (p.tokens + gemm.panel - 1) / gemm.panel;
    gemm.pack(x.data(), xs, p.tokens, p.depth, 0, panels / 2, packed.data);
    gemm.pack(x.data() + panels / 2 * gemm.panel * xs, xs, p.tokens, p.depth, panels / 2, panels, packed.data);
    kernels::GemmCall call{packed.data, p.tokens, p.depth, w.data(), stride, 0, panels, 0, middle, out, scratch.data};
    gemm.run(call);
    call.output_begin = middle;
    call.output_end = p.outputs;
    gemm.run(call);
  }

  oracle::check_product(out, p.tokens, p.outputs, [&](std::size_t t, std::size_t n) {
    double sum = p.bias ? static_cast<double>(bias[n]) : 0.0, size = std::abs(sum);
    for (std::size_t k = 0; k < p.depth; ++k) {
      const double product = static_cast<double>(x[t * xs + k]) * static_cast<double>(w.values[n * row_elements + k]);
      sum += product;
      size += std::abs(product);
    }
    // Rounding both factors to bf16 (8 bits) adds 2^-7 of every product.
    return oracle::Sum{sum, oracle::sum_tolerance(p.depth, size) + (p.compute == 1 ? 0x1p-7 * (1 + 0x1p-9) * size : 0.0)};
  });
}

}  // namespace

TEST_CASE("gemm: sizes around every edge") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (const std::size_t tokens : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 49u, 65u})
      for (const std::size_t depth : {1u, 15u, 33u, 64u})
        for (const std::size_t outputs : {1u, 13u, 14u, 15u, 31u, 33u, 64u})
          for (std::size_t compute = 0; compute < 2; ++compute)
            check(table, {.tokens = tokens, .depth = depth, .outputs = outputs, .compute = compute}, Way::gemm);
  }
}

TEST_CASE("gemm: slabs of depth, blocks of tokens and outputs") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (std::size_t compute = 0; compute < 2; ++compute) {
      for (const std::size_t depth : {0u, 255u, 256u, 257u, 513u, 1031u})
        check(table, {.tokens = 18, .depth = depth, .outputs = 29, .bias = true, .compute = compute}, Way::gemm);
      check(table, {.tokens = 530, .depth = 40, .outputs = 37, .split = true, .compute = compute, .pad = 3}, Way::gemm);
      check(table, {.tokens = 37, .depth = 70, .outputs = 700, .split = true, .compute = compute}, Way::gemm);
    }
  }
}

TEST_CASE("gemm: weight kinds, strides, epilogues") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (std::size_t compute = 0; compute < 2; ++compute)
      for (const DType kind : {DType::f32, DType::f16, DType::bf16})
        for (int a = 0; a <= static_cast<int>(Activation::relu); ++a)
          check(table,
                {.tokens = 35,
                 .depth = 77,
                 .outputs = 45,
                 .kind = kind,
                 .activation = static_cast<Activation>(a),
                 .bias = a % 2 == 0,
                 .residual = a % 3 == 0,
                 .split = a > 2,
                 .compute = compute,
                 .pad = 5},
                Way::gemm);
  }
}

TEST_CASE("gemv: sizes around every edge, kinds, epilogues") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (const DType kind : {DType::f32, DType::f16, DType::bf16})
      for (const std::size_t tokens : {1u, 2u, 3u, 4u, 5u, 7u, 8u})
        for (const std::size_t depth : {0u, 1u, 15u, 16u, 17u, 33u, 100u})
          for (const std::size_t outputs : {1u, 7u, 8u, 9u, 35u})
            check(table,
                  {.tokens = tokens, .depth = depth, .outputs = outputs, .kind = kind, .split = outputs > 30, .pad = outputs % 4},
                  Way::gemv);
    for (int a = 0; a <= static_cast<int>(Activation::relu); ++a)
      for (const std::size_t tokens : {1u, 3u, 6u, 35u})
        check(table,
              {.tokens = tokens,
               .depth = 1025,
               .outputs = 70,
               .kind = DType::bf16,
               .activation = static_cast<Activation>(a),
               .bias = true,
               .residual = true,
               .split = true,
               .pad = 2},
              Way::gemv);
  }
}

namespace {

/// A product whose result goes on packed, with and without a gate, and back to rows by a product with the identity; against rows computed in double.
void check_chained(const Table& table, const Product& p, bool gated) {
  INFO(name(table.isa) << " chained " << p.tokens << "x" << p.depth << "x" << p.outputs << " " << name(p.kind) << " act " << static_cast<int>(p.activation)
                       << " gated " << gated << " compute " << p.compute);
  const std::vector<float> x = oracle::random(p.tokens * p.depth, 1), bias = oracle::random(p.outputs, 2), gate_bias = oracle::random(p.outputs, 5);
  const oracle::Stored w = oracle::store(oracle::random(p.outputs * p.depth, 4, 0.5f), p.kind), g = oracle::store(oracle::random(p.outputs * p.depth, 6, 0.5f), p.kind);
  const kernels::Gemm& gemm = table.gemm[p.compute][static_cast<std::size_t>(p.kind)];
  const oracle::Aligned packed(gemm.packed_bytes(p.tokens, p.depth)), next(gemm.packed_bytes(p.tokens, p.outputs)), scratch(gemm.scratch_bytes);
  const std::size_t panels = (p.tokens + gemm.panel - 1) / gemm.panel, stride = p.depth * size_of(p.kind);
  gemm.pack(x.data(), p.depth, p.tokens, p.depth, 0, panels, packed.data);
  kernels::Output out;
  out.bias = p.bias ? bias.data() : nullptr;
  out.gate_bias = p.bias && gated ? gate_bias.data() : nullptr;
  out.activation = p.activation;
  out.packed = next.data;
  out.packed_depth = p.outputs;
  const std::size_t middle = p.split ? p.outputs / 2 / gemm.step * gemm.step : 0;
  for (const auto& [begin, end] : {std::pair(std::size_t{0}, middle), std::pair(middle, p.outputs)})
    gemm.run({packed.data, p.tokens, p.depth, w.data(), stride, 0, panels, begin, end, out, scratch.data, gated ? g.data() : nullptr});

  std::vector<float> identity(p.outputs * p.outputs), y(p.tokens * p.outputs);
  for (std::size_t n = 0; n < p.outputs; ++n) identity[n * p.outputs + n] = 1;
  const kernels::Gemm& back = table.gemm[p.compute][static_cast<std::size_t>(DType::f32)];
  const oracle::Aligned other(back.scratch_bytes);
  back.run({next.data, p.tokens, p.outputs, identity.data(), p.outputs * 4, 0, panels, 0, p.outputs, {y.data(), p.outputs}, other.data});

  std::size_t wrong = 0;
  for (std::size_t t = 0; t < p.tokens; ++t)
    for (std::size_t n = 0; n < p.outputs; ++n) {
      double sum = p.bias ? static_cast<double>(bias[n]) : 0, gate_sum = p.bias ? static_cast<double>(gate_bias[n]) : 0, size = std::abs(sum), gate_size = std::abs(gate_sum);
      for (std::size_t k = 0; k < p.depth; ++k) {
        const double in = static_cast<double>(x[t * p.depth + k]), a = in * static_cast<double>(w.values[n * p.depth + k]), b = in * static_cast<double>(g.values[n * p.depth + k]);
        sum += a, size += std::abs(a), gate_sum += b, gate_size += std::abs(b);
      }
      const double rounding = p.compute == 1 ? 0x1p-7 * (1 + 0x1p-9) : 0.0;  // of both factors to bf16
      double tolerance = oracle::sum_tolerance(p.depth, size) + rounding * size, want = oracle::activation(p.activation, sum);
      if (gated) {
        const double slope = 1.2 * (oracle::sum_tolerance(p.depth, gate_size) + rounding * gate_size), activated = oracle::activation(p.activation, gate_sum);
        want = activated * sum;
        tolerance = std::abs(activated) * tolerance + (std::abs(sum) + tolerance) * (slope + 1e-6);
      } else {
        tolerance *= 1.2;
      }
      // The result is rounded to bf16 itself; activations on their way there are good to 2^-13, gelu's tail to 2e-6 of its x.
      tolerance += p.compute == 1 ? (0x1p-8 + 0x1p-12) * std::abs(want) + 1e-5 * (1 + std::abs(sum)) * (gated ? 1 + std::abs(gate_sum) : 1.0) : 1e-6 * (1 + std::abs(want));
      if (std::abs(static_cast<double>(y[t * p.outputs + n]) - want) <= tolerance) continue;
      if (wrong++ == 0) {
        CAPTURE(t, n, y[t * p.outputs + n], want, tolerance);
        CHECK(false);
      }
    }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("few: sizes around every edge, epilogues, one token as in any company") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    if (table.few.tokens == 0) continue;
    for (std::size_t tokens = 1; tokens <= table.few.tokens; ++tokens)
      for (const std::size_t depth : {0u, 1u, 31u, 32u, 33u, 95u, 515u})
        for (const std::size_t outputs : {1u, 15u, 16u, 17u, 35u, 64u})
          check(table,
                {.tokens = tokens,
                 .depth = depth,
                 .outputs = outputs,
                 .kind = DType::bf16,
                 .activation = static_cast<Activation>((tokens + outputs) % 5),
                 .bias = outputs % 2 == 0,
                 .residual = tokens % 2 == 0,
                 .split = outputs > 30,
                 .compute = 1,
                 .pad = outputs % 4},
                Way::few);

    const std::size_t depth = 300, outputs = 53;
    const std::vector<float> x = oracle::random(table.few.tokens * depth, 1);
    const oracle::Stored w = oracle::store(oracle::random(outputs * depth, 4, 0.5f), DType::bf16);
    const auto products = [&](std::size_t first, std::size_t tokens, std::size_t piece) {
      const oracle::Aligned packed(table.few.packed_bytes(tokens, depth));
      std::vector<float> y(tokens * outputs);
      table.few.pack(x.data() + first * depth, depth, tokens, depth, packed.data);
      for (std::size_t n = 0; n < outputs; n += piece)
        table.few.run({packed.data, tokens, depth, w.data(), depth * 2, n, std::min(n + piece, outputs), {y.data(), outputs}});
      return y;
    };
    std::vector<float> alone;
    for (std::size_t t = 0; t < table.few.tokens; ++t) {
      const std::vector<float> y = products(t, 1, 17);
      alone.insert(alone.end(), y.begin(), y.end());
      CHECK(products(0, t + 1, outputs) == alone);
    }
  }
}

TEST_CASE("gemm: a result that goes on packed") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (std::size_t compute = 0; compute < 2; ++compute)
      for (const bool gated : {false, true}) {
        for (const std::size_t tokens : {1u, 16u, 17u, 33u, 70u})
          for (const std::size_t outputs : {1u, 31u, 32u, 33u, 97u})
            check_chained(table, {.tokens = tokens, .depth = 40, .outputs = outputs, .bias = outputs % 2 == 1, .split = outputs > 64, .compute = compute}, gated);
        for (int a = 0; a <= static_cast<int>(Activation::relu); ++a)
          check_chained(table, {.tokens = 35, .depth = 77, .outputs = 70, .kind = a % 2 == 0 ? DType::bf16 : DType::f16, .activation = static_cast<Activation>(a), .bias = true, .compute = compute}, gated);
        check_chained(table, {.tokens = 40, .depth = 1100, .outputs = 600, .compute = compute}, gated);  // slabs of both products
      }
  }
}

TEST_CASE("products do not depend on how the work is split") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    constexpr std::size_t tokens = 70, depth = 300, outputs = 95;
    const std::vector<float> x = oracle::random(tokens * depth, 1);
    const oracle::Stored w = oracle::store(oracle::random(outputs * depth, 2), DType::bf16);
    for (std::size_t compute = 0; compute < 2; ++compute) {
      const kernels::Gemm& gemm = table.gemm[compute][static_cast<std::size_t>(DType::bf16)];
      const oracle::Aligned packed(gemm.packed_bytes(tokens, depth)), scratch(gemm.scratch_bytes);
      const std::size_t panels = (tokens + gemm.panel - 1) / gemm.panel;
      gemm.pack(x.data(), depth, tokens, depth, 0, panels, packed.data);
      std::vector<float> whole(tokens * outputs), parts(tokens * outputs);
      gemm.run({packed.data, tokens, depth, w.data(), depth * 2, 0, panels, 0, outputs, {whole.data(), outputs}, scratch.data});
      for (std::size_t p = 0; p < panels; ++p)
        for (std::size_t n = 0; n < outputs; n += 17)
          gemm.run({packed.data,
                    tokens,
                    depth,
                    w.data(),
                    depth * 2,
                    p,
                    p + 1,
                    n,
                    std::min<std::size_t>(n + 17, outputs),
                    {parts.data(), outputs},
                    scratch.data});
      CHECK(whole == parts);
    }
    std::vector<float> whole(3 * outputs), parts(3 * outputs);
    table.gemv[2]({x.data(), depth, 3, depth, w.data(), depth * 2, 0, outputs, {whole.data(), outputs}});
    for (std::size_t n = 0; n < outputs; n += 5)
      table.gemv[2]({x.data(), depth, 3, depth, w.data(), depth * 2, n, n + 5, {parts.data(), outputs}});
    CHECK(whole == parts);
  }
}
