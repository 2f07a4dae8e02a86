/// Fused attention of every available tier against the oracle.
#include "kernels/oracle.hpp"
#include "support/catch.hpp"

#include <algorithm>

using namespace chiasm;
using kernels::Table;

namespace {

struct Case {
  std::size_t queries, keys, heads, kv_heads, head_dim, v_dim;
  bool causal = false;
  std::size_t offset = 0, window = 0;
  bool mask = false, alibi = false, hide_row = false, distances = false;
  float lift = 0;  // scores of the last fifth of the keys are lift^2 higher for every second query, and lower for the others; none is rounded to bf16
};

/// One head's rows in blocks, and the numbers that they became: read back into `rows`.
struct Blocks {
  Blocks(const Table& table, KvKind kind, bool keys, std::vector<float>& rows, std::size_t first, std::size_t stride, std::size_t count, std::size_t width)
      : bytes((count + kernels::kv_block - 1) / kernels::kv_block * (keys ? kernels::kv_key_bytes(kind, width) : kernels::kv_value_bytes(kind, width))), memory(bytes) {
    kernels::KvRows c{kind, width, 0, 0, static_cast<unsigned char*>(memory.data), nullptr, nullptr, stride};
    for (const std::size_t piece : {std::size_t{1}, std::size_t{33}, count}) {  // appended bit by bit
      c.count = std::min(piece, count - c.first);
      c.from = rows.data() + first + c.first * stride;
      if (c.count > 0) (keys ? table.kv.write_keys : table.kv.write_values)(c);
      c.first += c.count;
    }
    c.first = 0, c.count = count, c.to = rows.data() + first;
    if (count > 0) (keys ? table.kv.read_keys : table.kv.read_values)(c);
  }
  std::size_t bytes;
  oracle::Aligned memory;
};

void check(const Table& table, const Case& c, std::size_t compute, KvKind kind = KvKind::f32, std::size_t stretch = 0) {
  const kernels::Attention& attention = table.attention[compute];
  INFO("cache kind " << static_cast<int>(kind) << " stretch " << stretch);
  INFO(name(table.isa) << " " << c.queries << " queries " << c.keys << " keys " << c.heads << "/" << c.kv_heads << " heads of "
                       << c.head_dim << ", " << c.v_dim << (c.causal ? " causal" : "") << " offset " << c.offset << " window "
                       << c.window << (c.mask ? " mask" : "") << (c.alibi ? " alibi" : "") << (c.distances ? " distances" : "") << " compute " << compute);
  const float inf = std::numeric_limits<float>::infinity();
  const std::size_t qs = c.heads * c.head_dim + 3, ks = c.head_dim + 1, kh = c.keys * ks + 2, vs = c.kv_heads * c.v_dim + 5,
                    vh = c.v_dim, ys = c.heads * c.v_dim + 1;
  std::vector<float> q = oracle::random(c.queries * qs, 1);
  std::vector<float> k = oracle::random(c.kv_heads * kh + 1, 2), v = oracle::random(c.keys * vs + 1, 3);
  std::vector<float> y(c.queries * ys, -77.0f), mask = oracle::random(c.queries * (c.keys + 2), 4),
                                                slopes = oracle::random(c.heads, 5, 0.1f);
  for (std::size_t i = 0; i < mask.size(); i += 3) mask[i] = -inf;
  if (c.hide_row)
    for (std::size_t j = 0; j < c.keys; ++j) mask[j] = -inf;
  float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  if (c.lift != 0) {
    scale = 0.0625f / 1.44269504f;  // kernels multiply by the logarithm of e
    for (std::vector<float>* factor : {&q, &k})
      for (float& number : *factor) number = static_cast<float>(bf16::from(number));
    for (std::size_t i = 0; i < c.queries; ++i)
      for (std::size_t h = 0; h < c.heads; ++h) q[i * qs + h * c.head_dim] = i % 2 == 0 ? 4 * c.lift : -4 * c.lift;
    for (std::size_t j = 0; j < c.keys; ++j)
      for (std::size_t h = 0; h < c.kv_heads; ++h) k[h * kh + j * ks] = 5 * j < 4 * c.keys ? 0.0f : 4 * c.lift;
  }

  kernels::AttentionCall call;
  call.q = q.data(), call.q_row = qs;
  call.k = k.data(), call.k_row = ks, call.k_head = kh;
  call.v = v.data(), call.v_row = vs, call.v_head = vh;
  call.y = y.data(), call.y_row = ys;
  call.queries = c.queries, call.keys = c.keys, call.heads = c.heads, call.kv_heads = c.kv_heads, call.head_dim = c.head_dim,
  call.v_dim = c.v_dim;
  call.scale = scale, call.causal = c.causal, call.offset = c.offset, call.window = c.window;
  if (c.mask) call.mask = mask.data(), call.mask_row = c.keys + 2;
  if (c.alibi) call.alibi_slopes = slopes.data();
  const std::size_t reach = c.offset + c.queries + c.keys;
  const std::vector<float> distances = oracle::random(c.heads * 2 * reach, 6);
  if (c.distances) call.distance_bias = distances.data() + reach, call.distance_bias_head = 2 * reach;
  const oracle::Aligned scratch(attention.scratch_bytes(c.head_dim, c.v_dim));
  call.scratch = scratch.data;
  const std::size_t group = c.heads / c.kv_heads, rows = c.queries * group;
  call.kind = kind;
  std::vector<float> partials;
  for (call.kv_head = 0; call.kv_head < c.kv_heads; ++call.kv_head) {
    std::unique_ptr<Blocks> keys, values;
    if (kind != KvKind::f32) {
      keys = std::make_unique<Blocks>(table, kind, true, k, call.kv_head * kh, ks, c.keys, c.head_dim);
      values = std::make_unique<Blocks>(table, kind, false, v, call.kv_head * vh, vs, c.keys, c.v_dim);
      call.k = keys->memory.data, call.k_head = 0;  // of one head alone
      call.v = values->memory.data, call.v_head = 0;
    }
    for (call.row_begin = 0; call.row_begin < rows; call.row_begin = call.row_end) {
      call.row_end = std::min(rows, call.row_begin + attention.rows);
      if (stretch == 0) {
        attention.run(call);
        continue;
      }
      const std::size_t count = call.row_end - call.row_begin, width = c.v_dim + 2, parts = (c.keys + stretch - 1) / stretch;
      partials.assign(parts * count * width, -77.0f);
      for (std::size_t p = 0; p < parts; ++p) {
        call.key_begin = p * stretch, call.key_end = call.key_begin + stretch, call.partial = partials.data() + p * count * width;
        attention.run(call);
      }
      for (std::size_t r = 0; r < count; ++r) {
        const std::size_t row = call.row_begin + r;
        attention.combine(partials.data() + r * width, parts, count * width, c.v_dim, y.data() + row / group * ys + (call.kv_head * group + row % group) * c.v_dim);
      }
    }
  }

  std::size_t wrong = 0;
  for (std::size_t i = 0; i < c.queries; ++i)
    for (std::size_t h = 0; h < c.heads; ++h) {
      std::vector<double> scores(c.keys);
      double top = -1e300, total = 0;
      for (std::size_t j = 0; j < c.keys; ++j) {
        double s = 0;
        for (std::size_t d = 0; d < c.head_dim; ++d)
          s += static_cast<double>(q[i * qs + h * c.head_dim + d]) * static_cast<double>(k[h / group * kh + j * ks + d]);
        s *= static_cast<double>(scale);
        const std::size_t position = c.offset + i;
        if (c.alibi) s += static_cast<double>(slopes[h]) * (static_cast<double>(j) - static_cast<double>(position));
        if (c.mask) s += static_cast<double>(mask[i * (c.keys + 2) + j]);
        if (c.distances) s += static_cast<double>(distances[h * 2 * reach + reach + j - position]);
        if ((c.causal && j > position) || (c.window != 0 && j + c.window <= position))
          s = -std::numeric_limits<double>::infinity();
        scores[j] = s;
        top = std::max(top, s);
      }
      for (double& s : scores) s = std::exp(s - top), total += s;
      // f32: scores of order 10 are off by some 2^-21, weights by as much, relatively. bf16: keys and queries of order 1 are each
      // off by 2^-8, so scores by 2^-8 of the root of their mean square 1, a few times that at worst; weights and values by
      // another 2^-8 each. Values reach 4.
      const double tolerance = compute == 0 ? 5e-6 : 4 * 6 * 0x1p-8;
      for (std::size_t d = 0; d < c.v_dim; ++d) {
        double want = 0;
        if (top > -1e300)
          for (std::size_t j = 0; j < c.keys; ++j)
            want += scores[j] / total * static_cast<double>(v[j * vs + h / group * vh + d]);
        if (!(std::abs(static_cast<double>(y[i * ys + h * c.v_dim + d]) - want) <= tolerance) && wrong++ == 0) {
          CAPTURE(i, h, d, y[i * ys + h * c.v_dim + d], want);
          CHECK(false);
        }
      }
    }
  for (std::size_t i = 0; i < c.queries; ++i) wrong += y[i * ys + ys - 1] != -77.0f;
  CHECK(wrong == 0);
}

void check(const Table& table, const Case& c) {
  for (const std::size_t compute : {0u, 1u})
    for (const KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::q8})
      if (kind == KvKind::f32 || compute == 0 || table.isa == Isa::amx) check(table, c, compute, kind);  // other tiers have one attention for both
}

}  // namespace

