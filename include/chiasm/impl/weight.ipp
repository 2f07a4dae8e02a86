#pragma once

#include <chiasm/core/weight.hpp>

#include <cmath>
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
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<float>(load_unaligned<T>(from + i * sizeof(T)));
}
template <float (*read)(std::uint8_t)>
void convert_f8_to_f32(const std::byte* from, float* to, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) to[i] = read(static_cast<std::uint8_t>(from[i]));
}

}  // namespace detail

CHIASM_INLINE Weight Weight::slice(std::size_t begin, std::size_t count) const {
  if (shape_.rank() == 0 || begin > shape_[0] || count > shape_[0] - begin)
    throw ShapeError("Weight::slice", name_ + " " + shape_.to_string() + " [" + std::to_string(begin) + ", +" + std::to_string(count) + ")");
  Weight part = *this;
  part.shape_ = Shape{count};
  std::size_t row = size_of(dtype_);
  for (std::size_t i = 1; i < shape_.rank(); ++i) {
    part.shape_.append(shape_[static_cast<std::ptrdiff_t>(i)]);
    row *= shape_[static_cast<std::ptrdiff_t>(i)];
  }
  part.data_ += begin * row;
  return part;
}

CHIASM_INLINE Tensor Weight::to_f32() const {
  Tensor tensor{shape_};
  const std::size_t count = shape_.size();
  float* to = tensor.data();
  switch (dtype_) {
    case DType::f32: detail::convert_to_f32<float>(data_, to, count); break;
    case DType::f16: detail::convert_to_f32<f16>(data_, to, count); break;
    case DType::bf16: detail::convert_to_f32<bf16>(data_, to, count); break;
    case DType::f64: detail::convert_to_f32<double>(data_, to, count); break;
    case DType::f8_e4m3: detail::convert_f8_to_f32<detail::from_f8_e4m3>(data_, to, count); break;
    case DType::f8_e5m2: detail::convert_f8_to_f32<detail::from_f8_e5m2>(data_, to, count); break;
    case DType::f8_e8m0: detail::convert_f8_to_f32<detail::from_f8_e8m0>(data_, to, count); break;
    case DType::i8: detail::convert_to_f32<std::int8_t>(data_, to, count); break;
    case DType::u8: detail::convert_to_f32<std::uint8_t>(data_, to, count); break;
    case DType::i16: detail::convert_to_f32<std::int16_t>(data_, to, count); break;
    case DType::u16: detail::convert_to_f32<std::uint16_t>(data_, to, count); break;
    case DType::i32: detail::convert_to_f32<std::int32_t>(data_, to, count); break;
    case DType::u32: detail::convert_to_f32<std::uint32_t>(data_, to, count); break;
    case DType::i64: detail::convert_to_f32<std::int64_t>(data_, to, count); break;
    case DType::u64: detail::convert_to_f32<std::uint64_t>(data_, to, count); break;
    case DType::boolean: throw UnsupportedError(file_ + ": '" + name_ + "' is bool, a number was expected");
  }
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
