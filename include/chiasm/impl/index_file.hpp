/// IndexFile: a safetensors file of named tables and texts with a checksum, read as hostile input.
#pragma once

#include <chiasm/core/content_hash.hpp>
#include <chiasm/io/safetensors.hpp>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

inline constexpr std::string_view index_file_version = "1";

/// 32 hexadecimal digits.
inline std::string to_hex(const Digest& digest) {
  std::string text;
  for (const std::uint64_t half : {digest.high, digest.low})
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[half >> shift & 15];
  return text;
}
inline std::optional<Digest> from_hex(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  std::uint64_t halves[2] = {0, 0};
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t digit = std::string_view("0123456789abcdef").find(text[i]);
    if (digit == std::string_view::npos) return std::nullopt;
    halves[i / 16] = halves[i / 16] << 4 | digit;
  }
  return Digest{halves[1], halves[0]};
}

/// Of bytes whose maker nobody has to fear: the key is no secret.
using Checksum = ContentHash<>;
inline void absorb(Checksum& sum, std::string_view text) {
  sum << static_cast<std::uint64_t>(text.size()) << std::as_bytes(std::span(text.data(), text.size()));
}
inline void absorb(Checksum& sum, const Weight& table) {
  absorb(sum, table.name());
  absorb(sum, table.describe());
  sum << std::span(table.data(), table.bytes());
}

template <class T>
constexpr DType dtype_of() noexcept {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  else if constexpr (std::is_same_v<T, std::uint64_t>) return DType::u64;
  else if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  else if constexpr (std::is_same_v<T, std::uint32_t>) return DType::u32;
  else return static_cast<void>(sizeof(char[std::is_same_v<T, std::uint8_t> ? 1 : -1])), DType::u8;
}

/// Tables and texts on their way to a file; what it borrows must live until write().
class NewIndexFile {
 public:
  explicit NewIndexFile(std::string_view format) : texts_{{"format", std::string(format)}, {"version", std::string(index_file_version)}} {}

  void add(std::string key, std::string text) { texts_.emplace_back(std::move(key), std::move(text)); }
  template <class T>
  void borrow(std::string name, Shape shape, const T* values) {
    tables_.emplace_back(std::move(name), dtype_of<T>(), shape, reinterpret_cast<const std::byte*>(values), nullptr, "<memory>");
  }
  template <class T>
  void add(std::string name, Shape shape, std::vector<T> values) {
    const auto owner = std::make_shared<const std::vector<T>>(std::move(values));
    tables_.emplace_back(std::move(name), dtype_of<T>(), shape, reinterpret_cast<const std::byte*>(owner->data()), owner, "<memory>");
  }
  void write(const std::string& path) {
    Checksum sum({});
    for (const auto& [key, text] : texts_) absorb(sum, key), absorb(sum, text);
    for (const Weight& table : tables_) absorb(sum, table);
    texts_.emplace_back("checksum", to_hex(sum.digest()));
    write_safetensors(path, tables_, texts_);
  }

 private:
  std::vector<std::pair<std::string, std::string>> texts_;
  std::vector<Weight> tables_;
};

/// The same, read: whole, of the format and version that is asked for, and as its checksum says. All complaints are FormatErrors.
class IndexFile {
 public:
  IndexFile(const std::string& path, std::string_view format) : file_(FileMap::open(path)) {
    try {
      content_ = Safetensors::parse(file_);
    } catch (const UnsupportedError& error) {
      throw FormatError(path, 8, error.what());
    }
    if (!content_.metadata.is_object()) fail("no index: the file has no metadata");
    if (text("format") != format) fail("holds '" + std::string(text("format").substr(0, 80)) + "', expected '" + std::string(format) + "'");
    if (text("version") != index_file_version)
      fail("version " + std::string(text("version").substr(0, 20)) + ", this library reads version " + std::string(index_file_version));
    Checksum sum({});
    for (const Json entry : content_.metadata)
      if (entry.key() != "checksum") absorb(sum, entry.key()), absorb(sum, entry.as_string());
    for (const Weight& table : content_.tensors) absorb(sum, table);
    if (text("checksum") != to_hex(sum.digest())) fail("damaged: its content is not what its checksum says");
  }

  [[noreturn]] void fail(const std::string& what) const { throw FormatError(file_.path(), 8, what); }
  std::string_view text(std::string_view key) const {
    const Json value = content_.metadata.find(key);
    if (!value.is_string()) fail("no '" + std::string(key) + "' in the metadata");
    return value.as_string();
  }
  /// A table of this element type with `rank` dimensions.
  template <class T>
  const Weight& table(std::string_view name, std::size_t rank) const {
    for (const Weight& table : content_.tensors)
      if (table.name() == name) {
        if (table.dtype() != dtype_of<T>() || table.shape().rank() != rank)
          fail("'" + std::string(name) + "' is " + table.describe() + ", expected " + std::string(chiasm::name(dtype_of<T>())) + " with " +
               std::to_string(rank) + " dimensions");
        return table;
      }
    fail("has no '" + std::string(name) + "'");
  }
  /// Its elements.
  template <class T>
  std::vector<T> values(std::string_view name, std::size_t rank) const {
    const Weight& source = table<T>(name, rank);
    std::vector<T> copy(source.shape().size());
    if (!copy.empty()) std::memcpy(copy.data(), source.data(), source.bytes());
    return copy;
  }

 private:
  FileMap file_;
  Safetensors content_;
};

}  // namespace chiasm
