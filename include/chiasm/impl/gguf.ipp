#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/impl/json_string.hpp>
#include <chiasm/io/gguf.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <deque>
#include <limits>
#include <set>

namespace chiasm::inline CHIASM_ABI {

struct Gguf::Value::Array {
  Type element;
  std::size_t count;
  const std::byte* first;              // scalars, one after the other
  std::vector<std::uint64_t> strings;  // where each string's length stands, from `first` on
  std::vector<Value> arrays;
};

struct Gguf::State {
  FileMap file;
  std::uint32_t version = 0;
  std::size_t alignment = 32;
  std::vector<Value> values;
  std::vector<std::uint32_t> by_key;  // values, sorted by key
  std::deque<Value::Array> arrays;    // that values point to
  std::vector<Weight> tensors;
  std::vector<std::string> unreadable;  // tensors of formats that are not read, with the format
};

namespace detail {

inline constexpr std::string_view gguf_value_types[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
/// Bytes of a scalar; 0 for strings and arrays.
inline constexpr std::uint8_t gguf_value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/// A tensor's type in a file: the DType that we read it as, or a format that we know by name alone.
struct GgmlType {
  std::uint32_t number;
  std::string_view name;
  DType dtype = DType::boolean;  // boolean: not read
};
inline constexpr GgmlType ggml_types[] = {
    {0, "F32", DType::f32}, {1, "F16", DType::f16}, {2, "Q4_0", DType::q4_0}, {3, "Q4_1", DType::q4_1}, {6, "Q5_0", DType::q5_0}, {7, "Q5_1", DType::q5_1},
    {8, "Q8_0", DType::q8_0}, {9, "Q8_1"}, {10, "Q2_K", DType::q2_k}, {11, "Q3_K", DType::q3_k}, {12, "Q4_K", DType::q4_k}, {13, "Q5_K", DType::q5_k},
    {14, "Q6_K", DType::q6_k}, {15, "Q8_K"}, {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL", DType::iq4_nl}, {21, "IQ3_S"},
    {22, "IQ2_S"}, {23, "IQ4_XS", DType::iq4_xs}, {24, "I8", DType::i8}, {25, "I16", DType::i16}, {26, "I32", DType::i32}, {27, "I64", DType::i64},
    {28, "F64", DType::f64}, {29, "IQ1_M"}, {30, "BF16", DType::bf16}, {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {34, "TQ1_0"}, {35, "TQ2_0"},
    {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {39, "MXFP4"}, {40, "NVFP4"},
    // ik_llama.cpp's own
    {133, "Q6_0"}, {137, "IQ2_K"}, {138, "IQ3_K"}, {139, "IQ4_K"}, {140, "IQ5_K"}, {141, "IQ6_K"}, {144, "IQ4_KS"}, {145, "IQ2_KS"}, {146, "IQ4_KSS"},
    {152, "IQ5_KS"}, {153, "IQ2_KT"}, {154, "IQ3_KT"}, {155, "IQ4_KT"}, {156, "IQ3_KS"}, {157, "IQ2_KL"}, {158, "IQ1_KT"}};

/// Reads a GGUF file from its first byte on; every step is checked against the file's end.
class GgufReader {
 public:
  explicit GgufReader(const FileMap& file) : file_(file) {}

  std::size_t at() const noexcept { return at_; }
  std::size_t left() const noexcept { return file_.size() - at_; }
  const std::byte* here() const noexcept { return file_.data() + at_; }

  template <class T>
  T number(const char* what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, here(), sizeof value);
    at_ += sizeof value;
    return value;
  }
  /// How many things follow, of which each takes at least so many bytes.
  std::size_t count(std::size_t least, const std::string& what) {
    const std::size_t where = at_;
    const auto n = number<std::uint64_t>("a count");
    if (n > left() / least) refuse_at(where, std::to_string(n) + " " + what + ", the file ends after " + std::to_string(left()) + " bytes more");
    return static_cast<std::size_t>(n);
  }
  std::string_view string(const char* what) {
    // A vocabulary has half a million of them: messages are made where they are needed.
    std::uint64_t size = left();
    if (size >= sizeof size) std::memcpy(&size, here(), sizeof size);
    if (left() < sizeof size || size > left() - sizeof size) size = count(1, std::string("bytes of ") + what);  // which throws
    const std::string_view text = file_.text().substr(at_ + sizeof size, static_cast<std::size_t>(size));
    at_ += sizeof size + static_cast<std::size_t>(size);
    return text;
  }
  void skip(std::size_t bytes, const std::string& what) {
    need(bytes, what);
    at_ += bytes;
  }
  void need(std::size_t bytes, const std::string& what) const {
    if (bytes > left()) refuse_at(file_.size(), "the file ends inside " + what);
  }
  [[noreturn]] void refuse(const std::string& what) const { refuse_at(at_, what); }
  [[noreturn]] void refuse_at(std::size_t byte, const std::string& what) const { throw FormatError(file_.path(), byte, what); }

  Gguf::Type type(std::string_view key) {
    const auto number = this->number<std::uint32_t>("a value's type");
    if (number >= std::size(gguf_value_types)) refuse_at(at_ - 4, quoted(key) + " has value type " + std::to_string(number) + ", expected 0 to 12");
    return static_cast<Gguf::Type>(number);
  }

 private:
  const FileMap& file_;
  std::size_t at_ = 0;
};

template <class T>
T gguf_load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline std::string_view gguf_string(const std::byte* from) noexcept {
  return {reinterpret_cast<const char*>(from) + 8, static_cast<std::size_t>(gguf_load<std::uint64_t>(from))};
}

}  // namespace detail

CHIASM_INLINE std::string_view name(Gguf::Type type) noexcept { return detail::gguf_value_types[static_cast<std::size_t>(type)]; }

CHIASM_INLINE Gguf Gguf::parse(const FileMap& file) {
  auto state = std::make_shared<State>();
  state->file = file;
  detail::GgufReader reader(state->file);

  reader.need(4, "the magic bytes 'GGUF'");
  if (!file.text().starts_with("GGUF")) reader.refuse("no GGUF file: it does not begin with 'GGUF'");
  reader.skip(4, "the magic bytes");
  state->version = reader.number<std::uint32_t>("the version");
  if (state->version == 1) throw UnsupportedError(file.path() + ": GGUF version 1, of 2023; newer tools of llama.cpp convert it");
  if ((state->version & 0xffffu) == 0 && state->version != 0) throw UnsupportedError(file.path() + ": a big-endian GGUF file");
  if (state->version != 2 && state->version != 3) reader.refuse_at(4, "GGUF version " + std::to_string(state->version) + ", expected 2 or 3");
  constexpr std::size_t least_tensor = 8 + 4 + 4 + 8, least_value = 8 + 1 + 4 + 1;  // bytes
  const std::size_t tensor_count = reader.count(least_tensor, "tensors"), value_count = reader.count(least_value, "values");

  // Values. An array costs more memory than the 12 bytes that it may take in a file.
  constexpr std::size_t most_arrays = std::size_t{1} << 20;
  const auto read_value = [&](const auto& self, std::string_view key, Type type, int depth) -> Value {
    Value value;
    value.gguf_ = state.get();
    value.key_ = key;
    value.type_ = type;
    value.data_ = reader.here();
    if (type == Type::string) {
      reader.string("a string");
    } else if (type != Type::array) {
      reader.skip(detail::gguf_value_bytes[static_cast<std::size_t>(type)], "the value of " + detail::quoted(key));
    } else {
      if (depth == 4) reader.refuse(detail::quoted(key) + ": arrays in arrays, deeper than 4");
      if (state->arrays.size() == most_arrays) reader.refuse(detail::quoted(key) + ": more than " + std::to_string(most_arrays) + " arrays");
      const Type element = reader.type(key);
      const std::size_t bytes = detail::gguf_value_bytes[static_cast<std::size_t>(element)];
      const std::size_t count = reader.count(bytes != 0 ? bytes : element == Type::string ? 8 : 12, "elements of " + detail::quoted(key));
      Value::Array array{element, count, reader.here(), {}, {}};
      if (element == Type::string) {
        array.strings.reserve(count);
        for (std::size_t i = 0; i < count; ++i) {
          array.strings.push_back(static_cast<std::uint64_t>(reader.here() - array.first));
          reader.string("a string");
        }
      } else if (element == Type::array) {
        array.arrays.reserve(count);
        for (std::size_t i = 0; i < count; ++i) array.arrays.push_back(self(self, key, Type::array, depth + 1));
      } else {
        reader.skip(bytes * count, detail::quoted(key));
      }
      state->arrays.push_back(std::move(array));
      value.array_ = &state->arrays.back();
    }
    return value;
  };
  state->values.reserve(value_count);
  state->by_key.reserve(value_count);
  for (std::size_t i = 0; i < value_count; ++i) {
    const std::size_t where = reader.at();
    const std::string_view key = reader.string("a key");
    if (key.empty()) reader.refuse_at(where, "an empty key");
    const Type type = reader.type(key);
    state->values.push_back(read_value(read_value, key, type, 0));
    state->by_key.push_back(static_cast<std::uint32_t>(i));
  }
  std::sort(state->by_key.begin(), state->by_key.end(), [&](std::uint32_t a, std::uint32_t b) { return state->values[a].key_ < state->values[b].key_; });
  for (std::size_t i = 1; i < value_count; ++i)
    if (const std::string_view key = state->values[state->by_key[i]].key_; key == state->values[state->by_key[i - 1]].key_)
      reader.refuse_at(static_cast<std::size_t>(key.data() - file.text().data()), detail::quoted(key) + " stands twice");
  Gguf result(state);
  if (const Value* const alignment = result.find("general.alignment")) {
    const std::int64_t bytes = alignment->type() == Type::u32 ? alignment->as_int() : 0;
    if (bytes < 8 || bytes > (1 << 30) || !std::has_single_bit(static_cast<std::uint64_t>(bytes)))
      reader.refuse_at(static_cast<std::size_t>(alignment->data_ - file.data()), "general.alignment is " + alignment->describe() + ", expected a power of two from 8 on, as u32");
    state->alignment = static_cast<std::size_t>(bytes);
  }

  // Tensors.
  struct Part {
    std::string_view name;
    const detail::GgmlType* type;
    Shape shape;
    std::uint64_t offset;
    std::size_t bytes, where;
  };
  std::vector<Part> parts;
  parts.reserve(tensor_count);
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < tensor_count; ++i) {
    Part part{};
    part.where = reader.at();
    part.name = reader.string("a tensor's name");
    const std::string quoted = detail::quoted(part.name);
    const auto refuse = [&](const std::string& what) { reader.refuse_at(part.where, quoted + ": " + what); };
    if (part.name.empty()) refuse("a tensor without a name");
    if (!names.insert(part.name).second) refuse("stands twice");
    const auto rank = reader.number<std::uint32_t>("the number of dimensions");
    if (rank > 4) refuse(std::to_string(rank) + " dimensions, at most 4");
    std::array<std::size_t, 4> extents{};
    for (std::uint32_t k = 0; k < rank; ++k) {
      const auto extent = reader.number<std::int64_t>("a tensor's extents");
      if (extent < 1) refuse("an extent of " + std::to_string(extent));
      extents[k] = static_cast<std::size_t>(extent);
    }
    for (std::uint32_t k = rank; k-- > 0;) part.shape.append(extents[k]);  // the file has the innermost first
    const auto number = reader.number<std::uint32_t>("a tensor's type");
    part.offset = reader.number<std::uint64_t>("a tensor's offset");
    part.type = std::find_if(std::begin(detail::ggml_types), std::end(detail::ggml_types), [&](const detail::GgmlType& type) { return type.number == number; });
    if (part.type == std::end(detail::ggml_types))
      throw UnsupportedError(file.path() + ": " + quoted + " has type " + std::to_string(number) +
                             (number >= 200 && number < 500 ? ", one of ik_llama.cpp's row-interleaved formats" : ", which is none of ggml's"));
    std::size_t elements = 1;
    for (const std::size_t extent : part.shape) {
      if (elements > std::numeric_limits<std::size_t>::max() / 16 / extent) refuse("shape " + part.shape.to_string() + " overflows");
      elements *= extent;
    }
    if (part.offset % state->alignment != 0) refuse("offset " + std::to_string(part.offset) + " is no multiple of the alignment, " + std::to_string(state->alignment));
    if (part.type->dtype != DType::boolean) {
      if (part.shape.columns() % block_size(part.type->dtype) != 0)
        refuse(std::string(part.type->name) + " with rows of " + std::to_string(part.shape.columns()) + ", expected a multiple of " + std::to_string(block_size(part.type->dtype)));
      part.bytes = chiasm::bytes_of(part.type->dtype, part.shape);
    }
    parts.push_back(std::move(part));
  }

  // Their data: behind the list, on the alignment. A file without tensors may end with its list.
  const std::size_t padding = (state->alignment - reader.at() % state->alignment) % state->alignment;
  if (tensor_count > 0) reader.skip(std::min(padding, reader.left()), "the padding before the data");
  const std::span<const std::byte> data = file.bytes().subspan(reader.at());
  for (const Part& part : parts) {
    if (part.offset > data.size() || part.bytes > data.size() - part.offset)
      reader.refuse_at(file.size(), detail::quoted(part.name) + " of " + std::to_string(part.bytes) + " bytes at byte " + std::to_string(part.offset) +
                                        " of the data, which have " + std::to_string(data.size()));
    if (part.type->dtype == DType::boolean)
      state->unreadable.push_back(detail::quoted(part.name) + " is " + std::string(part.type->name));
    else
      state->tensors.emplace_back(std::string(part.name), part.type->dtype, part.shape, data.data() + part.offset, file.owner(), file.path());
  }
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.offset < b.offset; });
  const Part* before = nullptr;
  for (const Part& part : parts) {
    if (part.bytes == 0) continue;
    if (before != nullptr && before->offset + before->bytes > part.offset)
      reader.refuse_at(part.where, detail::quoted(part.name) + " begins at byte " + std::to_string(part.offset) + " of the data, inside " + detail::quoted(before->name));
    before = &part;
  }
  return result;
}

CHIASM_INLINE const std::string& Gguf::file() const noexcept { return state_->file.path(); }
CHIASM_INLINE std::uint32_t Gguf::version() const noexcept { return state_->version; }
CHIASM_INLINE std::size_t Gguf::alignment() const noexcept { return state_->alignment; }
CHIASM_INLINE std::span<const Gguf::Value> Gguf::metadata() const noexcept { return state_->values; }
CHIASM_INLINE std::span<const Weight> Gguf::tensors() const noexcept { return state_->tensors; }

CHIASM_INLINE const Gguf::Value* Gguf::find(std::string_view key) const noexcept {
  const auto found = std::lower_bound(state_->by_key.begin(), state_->by_key.end(), key,
                                      [&](std::uint32_t i, std::string_view wanted) { return state_->values[i].key_ < wanted; });
  return found == state_->by_key.end() || state_->values[*found].key_ != key ? nullptr : &state_->values[*found];
}

CHIASM_INLINE const Gguf::Value& Gguf::operator[](std::string_view key) const {
  if (const Value* const value = find(key)) return *value;
  throw ConfigError(file(), std::string(key), "missing");
}

CHIASM_INLINE Weights Gguf::weights(WeightKind kind) const {
  if (!state_->unreadable.empty())
    throw UnsupportedError(file() + ": tensor " + state_->unreadable.front() + ", which is not read (" + std::to_string(state_->unreadable.size()) +
                           " such tensors); read are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS");
  return Weights(state_->tensors, file(), kind);
}

CHIASM_INLINE void Gguf::Value::fail(const std::string& what) const { throw ConfigError(gguf_->file.path(), std::string(key_), what); }

CHIASM_INLINE bool Gguf::Value::as_bool() const {
  if (!is_bool()) fail("is " + describe() + ", expected a bool");
  return detail::gguf_load<std::uint8_t>(data_) != 0;
}

CHIASM_INLINE std::int64_t Gguf::Value::as_int() const {
  switch (type_) {
    case Type::u8: return detail::gguf_load<std::uint8_t>(data_);
    case Type::i8: return detail::gguf_load<std::int8_t>(data_);
    case Type::u16: return detail::gguf_load<std::uint16_t>(data_);
    case Type::i16: return detail::gguf_load<std::int16_t>(data_);
    case Type::u32: return detail::gguf_load<std::uint32_t>(data_);
    case Type::i32: return detail::gguf_load<std::int32_t>(data_);
    case Type::i64: return detail::gguf_load<std::int64_t>(data_);
    case Type::u64: {
      const auto value = detail::gguf_load<std::uint64_t>(data_);
      if (!std::in_range<std::int64_t>(value)) fail("is " + std::to_string(value) + ", out of range");
      return static_cast<std::int64_t>(value);
    }
    case Type::f32: case Type::f64: case Type::boolean: case Type::string: case Type::array: break;
  }
  fail("is " + describe() + ", expected an integer");
}

CHIASM_INLINE double Gguf::Value::as_double() const {
  if (type_ == Type::f32) return static_cast<double>(detail::gguf_load<float>(data_));
  if (type_ == Type::f64) return detail::gguf_load<double>(data_);
  if (type_ == Type::u64) return static_cast<double>(detail::gguf_load<std::uint64_t>(data_));
  if (!is_integer()) fail("is " + describe() + ", expected a number");
  return static_cast<double>(as_int());
}

CHIASM_INLINE std::string_view Gguf::Value::as_string() const {
  if (!is_string()) fail("is " + describe() + ", expected a string");
  return detail::gguf_string(data_);
}

CHIASM_INLINE std::size_t Gguf::Value::size() const noexcept { return array_ == nullptr ? 0 : array_->count; }
CHIASM_INLINE Gguf::Type Gguf::Value::element_type() const noexcept { return array_ == nullptr ? type_ : array_->element; }

CHIASM_INLINE Gguf::Value Gguf::Value::operator[](std::size_t index) const {
  if (array_ == nullptr) fail("is " + describe() + ", expected an array");
  if (index >= array_->count) fail("has " + std::to_string(array_->count) + " elements, no element " + std::to_string(index));
  if (array_->element == Type::array) return array_->arrays[index];
  Value element = *this;
  element.type_ = array_->element;
  element.array_ = nullptr;
  element.data_ = array_->first + (element.is_string() ? static_cast<std::size_t>(array_->strings[index])
                                                       : index * detail::gguf_value_bytes[static_cast<std::size_t>(element.type_)]);
  return element;
}

CHIASM_INLINE std::string Gguf::Value::describe() const {
  if (is_bool()) return as_bool() ? "true" : "false";
  if (type_ == Type::u64) return std::to_string(detail::gguf_load<std::uint64_t>(data_));
  if (is_integer()) return std::to_string(as_int());
  if (is_number()) {
    char text[40];
    std::snprintf(text, sizeof text, type_ == Type::f32 ? "%.9g" : "%.17g", as_double());
    return text;
  }
  constexpr std::size_t most_bytes = 60, most_elements = 8;
  std::string text;
  if (is_string()) {
    const std::string_view all = as_string();
    std::size_t end = std::min(all.size(), most_bytes);
    while (end < all.size() && end > 0 && (static_cast<unsigned char>(all[end]) & 0xc0) == 0x80) --end;  // not inside a character
    detail::append_json_string(text, all.substr(0, end));
    if (end < all.size()) text += "...";
    return text;
  }
  text = "[";
  for (std::size_t i = 0; i < std::min(size(), most_elements); ++i) text += (i > 0 ? ", " : "") + (*this)[i].describe();
  return text + (size() > most_elements ? ", ... " + std::to_string(size()) + " in all]" : "]");
}

}  // namespace chiasm