TEST_CASE("attention: encoder shapes, odd sizes") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (const std::size_t queries : {1u, 3u, 16u, 17u, 33u, 140u})
      for (const std::size_t keys : {0u, 1u, 55u, 56u, 57u, 130u}) check(table, {queries, keys, 2, 2, 19, 23});
    check(table, {50, 50, 3, 3, 64, 64});
    check(table, {9, 70, 2, 1, 1, 1});
    check(table, {40, 70, 1, 1, 300, 80});
    check(table, {2, 70, 2, 2, 300, 90});
  }
}

TEST_CASE("attention: causal, window, offset, grouped heads") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (const std::size_t offset : {0u, 7u, 100u})
      for (const std::size_t queries : {1u, 2u, 40u, 150u})
        for (const std::size_t kv_heads : {1u, 2u, 4u}) {
          const std::size_t keys = offset + queries;
          check(table, {queries, keys, 4, kv_heads, 16, 16, true, offset});
          check(table, {queries, keys, 4, kv_heads, 16, 16, true, offset, 9});
          check(table, {queries, keys, 4, kv_heads, 16, 16, true, offset, 0, true, true});
          check(table, {queries, keys, 4, kv_heads, 16, 16, true, offset, 60, true, true});
        }
    check(table, {5, 3, 2, 2, 8, 8, true, 0});  // fewer keys than queries
    check(table, {20, 90, 2, 2, 8, 8, false, 60, 30});
  }
}

