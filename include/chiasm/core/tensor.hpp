/// Tensor owns, View and MutView borrow. Dense rows, row-major; the rows of a view may lie apart (a slice of columns).
#pragma once

#include <chiasm/core/memory_pool.hpp>
#include <chiasm/core/shape.hpp>

#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

/// A borrowed tensor: pointer, shape, and the distance in elements between successive innermost rows.
/// Parameters only: it must not outlive what it borrows from.
template <class T>
class BasicView {
 public:
  BasicView() = default;
  BasicView(T* data, Shape shape) : BasicView(data, shape, shape.columns()) {}
  BasicView(T* data, Shape shape, std::size_t stride) : data_(data), shape_(shape), stride_(stride) {}
  /// A mutable view reads, too.
  operator BasicView<const T>() const noexcept
    requires(!std::is_const_v<T>)
  {
    return {data_, shape_, stride_};
  }

  T* data() const noexcept { return data_; }
  const Shape& shape() const noexcept { return shape_; }
  std::size_t size() const { return shape_.size(); }
  bool empty() const { return data_ == nullptr || size() == 0; }
  /// Number and length of the innermost rows, and the elements from one to the next.
  std::size_t rows() const { return shape_.rows(); }
  std::size_t columns() const noexcept { return shape_.columns(); }
  std::size_t stride() const noexcept { return stride_; }
  bool contiguous() const { return stride_ == columns() || rows() <= 1; }
  T* row(std::size_t i) const noexcept { return data_ + i * stride_; }

  /// `count` entries of the outermost dimension, from `begin`. Throws ShapeError.
  BasicView slice(std::size_t begin, std::size_t count) const {
    if (shape_.rank() == 0 || begin > shape_[0] || count > shape_[0] - begin)
      throw ShapeError("slice", shape_.to_string() + " [" + std::to_string(begin) + ", +" + std::to_string(count) + ")");
    Shape part{count};
    for (std::size_t i = 1; i < shape_.rank(); ++i) part.append(shape_[static_cast<std::ptrdiff_t>(i)]);
    if (shape_.rank() == 1) return {data_ + begin, part};
    return {data_ + begin * (rows() / std::max<std::size_t>(shape_[0], 1)) * stride_, part, stride_};
  }
  /// Entry `i` of the outermost dimension: one dimension less.
  BasicView operator[](std::size_t i) const {
    const BasicView one = slice(i, 1);
    Shape inner;
    for (std::size_t d = 1; d < shape_.rank(); ++d) inner.append(shape_[static_cast<std::ptrdiff_t>(d)]);
    return {one.data_, inner, stride_};
  }
  /// `count` columns of every row, from `begin`. Throws ShapeError.
  BasicView column_slice(std::size_t begin, std::size_t count) const {
    if (shape_.rank() == 0 || begin > columns() || count > columns() - begin)
      throw ShapeError("column_slice", shape_.to_string() + " [" + std::to_string(begin) + ", +" + std::to_string(count) + ")");
    Shape part;
    for (std::size_t i = 0; i + 1 < shape_.rank(); ++i) part.append(shape_[static_cast<std::ptrdiff_t>(i)]);
    part.append(count);
    return {data_ + begin, part, stride_};
  }
  /// The same elements under another shape. Throws ShapeError if the rows lie apart or the sizes differ.
  BasicView reshape(Shape shape) const {
    if (!contiguous() || shape.size() != size()) throw ShapeError("reshape", shape_.to_string() + " to " + shape.to_string());
    return {data_, shape};
  }

 private:
  T* data_ = nullptr;
  Shape shape_{0};
  std::size_t stride_ = 0;
};

using View = BasicView<const float>;
using MutView = BasicView<float>;

