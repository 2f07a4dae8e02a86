#pragma once

#include <chiasm/core/block_format.hpp>
#include <chiasm/core/mapped_file.hpp>
#include <chiasm/core/weight.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

template <class T>
T load_unaligned(const std::byte* p) noexcept {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

/// OCP 8-bit floats. e4m3 (the "fn" form of checkpoints) has no infinity, e5m2 is a short f16.
inline float from_f8_e4m3(std::uint8_t bits) noexcept {
  const int exponent = (bits >> 3) & 15, fraction = bits & 7;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9) : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  if (exponent == 15 && fraction == 7) value = std::numeric_limits<float>::quiet_NaN();
  return bits & 0x80 ? -value : value;
}
inline float from_f8_e5m2(std::uint8_t bits) noexcept { return static_cast<float>(f16{static_cast<std::uint16_t>(bits << 8)}); }
inline float from_f8_e8m0(std::uint8_t bits) noexcept {
  return bits == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, static_cast<int>(bits) - 127);
}

template <class T>
void convert_to_f32(const std::byte* from, float* to, std::size_t count) noexcept {
  constexpr std::size_t together = 16;  // a count that compilers know: they make vectors of it
  for (; count >= together; count -= together, from += together * sizeof(T), to += together)
    for (std::size_t i = 0; i < together; ++i) to[i] = static_cast<float>(load_unaligned<T>(from + i * sizeof(T)));
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<float>(load_unaligned<T>(from + i * sizeof(T)));
}
template <float (*read)(std::uint8_t)>
void convert_f8_to_f32(const std::byte* from, float* to, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) to[i] = read(static_cast<std::uint8_t>(from[i]));
}

/// Throws ShapeError unless the weight's rows can be taken in this order.
inline void expect_order(const Weight& weight, std::span<const std::uint32_t> order) {
  const std::size_t rows = weight.shape().rank() == 0 ? 0 : weight.shape()[0];
  const bool apart = weight.layout() == Layout::rows && (!is_block_format(weight.dtype()) || weight.shape().rank() > 1);  // a row of blocks cannot be taken to pieces
  if (!apart || order.size() != rows || std::any_of(order.begin(), order.end(), [&](std::uint32_t row) { return row >= rows; }))
    throw ShapeError("Weight::gather", weight.name() + " " + weight.describe() + " by " + std::to_string(order.size()) + " rows");
}

}  // namespace detail

CHIASM_INLINE Weight Weight::slice(std::size_t begin, std::size_t count) const {
  if (shape_.rank() == 0 || begin > shape_[0] || count > shape_[0] - begin)
    throw ShapeError("Weight::slice", name_ + " " + shape_.to_string() + " [" + std::to_string(begin) + ", +" + std::to_string(count) + ")");
  if (is_block_format(dtype_) && shape_.rank() == 1) throw UnsupportedError("a part of a row of " + describe() + " '" + name_ + "'");
  if (layout_ == Layout::panels && begin % panel_outputs != 0) throw UnsupportedError("a part of a panel of " + describe() + " '" + name_ + "'");
  Weight part = *this;
  Shape before{begin};
  part.shape_ = Shape{count};
  for (std::size_t i = 1; i < shape_.rank(); ++i) {
    before.append(shape_[static_cast<std::ptrdiff_t>(i)]);
    part.shape_.append(shape_[static_cast<std::ptrdiff_t>(i)]);
  }
  part.data_ += layout_ == Layout::rows ? bytes_of(dtype_, before) : begin / panel_outputs * panel_bytes(dtype_, shape_.columns());
  return part;
}

CHIASM_INLINE Weight Weight::gather(std::span<const std::uint32_t> order) const {
  detail::expect_order(*this, order);
  const std::size_t rows = order.size(), bytes = rows == 0 ? 0 : this->bytes() / rows;
  const std::shared_ptr<std::byte[]> copy(new std::byte[std::max<std::size_t>(rows * bytes, 1)]);
  const detail::MappedRange read_once(owner_, data_, rows * bytes);
  for (std::size_t i = 0; i < rows; ++i) std::memcpy(copy.get() + i * bytes, data_ + order[i] * bytes, bytes);
  Weight gathered = *this;
  gathered.data_ = copy.get();
  gathered.owner_ = copy;
  return gathered;
}

