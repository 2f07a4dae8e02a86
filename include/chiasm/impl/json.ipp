#pragma once

#include <chiasm/io/file_map.hpp>
#include <chiasm/io/json.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

namespace chiasm::inline CHIASM_ABI {

// Nodes in document order, linked to their parent and next sibling; strings and keys in one buffer.
struct Json::Document {
  static constexpr std::uint32_t none = Json::iterator::none;
  struct Span {
    std::uint32_t offset, size;
  };
  struct Node {  // 40 bytes: a tokenizer.json has a million of them
    Kind kind = Kind::null;
    std::uint32_t parent = none, next = none, first = none, count = 0;
    Span key{0, 0};
    union {
      bool boolean;
      std::int64_t integer = 0;
      double number;
      Span string;
    };
  };
  std::string file;
  std::vector<Node> nodes;
  std::string text;

  std::string_view key(const Node& node) const { return view(node.key); }
  std::string_view view(Span span) const { return std::string_view(text).substr(span.offset, span.size); }
};

namespace detail {
// 32-bit offsets are enough, and a configuration larger than this has no business being one.
inline constexpr std::size_t max_json_bytes = std::size_t{128} << 20;
}  // namespace detail

// Two parsers fill it: scan(), which knows well-formed JSON alone, and where that gives up nlohmann's, which says what is wrong.
struct Json::Builder : nlohmann::json_sax<nlohmann::json> {
  // A hostile file of 100 MB "[[],[],..." would else take gigabytes; the largest tokenizer.json has 3 million values.
  static constexpr std::size_t max_depth = 512, max_nodes = std::size_t{1} << 23;
  Document& document;
  Duplicates duplicates;
  std::vector<std::uint32_t> open, last;  // containers being filled, and the last child of each
  Document::Span pending_key{0, 0};
  std::size_t position = 0;
  std::string problem;
  std::vector<std::vector<Document::Span>> keys;  // per open object, where duplicates are errors

  Builder(Document& target, Duplicates policy) : document(target), duplicates(policy) {}

  /// Appends a node, and lets `assign` write its value.
  template <class Assign>
  bool add(Kind kind, Assign&& assign) {
    if (document.nodes.size() == max_nodes) return refuse("more than " + std::to_string(max_nodes) + " values");
    const auto index = static_cast<std::uint32_t>(document.nodes.size());
    Document::Node& node = document.nodes.emplace_back();
    node.kind = kind;
    if (!open.empty()) {
      Document::Node& parent = document.nodes[open.back()];
      node.parent = open.back();
      if (parent.kind == Kind::object) node.key = pending_key;
      (parent.count++ == 0 ? parent.first : document.nodes[last.back()].next) = index;
      last.back() = index;
    }
    assign(node);
    return true;
  }
  Document::Span keep(const std::string& value) {
    const Document::Span span{static_cast<std::uint32_t>(document.text.size()), static_cast<std::uint32_t>(value.size())};
    document.text += value;
    return span;
  }
  bool refuse(std::string what) {
    problem = std::move(what);
    return false;
  }
  bool begin(Kind kind) {
    if (open.size() >= max_depth) return refuse("nested deeper than " + std::to_string(max_depth) + " levels");
    const auto index = static_cast<std::uint32_t>(document.nodes.size());
    if (!add(kind, [](Document::Node&) {})) return false;
    open.push_back(index);
    last.push_back(Document::none);
    keys.emplace_back();
    return true;
  }
  bool finish() {
    if (duplicates == Duplicates::error) {
      auto& names = keys.back();
      const auto name = [&](const auto& k) { return document.view(k); };
      std::sort(names.begin(), names.end(), [&](const auto& a, const auto& b) { return name(a) < name(b); });
      for (std::size_t i = 1; i < names.size(); ++i)
        if (name(names[i - 1]) == name(names[i])) return refuse("key '" + std::string(name(names[i])) + "' stands twice");
    }
    open.pop_back();
    last.pop_back();
    keys.pop_back();
    return true;
  }

