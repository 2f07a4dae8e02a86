/// Weight: a named tensor as its file stores it. The dtype is known at run time; kernels convert while they multiply.
#pragma once

#include <chiasm/core/dtype.hpp>
#include <chiasm/core/tensor.hpp>

#include <cstddef>
#include <memory>
#include <string>

namespace chiasm::inline CHIASM_ABI {

/// Shares the bytes that it points to (a file map, usually) with everything that keeps `owner`. Cheap to copy.
class Weight {
 public:
  Weight() = default;
  Weight(std::string name, DType dtype, Shape shape, const std::byte* data, std::shared_ptr<const void> owner, std::string file)
      : name_(std::move(name)), file_(std::move(file)), dtype_(dtype), shape_(shape), data_(data), owner_(std::move(owner)) {}

  /// Its name in that file.
  const std::string& name() const noexcept { return name_; }
  /// The file that it came from, for messages.
  const std::string& file() const noexcept { return file_; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  std::size_t bytes() const { return shape_.size() * size_of(dtype_); }
  /// Row-major, maybe unaligned.
  const std::byte* data() const noexcept { return data_; }
  bool empty() const noexcept { return data_ == nullptr; }

  /// "bf16 (4096, 4096)"
  std::string describe() const { return std::string(chiasm::name(dtype_)) + " " + shape_.to_string(); }

  /// The same elements under another shape. Throws WeightError if the sizes differ.
  Weight reshape(Shape shape) const {
    if (shape.size() != shape_.size()) throw WeightError(file_, name_, describe(), shape.to_string());
    Weight other = *this;
    other.shape_ = shape;
    return other;
  }
  /// Rows [begin, begin + count) of the outermost dimension, without a copy. Throws ShapeError.
  Weight slice(std::size_t begin, std::size_t count) const;

  /// A copy in f32. Throws UnsupportedError for dtypes that are no numbers.
  Tensor to_f32() const;
  /// A copy in `dtype` (f32, f16 or bf16), rounded to nearest even; itself if it is that already.
  Weight to(DType dtype) const;

 private:
  std::string name_, file_;
  DType dtype_ = DType::f32;
  Shape shape_{0};
  const std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/weight.ipp>
#endif
