// What attention hands to the product that comes next is, bit for bit, what the product makes of rows of floats.
#include "support/catch.hpp"
#include "support/tensors.hpp"

#include <chiasm/core/conversion.hpp>
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/nn/kv_cache.hpp>
#include <chiasm/nn/self_attention.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace chiasm;

namespace {

Linear projection(std::size_t in, std::size_t out, DType dtype, unsigned seed) {
  auto values = std::make_shared<Tensor>(random_tensor(Shape{out, in}, seed));
  for (float& value : values->values()) value *= 0.3f;
  const Weight w("w", DType::f32, values->shape(), reinterpret_cast<const std::byte*>(values->data()), values, "random");
  return Linear(convert(w, dtype, Layout::panels), random_tensor(Shape{out}, seed + 1));
}

bool same_bits(View a, View b) {
  for (std::size_t t = 0; t < a.rows(); ++t)
    if (std::memcmp(a.row(t), b.row(t), a.columns() * sizeof(float)) != 0) return false;
  return a.rows() == b.rows();
}

Attend attend_of(std::size_t heads, std::size_t kv_heads, std::size_t head_dim) {
  Attend attend;
  attend.heads = heads;
  attend.kv_heads = kv_heads;
  attend.head_dim = attend.v_dim = head_dim;
  attend.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return attend;
}

template <class F>
void in_every_tier(F&& f) {
  for (const Isa isa : kernels::available())
    for (const Compute compute : {Compute::f32, Compute::bf16, Compute::i8}) {
      Context ctx({.threads = 2, .isa = name(isa), .compute = compute});
      INFO(name(isa) << " " << name(compute));
      {
        Tensor recycled = ctx.empty(Shape{1 << 18});  // memory is never clean
        for (float& value : recycled.values()) value = std::nanf("");
      }
      f(ctx);
    }
}

}  // namespace

TEST_CASE("self-attention: as from rows of queries, keys and values") {
  struct Case {
    std::size_t sequences, length, heads, head_dim;
    bool causal, masked;
  };
  const Case cases[] = {{1, 50, 4, 64, false, false}, {3, 77, 4, 64, true, false}, {2, 33, 4, 72, false, true}, {1, 140, 4, 80, false, false},
                        {3, 65, 4, 88, false, false}, {2, 40, 1, 32, true, true},  {2, 35, 32, 2, false, false}, {1, 37, 16, 10, false, false},
                        {2, 34, 3, 20, false, false}, {2, 7, 2, 16, false, false}};
  for (const Case& c : cases) {
    INFO(c.sequences << " of " << c.length << ", " << c.heads << " heads of " << c.head_dim);
    const std::size_t width = c.heads * c.head_dim;
    const Tensor x = random_tensor(Shape{c.sequences, c.length, width}, 1);
    Tensor mask = random_tensor(Shape{c.sequences, c.length, c.length}, 2);
    for (std::size_t i = 0; i < mask.size(); i += 5) mask.data()[i] = -std::numeric_limits<float>::infinity();
    Attend attend = attend_of(c.heads, c.heads, c.head_dim);
    attend.causal = c.causal;
    for (const DType dtype : {DType::f32, DType::bf16, DType::q8_row}) {
      const Linear qkv = projection(width, 3 * width, dtype, 3), out = projection(width, width, dtype, 5);
      in_every_tier([&](Context& ctx) {
        const Tensor rows = qkv(ctx, x);
        Tensor mixed = ctx.empty(x.shape());
        for (std::size_t n = 0; n < c.sequences; ++n) {
          const View own = rows.view()[n];
          const KvView kv{own.data() + width, own.data() + 2 * width, c.length, 3 * width, c.head_dim, 3 * width, c.head_dim};
          Attend one = attend;
          if (c.masked) one.mask = mask.view()[n];
          attention(ctx, own.column_slice(0, width), kv, mixed.view()[n], one);
        }
        const Operand got = self_attention(ctx, qkv, x, attend, c.masked ? mask.view() : View());
        CHECK(got.shape() == x.shape());
        CHECK(same_bits(out(ctx, got), out(ctx, mixed)));
      });
    }
  }
}

TEST_CASE("self-attention: a projection of another width") {
  Context ctx;
  const Linear qkv = projection(32, 64, DType::f32, 3);
  CHECK_THROWS_AS(self_attention(ctx, qkv, random_tensor(Shape{1, 8, 32}, 1), attend_of(2, 2, 16)), ShapeError);
}

TEST_CASE("attention: results for a product as from rows, heads that share keys, sequences side by side") {
  const std::vector<std::size_t> batches[] = {{100}, {37, 330, 45}, {37, 1, 45}, {333}};
  for (const std::vector<std::size_t>& lengths : batches)
    for (const auto& [heads, kv_heads, head_dim] : {std::array<std::size_t, 3>{8, 2, 64}, {8, 8, 16}, {14, 2, 64}, {4, 1, 80}, {6, 3, 15}})
      for (const bool causal : {false, true}) {
        INFO(lengths.size() << " sequences from " << lengths[0] << ", " << heads << " heads over " << kv_heads << " of " << head_dim);
        std::size_t rows = 0;
        for (const std::size_t length : lengths) rows += length;
        const std::size_t width = heads * head_dim, kv_width = kv_heads * head_dim, own_head_dim = head_dim, own_heads = heads, own_kv_heads = kv_heads;
        const Tensor q = random_tensor(Shape{rows, width}, 1), k = random_tensor(Shape{rows, kv_width}, 2), v = random_tensor(Shape{rows, kv_width}, 3);
        const Linear out = projection(width, width, DType::bf16, 5);
        in_every_tier([&](Context& ctx) {
          for (const KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::q8}) {
            Tensor mixed = ctx.empty(q.shape());
            std::vector<KvCache> caches;
            std::vector<AttentionPart> parts;
            std::size_t row = 0;
            for (const std::size_t length : lengths) {
              KvCache& cache = caches.emplace_back(1, own_kv_heads, own_head_dim, own_head_dim, kind);
              AttentionPart part{q.slice(row, length), cache[0].append(ctx, k.slice(row, length), v.slice(row, length)), mixed.slice(row, length),
                                 attend_of(own_heads, own_kv_heads, own_head_dim)};
              part.attend.causal = causal;
              parts.push_back(part);
              row += length;
            }
            attention(ctx, parts);
            CHECK(same_bits(out(ctx, attention_operand(ctx, q.shape(), parts)), out(ctx, mixed)));
          }
        });
      }
}
