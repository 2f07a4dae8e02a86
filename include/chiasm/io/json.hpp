/// JSON, read-only: a handle into a parsed document that knows where it stands, so that every complaint can name the
/// file and the JSON pointer (RFC 6901). Parsing is nlohmann/json's SAX parser, behind impl/json.ipp.
#pragma once

#include <chiasm/core/error.hpp>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// One value of a JSON document. Cheap to copy: all handles share the document. Members keep the file's order.
/// A default-constructed Json is `null`.
class Json {
 public:
  enum class Kind : std::uint8_t { null, boolean, integer, number, string, array, object };
  enum class Duplicates { last_wins, error };

  Json() = default;

  /// Parses `text`; `file` is what errors call it, `offset` where in that file the text begins. Throws FormatError: not JSON, deeper than
  /// 512 levels, more than 2^23 values or 128 MiB, NaN, invalid UTF-8, or a key twice in one object where `duplicates` says error.
  static Json parse(std::string_view text, std::string file = "<memory>", Duplicates duplicates = Duplicates::last_wins, std::uint64_t offset = 0);

  /// Reads and parses a file. Throws FileError, FormatError.
  static Json read(const std::string& path);

  Kind kind() const noexcept;
  bool is_null() const noexcept { return kind() == Kind::null; }
  bool is_string() const noexcept { return kind() == Kind::string; }
  bool is_array() const noexcept { return kind() == Kind::array; }
  bool is_object() const noexcept { return kind() == Kind::object; }
  bool is_bool() const noexcept { return kind() == Kind::boolean; }
  bool is_integer() const noexcept { return kind() == Kind::integer; }
  /// An integer or a floating-point number.
  bool is_number() const noexcept { return kind() == Kind::integer || kind() == Kind::number; }

  /// The value. Throw ConfigError that names the file, the place, what is there and what was expected.
  bool as_bool() const;
  std::int64_t as_int() const;
  double as_double() const;
  /// Valid as long as any handle into the document lives.
  std::string_view as_string() const;

  /// Number of elements or members; 0 for scalars.
  std::size_t size() const noexcept;

  /// Element of an array. Throws ConfigError: not an array, or out of range. Linear in `index`: loops use begin().
  Json at(std::size_t index) const;

  /// Member of an object. Throws ConfigError if this is no object or has no such member.
  Json operator[](std::string_view key) const;

  /// Member of an object, or null: also if this is no object. Does not throw.
  Json find(std::string_view key) const noexcept;
  bool contains(std::string_view key) const noexcept;

  /// Member `key` as T (bool, an integer, float, double, std::string), or `fallback` if it is missing or null.
  /// Throws ConfigError if it is there with another type or out of T's range.
  template <class T>
  T get(std::string_view key, T fallback) const {
    const Json value = find(key);
    return value.is_null() ? fallback : value.as<T>();
  }

  /// This value as T. Throws ConfigError.
  template <class T>
  T as() const {
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

  /// An array's elements as T. Throws ConfigError.
  template <class T>
  std::vector<T> as_vector() const;

  /// The key under which this value stands in its object; empty for elements and the root.
  std::string_view key() const noexcept;
  /// Where this value stands, RFC 6901, "" for the root.
  std::string pointer() const;
  /// The name given to parse().
  const std::string& file() const noexcept;
  /// Compact JSON text of this value, UTF-8 kept as it is, cut after `limit` bytes (messages quote what they found).
  std::string dump(std::size_t limit = std::string::npos) const;

  /// Throws ConfigError{file(), pointer(), what}: for readers that find a value senseless.
  [[noreturn]] void fail(const std::string& what) const;

  class iterator;
  /// Elements or members, in order. Empty for scalars.
  iterator begin() const noexcept;
  iterator end() const noexcept;

 private:
  struct Document;
  struct Builder;
  void write(std::string& to, std::size_t limit) const;
  Json(std::shared_ptr<const Document> document, std::uint32_t node) : document_(std::move(document)), node_(node) {}
  std::shared_ptr<const Document> document_;
  std::uint32_t node_ = 0;
};

class Json::iterator {
 public:
  using value_type = Json;
  using difference_type = std::ptrdiff_t;
  Json operator*() const;
  iterator& operator++();
  void operator++(int) { ++*this; }
  bool operator==(const iterator& other) const noexcept { return node_ == other.node_; }

 private:
  friend class Json;
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  iterator(std::shared_ptr<const Document> document, std::uint32_t node) : document_(std::move(document)), node_(node) {}
  std::shared_ptr<const Document> document_;
  std::uint32_t node_;
};

template <class T>
std::vector<T> Json::as_vector() const {
  if (!is_array()) fail("is not an array");
  std::vector<T> values;
  values.reserve(size());
  for (Json element : *this) values.push_back(element.as<T>());
  return values;
}

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/json.ipp>
#endif