  /// Reads the whole of `text`, twice as fast as nlohmann's parser (a tokenizer.json is 10 MB of short strings). False: not well-formed, beyond a
  /// limit, or something that is not worth a second implementation: numbers of more than 18 digits or out of range, a byte order mark.
  bool scan(std::string_view text) {
    const char* at = text.data();
    const char* const end = at + text.size();
    const auto skip = [&] {
      while (at != end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) ++at;
      return at != end;
    };
    document.text.reserve(text.size());
    document.nodes.reserve(std::min<std::size_t>(max_nodes, 2 + static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return c == ',' || c == '[' || c == '{'; }))));
    Document::Span span{};
    for (bool key = false;;) {
      if (!skip()) return false;
      if (key) {
        if (!scan_string(at, end, pending_key) || !skip() || *at != ':') return false;
        if (duplicates == Duplicates::error) keys.back().push_back(pending_key);
        ++at;
        key = false;
        continue;
      }
      const auto word = [&](std::string_view expected) {
        if (static_cast<std::size_t>(end - at) < expected.size() || std::string_view(at, expected.size()) != expected) return false;
        at += expected.size();
        return true;
      };
      bool entered = false;
      switch (*at) {
        case '"':
          if (!scan_string(at, end, span) || !add(Kind::string, [&](Document::Node& node) { node.string = span; })) return false;
          break;
        case '{':
        case '[':
          if (!begin(*at == '{' ? Kind::object : Kind::array)) return false;
          ++at;
          entered = true;
          break;
        case 't':
          if (!word("true") || !boolean(true)) return false;
          break;
        case 'f':
          if (!word("false") || !boolean(false)) return false;
          break;
        case 'n':
          if (!word("null") || !null()) return false;
          break;
        default:
          if (!scan_number(at, end)) return false;
      }
      // Behind a value: what closes, then a comma or the end.
      for (;;) {
        if (open.empty()) return !skip();
        if (!skip()) return false;
        const bool object = document.nodes[open.back()].kind == Kind::object;
        if (*at == (object ? '}' : ']')) {
          ++at;
          if (!finish()) return false;
          entered = false;
          continue;
        }
        if (!entered && *at++ != ',') return false;
        key = object;
        break;
      }
    }
  }

  // A string, from its quotation mark on.
  bool scan_string(const char*& at, const char* end, Document::Span& span) {
    if (at == end || *at != '"') return false;
    const std::size_t begin = document.text.size();
    bool beyond_ascii = false;
    for (const char* from = ++at;;) {
      while (at != end && *at != '"' && *at != '\\' && static_cast<unsigned char>(*at) >= 0x20) beyond_ascii |= static_cast<unsigned char>(*at++) >= 0x80;
      if (at == end || static_cast<unsigned char>(*at) < 0x20) return false;
      document.text.append(from, at);
      if (*at == '"') break;
      if (!scan_escape(at, end)) return false;
      from = at;
    }
    ++at;
    span = {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(document.text.size() - begin)};
    return !beyond_ascii || well_formed(document.view(span));
  }

  bool scan_escape(const char*& at, const char* end) {
    constexpr std::string_view letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    if (++at == end) return false;
    if (const std::size_t simple = letters.find(*at); simple != std::string_view::npos) {
      ++at;
      document.text += meant[simple];
      return true;
    }
    const auto unit = [&](std::uint32_t& value) {  // uXXXX
      if (end - at < 5 || *at != 'u') return false;
      const auto [stop, error] = std::from_chars(at + 1, at + 5, value, 16);
      if (error != std::errc() || stop != at + 5) return false;
      at += 5;
      return true;
    };
    std::uint32_t code = 0, low = 0;
    if (!unit(code) || (code >= 0xDC00 && code < 0xE000)) return false;
    if (code >= 0xD800 && code < 0xDC00) {
      if (at == end || *at++ != '\\' || !unit(low) || low < 0xDC00 || low >= 0xE000) return false;
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    const auto put = [&](std::uint32_t byte) { document.text += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
    }
    return true;
  }

  bool scan_number(const char*& at, const char* end) {
    const char* const from = at;
    const auto digits = [&] {
      const char* const first = at;
      while (at != end && *at >= '0' && *at <= '9') ++at;
      return at - first;
    };
    const bool negative = *at == '-';
    if (negative) ++at;
    const char* const whole = at;
    const auto count = digits();
    if (count == 0 || (count > 1 && *whole == '0')) return false;
    bool fraction = false;
    if (at != end && *at == '.') {
      ++at;
      if (digits() == 0) return false;
      fraction = true;
    }
    if (at != end && (*at == 'e' || *at == 'E')) {
      ++at;
      if (at != end && (*at == '+' || *at == '-')) ++at;
      if (digits() == 0) return false;
      fraction = true;
    }
    if (!fraction) {
      if (count > 18) return false;
      std::int64_t value = 0;
      for (const char* digit = whole; digit != at; ++digit) value = value * 10 + (*digit - '0');
      return number_integer(negative ? -value : value);
    }
#ifdef __cpp_lib_to_chars
    double value = 0;
    const auto [stop, error] = std::from_chars(from, at, value);
    return error == std::errc() && stop == at && number_float(value, {});
#else
    return from == nullptr;  // reading it right, whatever the locale, is nlohmann's
#endif
  }

  // The Unicode Standard, table 3-7.
  static bool well_formed(std::string_view text) noexcept {
    for (std::size_t at = 0; at < text.size();) {
      const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U; };
      const unsigned lead = byte(0);
      const std::size_t size = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
      if (size == 0) return false;
      const unsigned least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
      if (size > 1 && (byte(1) < least || byte(1) > most)) return false;
      for (std::size_t i = 2; i < size; ++i)
        if ((byte(i) & 0xC0U) != 0x80) return false;
      at += size;
    }
    return true;
  }

  bool null() override {
    return add(Kind::null, [](Document::Node&) {});
  }
  bool boolean(bool value) override {
    return add(Kind::boolean, [&](Document::Node& node) { node.boolean = value; });
  }
  bool number_integer(number_integer_t value) override {
    return add(Kind::integer, [&](Document::Node& node) { node.integer = value; });
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
      return number_integer(static_cast<number_integer_t>(value));
    return number_float(static_cast<double>(value), {});
  }
  bool number_float(number_float_t value, const string_t&) override {
    return add(Kind::number, [&](Document::Node& node) { node.number = value; });
  }
  bool string(string_t& value) override {
    return add(Kind::string, [&](Document::Node& node) { node.string = keep(value); });
  }
  bool binary(binary_t&) override { return refuse("binary value"); }
  bool key(string_t& value) override {
    pending_key = keep(value);
    if (duplicates == Duplicates::error) keys.back().push_back(pending_key);
    return true;
  }
  bool start_object(std::size_t) override { return begin(Kind::object); }
  bool end_object() override { return finish(); }
  bool start_array(std::size_t) override { return begin(Kind::array); }
  bool end_array() override { return finish(); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception& error) override {
    position = at;
    const std::string_view message = error.what();  // "[json.exception.parse_error.101] parse error at ...: what"
    const std::size_t colon = message.find(": ");
    const std::size_t id_end = message.find("] ");  // "[json.exception.out_of_range.406] number overflow parsing '1e999'"
    const std::size_t begin = colon != std::string_view::npos ? colon + 2 : id_end != std::string_view::npos ? id_end + 2 : 0;
    return refuse("not JSON: " + std::string(message.substr(begin)));
  }
};