TEST_CASE("attention: biases by distance") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (const std::size_t queries : {1u, 3u, 40u, 150u})
      for (const std::size_t kv_heads : {1u, 4u}) {
        check(table, {queries, 75, 4, kv_heads, 16, 16, false, 0, 0, false, false, false, true});
        check(table, {queries, queries + 30, 4, kv_heads, 16, 16, true, 30, 0, true, false, false, true});
      }
  }
}

TEST_CASE("attention: stretches of keys put together") {
  for (const Isa isa : kernels::available())
    for (const KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::q8})
      for (const std::size_t compute : {0u, 1u})
        for (const std::size_t queries : {1u, 4u, 9u}) {
          const Table& table = kernels::table(isa);
          check(table, {queries, 330, 4, 2, 40, 24, false}, compute, kind, 64);
          check(table, {queries, 330, 4, 2, 40, 24, true, 330 - queries}, compute, kind, 96);
          check(table, {queries, 330, 4, 1, 16, 16, true, 200, 50, true, true}, compute, kind, 128);
        }
}

TEST_CASE("attention: many keys, scores that grow") {
  for (const Isa isa : kernels::available()) {
    if (isa < Isa::avx2) continue;  // nothing of their own, and slow
    const Table& table = kernels::table(isa);
    check(table, {35, 2600, 1, 1, 64, 64, false});
    check(table, {2, 2600, 2, 1, 128, 130, true, 2598});
    check(table, {40, 500, 1, 1, 48, 80, true, 460, 0, false, true});
  }
}

