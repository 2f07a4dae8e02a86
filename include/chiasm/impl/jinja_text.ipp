// Python's str, list and dict methods, and its three ways to format text, as far as templates use them.
#pragma once

#include <chiasm/impl/jinja_evaluator.ipp>
#include <chiasm/io/tokenizer/unicode.hpp>

#include <chiasm/impl/unicode_tables.hpp>

#include <cstdio>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

inline bool listed(std::string_view words, std::string_view word) {  // words between single blanks
  for (std::size_t at = words.find(word); at != std::string_view::npos; at = words.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || words[at - 1] == ' ') && (end == words.size() || words[end] == ' ')) return !word.empty();
  }
  return false;
}

inline Run::MethodKind Run::method_of(Kind kind, const std::string& name) {
  const auto kind_of = [&](std::string_view known, std::string_view forbidden, std::string_view unknown) {
    if (listed(known, name)) return MethodKind::known;
    if (listed(forbidden, name)) return MethodKind::forbidden;
    return listed(unknown, name) ? MethodKind::unknown : MethodKind::none;
  };
  switch (kind) {
    case Kind::string:
      return kind_of(
          "split strip lstrip rstrip startswith endswith replace lower upper title capitalize join find rfind index rindex count "
          "format "
          "format_map splitlines rsplit removeprefix removesuffix partition rpartition swapcase casefold center ljust rjust "
          "zfill "
          "isalpha isdigit isalnum isspace isupper islower isnumeric isdecimal istitle isascii isidentifier isprintable "
          "expandtabs",
          "", "encode translate maketrans");
    case Kind::list:
      return kind_of("index count copy", "append clear extend insert pop remove reverse sort", "");
    case Kind::tuple:
      return kind_of("index count", "", "");
    case Kind::dict:
      return kind_of("get items keys values copy", "clear pop popitem setdefault update", "fromkeys");
    case Kind::number:
      return kind_of("is_integer", "", "as_integer_ratio hex fromhex conjugate");
    default:
      return kind_of("", "",
                     "bit_length bit_count to_bytes from_bytes as_integer_ratio conjugate numerator denominator");
  }
}

inline Value Run::method(const Value& self, const std::string& name, const Arguments& given) {
  if (method_of(self.kind(), name) != MethodKind::known) unsupported("method '" + name + "' of " + type_name(self));
  if (is(self, Kind::string)) return string_method(self, name, given);
  if (is(self, Kind::number)) return std::isfinite(number(self)) && number(self) == std::floor(number(self));
  if (is(self, Kind::dict)) {
    const Dict& dict = dictionary(self);
    if (name == "get") {
      const auto args = bind(name, given, {"key", "default"}, 1);
      if (const Value* found = member(dict, args[0])) return *found;
      return missing(args[1]) ? Value() : args[1];
    }
    bind(name, given, {}, 0);
    if (name == "copy") return self;
    std::vector<Value> items;
    for (const auto& [key, value] : dict.items)
      items.push_back(name == "items" ? pair(key, value) : name == "keys" ? key : value);
    return list_of(std::move(items), Kind::view, "dict_" + name);
  }
  if (name == "copy") return self;
  const auto args = bind(name, given, {"value", "start", "stop"}, 1);
  const auto& items = sequence(self).items;
  std::int64_t found = 0;
  const auto size = static_cast<std::int64_t>(items.size());
  const auto place = [&](const Value& at, std::int64_t fallback) {
    const std::int64_t index = whole(at, fallback);
    return std::clamp<std::int64_t>(index < 0 ? index + size : index, 0, size);
  };
  for (std::int64_t i = place(args[1], 0); i < place(args[2], size); ++i) {
    if (!equal(items[static_cast<std::size_t>(i)], args[0])) continue;
    if (name == "index") return i;
    ++found;
  }
  if (name == "index") fail("value is not in the list");
  return found;
}