CHIASM_INLINE Json Json::parse(std::string_view text, std::string file, Duplicates duplicates, std::uint64_t offset) {
  auto document = std::make_shared<Document>();
  document->file = std::move(file);
  if (text.empty()) throw FormatError(document->file, offset, "empty, expected JSON");
  if (text.size() > detail::max_json_bytes) throw FormatError(document->file, offset, "JSON of " + std::to_string(text.size()) + " bytes, at most " + std::to_string(detail::max_json_bytes));
  if (Builder(*document, duplicates).scan(text)) return Json(std::move(document), 0);
  document->nodes.clear();
  document->text.clear();
  Builder builder(*document, duplicates);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder))
    throw FormatError(document->file, offset + builder.position, builder.problem);
  return Json(std::move(document), 0);
}

CHIASM_INLINE Json Json::read(const std::string& path) {
  const FileMap file = FileMap::open(path);
  return parse(file.text(), path);
}

CHIASM_INLINE Json::Kind Json::kind() const noexcept { return document_ ? document_->nodes[node_].kind : Kind::null; }

namespace detail {
inline const char* name(Json::Kind kind) {
  constexpr const char* names[] = {"null", "a boolean", "an integer", "a number", "a string", "an array", "an object"};
  return names[static_cast<std::size_t>(kind)];
}
}  // namespace detail

CHIASM_INLINE bool Json::as_bool() const {
  if (kind() != Kind::boolean) fail(std::string("is ") + detail::name(kind()) + ", expected a boolean");
  return document_->nodes[node_].boolean;
}
CHIASM_INLINE std::int64_t Json::as_int() const {
  // Some writers put 1.0 or 1e5 where an integer is meant.
  if (kind() == Kind::number) {
    const double value = document_->nodes[node_].number;
    if (value >= -9007199254740992.0 && value <= 9007199254740992.0 && value == static_cast<double>(static_cast<std::int64_t>(value)))
      return static_cast<std::int64_t>(value);
  }
  if (kind() != Kind::integer) fail(std::string("is ") + detail::name(kind()) + ", expected an integer");
  return document_->nodes[node_].integer;
}
CHIASM_INLINE double Json::as_double() const {
  if (kind() == Kind::integer) return static_cast<double>(document_->nodes[node_].integer);
  if (kind() != Kind::number) fail(std::string("is ") + detail::name(kind()) + ", expected a number");
  return document_->nodes[node_].number;
}
CHIASM_INLINE std::string_view Json::as_string() const {
  if (kind() != Kind::string) fail(std::string("is ") + detail::name(kind()) + ", expected a string");
  return document_->view(document_->nodes[node_].string);
}
CHIASM_INLINE std::size_t Json::size() const noexcept { return document_ ? document_->nodes[node_].count : 0; }

