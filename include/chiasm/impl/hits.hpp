/// Hits: what indexes of every kind ask of vectors, and the order of what they find.
#pragma once

#include <chiasm/pipelines/vector_index.hpp>

#include <bit>
#include <string>

namespace chiasm::inline CHIASM_ABI::detail {

inline constexpr std::size_t most_dimensions = std::size_t{1} << 20;

/// Whether no value is NaN or infinite.
inline bool all_finite(const float* x, std::size_t n) noexcept {
  constexpr std::uint32_t exponent = 0x7f800000u;
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < n; ++i) bad |= (std::bit_cast<std::uint32_t>(x[i]) & exponent) == exponent ? 1u : 0u;
  return bad == 0;
}

/// Throws ShapeError, ArgumentError.
inline void check_vectors(const char* what, View x, std::size_t dim) {
  if (x.shape().rank() < 1 || x.shape().rank() > 2 || x.columns() != dim)
    throw ShapeError(what, x.shape().to_string() + " in an index of vectors of " + std::to_string(dim));
  if (x.rows() == 0) throw ArgumentError(std::string(what) + ": no vector");
  for (std::size_t i = 0; i < x.rows(); ++i)
    if (!all_finite(x.row(i), dim)) throw ArgumentError(std::string(what) + ": vector " + std::to_string(i) + " has NaN or infinity");
}

/// The order of results, which no two ids share.
inline bool better(const Hit& a, const Hit& b) noexcept { return a.score != b.score ? a.score > b.score : a.id < b.id; }

}  // namespace chiasm
