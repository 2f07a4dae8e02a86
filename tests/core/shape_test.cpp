#include <chiasm/core/shape.hpp>

#include "support/catch.hpp"

using namespace chiasm;

TEST_CASE("a shape knows its extents from both ends") {
  const Shape shape{2, 3, 4};
  CHECK(shape.rank() == 3);
  CHECK(shape[0] == 2);
  CHECK(shape[-1] == 4);
  CHECK(shape[-3] == 2);
  CHECK(shape.size() == 24);
  CHECK(shape.rows() == 6);
  CHECK(shape.columns() == 4);
  CHECK(shape.to_string() == "(2, 3, 4)");
}

TEST_CASE("scalars and empty shapes") {
  CHECK(Shape{}.rank() == 0);
  CHECK(Shape{}.size() == 1);
  CHECK(Shape{}.rows() == 1);
  CHECK(Shape{}.columns() == 1);
  CHECK(Shape{}.to_string() == "()");
  CHECK(Shape{0, 3}.size() == 0);
  CHECK(Shape{5}.rows() == 1);
}

TEST_CASE("shapes compare by rank and extents") {
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK_FALSE(Shape{2, 3} == Shape{3, 2});
  CHECK_FALSE(Shape{2} == Shape{2, 1});
}

TEST_CASE("at most eight dimensions") {
  Shape shape{1, 2, 3, 4, 5, 6, 7};
  shape.append(8);
  CHECK(shape == Shape{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK_THROWS_AS(shape.append(9), ShapeError);
  CHECK_THROWS_AS((Shape{1, 2, 3, 4, 5, 6, 7, 8, 9}), ShapeError);
}

TEST_CASE("a size that does not fit is an error") {
  constexpr std::size_t big = std::size_t{1} << 32;
  CHECK_THROWS_AS((Shape{big, big}.size()), ShapeError);
  CHECK((Shape{big, big >> 1}.size()) == std::size_t{1} << 63);
}

TEST_CASE("a shape with another innermost extent") {
  CHECK((Shape{2, 577, 1024}.with_columns(3072)) == Shape{2, 577, 3072});
  CHECK(Shape{1024}.with_columns(7) == Shape{7});
  CHECK(Shape{}.with_columns(7) == Shape{7});
  CHECK((Shape{1, 2, 3, 4, 5, 6, 7, 8}.with_columns(0)) == Shape{1, 2, 3, 4, 5, 6, 7, 0});
}