CHIASM_INLINE Json Json::at(std::size_t index) const {
  if (!is_array()) fail(std::string("is ") + detail::name(kind()) + ", expected an array");
  if (index >= size()) fail("has " + std::to_string(size()) + " elements, element " + std::to_string(index) + " wanted");
  iterator element = begin();
  while (index-- > 0) ++element;
  return *element;
}
CHIASM_INLINE Json Json::operator[](std::string_view key) const {
  if (!is_object()) fail(std::string("is ") + detail::name(kind()) + ", expected an object with '" + std::string(key) + "'");
  if (!contains(key)) fail("has no '" + std::string(key) + "'");
  return find(key);
}
CHIASM_INLINE Json Json::find(std::string_view key) const noexcept {
  Json found;
  if (!is_object()) return found;
  for (std::uint32_t i = document_->nodes[node_].first; i != Document::none; i = document_->nodes[i].next)
    if (document_->key(document_->nodes[i]) == key) found = Json(document_, i);  // the last one wins, as in Python
  return found;
}
CHIASM_INLINE bool Json::contains(std::string_view key) const noexcept { return find(key).document_ != nullptr; }

CHIASM_INLINE std::string_view Json::key() const noexcept {
  return document_ ? document_->key(document_->nodes[node_]) : std::string_view();
}
CHIASM_INLINE std::string Json::pointer() const {
  if (!document_) return "";
  std::vector<std::string> steps;
  for (std::uint32_t i = node_; document_->nodes[i].parent != Document::none; i = document_->nodes[i].parent) {
    const Document::Node& parent = document_->nodes[document_->nodes[i].parent];
    std::string step;
    if (parent.kind == Kind::object) {
      for (const char c : document_->key(document_->nodes[i])) step += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
    } else {
      std::size_t index = 0;
      for (std::uint32_t j = parent.first; j != i; j = document_->nodes[j].next) ++index;
      step = std::to_string(index);
    }
    steps.push_back(std::move(step));
  }
  std::string path;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) path += "/" + *step;
  return path;
}
CHIASM_INLINE const std::string& Json::file() const noexcept {
  static const std::string none = "<null>";
  return document_ ? document_->file : none;
}
CHIASM_INLINE void Json::fail(const std::string& what) const { throw ConfigError(file(), pointer(), what); }

CHIASM_INLINE Json::iterator Json::begin() const noexcept {
  return iterator(document_, document_ ? document_->nodes[node_].first : iterator::none);
}
CHIASM_INLINE Json::iterator Json::end() const noexcept { return iterator(document_, iterator::none); }
CHIASM_INLINE Json Json::iterator::operator*() const { return Json(document_, node_); }
CHIASM_INLINE Json::iterator& Json::iterator::operator++() {
  node_ = document_->nodes[node_].next;
  return *this;
}

CHIASM_INLINE std::string Json::dump(std::size_t limit) const {
  std::string text;
  write(text, limit);
  if (text.size() <= limit) return text;
  text.resize(limit);
  return text + "...";
}

CHIASM_INLINE void Json::write(std::string& to, std::size_t limit) const {
  switch (kind()) {
    case Kind::null: to += "null"; return;
    case Kind::boolean: to += as_bool() ? "true" : "false"; return;
    case Kind::integer: to += std::to_string(as_int()); return;
    case Kind::number: to += nlohmann::json(as_double()).dump(); return;
    case Kind::string: to += nlohmann::json(as_string()).dump(); return;
    case Kind::array:
    case Kind::object: break;
  }
  to += is_array() ? "[" : "{";
  bool first = true;
  for (const Json child : *this) {
    if (to.size() > limit) return;
    if (!std::exchange(first, false)) to += ",";
    if (is_object()) to += nlohmann::json(child.key()).dump() + ":";
    child.write(to, limit);
  }
  to += is_array() ? "]" : "}";
}

}  // namespace chiasm