/// An owned, contiguous tensor: 64-byte aligned, move-only, `.clone()` to copy. Its block goes back to the pool it came from.
template <class T>
class BasicTensor {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  BasicTensor() = default;
  /// Zero-filled. Throws ShapeError (overflow), std::bad_alloc.
  explicit BasicTensor(Shape shape) : BasicTensor(shape, nullptr) {
    if (bytes() != 0) std::memset(static_cast<void*>(data_), 0, bytes());
  }
  /// From values: for tests and small constants. Throws ShapeError if they do not fill `shape`.
  BasicTensor(Shape shape, std::span<const T> values) : BasicTensor(shape) {
    if (values.size() != size()) throw ShapeError("Tensor", shape.to_string() + " from " + std::to_string(values.size()) + " values");
    std::copy(values.begin(), values.end(), data_);
  }
  /// Uninitialised, from `pool`, or from the system where that is null. Context::empty() is the usual way.
  BasicTensor(Shape shape, std::shared_ptr<MemoryPool> pool) : shape_(shape), pool_(std::move(pool)) {
    if (shape.size() > static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(T)) throw ShapeError("Tensor", shape.to_string());
    capacity_ = shape.size() * sizeof(T);
    data_ = static_cast<T*>(pool_ ? pool_->acquire(capacity_) : ::operator new(capacity_, std::align_val_t(MemoryPool::alignment)));
  }
  BasicTensor(BasicTensor&& other) noexcept { swap(other); }
  BasicTensor& operator=(BasicTensor&& other) noexcept {
    BasicTensor(std::move(other)).swap(*this);
    return *this;
  }
  BasicTensor(const BasicTensor&) = delete;
  BasicTensor& operator=(const BasicTensor&) = delete;
  ~BasicTensor() {
    if (data_ == nullptr) return;
    if (pool_) pool_->release(data_, capacity_);
    else ::operator delete(data_, std::align_val_t(MemoryPool::alignment));
  }

  BasicTensor clone() const {
    if (data_ == nullptr) return {};
    BasicTensor copy(shape_, pool_);
    std::copy(data_, data_ + size(), copy.data_);
    return copy;
  }

  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  const Shape& shape() const noexcept { return shape_; }
  std::size_t size() const { return shape_.size(); }
  std::size_t bytes() const { return size() * sizeof(T); }
  bool empty() const { return data_ == nullptr || size() == 0; }
  std::size_t rows() const { return shape_.rows(); }
  std::size_t columns() const noexcept { return shape_.columns(); }
  T* row(std::size_t i) noexcept { return data_ + i * columns(); }
  const T* row(std::size_t i) const noexcept { return data_ + i * columns(); }
  std::span<const T> values() const { return {data_, size()}; }
  std::span<T> values() { return {data_, size()}; }

  BasicView<T> view() noexcept { return {data_, shape_}; }
  BasicView<const T> view() const noexcept { return {data_, shape_}; }
  operator BasicView<T>() & noexcept { return view(); }                // NOLINT: a tensor is a view wherever one is asked for
  operator BasicView<const T>() const& noexcept { return view(); }     // NOLINT
  operator BasicView<const T>() const&& noexcept { return view(); }    // NOLINT: lives to the end of the call
  BasicView<T> slice(std::size_t begin, std::size_t count) { return view().slice(begin, count); }
  BasicView<const T> slice(std::size_t begin, std::size_t count) const { return view().slice(begin, count); }

  /// The same elements under another shape. Throws ShapeError if the sizes differ.
  BasicTensor reshape(Shape shape) && {
    if (shape.size() != size()) throw ShapeError("reshape", shape_.to_string() + " to " + shape.to_string());
    shape_ = shape;
    return std::move(*this);
  }

  void swap(BasicTensor& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(shape_, other.shape_);
    std::swap(capacity_, other.capacity_);
    pool_.swap(other.pool_);
  }

 private:
  T* data_ = nullptr;
  Shape shape_{0};
  std::size_t capacity_ = 0;
  std::shared_ptr<MemoryPool> pool_;
};

using Tensor = BasicTensor<float>;

}  // namespace chiasm
