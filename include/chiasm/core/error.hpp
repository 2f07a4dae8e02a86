/// Exceptions. Every one says where, what, have and want; nothing in the library aborts, exits or prints.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

/// Base of everything that the library throws.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file or folder that is missing, unreadable or of the wrong kind.
class FileError : public Error {
 public:
  FileError(std::string path, const std::string& what) : Error(path + ": " + what), file(std::move(path)) {}
  std::string file;
};

/// A file whose bytes are not what its format asks for. `byte` is the offset of the finding.
class FormatError : public Error {
 public:
  FormatError(std::string path, std::uint64_t offset, const std::string& what)
      : Error(path + ": byte " + std::to_string(offset) + ": " + what), file(std::move(path)), byte(offset) {}
  std::string file;
  std::uint64_t byte;
};

/// A weight that is missing, left over, or of another shape or dtype than the configuration asks for.
class WeightError : public Error {
 public:
  WeightError(std::string path, std::string name, std::string found, std::string expected)
      : Error(path + ": '" + name + "' is " + found + ", expected " + expected),
        file(std::move(path)),
        tensor(std::move(name)),
        have(std::move(found)),
        want(std::move(expected)) {}
  std::string file, tensor, have, want;
};

/// A value in a JSON configuration that is missing or makes no sense. `pointer` is the RFC 6901 JSON pointer to it.
class ConfigError : public Error {
 public:
  ConfigError(std::string path, std::string json_pointer, const std::string& what)
      : Error(path + (json_pointer.empty() ? "" : ": " + json_pointer) + ": " + what),
        file(std::move(path)),
        pointer(std::move(json_pointer)) {}
  std::string file, pointer;
};

/// Shapes that an operation cannot combine.
class ShapeError : public Error {
 public:
  ShapeError(std::string operation, std::string found)
      : Error(operation + ": shapes do not fit: " + found), op(std::move(operation)), shapes(std::move(found)) {}
  std::string op, shapes;
};

/// An argument out of its range (an option of generation, an unknown image kind).
class ArgumentError : public Error {
 public:
  using Error::Error;
};

/// Something that the format or the family knows and this library does not (yet): said, never guessed.
class UnsupportedError : public Error {
 public:
  explicit UnsupportedError(std::string what) : Error("not supported: " + what), feature(std::move(what)) {}
  std::string feature;
};

/// The caller asked to stop, through CancelToken or a callback that returned false.
class Cancelled : public Error {
 public:
  Cancelled() : Error("cancelled") {}
};

namespace detail {

/// A name from a file, for a message: hostile ones may have megabytes.
inline std::string quoted(std::string_view name) {
  constexpr std::size_t limit = 200;
  return "'" + std::string(name.substr(0, limit)) + (name.size() > limit ? "...'" : "'");
}

}  // namespace detail

}  // namespace chiasm