inline Value Run::string_method(const Value& self, const std::string& name, const Arguments& given) {
  const std::string& own = string(self);
  const bool markup = Access::markup(self);
  spend(1 + own.size() / 16);
  const auto result = [&](std::string value) { return text(std::move(value), markup); };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto args = bind(name, given, {"chars"}, 0);
    const std::string* set = missing(args[0]) || is(args[0], Kind::none) ? nullptr : &text_of(args[0]);
    if (set) spend(set->size() * (own.size() / 16));
    return result(std::string(jinja::strip(own, set, name != "rstrip", name != "lstrip")));
  }
  if (name == "split" || name == "rsplit") return split(own, bind(name, given, {"sep", "maxsplit"}, 0), name == "rsplit", markup);
  if (name == "replace") {
    const auto args = bind(name, given, {"old", "new", "count"}, 2);
    const std::string &from = text_of(args[0]), to = markup ? markup_text(args[1]) : text_of(args[1]);
    return result(replace(own, from, to, whole(args[2], -1)));
  }
  if (name == "lower") return bind(name, given, {}, 0), result(lower(own));
  if (name == "casefold") return bind(name, given, {}, 0), result(casefold(own));
  if (name == "upper") return bind(name, given, {}, 0), result(upper(own));
  if (name == "title") return bind(name, given, {}, 0), result(title(own));
  if (name == "capitalize") return bind(name, given, {}, 0), result(capitalize(own));
  if (name == "swapcase") {
    std::string swapped;
    for (std::size_t at = 0; at < own.size();) {
      const std::uint32_t size = code_point(own, at).size;
      const std::string one = own.substr(at, size), low = lower(one);
      swapped += low == one ? upper(one) : low;
      at += size;
    }
    return result(std::move(swapped));
  }
  if (name == "join") {
    std::string joined;
    bool first = true;
    for (const Value& item : elements(bind(name, given, {"iterable"}, 1)[0])) {
      if (!std::exchange(first, false)) append(joined, own);
      append(joined, markup ? markup_text(item) : text_of(item));
    }
    return result(std::move(joined));
  }
  if (name == "startswith" || name == "endswith") {
    const auto args = bind(name, given, {"prefix", "start", "end"}, 1);
    const std::string part =
        string(slice(Value(own), {missing(args[1]) ? Value() : args[1], missing(args[2]) ? Value() : args[2], Value()}));
    const auto fits = [&](const Value& affix) {
      return name == "startswith" ? part.starts_with(text_of(affix)) : part.ends_with(text_of(affix));
    };
    if (!is(args[0], Kind::tuple)) return fits(args[0]);
    return std::any_of(sequence(args[0]).items.begin(), sequence(args[0]).items.end(), fits);
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex" || name == "count") {
    const auto args = bind(name, given, {"sub", "start", "end"}, 1);
    const std::string& part = text_of(args[0]);
    const Characters characters(own);
    const auto size = static_cast<std::int64_t>(characters.size());
    const auto place = [&](const Value& at, std::int64_t fallback) {
      const std::int64_t index = missing(at) || is(at, Kind::none) ? fallback : whole(at, fallback);
      return std::clamp<std::int64_t>(index < 0 ? index + size : index, 0, size);
    };
    const std::int64_t begin = place(args[1], 0), end = std::max(begin, place(args[2], size));
    const std::size_t offset = characters.offset(static_cast<std::size_t>(begin));
    const std::string_view window = characters.between(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
    if (name == "count") {
      if (part.empty()) return end - begin + 1;
      std::int64_t count = 0;
      for (std::size_t at = window.find(part); at != std::string_view::npos; at = window.find(part, at + part.size())) ++count;
      return count;
    }
    const std::size_t at = name[0] == 'r' ? window.rfind(part) : window.find(part);
    if (at != std::string_view::npos) return static_cast<std::int64_t>(characters.index(offset + at));
    if (name == "index" || name == "rindex") fail("substring not found");
    return -1;
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& affix = text_of(bind(name, given, {"affix"}, 1)[0]);
    if (name == "removeprefix") return result(own.starts_with(affix) ? own.substr(affix.size()) : own);
    return result(own.ends_with(affix) ? own.substr(0, own.size() - affix.size()) : own);
  }
  if (name == "partition" || name == "rpartition") {
    const std::string& separator = text_of(bind(name, given, {"sep"}, 1)[0]);
    if (separator.empty()) fail("empty separator");
    const std::size_t at = name == "partition" ? own.find(separator) : own.rfind(separator);
    std::vector<Value> parts;
    if (at == std::string::npos) {
      parts = name == "partition" ? std::vector<Value>{self, "", ""} : std::vector<Value>{"", "", self};
    } else {
      parts = {result(own.substr(0, at)), result(separator), result(own.substr(at + separator.size()))};
    }
    return list_of(std::move(parts), Kind::tuple);
  }
  if (name == "splitlines") {
    std::vector<Value> parts;
    for (const std::string_view line : lines(own, flag(bind(name, given, {"keepends"}, 0)[0], false)))
      parts.push_back(result(std::string(line)));
    return list_of(std::move(parts));
  }
  if (name == "center" || name == "ljust" || name == "rjust") {
    const auto args = bind(name, given, {"width", "fillchar"}, 1);
    const std::string fill = missing(args[1]) ? " " : text_of(args[1]);
    if (Characters(fill).size() != 1) fail("the fill must be one character");
    return result(pad(own, whole(args[0], 0), fill, name[0] == 'c' ? '^' : name[0] == 'l' ? '<' : '>'));
  }
  if (name == "zfill") {
    const std::size_t sign = own.starts_with("-") || own.starts_with("+") ? 1 : 0;
    const std::int64_t width = whole(bind(name, given, {"width"}, 1)[0], 0);
    return result(own.substr(0, sign) + pad(own.substr(sign), width - static_cast<std::int64_t>(sign), "0", '>'));
  }
  if (name == "expandtabs") {
    const std::int64_t every = std::clamp<std::int64_t>(whole(bind(name, given, {"tabsize"}, 0)[0], 8), 0, 1000);
    std::string expanded;
    std::int64_t column = 0;
    for (std::size_t at = 0; at < own.size();) {
      const CodePoint c = code_point(own, at);
      if (c.value == '\t') {
        const std::int64_t blanks = every > 0 ? every - column % every : 0;
        append(expanded, std::string(static_cast<std::size_t>(blanks), ' '));
        column += blanks;
      } else {
        expanded += own.substr(at, c.size);
        column = c.value == '\n' || c.value == '\r' ? 0 : column + 1;
      }
      at += c.size;
    }
    return result(std::move(expanded));
  }
  if (name == "format") return result(brace_format(own, given, markup));
  if (name == "format_map") {
    Arguments named;
    const auto args = bind(name, given, {"mapping"}, 1);
    if (!is(args[0], Kind::dict)) fail("format_map needs a dict");
    for (const auto& [key, value] : dictionary(args[0]).items) named.named.emplace_back(str(key), value);
    return result(brace_format(own, named, markup));
  }
  bind(name, given, {}, 0);
  return is_method(own, name);
}

