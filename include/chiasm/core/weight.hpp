/// Weight: a named tensor as its file stores it. The dtype is known at run time; kernels convert while they multiply.
#pragma once

#include <chiasm/core/dtype.hpp>
#include <chiasm/core/panel.hpp>
#include <chiasm/core/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace chiasm::inline CHIASM_ABI {

/// Bytes of a tensor as files store it: blocks run along its rows.
inline std::size_t bytes_of(DType dtype, const Shape& shape) {
  return is_block_format(dtype) ? shape.rows() * row_bytes(dtype, shape.columns()) : shape.size() * size_of(dtype);
}

/// Shares the bytes that it points to (a file map, usually) with everything that keeps `owner`. Cheap to copy.
class Weight {
 public:
  Weight() = default;
  Weight(std::string name, DType dtype, Shape shape, const std::byte* data, std::shared_ptr<const void> owner, std::string file,
         Layout layout = Layout::rows)
      : name_(std::move(name)), file_(std::move(file)), dtype_(dtype), layout_(layout), shape_(shape), data_(data), owner_(std::move(owner)) {}

  /// Its name in that file.
  const std::string& name() const noexcept { return name_; }
  /// The file that it came from, for messages.
  const std::string& file() const noexcept { return file_; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  Layout layout() const noexcept { return layout_; }
  std::size_t bytes() const {
    if (layout_ == Layout::rows) return bytes_of(dtype_, shape_);
    return (shape_.rows() + panel_outputs - 1) / panel_outputs * panel_bytes(dtype_, shape_.columns());
  }
  /// In its layout, maybe unaligned.
  const std::byte* data() const noexcept { return data_; }
  /// What keeps the bytes.
  const std::shared_ptr<const void>& owner() const noexcept { return owner_; }
  bool empty() const noexcept { return data_ == nullptr; }

  /// "bf16 (4096, 4096)"
  std::string describe() const { return std::string(chiasm::name(dtype_)) + " " + shape_.to_string(); }

  /// The same elements under another shape. Throws WeightError if the sizes differ, or the rows of a block format.
  Weight reshape(Shape shape) const {
    if (shape.size() != shape_.size() || (is_block_format(dtype_) && shape.columns() != shape_.columns())) throw WeightError(file_, name_, describe(), shape.to_string());
    Weight other = *this;
    other.shape_ = shape;
    return other;
  }
  /// Rows [begin, begin + count) of the outermost dimension, without a copy. Throws ShapeError; UnsupportedError inside a row of blocks or a
  /// panel.
  Weight slice(std::size_t begin, std::size_t count) const;
  /// A copy whose row i is row order[i] of the outermost dimension, the bits as they are. Throws ShapeError.
  Weight gather(std::span<const std::uint32_t> order) const;

  /// `count` numbers of innermost row `row`, from `column` on, in f32. In blocks, `column` is a block's first. Dtypes that are no numbers give none.
  void read(std::size_t row, std::size_t column, std::size_t count, float* values) const noexcept;
  /// A copy in f32. Throws UnsupportedError for dtypes that are no numbers.
  Tensor to_f32() const;
  /// A copy in `dtype` (f32, f16 or bf16), rounded to nearest even; itself if it is that already.
  Weight to(DType dtype) const;

 private:
  std::string name_, file_;
  DType dtype_ = DType::f32;
  Layout layout_ = Layout::rows;
  Shape shape_{0};
  const std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/weight.ipp>
#endif
