/// Products with block formats in every tier against the oracle: kinds, sizes around every edge, splits.
#include <chiasm/core/pack.hpp>

#include "kernels/oracle.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"

using namespace chiasm;
using kernels::Table;

namespace {

enum class Way { gemv, gemv_i8, gemm, gemm_bf16, gemm_i8 };

struct Product {
  std::size_t tokens, depth, outputs;
  bool bias = false, residual = false;
  Activation activation = Activation::none;
  std::size_t pad = 0;
};

/// y of outputs [begin, end).
void run(const Table& table, const Weight& packed, Way way, const std::vector<float>& x, const Product& p, std::size_t begin, std::size_t end,
         const kernels::Output& out) {
  const auto kind = static_cast<std::size_t>(packed.dtype());
  const std::size_t stride = panel_bytes(packed.dtype(), p.depth), xs = p.depth + p.pad;
  if (way == Way::gemv) {
    table.gemv[kind]({x.data(), xs, p.tokens, p.depth, packed.data(), stride, begin, end, out});
  } else if (way == Way::gemv_i8) {
    const oracle::Aligned quantized(table.quantized_bytes(p.tokens, p.depth));
    table.quantize(x.data(), xs, p.tokens, p.depth, quantized.data);
    table.gemv_i8[kind]({quantized.data, p.tokens, p.depth, packed.data(), stride, begin, end, out});
  } else {
    const kernels::Gemm& gemm = table.gemm[way == Way::gemm_i8 ? 2 : way == Way::gemm_bf16 ? 1 : 0][kind];
    const oracle::Aligned x_packed(gemm.packed_bytes(p.tokens, p.depth)), scratch(gemm.scratch_bytes);
    const std::size_t panels = (p.tokens + gemm.panel - 1) / gemm.panel;
    gemm.pack(x.data(), xs, p.tokens, p.depth, 0, panels, x_packed.data);
    gemm.run({x_packed.data, p.tokens, p.depth, packed.data(), stride, 0, panels, begin, end, out, scratch.data});
  }
}

void check(const Table& table, DType kind, const Product& p, Way way) {
  INFO(name(table.isa) << " way " << static_cast<int>(way) << " " << p.tokens << "x" << p.depth << "x" << p.outputs << " " << name(kind));
  const std::size_t xs = p.depth + p.pad, ys = p.outputs + p.pad;
  const Weight w = blocks::random(kind, p.outputs, p.depth, 5), packed = pack(w);
  const Tensor values = w.to_f32();
  const std::vector<float> x = oracle::random(p.tokens * xs + 1, 1), bias = oracle::random(p.outputs, 2), residual = oracle::random(p.tokens * ys + 1, 3);
  std::vector<float> y(p.tokens * ys + 1, oracle::untouched);
  const kernels::Output out{y.data(), ys, p.bias ? bias.data() : nullptr, p.residual ? residual.data() : nullptr, ys, p.activation};
  // In two parts, which need not begin with a panel.
  const std::size_t middle = p.outputs / 3;
  run(table, packed, way, x, p, 0, middle, out);
  run(table, packed, way, x, p, middle, p.outputs, out);

  const std::size_t unit = way == Way::gemm_i8 ? 1024 : 32;  // numbers of x with one scale; of gemm_i8 at most so many
  std::vector<double> half_step(p.tokens * p.depth);         // half of a step of x in eight bits
  for (std::size_t t = 0; t < p.tokens; ++t)
    for (std::size_t k = 0; k < p.depth; ++k) {
      double top = 0;
      for (std::size_t i = k / unit * unit; i < std::min(k / unit * unit + unit, p.depth); ++i) top = std::max(top, std::abs(static_cast<double>(x[t * xs + i])));
      half_step[t * p.depth + k] = top / 254;
    }
  oracle::check_product(out, p.tokens, p.outputs, [&](std::size_t t, std::size_t n) {
    double sum = p.bias ? static_cast<double>(bias[n]) : 0.0, size = std::abs(sum), rounding = 0;
    for (std::size_t k = 0; k < p.depth; ++k) {
      const double weight = values.row(n)[k], factor = x[t * xs + k];
      sum += weight * factor;
      // Scale and minimum are multiplied by x one by one: each up to three times the largest number that they make (which random codes are near).
      size += 0.3 * std::abs(factor) + std::abs(weight * factor);
      if (way == Way::gemv_i8 || way == Way::gemm_i8) rounding += std::abs(weight) * half_step[t * p.depth + k];
      if (way == Way::gemm_bf16) rounding += 0x1p-7 * (1 + 0x1p-9) * std::abs(weight * factor);
    }
    return oracle::Sum{sum, oracle::sum_tolerance(p.depth, size) + rounding};
  });
}

std::vector<Way> ways(const Table& table, DType kind) {
  std::vector<Way> all = {Way::gemv, Way::gemm};
  if (table.quantize != nullptr) all.push_back(Way::gemv_i8);
  if (table.isa == Isa::amx) all.push_back(Way::gemm_bf16);
  if (table.isa == Isa::amx && kind == DType::q8_row) all.push_back(Way::gemm_i8);
  return all;
}

}  // namespace