// isalpha and its kin.
inline Value Run::is_method(const std::string& own, const std::string& name) {
  using unicode::Category;
  if (name == "isascii") return is_ascii(own);
  bool all = name == "isprintable" || !own.empty(), cased = false, previous_cased = false;
  std::size_t place = 0;
  for (std::size_t at = 0; at < own.size() && all; ++place) {
    const CodePoint c = code_point(own, at);
    at += c.size;
    const Category category = unicode::category(c.value);
    const bool up = category == Category::Lu || category == Category::Lt, low = category == Category::Ll;
    const bool superscript =
        c.value == 0xB2 || c.value == 0xB3 || c.value == 0xB9 || c.value == 0x2070 || (c.value >= 0x2074 && c.value <= 0x2089);
    const bool digit = category == Category::Nd || superscript;
    if (name == "isspace")
      all = is_space(c.value);
    else if (name == "isalpha")
      all = unicode::is_letter(c.value);
    else if (name == "isdecimal")
      all = category == Category::Nd;
    else if (name == "isdigit")
      all = digit;
    else if (name == "isnumeric")
      all = unicode::is_number(c.value);
    else if (name == "isalnum")
      all = unicode::is_letter(c.value) || unicode::is_number(c.value);
    else if (name == "isupper")
      all = !low, cased = cased || up;
    else if (name == "islower")
      all = !up, cased = cased || low;
    else if (name == "istitle")
      all = up ? !previous_cased : !low || previous_cased, cased = cased || up || low;
    else if (name == "isidentifier")
      all = unicode::is_letter(c.value) || c.value == '_' || (place > 0 && (unicode::is_word(c.value)));
    else if (name == "isprintable")
      all = c.value == ' ' ||
            (category != Category::Cn && category != Category::Cc && category != Category::Cf && category != Category::Cs &&
             category != Category::Co && category != Category::Zs && category != Category::Zl && category != Category::Zp);
    previous_cased = up || low;
  }
  return all && (cased || (name != "isupper" && name != "islower" && name != "istitle"));
}

