/// Eigen interop: maps write through, keep the row stride and constness; expressions of either storage order become tensors.
#include <chiasm/interop/eigen.hpp>

#include "support/catch.hpp"

#include <cstdint>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

using namespace chiasm;

namespace {

Tensor counted(Shape shape) {
  Tensor tensor(shape);
  std::iota(tensor.data(), tensor.data() + tensor.size(), 0.0f);
  return tensor;
}

std::vector<float> values_of(const Tensor& tensor) { return {tensor.values().begin(), tensor.values().end()}; }

template <class Map>
constexpr bool writes = requires(Map map) { map(0, 0) = 1.0f; };
template <class T>
constexpr bool maps = requires { as_eigen(std::declval<T>()); };
template <class T>
constexpr bool maps_as_vector = requires { as_eigen_vector(std::declval<T>()); };

// What may be written, what may only be read, and what would dangle.
static_assert(writes<decltype(as_eigen(std::declval<Tensor&>()))> && writes<decltype(as_eigen(std::declval<MutView>()))>);
static_assert(!writes<decltype(as_eigen(std::declval<const Tensor&>()))> && !writes<decltype(as_eigen(std::declval<View>()))>);
static_assert(std::is_same_v<decltype(as_eigen_vector(std::declval<const Tensor&>())), EigenVectorMap<const float>>);
static_assert(maps<Tensor&> && maps<const Tensor&> && !maps<Tensor> && !maps<const Tensor>);
static_assert(maps_as_vector<Tensor&> && !maps_as_vector<Tensor>);

}  // namespace

TEST_CASE("a tensor as a matrix") {
  Tensor tensor = counted({2, 3});
  auto matrix = as_eigen(tensor);
  REQUIRE(matrix.rows() == 2);
  REQUIRE(matrix.cols() == 3);
  CHECK(matrix.data() == tensor.data());
  CHECK(matrix(1, 0) == 3.0f);
  matrix(1, 2) = 50.0f;
  CHECK(tensor.row(1)[2] == 50.0f);

  const Tensor& constant = tensor;
  CHECK(as_eigen(constant).row(0).sum() == 3.0f);

  SECTION("of more dimensions: the innermost rows") {
    const Tensor cube = counted({2, 3, 4});
    const auto rows = as_eigen(cube);
    REQUIRE(rows.rows() == 6);
    REQUIRE(rows.cols() == 4);
    CHECK(rows(5, 3) == 23.0f);
    CHECK(as_eigen(cube.slice(1, 1))(0, 0) == 12.0f);
  }
  SECTION("other element types") {
    BasicTensor<std::int32_t> ids(Shape{1, 4});
    as_eigen(ids).setConstant(7);
    CHECK(ids.row(0)[3] == 7);
  }
  SECTION("empty") {
    CHECK(as_eigen(View{}).size() == 0);
    const Tensor none(Shape{0, 3});
    CHECK(as_eigen(none).rows() == 0);
  }
}

TEST_CASE("columns of wider rows") {
  Tensor tensor = counted({3, 5});
  MutView middle = tensor.view().column_slice(1, 2);
  auto map = as_eigen(middle);
  REQUIRE(map.rows() == 3);
  REQUIRE(map.cols() == 2);
  CHECK(map.outerStride() == 5);
  CHECK(map(2, 1) == 12.0f);
  map *= 10.0f;
  CHECK(values_of(tensor) == std::vector<float>{0, 10, 20, 3, 4, 5, 60, 70, 8, 9, 10, 110, 120, 13, 14});

  const Tensor copy = from_eigen(as_eigen(View(middle)));
  CHECK(copy.shape() == Shape{3, 2});
  CHECK(values_of(copy) == std::vector<float>{10, 20, 60, 70, 110, 120});
}

TEST_CASE("vectors") {
  Tensor tensor = counted({4});
  CHECK(as_eigen(tensor).rows() == 1);
  CHECK(as_eigen(tensor).cols() == 4);
  as_eigen_vector(tensor)(3) = -1.0f;
  CHECK(tensor.data()[3] == -1.0f);

  Tensor wide = counted({3, 5});
  const auto all = as_eigen_vector(std::as_const(wide));
  REQUIRE(all.size() == 15);
  CHECK(all(14) == 14.0f);
  CHECK_THROWS_AS(as_eigen_vector(wide.view().column_slice(1, 2)), ShapeError);
  CHECK(as_eigen_vector(wide.slice(1, 1).column_slice(1, 2))(0) == 6.0f);
}

TEST_CASE("an expression as a tensor") {
  Tensor left = counted({2, 3}), right = counted({4, 3});
  const Tensor product = from_eigen(as_eigen(left) * as_eigen(right).transpose());
  CHECK(product.shape() == Shape{2, 4});
  CHECK(values_of(product) == std::vector<float>{5, 14, 23, 32, 14, 50, 86, 122});

  Eigen::MatrixXf column_major(2, 2);
  column_major << 1, 2, 3, 4;
  CHECK(values_of(from_eigen(column_major)) == std::vector<float>{1, 2, 3, 4});
  CHECK(values_of(from_eigen(column_major.transpose())) == std::vector<float>{1, 3, 2, 4});

  const Tensor array = from_eigen(column_major.array() + 1.0f);
  CHECK(array.shape() == Shape{2, 2});
  CHECK(values_of(array) == std::vector<float>{2, 3, 4, 5});

  const Tensor column = from_eigen(column_major.col(1)), row = from_eigen(column_major.row(1));
  CHECK(column.shape() == Shape{2});
  CHECK(values_of(column) == std::vector<float>{2, 4});
  CHECK(row.shape() == Shape{2});
  CHECK(values_of(row) == std::vector<float>{3, 4});

  const BasicTensor<std::int32_t> integers = from_eigen(column_major.cast<std::int32_t>());
  CHECK(integers.row(1)[0] == 3);

  const Tensor none = from_eigen(Eigen::MatrixXf(0, 3));
  CHECK(none.shape() == Shape{0, 3});
}

TEST_CASE("an expression in a context's memory") {
  Context ctx({.threads = 1});
  const Tensor source = counted({2, 3});
  const Tensor doubled = from_eigen(ctx, 2.0f * as_eigen(source));
  CHECK(doubled.shape() == Shape{2, 3});
  CHECK(values_of(doubled) == std::vector<float>{0, 2, 4, 6, 8, 10});
}
