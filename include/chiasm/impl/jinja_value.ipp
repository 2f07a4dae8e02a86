// Values inside a running template: what a TemplateValue's box holds, and the Python text functions on UTF-8.
#pragma once

#include <chiasm/io/chat_template.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

using Value = TemplateValue;
using Kind = TemplateValue::Kind;

constexpr std::uint32_t max_nesting = 512;  // of lists and dicts: printing, comparing and freeing them recurses

struct Sequence {  // list, tuple, view, range, generator
  std::vector<Value> items;
  std::uint32_t depth = 1;
  std::string name;               // what Python prints for a view or range; group_name
  mutable std::size_t taken = 0;  // of a generator: it is walked only once
};

constexpr const char* group_name = "group";  // of groupby's tuples, which also have .grouper and .list

struct Dict {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string_view, std::uint32_t> index;  // string keys, once there are more than a few
  std::uint32_t depth = 1;
};

struct Undefined {
  std::string why;
};

struct Attributes {  // namespace(): the one value that changes
  std::vector<std::pair<std::string, Value>> items;
};

struct Method {
  Value self;
  std::string name;
};

enum class Function : std::uint8_t { raise_exception, namespace_, range, dict, strftime_now, cycler, joiner, fromkeys };

struct Access {
  static Value make(Kind kind, std::shared_ptr<const void> box) {
    Value value;
    value.kind_ = kind;
    value.box_ = std::move(box);
    return value;
  }
  static const std::shared_ptr<const void>& box(const Value& value) { return value.box_; }
  template <class T>
  static const T& get(const Value& value) {
    return *static_cast<const T*>(value.box_.get());
  }
  static std::int64_t integer(const Value& value) { return value.integer_; }
  static double number(const Value& value) { return value.number_; }
  static bool markup(const Value& value) { return value.markup_; }
  static Value markup(Value value, bool on) {
    value.markup_ = on;
    return value;
  }
  static Value function(Function f) {
    Value value = make(Kind::function, nullptr);
    value.integer_ = static_cast<std::int64_t>(f);
    return value;
  }
};

inline bool is(const Value& value, Kind kind) { return value.kind() == kind; }
inline bool is_sequence(const Value& value) {
  return value.kind() >= Kind::tuple ? value.kind() <= Kind::generator : is(value, Kind::list);
}
inline bool is_integral(const Value& value) { return is(value, Kind::boolean) || is(value, Kind::integer); }
inline bool is_numeric(const Value& value) { return is_integral(value) || is(value, Kind::number); }
inline std::int64_t integer(const Value& value) { return Access::integer(value); }
inline double number(const Value& value) {
  return is(value, Kind::number) ? Access::number(value) : static_cast<double>(Access::integer(value));
}
inline const std::string& string(const Value& value) { return Access::get<std::string>(value); }
inline const Sequence& sequence(const Value& value) { return Access::get<Sequence>(value); }
inline const Dict& dictionary(const Value& value) { return Access::get<Dict>(value); }

inline std::uint32_t depth(const Value& value) {
  return is_sequence(value) ? sequence(value).depth : is(value, Kind::dict) ? dictionary(value).depth : 0;
}
inline std::uint32_t deeper(std::uint32_t have, const Value& child) {
  const std::uint32_t want = std::max(have, depth(child) + 1);
  if (want > max_nesting) throw ArgumentError("lists and dicts nested deeper than " + std::to_string(max_nesting) + " levels");
  return want;
}

inline Value make_sequence(std::vector<Value> items, Kind kind = Kind::list, std::string name = {}) {
  auto box = std::make_shared<Sequence>();
  for (const Value& item : items) box->depth = deeper(box->depth, item);
  box->items = std::move(items);
  box->name = std::move(name);
  return Access::make(kind, std::move(box));
}
inline Value make_undefined(std::string why) {
  return Access::make(Kind::undefined, std::make_shared<Undefined>(Undefined{std::move(why)}));
}