inline Value Run::split(const std::string& own, const std::vector<Value>& given, bool from_right, bool markup) {
  std::int64_t left = whole(given[1], -1);
  if (left < 0) left = std::numeric_limits<std::int64_t>::max();
  std::vector<std::string_view> parts;
  std::string_view rest = own;
  if (missing(given[0]) || is(given[0], Kind::none)) {
    rest = jinja::strip(rest, nullptr, !from_right, from_right);
    while (!rest.empty() && left-- > 0) {
      std::size_t cut = from_right ? rest.size() : 0;  // the edge of the word at this end
      if (from_right) {
        while (cut > 0 && !is_space(code_point(rest, step_back(rest, cut)).value)) cut = step_back(rest, cut);
        parts.push_back(rest.substr(cut));
        rest = jinja::strip(rest.substr(0, cut), nullptr, false, true);
      } else {
        while (cut < rest.size() && !is_space(code_point(rest, cut).value)) cut += code_point(rest, cut).size;
        parts.push_back(rest.substr(0, cut));
        rest = jinja::strip(rest.substr(cut), nullptr, true, false);
      }
    }
    if (!rest.empty()) parts.push_back(rest);  // what maxsplit left over keeps its white space at the far end
  } else {
    const std::string& separator = text_of(given[0]);
    if (separator.empty()) fail("empty separator");
    for (; left > 0; --left) {
      const std::size_t at = from_right ? rest.rfind(separator) : rest.find(separator);
      if (at == std::string_view::npos) break;
      const std::string_view before = rest.substr(0, at), after = rest.substr(at + separator.size());
      parts.push_back(from_right ? after : before);
      rest = from_right ? before : after;
    }
    parts.push_back(rest);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  spend(parts.size());
  std::vector<Value> values;
  for (const std::string_view part : parts) values.push_back(Access::markup(Value(part), markup));
  return make_sequence(std::move(values));
}

inline std::string Run::replace(const std::string& own, const std::string& from, const std::string& to, std::int64_t count) {
  if (count < 0) count = std::numeric_limits<std::int64_t>::max();
  std::string replaced;
  if (from.empty()) {  // between all characters
    std::size_t at = 0;
    while (count > 0 && at <= own.size()) {
      append(replaced, to);
      --count;
      if (at == own.size()) return replaced;
      const std::uint32_t size = code_point(own, at).size;
      append(replaced, std::string_view(own).substr(at, size));
      at += size;
    }
    append(replaced, std::string_view(own).substr(at));
    return replaced;
  }
  std::size_t at = 0;
  for (; count > 0; --count) {
    const std::size_t found = own.find(from, at);
    if (found == std::string::npos) break;
    spend(1);
    append(replaced, std::string_view(own).substr(at, found - at));
    append(replaced, to);
    at = found + from.size();
  }
  append(replaced, std::string_view(own).substr(at));
  return replaced;
}

// str.splitlines
inline std::vector<std::string_view> Run::lines(std::string_view own, bool keep_ends) {
  std::vector<std::string_view> result;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    const std::size_t end = at;
    at += c.size;
    const bool ends = (c.value >= 10 && c.value <= 13) || (c.value >= 0x1C && c.value <= 0x1E) ||
                      (c.value == 0x85 && c.size > 1) || c.value == 0x2028 || c.value == 0x2029;
    if (!ends) continue;
    if (c.value == '\r' && at < own.size() && own[at] == '\n') ++at;
    result.push_back(own.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < own.size()) result.push_back(own.substr(begin));
  return result;
}

inline std::string Run::pad(const std::string& own, std::int64_t width, const std::string& fill, char align) {
  const auto size = static_cast<std::int64_t>(Characters(own).size());
  if (width <= size) return own;
  const std::int64_t blanks = width - size;
  if (static_cast<std::uint64_t>(blanks) > options_.max_bytes / fill.size()) room(options_.max_bytes + 1);
  room(static_cast<std::uint64_t>(blanks) * fill.size() + own.size());
  const std::int64_t left = align == '<' ? 0 : align == '>' ? blanks : blanks / 2 + (blanks & width & 1);
  std::string padded;
  for (std::int64_t i = 0; i < left; ++i) padded += fill;
  padded += own;
  for (std::int64_t i = left; i < blanks; ++i) padded += fill;
  return padded;
}

// --- case. Upper case is the inverse of the lower case table; it is rare in chat templates and may be slow.

inline void append_upper(std::string& out, std::uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
    return;
  }
  constexpr std::array<std::pair<std::uint32_t, const char*>, 10> several = {{{0xDF, "SS"},
                                                                              {0x131, "I"},
                                                                              {0x149,
                                                                               "\xCA\xBC"
                                                                               "N"},
                                                                              {0xFB00, "FF"},
                                                                              {0xFB01, "FI"},
                                                                              {0xFB02, "FL"},
                                                                              {0xFB03, "FFI"},
                                                                              {0xFB04, "FFL"},
                                                                              {0xFB05, "ST"},
                                                                              {0xFB06, "ST"}}};
  for (const auto& [code, upper] : several)
    if (code == c) {
      out += upper;
      return;
    }
  for (const auto& fold : unicode::tables::casefold)  // long s, final sigma, micro sign ...
    if (fold.code == c && unicode::category(c) == unicode::Category::Ll) return append_upper(out, fold.to);
  for (const auto& lower : unicode::tables::lowercase)
    if (lower.to == c && lower.then == 0) return append_code_point(out, lower.code);
  append_code_point(out, c);
}
inline std::string Run::upper(const std::string& own) {
  std::string result;
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    if (c.value >= 0x80 && c.size == 1) {
      result += own[at];
    } else if (c.value >= 0x80 && unicode::category(c.value) != unicode::Category::Ll) {
      result += own.substr(at, c.size);
    } else {
      if (c.value >= 0x80) spend(100);
      append_upper(result, c.value);
    }
    at += c.size;
  }
  return result;
}
inline std::string Run::lower(const std::string& own) {
  if (is_ascii(own)) {
    std::string result = own;
    for (char& c : result)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    return result;
  }
  std::string result;
  bool after_letter = false;
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    const std::string_view one = std::string_view(own).substr(at, c.size);
    at += c.size;
    // A capital sigma at the end of a word becomes a final sigma.
    const bool ends_word = at >= own.size() || !unicode::is_letter(code_point(own, at).value);
    if (c.value >= 0x80 && c.size == 1)
      result += one;
    else if (c.value == 0x3A3 && after_letter && ends_word)
      result += "\xCF\x82";
    else
      result += unicode::lower(one);
    after_letter = unicode::is_letter(c.value);
  }
  return result;
}
inline std::string Run::casefold(const std::string& own) {
  std::string result;
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    const std::string one = own.substr(at, c.size);
    at += c.size;
    const auto* const fold = std::find_if(std::begin(unicode::tables::casefold), std::end(unicode::tables::casefold),
                                          [&](const auto& entry) { return c.value >= 0x80 && entry.code == c.value; });
    // What grows in upper case (the German sharp s, ligatures) folds to the small form of that.
    const std::string up = c.value >= 0x80 && c.size > 1 ? upper(one) : std::string();
    if (!up.empty() && code_point(up, 0).size < up.size()) result += lower(up);
    else if (fold != std::end(unicode::tables::casefold)) append_code_point(result, fold->to);
    else result += lower(one);
  }
  return result;
}
// Title case of one character: its upper case, but "Ss", and the digraphs that have a form of their own.
inline std::string Run::initial(const std::string& character) {
  const std::uint32_t c = code_point(character, 0).value;
  std::string up;
  if ((c >= 0x1C4 && c <= 0x1CC) || (c >= 0x1F1 && c <= 0x1F3)) {
    append_code_point(up, c >= 0x1F1 ? 0x1F2 : 0x1C5 + (c - 0x1C4) / 3 * 3);
    return up;
  }
  up = upper(character);
  const std::size_t first = up.empty() ? 0 : code_point(up, 0).size;
  return first < up.size() && c != 0x149 ? up.substr(0, first) + lower(up.substr(first)) : up;
}
inline std::string Run::title(const std::string& own) {
  std::string result;
  bool inside = false;
  for (std::size_t at = 0; at < own.size();) {
    const std::uint32_t size = code_point(own, at).size;
    const std::string one = own.substr(at, size);
    result += inside ? lower(one) : initial(one);
    inside = upper(one) != lower(one);
    at += size;
  }
  return result;
}
inline std::string Run::capitalize(const std::string& own) {
  if (own.empty()) return own;
  const std::uint32_t first = code_point(own, 0).size;
  return initial(own.substr(0, first)) + lower(own.substr(first));
}

