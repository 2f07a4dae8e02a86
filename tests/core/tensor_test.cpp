#include <chiasm/core/tensor.hpp>

#include "support/catch.hpp"

#include <cstdint>
#include <numeric>
#include <vector>

using namespace chiasm;

namespace {
Tensor counted(Shape shape) {
  Tensor tensor(shape);
  std::iota(tensor.data(), tensor.data() + tensor.size(), 0.0f);
  return tensor;
}
float sum(View view) {
  float total = 0;
  for (std::size_t i = 0; i < view.rows(); ++i) total = std::accumulate(view.row(i), view.row(i) + view.columns(), total);
  return total;
}
template <class T>
constexpr bool copyable = std::is_copy_constructible_v<T> || std::is_copy_assignable_v<T>;
}  // namespace

TEST_CASE("a tensor is zero, aligned and contiguous") {
  const Tensor tensor(Shape{3, 5});
  CHECK(tensor.size() == 15);
  CHECK(tensor.bytes() == 60);
  CHECK(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64 == 0);
  CHECK(tensor.view().contiguous());
  for (const float value : tensor.values()) CHECK(value == 0);
}

TEST_CASE("a tensor moves, and copies only by clone()") {
  static_assert(!copyable<Tensor>);
  Tensor first = counted({2, 2});
  const float* const data = first.data();
  Tensor second = std::move(first);
  CHECK(second.data() == data);
  CHECK(first.empty());  // NOLINT: a moved-from tensor is empty
  Tensor third = second.clone();
  CHECK(third.data() != data);
  third.data()[0] = 7;
  CHECK(second.data()[0] == 0);
  second = std::move(third);
  CHECK(second.data()[0] == 7);
  CHECK(Tensor().clone().empty());
  CHECK(Tensor().size() == 0);
}

TEST_CASE("a tensor from values takes exactly as many as it has") {
  const std::vector<float> values{1, 2, 3, 4};
  CHECK(Tensor(Shape{2, 2}, values).row(1)[1] == 4);
  CHECK_THROWS_AS(Tensor(Shape{2, 3}, values), ShapeError);
}

TEST_CASE("empty tensors and scalars") {
  Tensor none(Shape{0, 4});
  CHECK(none.empty());
  CHECK(none.slice(0, 0).rows() == 0);
  CHECK(none.clone().shape() == Shape{0, 4});
  Tensor scalar(Shape{});
  CHECK(scalar.size() == 1);
  CHECK_FALSE(scalar.empty());
  CHECK_THROWS_AS(scalar.slice(0, 1), ShapeError);
}

TEST_CASE("too large a tensor is an error, not an allocation") {
  CHECK_THROWS_AS(Tensor(Shape{std::size_t{1} << 62}), ShapeError);
  CHECK_THROWS_AS((Tensor(Shape{std::size_t{1} << 40, std::size_t{1} << 40})), ShapeError);
}

TEST_CASE("slices of the outermost dimension") {
  Tensor tensor = counted({3, 2, 2});
  const MutView middle = tensor.slice(1, 1);
  CHECK(middle.shape() == Shape{1, 2, 2});
  CHECK(middle.data()[0] == 4);
  CHECK(tensor.view()[2].shape() == Shape{2, 2});
  CHECK(tensor.view()[2].data()[3] == 11);
  CHECK(tensor.view()[2][1][0].data()[0] == 10);
  CHECK_THROWS_AS(tensor.slice(2, 2), ShapeError);
  CHECK_THROWS_AS(tensor.slice(4, 0), ShapeError);
  CHECK_THROWS_AS(tensor.view()[3], ShapeError);
}

TEST_CASE("slices of columns keep the distance between rows") {
  Tensor tensor = counted({2, 2, 4});
  const MutView half = tensor.view().column_slice(2, 2);
  CHECK(half.shape() == Shape{2, 2, 2});
  CHECK(half.stride() == 4);
  CHECK_FALSE(half.contiguous());
  CHECK(half.row(3)[1] == 15);
  CHECK(half[1].row(0)[0] == 10);
  CHECK(sum(half) == 2 + 3 + 6 + 7 + 10 + 11 + 14 + 15);
  CHECK_THROWS_AS(half.reshape({8}), ShapeError);
  CHECK_THROWS_AS(tensor.view().column_slice(3, 2), ShapeError);
}

TEST_CASE("reshape keeps the elements") {
  Tensor tensor = counted({2, 6});
  CHECK(tensor.view().reshape({3, 4}).row(2)[3] == 11);
  CHECK_THROWS_AS(tensor.view().reshape({5}), ShapeError);
  const float* const data = tensor.data();
  const Tensor other = std::move(tensor).reshape({4, 3});
  CHECK(other.data() == data);
  CHECK(other.shape() == Shape{4, 3});
  CHECK_THROWS_AS(counted({2}).reshape({3}), ShapeError);
}

TEST_CASE("a tensor is a view wherever one is asked for") {
  Tensor tensor = counted({4});
  CHECK(sum(tensor) == 6);
  CHECK(sum(counted({3})) == 3);
  const MutView mutable_view = tensor;
  CHECK(sum(mutable_view) == 6);
}