TEST_CASE("attention: scores of any size, in tiles") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    if (!table.attention[1].operands) continue;
    for (const KvKind kind : {KvKind::f32, KvKind::bf16})
      for (const float lift : {0.5f, 8.0f, 9.5f, 14.0f, 30.0f}) {
        Case c{150, 2600, 1, 1, 64, 64};
        c.lift = lift;
        check(table, c, 1, kind);
        c = {140, 150, 4, 2, 40, 64, true, 10};
        c.lift = lift;
        check(table, c, 1, kind);
        c.window = 40;
        check(table, c, 1, kind);
        c = {1, 400, 8, 1, 64, 64};
        c.lift = lift;
        check(table, c, 1, kind);
      }
  }
}

TEST_CASE("caches: what is written is read, rounded once") {
  for (const Isa isa : kernels::available()) {
    const Table& table = kernels::table(isa);
    for (const bool keys : {true, false})
      for (const std::size_t count : {1u, 15u, 16u, 32u, 40u, 77u, 128u})
        for (const std::size_t width : {1u, 16u, 33u, 64u, 80u}) {
          std::vector<float> rows = oracle::random(count * (width + 3), 9);
          const std::vector<float> want = rows;
          const Blocks halves(table, KvKind::bf16, keys, rows, 0, width + 3, count, width);
          std::size_t wrong = 0;
          for (std::size_t i = 0; i < count; ++i)
            for (std::size_t d = 0; d < width + 3; ++d)
              wrong += rows[i * (width + 3) + d] != (d < width ? static_cast<float>(bf16::from(want[i * (width + 3) + d])) : want[i * (width + 3) + d]);
          rows = want;
          const Blocks bytes(table, KvKind::q8, keys, rows, 0, width + 3, count, width);
          for (std::size_t i = 0; i < count; ++i) {
            float most = 0;
            for (std::size_t d = 0; d < width; ++d) most = std::max(most, std::abs(want[i * (width + 3) + d]));
            for (std::size_t d = 0; d < width; ++d) wrong += !(std::abs(rows[i * (width + 3) + d] - want[i * (width + 3) + d]) <= most / 254 * 1.0001f);
          }
          INFO(name(isa) << (keys ? " keys " : " values ") << count << " of " << width);
          CHECK(wrong == 0);
        }
  }
}

TEST_CASE("caches: what is no number stays none, and zeros stay zeros") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : kernels::available())
    for (const KvKind kind : {KvKind::bf16, KvKind::q8}) {
      std::vector<float> rows{1, nan, 2, inf, 0, 0, 1e-42f, 0, 3, -4};
      const Blocks blocks(kernels::table(isa), kind, true, rows, 0, 2, 5, 2);
      CHECK(std::isnan(rows[1]));
      CHECK(!std::isfinite(rows[3]));
      CHECK(rows[4] == 0);
      CHECK(rows[5] == 0);
      CHECK(std::abs(rows[6]) < 1e-38f);
      CHECK(rows[9] == -4);
    }
}

TEST_CASE("attention: a row that sees nothing is 0") {
  for (const Isa isa : kernels::available())
    for (const std::size_t queries : {1u, 2u, 30u})
      check(kernels::table(isa), {queries, 70, 2, 1, 24, 24, false, 0, 0, true, false, true});
}