// --- formatting

inline std::string Run::escape(const std::string& own) {
  std::string escaped;
  for (const char c : own) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&#34;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

inline std::string Run::repr_text(const std::string& own) {
  const char quote = own.find('\'') != std::string::npos && own.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    const auto hex = [&](const char* prefix, int digits) {
      out += prefix;
      for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += "0123456789abcdef"[c.value >> shift & 15U];
    };
    if (c.value == static_cast<unsigned char>(quote) || c.value == '\\')
      out += '\\', out += own[at];
    else if (c.value == '\n')
      out += "\\n";
    else if (c.value == '\r')
      out += "\\r";
    else if (c.value == '\t')
      out += "\\t";
    else if (c.value < 0x20 || c.value == 0x7F)
      hex("\\x", 2);
    else if (c.value < 0x80)
      out += own[at];
    else if (c.size == 1)
      out += own[at];
    else {
      using unicode::Category;
      const Category category = unicode::category(c.value);
      const bool hidden = category == Category::Cn || category == Category::Cc || category == Category::Cf ||
                          category == Category::Cs || category == Category::Co || category == Category::Zs ||
                          category == Category::Zl || category == Category::Zp;
      if (!hidden)
        out += own.substr(at, c.size);
      else if (c.value < 0x100)
        hex("\\x", 2);
      else if (c.value < 0x10000)
        hex("\\u", 4);
      else
        hex("\\U", 8);
    }
    at += c.size;
  }
  return out += quote;
}

inline std::string print_real(double value, char type, int precision) {
  const std::array<char, 5> format{'%', '.', '*', type, '\0'};
  const int size = std::snprintf(nullptr, 0, format.data(), precision, value);
  std::string text(static_cast<std::size_t>(std::max(size, 0)) + 1, '\0');
  std::snprintf(text.data(), text.size(), format.data(), precision, value);
  text.pop_back();
  std::replace(text.begin(), text.end(), ',', '.');  // a C locale's decimal point
  return text;
}
inline std::string print_integer(std::int64_t value, int base, bool upper) {
  std::array<char, 70> buffer{};
  std::string text(buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, base).ptr);
  if (upper)
    for (char& c : text)
      if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
  return text;
}

