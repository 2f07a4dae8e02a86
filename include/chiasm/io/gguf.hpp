/// GGUF: llama.cpp's model file: typed metadata, and tensors that may come in blocks of few bits. https://github.com/ggml-org/ggml
/// (docs/gguf.md), versions 2 and 3.
#pragma once

#include <chiasm/core/weights.hpp>
#include <chiasm/io/file_map.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// One GGUF file. Metadata and tensors are views into its map, which tensors keep on their own and values do not: they live as long as any copy of
/// the Gguf. Cheap to copy, and shareable between threads.
class Gguf {
 public:
  /// Types of values, by their numbers in the file.
  enum class Type : std::uint8_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
  class Value;

  /// Reads metadata and the list of tensors; the data stay where they are. Throws FormatError: cut off, counts or lengths beyond the file's end, a key
  /// or tensor twice, arrays in arrays deeper than 4, an alignment that is no power of two from 8 on, data that are misaligned, overlap, end
  /// behind the file's end, or whose rows are no whole blocks. UnsupportedError: version 1, big endian, a number of a tensor type that ggml does not
  /// give out.
  static Gguf parse(const FileMap& file);
  /// Throws FileError, and as parse().
  static Gguf open(const std::string& path) { return parse(FileMap::open(path)); }

  /// The path, as it was given.
  const std::string& file() const noexcept;
  std::uint32_t version() const noexcept;
  std::size_t alignment() const noexcept;

  /// All values, in the file's order.
  std::span<const Value> metadata() const noexcept;
  /// The value of a key, or null. Logarithmic.
  const Value* find(std::string_view key) const noexcept;
  bool contains(std::string_view key) const noexcept { return find(key) != nullptr; }
  /// Throws ConfigError that names the file and the key if there is none.
  const Value& operator[](std::string_view key) const;
  /// The value as T (bool, an integer, float, double, std::string, std::string_view), or `fallback` if the key is missing. Throws ConfigError if it is
  /// there with another type or out of T's range.
  template <class T>
  T get(std::string_view key, T fallback) const;

  /// In the file's order; shapes as PyTorch has them, rows of the innermost extent. Without those of formats that this library does not read.
  std::span<const Weight> tensors() const noexcept;
  /// The tensors as a tree under their names in the file. Throws UnsupportedError, naming tensor and format, where there is one that cannot be read.
  Weights weights(WeightKind kind = WeightKind::keep) const;

 private:
  struct State;
  explicit Gguf(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// A value, or an element of an array. Cheap to copy.
class Gguf::Value {
 public:
  /// The key; an element has its array's.
  std::string_view key() const noexcept { return key_; }
  Type type() const noexcept { return type_; }
  bool is_string() const noexcept { return type_ == Type::string; }
  bool is_array() const noexcept { return type_ == Type::array; }
  bool is_bool() const noexcept { return type_ == Type::boolean; }
  bool is_integer() const noexcept { return !is_string() && !is_array() && !is_bool() && type_ != Type::f32 && type_ != Type::f64; }
  bool is_number() const noexcept { return is_integer() || type_ == Type::f32 || type_ == Type::f64; }

  /// The value. Throw ConfigError that names the file, the key, what is there and what was expected. Integers of all widths are integers, and they are
  /// numbers too.
  bool as_bool() const;
  std::int64_t as_int() const;
  double as_double() const;
  /// A view into the file; any bytes, valid UTF-8 or not.
  std::string_view as_string() const;
  /// This value as T, as Gguf::get(). Throws ConfigError.
  template <class T>
  T as() const;

  /// Elements of an array; 0 for all else.
  std::size_t size() const noexcept;
  /// Type of an array's elements; its own for all else.
  Type element_type() const noexcept;
  /// Element of an array, without a search, whatever its type. Throws ConfigError: no array, or out of range.
  Value operator[](std::size_t index) const;
  /// An array's elements as T. Throws ConfigError.
  template <class T>
  std::vector<T> as_vector() const;

  /// As JSON has it, arrays cut after 8 elements and strings after 60 bytes: for messages and listings.
  std::string describe() const;
  /// Throws ConfigError{the file, key(), what}: for readers that find a value senseless.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  friend class Gguf;
  struct Array;
  const State* gguf_ = nullptr;
  std::string_view key_;
  Type type_ = Type::u8;
  const std::byte* data_ = nullptr;  // of scalars and strings
  const Array* array_ = nullptr;
};

/// "u32", "string", ...
std::string_view name(Gguf::Type type) noexcept;

template <class T>
T Gguf::get(std::string_view key, T fallback) const {
  const Value* const value = find(key);
  return value == nullptr ? fallback : value->as<T>();
}

template <class T>
T Gguf::Value::as() const {
  if constexpr (std::is_same_v<T, bool>) {
    return as_bool();
  } else if constexpr (std::is_integral_v<T>) {
    const std::int64_t value = as_int();
    if (!std::in_range<T>(value)) fail("is " + std::to_string(value) + ", out of range");
    return static_cast<T>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(as_double());
  } else {
    return T(as_string());
  }
}

template <class T>
std::vector<T> Gguf::Value::as_vector() const {
  if (!is_array()) fail("is " + describe() + ", expected an array");
  std::vector<T> values;
  values.reserve(size());
  for (std::size_t i = 0; i < size(); ++i) values.push_back((*this)[i].template as<T>());
  return values;
}

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/gguf.ipp>
#endif
