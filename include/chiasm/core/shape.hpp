/// Shape: the extents of a tensor, outermost first. At most eight dimensions, no allocation.
#pragma once

#include <chiasm/core/error.hpp>

#include <array>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <string>

namespace chiasm::inline CHIASM_ABI {

class Shape {
 public:
  static constexpr std::size_t max_rank = 8;  // models need five; files may hold more

  constexpr Shape() = default;  // rank 0: a scalar
  constexpr Shape(std::initializer_list<std::size_t> extents) {
    if (extents.size() > max_rank) throw ShapeError("Shape", std::to_string(extents.size()) + " dimensions");
    for (const std::size_t extent : extents) extents_[rank_++] = extent;
  }

  constexpr std::size_t rank() const noexcept { return rank_; }
  /// Extent of dimension `i`; negative counts from the innermost: shape[-1].
  constexpr std::size_t operator[](std::ptrdiff_t i) const noexcept {
    return extents_[static_cast<std::size_t>(i < 0 ? i + static_cast<std::ptrdiff_t>(rank_) : i)];
  }
  constexpr const std::size_t* begin() const noexcept { return extents_.data(); }
  constexpr const std::size_t* end() const noexcept { return extents_.data() + rank_; }

  /// Number of elements. Throws ShapeError where it does not fit into a size_t.
  constexpr std::size_t size() const {
    std::size_t product = 1;
    for (const std::size_t extent : *this) {
      if (extent != 0 && product > std::numeric_limits<std::size_t>::max() / extent) throw ShapeError("Shape::size", to_string());
      product *= extent;
    }
    return product;
  }
  /// The innermost extent; 1 for a scalar.
  constexpr std::size_t columns() const noexcept { return rank_ == 0 ? 1 : extents_[rank_ - 1]; }
  /// Number of innermost rows: the product of all other extents.
  constexpr std::size_t rows() const {
    std::size_t product = 1;
    for (std::size_t i = 0; i + 1 < rank_; ++i) product *= extents_[i];
    return product;
  }

  constexpr void append(std::size_t extent) {
    if (rank_ == max_rank) throw ShapeError("Shape::append", to_string());
    extents_[rank_++] = extent;
  }

  /// The same, but for its innermost extent: what a product makes of rows of this shape.
  constexpr Shape with_columns(std::size_t columns) const {
    Shape shape = *this;
    if (shape.rank_ > 0) --shape.rank_;
    shape.append(columns);
    return shape;
  }

  constexpr bool operator==(const Shape& other) const noexcept {
    if (rank_ != other.rank_) return false;
    for (std::size_t i = 0; i < rank_; ++i)
      if (extents_[i] != other.extents_[i]) return false;
    return true;
  }

  /// As people write it: "(577, 1024)".
  std::string to_string() const {
    std::string text = "(";
    for (std::size_t i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(extents_[i]);
    return text + ")";
  }

 private:
  std::array<std::size_t, max_rank> extents_{};
  std::size_t rank_ = 0;
};

}  // namespace chiasm