CHIASM_INLINE void Weight::read(std::size_t row, std::size_t column, std::size_t count, float* values) const noexcept {
  const std::size_t columns = shape_.columns(), before = column / block_size(dtype_);
  if (layout_ == Layout::panels)
    return dequantize_panel(dtype_, data_ + row / panel_outputs * panel_bytes(dtype_, columns), row % panel_outputs, column, values, count);
  const std::byte* const from = data_ + row * row_bytes(dtype_, columns) + before * size_of(dtype_);
  switch (dtype_) {
    case DType::f32: return detail::convert_to_f32<float>(from, values, count);
    case DType::f16: return detail::convert_to_f32<f16>(from, values, count);
    case DType::bf16: return detail::convert_to_f32<bf16>(from, values, count);
    case DType::f64: return detail::convert_to_f32<double>(from, values, count);
    case DType::f8_e4m3: return detail::convert_f8_to_f32<detail::from_f8_e4m3>(from, values, count);
    case DType::f8_e5m2: return detail::convert_f8_to_f32<detail::from_f8_e5m2>(from, values, count);
    case DType::f8_e8m0: return detail::convert_f8_to_f32<detail::from_f8_e8m0>(from, values, count);
    case DType::i8: return detail::convert_to_f32<std::int8_t>(from, values, count);
    case DType::u8: return detail::convert_to_f32<std::uint8_t>(from, values, count);
    case DType::i16: return detail::convert_to_f32<std::int16_t>(from, values, count);
    case DType::u16: return detail::convert_to_f32<std::uint16_t>(from, values, count);
    case DType::i32: return detail::convert_to_f32<std::int32_t>(from, values, count);
    case DType::u32: return detail::convert_to_f32<std::uint32_t>(from, values, count);
    case DType::i64: return detail::convert_to_f32<std::int64_t>(from, values, count);
    case DType::u64: return detail::convert_to_f32<std::uint64_t>(from, values, count);
    case DType::q8_row: return detail::read_bytes(from, from + (columns - column), values, count);
    case DType::boolean: return;
    default: return dequantize(dtype_, from, values, count);
  }
}

CHIASM_INLINE Tensor Weight::to_f32() const {
  if (dtype_ == DType::boolean) throw UnsupportedError(file_ + ": '" + name_ + "' is bool, a number was expected");
  Tensor tensor{shape_};
  if (tensor.size() == 0) return tensor;  // of as many rows as a file likes
  for (std::size_t i = 0, rows = shape_.rows(), columns = shape_.columns(); i < rows; ++i) read(i, 0, columns, tensor.data() + i * columns);
  return tensor;
}

CHIASM_INLINE Weight Weight::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  auto values = std::make_shared<Tensor>(to_f32());
  const std::byte* bytes = reinterpret_cast<const std::byte*>(values->data());
  if (dtype == DType::f32) return Weight(name_, dtype, shape_, bytes, std::move(values), file_);
  if (dtype != DType::f16 && dtype != DType::bf16) throw UnsupportedError("conversion of weights to " + std::string(chiasm::name(dtype)));
  auto halves = std::make_shared<BasicTensor<std::uint16_t>>(shape_);
  const float* from = values->data();
  std::uint16_t* to = halves->data();
  for (std::size_t i = 0, count = shape_.size(); i < count; ++i) to[i] = dtype == DType::f16 ? f16::from(from[i]).bits : bf16::from(from[i]).bits;
  bytes = reinterpret_cast<const std::byte*>(to);
  return Weight(name_, dtype, shape_, bytes, std::move(halves), file_);
}

}  // namespace chiasm