// ascii() of what repr() gave.
inline std::string ascii(const std::string& own) {
  std::string out;
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    at += c.size;
    const int digits = c.value < 0x80 ? 0 : c.value < 0x100 ? 2 : c.value < 0x10000 ? 4 : 8;
    if (digits == 0) {
      out += static_cast<char>(c.value);
      continue;
    }
    out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
    for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += "0123456789abcdef"[c.value >> shift & 15U];
  }
  return out;
}

// format % values
inline std::string Run::percent_format(const std::string& format, const Value& values, bool markup) {
  const bool several = is(values, Kind::tuple);
  std::size_t used = 0;
  const auto next = [&]() -> Value {
    if (several ? used >= sequence(values).items.size() : used > 0) fail("not enough values for the format");
    ++used;
    return several ? sequence(values).items[used - 1] : values;
  };
  std::string out;
  bool by_name = false;
  for (std::size_t at = 0; at < format.size();) {
    const std::size_t mark = std::min(format.find('%', at), format.size());
    append(out, std::string_view(format).substr(at, mark - at));
    at = mark + 1;
    if (mark == format.size()) break;
    const auto peek = [&] { return at < format.size() ? format[at] : '\0'; };
    std::optional<Value> named;
    if (peek() == '(') {
      const std::size_t close = format.find(')', at);
      if (close == std::string::npos) fail("bad format: ')' is missing");
      if (!is(values, Kind::dict)) fail("a format with names needs a dict");
      const Value* found = find(dictionary(values), std::string_view(format).substr(at + 1, close - at - 1));
      if (!found) fail("no value " + quote(std::string_view(format).substr(at + 1, close - at - 1)) + " for the format");
      named = *found;
      by_name = true;
      at = close + 1;
    }
    std::string flags;
    while (peek() != '\0' && std::string_view("-+ #0").find(peek()) != std::string_view::npos) flags += format[at++];
    const auto count = [&]() -> std::int64_t {
      if (peek() == '*') return ++at, whole(next(), 0);
      std::int64_t value = 0;
      while (peek() >= '0' && peek() <= '9') value = std::min<std::int64_t>(value * 10 + (format[at++] - '0'), 1 << 30);
      return value;
    };
    std::int64_t width = count(), precision = -1;
    if (peek() == '.') ++at, precision = count();
    if (precision > 1000) fail("format precision " + std::to_string(precision));
    if (width < 0) flags += '-', width = -width;
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at;
    const char type = peek();
    ++at;
    if (type == '%') {
      append(out, "%");
      continue;
    }
    const auto has = [&](char flag) { return flags.find(flag) != std::string::npos; };
    const Value value = named ? *named : next();
    std::string body, sign;
    bool is_number = false;
    if (type == 's' || type == 'r' || type == 'a') {
      if (markup && type == 's')
        body = markup_text(value);
      else
        print(body, value, type != 's');
      if (type == 'a') body = ascii(body);
      if (precision >= 0) body = string(slice(Value(body), {Value(), Value(precision), Value()}));
    } else if (type == 'c') {
      if (is_integral(value))
        append_code_point(body, static_cast<std::uint32_t>(std::clamp<std::int64_t>(integer(value), 0, 0x10FFFF)));
      else
        body = text_of(value);
    } else if (type != '\0' && std::string_view("diuxXoeEfFgG").find(type) != std::string_view::npos) {
      is_number = true;
      if (is(value, Kind::undefined)) fail(why(value));
      if (!is_numeric(value)) fail(std::string("a number expected for %") + type + ", found " + type_name(value));
      if (std::string_view("diuxXo").find(type) != std::string_view::npos) {
        if (is(value, Kind::number) && (type == 'x' || type == 'X' || type == 'o'))
          fail(std::string("an integer expected for %") + type);
        if (is(value, Kind::number) && !(std::abs(number(value)) < 9.2e18)) fail("number out of range for the format");
        const std::int64_t integral = is(value, Kind::number) ? static_cast<std::int64_t>(number(value)) : integer(value);
        body = print_integer(integral, type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10, type == 'X');
        if (body[0] == '-') sign = "-", body.erase(0, 1);
        if (static_cast<std::int64_t>(body.size()) < precision)
          body.insert(0, static_cast<std::size_t>(precision) - body.size(), '0');
        if (has('#') && (type == 'x' || type == 'X' || type == 'o')) sign += std::string("0") + type;
      } else {
        body = print_real(number(value), type, static_cast<int>(precision < 0 ? 6 : precision));
        if (body[0] == '-') sign = "-", body.erase(0, 1);
      }
      if (sign.empty() || sign[0] != '-') sign = (has('+') ? "+" : has(' ') ? " " : "") + sign;
    } else {
      fail("bad format character after '%'");
    }
    if (is_number && has('0') && !has('-')) body = pad(body, width - static_cast<std::int64_t>(sign.size()), "0", '>');
    append(out, pad(sign + body, width, " ", has('-') ? '<' : '>'));
  }
  if (several ? used < sequence(values).items.size()
              : used == 0 && !by_name && !is(values, Kind::dict) && !is(values, Kind::list) && !is(values, Kind::undefined))
    fail("not all values are used by the format");
  return out;
}

