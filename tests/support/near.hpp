/// How far two tensors are apart: max |a - b| / max |b|.
#pragma once

#include "support/catch.hpp"

#include <chiasm/core/weight.hpp>

#include <algorithm>
#include <cmath>

/// Of the same shape, or the test fails. NaN is infinitely far.
inline double largest_difference(chiasm::View a, chiasm::View b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < a.rows(); ++i)
    for (std::size_t j = 0; j < a.columns(); ++j) {
      const double want = static_cast<double>(b.row(i)[j]), difference = std::abs(static_cast<double>(a.row(i)[j]) - want);
      worst = difference <= worst ? worst : std::isnan(difference) ? INFINITY : difference;
      largest = std::max(largest, std::abs(want));
    }
  return worst == 0 ? 0 : worst / largest;
}
inline double largest_difference(chiasm::View a, const chiasm::Weight& b) { return largest_difference(a, b.to_f32()); }