// A handful of keys is faster to walk than to hash.
constexpr std::size_t indexed_from = 16;
inline void add_to_index(Dict& dict, std::uint32_t place) {
  const Value& key = dict.items[place].first;
  if (is(key, Kind::string)) dict.index.emplace(string(key), place);
}
inline void build_index(Dict& dict) {
  dict.index.clear();
  if (dict.items.size() < indexed_from) return;
  for (std::uint32_t i = 0; i < dict.items.size(); ++i) add_to_index(dict, i);
}
inline const Value* find(const Dict& dict, std::string_view key) {
  if (!dict.index.empty()) {
    const auto found = dict.index.find(key);
    return found == dict.index.end() ? nullptr : &dict.items[found->second].second;
  }
  for (const auto& [name, value] : dict.items)
    if (is(name, Kind::string) && string(name) == key) return &value;
  return nullptr;
}
inline void assign(Dict& dict, std::string_view key, Value value) {
  dict.depth = deeper(dict.depth, value);
  if (const Value* old = find(dict, key)) {
    const_cast<Value&>(*old) = std::move(value);
    return;
  }
  dict.items.emplace_back(Value(key), std::move(value));
  if (dict.items.size() == indexed_from) build_index(dict);
  if (dict.items.size() > indexed_from) add_to_index(dict, static_cast<std::uint32_t>(dict.items.size() - 1));
}
inline Value make_dict(std::vector<std::pair<std::string, Value>> members) {
  auto box = std::make_shared<Dict>();
  for (auto& [key, value] : members) assign(*box, key, std::move(value));
  return Access::make(Kind::dict, std::move(box));
}

// --- text: code points of UTF-8. A byte that is no part of a character counts as one, and is kept.

struct CodePoint {
  std::uint32_t value;
  std::uint32_t size;
};
inline CodePoint code_point(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const std::uint32_t lead = byte(at);
  const std::uint32_t size = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (size == 1 || lead < 0xC2 || lead > 0xF4 || at + size > text.size()) return {lead, 1};
  std::uint32_t value = lead & (0xFFU >> (size + 1));
  for (std::uint32_t i = 1; i < size; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80U) return {lead, 1};
    value = value << 6 | (byte(at + i) & 0x3FU);
  }
  return {value, size};
}
inline void append_code_point(std::string& text, std::uint32_t c) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}
inline bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// str.isspace: White_Space and the four separators U+001C to U+001F.
inline bool is_space(std::uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}
inline std::size_t skip_space(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const CodePoint c = code_point(text, at);
    if (!is_space(c.value) || (c.value >= 0x80 && c.size == 1)) break;
    at += c.size;
  }
  return at;
}
// Where the character before `end` begins.
inline std::size_t step_back(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  for (std::size_t back = 1; back <= 4 && back <= end; ++back)
    if (code_point(text, end - back).size == back) at = end - back;
  return at;
}

// Characters as byte ranges: s[i] of Python is text.substr(offset(i), offset(i + 1) - offset(i)).
class Characters {
 public:
  explicit Characters(std::string_view text) : text_(text) {
    if (is_ascii(text)) return;
    for (std::size_t at = 0; at < text.size(); at += code_point(text, at).size) offsets_.push_back(at);
    offsets_.push_back(text.size());
  }
  std::size_t size() const { return offsets_.empty() ? text_.size() : offsets_.size() - 1; }
  std::size_t offset(std::size_t index) const { return offsets_.empty() ? index : offsets_[index]; }
  std::string_view operator[](std::size_t index) const { return text_.substr(offset(index), offset(index + 1) - offset(index)); }
  std::string_view between(std::size_t begin, std::size_t end) const {
    return text_.substr(offset(begin), offset(end) - offset(begin));
  }
  // Index of the character that begins at byte `at`.
  std::size_t index(std::size_t at) const {
    return offsets_.empty() ? at
                            : static_cast<std::size_t>(std::lower_bound(offsets_.begin(), offsets_.end(), at) - offsets_.begin());
  }

 private:
  std::string_view text_;
  std::vector<std::size_t> offsets_;
};

inline bool in_set(std::string_view set, std::string_view character) {
  for (std::size_t at = 0; at < set.size();) {
    const std::uint32_t size = code_point(set, at).size;
    if (set.substr(at, size) == character) return true;
    at += size;
  }
  return false;
}
// str.strip, lstrip, rstrip; without a set of characters: white space.
inline std::string_view strip(std::string_view text, const std::string* set, bool left, bool right) {
  const auto goes = [&](std::size_t at, std::uint32_t size) {
    if (set) return in_set(*set, text.substr(at, size));
    const CodePoint c = code_point(text, at);
    return is_space(c.value) && (c.value < 0x80 || c.size > 1);
  };
  if (left) {
    std::size_t begin = 0;
    while (begin < text.size() && goes(begin, code_point(text, begin).size)) begin += code_point(text, begin).size;
    text.remove_prefix(begin);
  }
  if (right) {
    while (!text.empty()) {
      const std::size_t at = step_back(text, text.size());
      if (!goes(at, static_cast<std::uint32_t>(text.size() - at))) break;
      text = text.substr(0, at);
    }
  }
  return text;
}

