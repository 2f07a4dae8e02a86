/// Panels: what pack() makes of blocks holds the same numbers, to the bit.
#include <chiasm/core/block_format.hpp>
#include <chiasm/core/pack.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

using namespace chiasm;

namespace {

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && (a.bytes() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0);
}

}  // namespace

TEST_CASE("pack keeps all numbers to the bit") {
  ThreadPool pool(3);
  for (const DType type : blocks::types)
    for (const std::size_t rows : {1u, 15u, 16u, 17u, 50u})
      for (const std::size_t columns : {1u, 31u, 32u, 33u, 255u, 256u, 257u, 800u}) {
        INFO(name(type) << " " << rows << "x" << columns);
        const Weight w = blocks::random(type, rows, columns, static_cast<unsigned>(rows + columns));
        const Weight packed = pack(w), parallel = pack(w, &pool);
        CHECK(packed.layout() == Layout::panels);
        CHECK(packed.bytes() == (rows + 15) / 16 * panel_bytes(type, columns));
        CHECK(same(packed.to_f32(), w.to_f32()));
        CHECK(std::memcmp(packed.data(), parallel.data(), packed.bytes()) == 0);
        CHECK(pack(packed).data() == packed.data());
        if (rows > 16) {
          CHECK(same(packed.slice(16, rows - 16).to_f32(), w.slice(16, rows - 16).to_f32()));
          CHECK_THROWS_AS(packed.slice(1, 2), UnsupportedError);
          CHECK_THROWS_AS(packed.gather(std::vector<std::uint32_t>(rows)), ShapeError);
        }
      }
}

TEST_CASE("pack: many panels on several threads") {
  ThreadPool pool(3);
  for (const DType type : {DType::q4_0, DType::q6_k}) {
    const Weight w = blocks::random(type, 1000, 1024, 7);
    CHECK(same(pack(w, &pool).to_f32(), w.to_f32()));
  }
  const Weight large = blocks::random(DType::q8_0, 9000, 1024, 8);  // several pieces a thread
  const Weight packed = pack(large), parallel = pack(large, &pool);
  CHECK(std::memcmp(packed.data(), parallel.data(), packed.bytes()) == 0);
}

TEST_CASE("pack takes rows in an order") {
  ThreadPool pool(3);
  for (const std::size_t rows : {17u, 600u}) {
    std::vector<std::uint32_t> order(rows);
    for (std::size_t i = 0; i < rows; ++i) order[i] = static_cast<std::uint32_t>(i * 7 % rows);
    for (const DType type : {DType::q4_0, DType::q5_1, DType::q6_k}) {
      const Weight w = blocks::random(type, rows, 1024, 9), packed = pack(w, &pool, &order), expected = pack(w.gather(order));
      CHECK(std::memcmp(packed.data(), expected.data(), expected.bytes()) == 0);
      CHECK_THROWS_AS(pack(expected, nullptr, &order), ShapeError);
    }
    const Weight w = blocks::random(DType::q4_0, rows, 64, 1);
    order.back() = static_cast<std::uint32_t>(rows);
    CHECK_THROWS_AS(pack(w, nullptr, &order), ShapeError);
    order.pop_back();
    CHECK_THROWS_AS(pack(w, nullptr, &order), ShapeError);
  }
  const float values[6] = {1, 2, 3, 4, 5, 6};
  const Weight w("w", DType::f32, Shape{2, 3}, reinterpret_cast<const std::byte*>(values), {}, "none");
  const std::vector<std::uint32_t> order = {1, 0};
  CHECK(same(pack(w, nullptr, &order).to_f32(), w.gather(order).to_f32()));
}

TEST_CASE("panels have the blocks' size, but for scales of six bits") {
  for (const DType type : blocks::types) {
    const double more = static_cast<double>(panel_bytes(type, 256)) / static_cast<double>(16 * row_bytes(type, 256));
    CHECK(more >= 1.0);
    CHECK(more < 1.04);
  }
}

TEST_CASE("pack leaves other weights alone") {
  const float values[6] = {};
  const Weight w("w", DType::f32, Shape{2, 3}, reinterpret_cast<const std::byte*>(values), {}, "none");
  CHECK(pack(w).data() == w.data());
  CHECK(pack(w).layout() == Layout::rows);
  const std::vector<std::byte> bytes(2 * 18 * 2);
  CHECK_THROWS_AS(pack(Weight("w", DType::q4_0, Shape{2, 1, 32}, bytes.data(), {}, "none")), ShapeError);
}

TEST_CASE("bf16 in panels: the same numbers, from rows and back") {
  ThreadPool pool(3);
  for (const std::size_t rows : {1u, 15u, 16u, 17u, 50u, 700u})
    for (const std::size_t columns : {1u, 31u, 32u, 33u, 320u, 1000u}) {
      INFO(rows << "x" << columns);
      Tensor numbers(Shape{rows, columns});
      for (std::size_t i = 0; i < numbers.size(); ++i) numbers.data()[i] = static_cast<float>(i * 7919 % 10007) - 5000.0f;
      const Weight w = Weight("w", DType::f32, numbers.shape(), reinterpret_cast<const std::byte*>(numbers.data()), nullptr, "test").to(DType::bf16);
      const Weight panels = to_panels(w), parallel = to_panels(w, &pool);
      CHECK(panels.layout() == Layout::panels);
      CHECK(panels.bytes() == (rows + 15) / 16 * ((columns + 31) / 32) * 1024);
      CHECK(std::memcmp(panels.data(), parallel.data(), panels.bytes()) == 0);
      CHECK(same(panels.to_f32(), w.to_f32()));
      const Weight back = to_rows(panels);
      CHECK(back.layout() == Layout::rows);
      CHECK(std::memcmp(back.data(), w.data(), w.bytes()) == 0);
      CHECK(to_rows(w).data() == w.data());
      CHECK(pack(w).data() == w.data());  // that is for blocks
      CHECK_THROWS_AS(to_panels(panels), ArgumentError);
      if (rows > 16) {
        CHECK(same(panels.slice(16, rows - 16).to_f32(), w.slice(16, rows - 16).to_f32()));
        CHECK_THROWS_AS(panels.slice(1, 2), UnsupportedError);
      }
      std::vector<std::uint32_t> order(rows);
      for (std::size_t i = 0; i < rows; ++i) order[i] = static_cast<std::uint32_t>(rows - 1 - i);
      CHECK(same(to_panels(w, &pool, &order).to_f32(), w.gather(order).to_f32()));
    }
  CHECK_THROWS_AS(to_panels(Weight("w", DType::bf16, Shape{32}, nullptr, nullptr, "test")), ShapeError);
  CHECK_THROWS_AS(to_panels(Weight("w", DType::f16, Shape{32, 32}, nullptr, nullptr, "test")), ArgumentError);
}