// format(value, spec)
inline std::string Run::format_value(const Value& value, const std::string& spec) {
  if (spec.empty()) return str(value);
  std::size_t at = 0;
  std::string fill;
  char align = '\0';
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const std::uint32_t first = code_point(spec, 0).size;
  if (first < spec.size() && is_align(spec[first]))
    fill = spec.substr(0, first), align = spec[first], at = first + 1;
  else if (is_align(spec[0]))
    align = spec[0], at = 1;
  const auto peek = [&] { return at < spec.size() ? spec[at] : '\0'; };
  char sign = '-';
  if (peek() == '+' || peek() == '-' || peek() == ' ') sign = spec[at++];
  const bool prefix = peek() == '#';
  if (prefix) ++at;
  if (peek() == '0') {
    if (align == '\0') align = '=';
    if (fill.empty()) fill = "0";
    ++at;
  }
  if (fill.empty()) fill = " ";
  const auto count = [&] {
    std::int64_t result = 0;
    while (peek() >= '0' && peek() <= '9') result = std::min<std::int64_t>(result * 10 + (spec[at++] - '0'), 1 << 30);
    return result;
  };
  const std::int64_t width = count();
  char grouping = '\0';
  if (peek() == ',' || peek() == '_') grouping = spec[at++];
  std::int64_t precision = -1;
  if (peek() == '.') ++at, precision = count();
  if (precision > 1000) fail("format precision " + std::to_string(precision));
  char type = peek();
  if (type != '\0') ++at;
  if (at != spec.size()) fail("bad format " + quote(spec));

  std::string body, mark;
  if (is(value, Kind::string)) {
    if ((type != '\0' && type != 's') || align == '=') fail("bad format " + quote(spec) + " for a string");
    body = string(value);
    if (precision >= 0) body = string(slice(Value(body), {Value(), Value(precision), Value()}));
    return pad(body, width, fill, align == '\0' ? '<' : align);
  }
  if (!is_numeric(value)) fail(std::string("format ") + quote(spec) + " does not fit " + type_name(value));
  const bool real = is(value, Kind::number) || (type != '\0' && std::string_view("eEfFgG%").find(type) != std::string_view::npos);
  if (real) {
    double x = number(value);
    if (type == '%') x *= 100;
    if (type != '\0' && std::string_view("eEfFgG%").find(type) == std::string_view::npos)
      fail("bad format " + quote(spec) + " for a float");
    if (type == '\0' && precision < 0)
      body = jinja::print(x);
    else
      body = print_real(x, type == '%' ? 'f' : type == '\0' ? 'g' : type, static_cast<int>(precision < 0 ? 6 : precision));
    if (type == '%') body += '%';
  } else {
    if (precision >= 0) fail("precision in an integer's format");
    if (type == 'c') {
      append_code_point(body, static_cast<std::uint32_t>(std::clamp<std::int64_t>(integer(value), 0, 0x10FFFF)));
    } else if (type == '\0' || type == 'd' || type == 'n' || type == 'x' || type == 'X' || type == 'o' || type == 'b') {
      if (type == '\0' && is(value, Kind::boolean) && align == '\0' && width == 0) return str(value);
      body = print_integer(integer(value), type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10, type == 'X');
      if (prefix && (type == 'x' || type == 'X' || type == 'o' || type == 'b')) mark = std::string("0") + type;
    } else {
      fail("bad format " + quote(spec) + " for an integer");
    }
  }
  std::string front;
  if (!body.empty() && body[0] == '-')
    front = "-", body.erase(0, 1);
  else if (sign != '-')
    front = std::string(1, sign);
  front += mark;
  if (grouping != '\0') {
    std::size_t end = 0;
    while (end < body.size() && body[end] >= '0' && body[end] <= '9') ++end;
    for (std::size_t i = end; i > 3; i -= 3) body.insert(i - 3, 1, grouping);
  }
  if (align == '=') return front + pad(body, width - static_cast<std::int64_t>(front.size()), fill, '>');
  return pad(front + body, width, fill, align == '\0' ? '>' : align);
}