// repr(float): the shortest digits that read back, an exponent below 1e-4 and from 1e16.
inline std::string print(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  std::string text(buffer.data(), end);
  const std::string sign = text[0] == '-' ? "-" : "";
  if (!sign.empty()) text.erase(0, 1);
  const std::size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  std::string digits = text.substr(0, 1) + (e > 2 ? text.substr(2, e - 2) : "");
  if (exponent < -4 || exponent >= 16) {
    if (digits.size() > 1) digits.insert(1, ".");
    const int size = std::abs(exponent);
    return sign + digits + (exponent < 0 ? "e-" : "e+") + (size < 10 ? "0" : "") + std::to_string(size);
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.insert(whole, ".");
}

// Python's name for the type, for messages.
inline const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::number:
      return "float";
    case Kind::string:
      return "str";
    case Kind::list:
      return "list";
    case Kind::dict:
      return "dict";
    case Kind::tuple:
      return "tuple";
    case Kind::view:
      return "dict view";
    case Kind::range:
      return "range";
    case Kind::generator:
      return "generator";
    case Kind::attributes:
      return "namespace";
    case Kind::macro:
      return "macro";
    case Kind::method:
      return "method";
    case Kind::function:
      return "function";
    case Kind::loop:
      return "loop";
  }
  return "?";
}

}  // namespace detail::jinja

CHIASM_INLINE TemplateValue::TemplateValue(std::string value)
    : kind_(Kind::string), box_(std::make_shared<const std::string>(std::move(value))) {}

CHIASM_INLINE TemplateValue::TemplateValue(const Json& value) : TemplateValue() {
  switch (value.kind()) {
    case Json::Kind::null:
      break;
    case Json::Kind::boolean:
      *this = TemplateValue(value.as_bool());
      break;
    case Json::Kind::integer:
      *this = TemplateValue(value.as_int());
      break;
    case Json::Kind::number:
      *this = TemplateValue(value.as_double());
      break;
    case Json::Kind::string:
      *this = TemplateValue(value.as_string());
      break;
    case Json::Kind::array: {
      std::vector<TemplateValue> elements;
      elements.reserve(value.size());
      for (const Json element : value) elements.emplace_back(element);
      *this = list(std::move(elements));
      break;
    }
    case Json::Kind::object: {
      std::vector<std::pair<std::string, TemplateValue>> members;
      members.reserve(value.size());
      for (const Json member : value) members.emplace_back(std::string(member.key()), TemplateValue(member));
      *this = dict(std::move(members));
      break;
    }
  }
}

CHIASM_INLINE TemplateValue TemplateValue::list(std::vector<TemplateValue> elements) {
  return detail::jinja::make_sequence(std::move(elements));
}
CHIASM_INLINE TemplateValue TemplateValue::dict(std::vector<std::pair<std::string, TemplateValue>> members) {
  return detail::jinja::make_dict(std::move(members));
}

CHIASM_INLINE TemplateValue& TemplateValue::append(TemplateValue element) {
  using detail::jinja::Sequence;
  if (kind_ != Kind::list)
    throw ArgumentError("TemplateValue: append to " + std::string(detail::jinja::type_name(*this)) + ", expected a list");
  const std::uint32_t depth = detail::jinja::deeper(detail::jinja::sequence(*this).depth, element);
  // The box is made as a Sequence that is not const; copies that share it must not see the change.
  if (box_.use_count() > 1) box_ = std::make_shared<Sequence>(detail::jinja::sequence(*this));
  auto& mine = const_cast<Sequence&>(detail::jinja::sequence(*this));
  mine.items.push_back(std::move(element));
  mine.depth = depth;
  return *this;
}
CHIASM_INLINE TemplateValue& TemplateValue::set(std::string_view key, TemplateValue value) {
  using detail::jinja::Dict;
  if (kind_ != Kind::dict)
    throw ArgumentError("TemplateValue: '" + std::string(key) + "' set in " + detail::jinja::type_name(*this) +
                        ", expected a dict");
  // The copy's index points into the key strings, which both share.
  if (box_.use_count() > 1) box_ = std::make_shared<Dict>(detail::jinja::dictionary(*this));
  detail::jinja::assign(const_cast<Dict&>(detail::jinja::dictionary(*this)), key, std::move(value));
  return *this;
}

}  // namespace chiasm::inline CHIASM_ABI
