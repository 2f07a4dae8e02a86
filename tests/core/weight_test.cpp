#include <chiasm/core/weight.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <cstring>
#include <vector>

using namespace chiasm;

namespace {
template <class T>
Weight weight(DType dtype, Shape shape, const std::vector<T>& values) {
  // One byte off: files do not align their tensors.
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(T) + 1);
  std::memcpy(bytes->data() + 1, values.data(), values.size() * sizeof(T));
  return Weight("w", dtype, shape, bytes->data() + 1, bytes, "m.safetensors");
}
std::vector<float> values(const Weight& w) {
  const Tensor tensor = w.to_f32();
  return {tensor.values().begin(), tensor.values().end()};
}
}  // namespace

TEST_CASE("a weight keeps its bytes alive") {
  Weight kept;
  CHECK(kept.empty());
  {
    const Weight made = weight<float>(DType::f32, {2}, {1, 2});
    kept = made;
  }
  CHECK(values(kept) == std::vector<float>{1, 2});
  CHECK(kept.describe() == "f32 (2)");
  CHECK(kept.bytes() == 8);
}

TEST_CASE("weights of any number convert to f32") {
  CHECK(values(weight<double>(DType::f64, {2}, {0.5, -3})) == std::vector<float>{0.5f, -3});
  CHECK(values(weight<std::uint16_t>(DType::bf16, {2}, {0x3f80, 0xc000})) == std::vector<float>{1, -2});
  CHECK(values(weight<std::uint16_t>(DType::f16, {2}, {0x3c00, 0x0001})) == std::vector<float>{1, 0x1p-24f});
  CHECK(values(weight<std::int8_t>(DType::i8, {2}, {-128, 127})) == std::vector<float>{-128, 127});
  CHECK(values(weight<std::int64_t>(DType::i64, {1}, {-5})) == std::vector<float>{-5});
  CHECK(values(weight<std::uint64_t>(DType::u64, {1}, {std::uint64_t{1} << 63})) == std::vector<float>{0x1p63f});
  CHECK_THROWS_AS(weight<std::uint8_t>(DType::boolean, {1}, {1}).to_f32(), UnsupportedError);
}

TEST_CASE("conversion between the kernels' kinds") {
  const Weight w = weight<float>(DType::f32, {1, 3}, {1, 1.0f + 0x1p-8f, 70000});
  const Weight b = w.to(DType::bf16), h = w.to(DType::f16);
  CHECK(b.describe() == "bf16 (1, 3)");
  CHECK(values(b) == std::vector<float>{1, 1, 70144});
  CHECK(values(h) == std::vector<float>{1, 1.0f + 0x1p-8f, INFINITY});
  CHECK(w.to(DType::f32).data() == w.data());
  CHECK(b.name() == "w");
  CHECK(b.file() == "m.safetensors");
  CHECK_THROWS_AS(w.to(DType::i8), UnsupportedError);
}

TEST_CASE("slices and shapes share the bytes") {
  const Weight w = weight<std::uint16_t>(DType::bf16, {3, 2}, {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0});
  CHECK(values(w.slice(1, 2)) == std::vector<float>{3, 4, 5, 6});
  CHECK(w.slice(3, 0).bytes() == 0);
  CHECK_THROWS_AS(w.slice(2, 2), ShapeError);
  CHECK(w.reshape({2, 3}).data() == w.data());
  CHECK(w.reshape({2, 3}).shape() == Shape{2, 3});
  CHECK_THROWS_AS(w.reshape({7}), WeightError);
}