TEST_CASE("block formats: every kind, tier and way") {
  for (const Table* table : kernels::tables())
    for (const DType kind : blocks::types)
      for (const Way way : ways(*table, kind)) {
        check(*table, kind, {.tokens = 1, .depth = 256, .outputs = 16}, way);
        check(*table, kind, {.tokens = 3, .depth = 801, .outputs = 83, .bias = true, .residual = true, .activation = Activation::silu, .pad = 3}, way);
      }
}

TEST_CASE("block formats: sizes around every edge") {
  for (const Table* table : kernels::tables())
    for (const DType kind : {DType::q4_0, DType::q4_k, DType::q6_k, DType::q8_row})
      for (const Way way : ways(*table, kind)) {
        for (const std::size_t depth : {0u, 1u, 31u, 32u, 33u, 255u, 256u, 257u, 513u})
          for (const std::size_t outputs : {1u, 15u, 17u, 64u}) check(*table, kind, {.tokens = 2, .depth = depth, .outputs = outputs}, way);
        for (const std::size_t tokens : {1u, 4u, 5u, 7u, 8u, 9u, 16u, 17u, 31u, 32u, 33u, 100u}) check(*table, kind, {.tokens = tokens, .depth = 160, .outputs = 50, .pad = 1}, way);
        check(*table, kind, {.tokens = 33, .depth = 40, .outputs = 700}, way);
        check(*table, kind, {.tokens = 40, .depth = 1100, .outputs = 70}, way);
      }
}

TEST_CASE("block formats: the same result however the work is split") {
  for (const Table* table : kernels::tables())
    for (const DType kind : blocks::types)
      for (const Way way : ways(*table, kind)) {
        INFO(name(table->isa) << " way " << static_cast<int>(way) << " " << name(kind));
        const Product p{.tokens = 11, .depth = 300, .outputs = 150};
        const Weight packed = pack(blocks::random(kind, p.outputs, p.depth, 9));
        const std::vector<float> x = oracle::random(p.tokens * p.depth, 1);
        std::vector<float> whole(p.tokens * p.outputs), parts(whole), single(whole);
        run(*table, packed, way, x, p, 0, p.outputs, {whole.data(), p.outputs});
        for (std::size_t n = 0; n < p.outputs; n += 17) run(*table, packed, way, x, p, n, std::min<std::size_t>(n + 17, p.outputs), {parts.data(), p.outputs});
        CHECK(whole == parts);
        for (std::size_t t = 0; t < p.tokens; ++t) {
          const std::vector<float> row(x.begin() + static_cast<std::ptrdiff_t>(t * p.depth), x.begin() + static_cast<std::ptrdiff_t>((t + 1) * p.depth));
          run(*table, packed, way, row, {.tokens = 1, .depth = p.depth, .outputs = p.outputs}, 0, p.outputs, {single.data() + t * p.outputs, p.outputs});
        }
        CHECK(whole == single);
      }
}

TEST_CASE("activations of eight bits: zeros, and numbers that are none") {
  for (const Table* table : kernels::tables()) {
    if (table->quantize == nullptr) continue;
    const Weight packed = pack(blocks::random(DType::q4_0, 20, 64, 1));
    const Product p{.tokens = 1, .depth = 64, .outputs = 20};
    std::vector<float> x(64), y(20, 1.0f);
    run(*table, packed, Way::gemv_i8, x, p, 0, 20, {y.data(), 20});
    CHECK(y == std::vector<float>(20, 0.0f));
    for (const float strange : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      x[40] = strange;
      run(*table, packed, Way::gemv_i8, x, p, 0, 20, {y.data(), 20});
      CHECK(std::isnan(y[7]));
    }
  }
}