// format.format(...)
inline std::string Run::brace_format(const std::string& format, const Arguments& given, bool markup) {
  std::size_t next = 0;
  bool counted = false, numbered = false;  // {} and {0} do not go together
  const auto field_value = [&](std::string field) {
    const std::size_t name_end = std::min(field.find_first_of(".["), field.size());
    const std::string name = field.substr(0, name_end);
    Value value;
    if (name.empty() || (name[0] >= '0' && name[0] <= '9')) {
      (name.empty() ? counted : numbered) = true;
      if (counted && numbered) fail("fields with and without a number in one format");
      const std::size_t index = name.empty() ? next++ : static_cast<std::size_t>(std::strtoul(name.c_str(), nullptr, 10));
      if (index >= given.positional.size()) fail("no value " + std::to_string(index) + " for the format");
      value = given.positional[index];
    } else {
      const auto found =
          std::find_if(given.named.begin(), given.named.end(), [&](const auto& entry) { return entry.first == name; });
      if (found == given.named.end()) fail("no value " + quote(name) + " for the format");
      value = found->second;
    }
    for (std::size_t step = name_end; step < field.size();) {
      const bool by_dot = field[step] == '.';
      const std::size_t end = by_dot ? std::min(field.find_first_of(".[", step + 1), field.size()) : field.find(']', step);
      if (end == std::string::npos) fail("']' is missing in a format");
      const std::string key = field.substr(step + 1, end - step - 1);
      if (key.empty()) fail("empty attribute in a format");
      const bool digits = std::all_of(key.begin(), key.end(), [](char d) { return d >= '0' && d <= '9'; });
      if (by_dot)
        value = attribute(value, key);
      else
        value = item(value, digits ? Value(static_cast<std::int64_t>(std::strtoll(key.c_str(), nullptr, 10))) : Value(key));
      step = by_dot ? end : end + 1;
      if (!by_dot && step < field.size() && field[step] != '.' && field[step] != '[') fail("only '.' or '[' may follow ']' in a format");
    }
    return value;
  };
  std::string out;
  for (std::size_t at = 0; at < format.size();) {
    const char c = format[at];
    if (c != '{' && c != '}') {
      const std::size_t end = std::min(format.find_first_of("{}", at), format.size());
      append(out, std::string_view(format).substr(at, end - at));
      at = end;
      continue;
    }
    if (at + 1 < format.size() && format[at + 1] == c) {
      append(out, std::string_view(&c, 1));
      at += 2;
      continue;
    }
    if (c == '}') fail("single brace in a format");
    // Up to the brace that closes it; the specification may hold fields of its own.
    std::size_t close = at + 1;
    for (int open = 1; close < format.size(); ++close) {
      open += format[close] == '{' ? 1 : format[close] == '}' ? -1 : 0;
      if (open == 0) break;
    }
    if (close >= format.size()) fail("single brace in a format");
    std::string field = format.substr(at + 1, close - at - 1), spec;
    at = close + 1;
    char conversion = '\0';
    std::size_t colon = field.find_first_of(":[");
    if (colon != std::string::npos && field[colon] == '[') colon = field.find(':', std::min(field.find(']', colon), field.size()));
    if (colon != std::string::npos) spec = field.substr(colon + 1), field.resize(colon);
    if (field.find('{') != std::string::npos) fail("unexpected '{' in a field of a format");
    if (field.size() >= 2 && field[field.size() - 2] == '!') conversion = field.back(), field.resize(field.size() - 2);
    Value value = field_value(field);
    std::string full;
    for (std::size_t from = 0; from < spec.size();) {
      const std::size_t open = std::min(spec.find('{', from), spec.size());
      full.append(spec, from, open - from);
      if (open == spec.size()) break;
      const std::size_t end = spec.find('}', open);
      const std::string inner = spec.substr(open + 1, end - open - 1);
      if (inner.find_first_of("{:!") != std::string::npos) unsupported("a format inside of a format's specification");
      full += str(field_value(inner));
      from = end + 1;
    }
    if (conversion == 'r' || conversion == 's' || conversion == 'a') {
      std::string printed;
      print(printed, value, conversion != 's');
      value = Value(conversion == 'a' ? ascii(printed) : std::move(printed));
    } else if (conversion != '\0') {
      fail("bad conversion in a format");
    }
    const bool plain = !markup || (is(value, Kind::string) && Access::markup(value));
    append(out, plain ? format_value(value, full) : escape(format_value(value, full)));
  }
  return out;
}

}  // namespace detail::jinja
}  // namespace chiasm::inline CHIASM_ABI
