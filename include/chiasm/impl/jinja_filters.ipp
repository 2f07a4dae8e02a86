// Jinja's filters and tests, and transformers' tojson.
#pragma once

#include <chiasm/impl/jinja_text.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

constexpr std::string_view filter_names =
    "abs attr batch capitalize center count d default dictsort e escape first float forceescape format groupby indent int items "
    "join last "
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr slice sort string sum title "
    "tojson trim "
    "truncate unique upper urlencode wordcount";
constexpr std::string_view other_filter_names = "filesizeformat pprint random striptags urlize wordwrap xmlattr";
constexpr std::string_view test_names =
    "boolean callable defined divisibleby eq equalto escaped even false filter float ge greaterthan gt in integer iterable le "
    "lessthan "
    "lower lt mapping ne none number odd sameas sequence string test true undefined upper";

inline Value Run::filter(const std::string& name, Value value, const Arguments& given) {
  const Nested nested(*this);
  if (name == "default" || name == "d") {
    const auto args = bind(name, given, {"default_value", "boolean"}, 0);
    const bool absent = is(value, Kind::undefined) || (flag(args[1], false) && !truth(value));
    return !absent ? value : missing(args[0]) ? Value("") : args[0];
  }
  if (name == "tojson") {
    const auto args = bind(name, given, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
    JsonStyle style;
    style.ascii = flag(args[0], false);
    style.sort_keys = flag(args[3], false);
    if (!missing(args[1]) && !is(args[1], Kind::none)) {
      style.pretty = true;
      style.indent = is(args[1], Kind::string) ? string(args[1]) : pad("", whole(args[1], 0), " ", '<');
      style.item_separator = ",";
    }
    if (!missing(args[2]) && !is(args[2], Kind::none)) {
      const std::vector<Value> both = elements(args[2]);
      if (both.size() != 2) fail("tojson: separators are " + std::to_string(both.size()) + ", expected 2");
      style.item_separator = text_of(both[0]);
      style.key_separator = text_of(both[1]);
    }
    std::string out;
    json(out, value, style, 0);
    return Value(std::move(out));
  }
  if (name == "safe" || name == "escape" || name == "e" || name == "forceescape") {
    bind(name, given, {}, 0);
    const bool as_is = name == "safe" || (name != "forceescape" && Access::markup(value));
    return text(as_is ? str(value) : escape(str(value)), true);
  }
  if (name == "attr") {
    const std::string& key = text_of(bind(name, given, {"name"}, 1)[0]);
    if (is(value, Kind::dict) && method_of(Kind::dict, key) == MethodKind::none)
      return make_undefined("dict has no attribute " + quote(key));
    return attribute(value, key);
  }
  if (listed("abs float int round sum max min count length wordcount", name)) return number_filter(name, value, given);
  if (listed("capitalize center format indent lower replace string title trim truncate upper urlencode", name))
    return text_filter(name, value, given);
  if (listed(filter_names, name)) return sequence_filter(name, value, given);
  if (listed(other_filter_names, name)) unsupported("filter '" + name + "'");
  fail("no filter named " + quote(name));
}

inline Value Run::text_filter(const std::string& name, const Value& value, const Arguments& given) {
  std::string buffer;
  const std::string& own = soft(value, buffer);
  const bool markup = is(value, Kind::string) && Access::markup(value);
  spend(1 + own.size() / 16);
  const auto result = [&](std::string made) { return text(std::move(made), markup); };
  if (name == "string") return bind(name, given, {}, 0), is(value, Kind::string) ? value : text(own);
  if (name == "lower") return bind(name, given, {}, 0), result(lower(own));
  if (name == "upper") return bind(name, given, {}, 0), result(upper(own));
  if (name == "capitalize") return bind(name, given, {}, 0), result(capitalize(own));
  if (name == "trim") {
    const auto args = bind(name, given, {"chars"}, 0);
    const std::string* set = missing(args[0]) || is(args[0], Kind::none) ? nullptr : &text_of(args[0]);
    if (set) spend(set->size() * (own.size() / 16));
    return result(std::string(jinja::strip(own, set, true, true)));
  }
  if (name == "center") return result(pad(own, whole(bind(name, given, {"width"}, 0)[0], 80), " ", '^'));
  if (name == "title") {
    bind(name, given, {}, 0);
    std::string titled;
    bool begins = true;  // after white space, '-', or an opening bracket
    for (std::size_t at = 0; at < own.size();) {
      const CodePoint c = code_point(own, at);
      const std::string one = own.substr(at, c.size);
      titled += begins ? upper(one) : lower(one);
      begins = is_space(c.value) || (c.value < 0x80 && std::string_view("-({[<").find(own[at]) != std::string_view::npos);
      at += c.size;
    }
    return result(std::move(titled));
  }
  if (name == "replace") {
    const auto args = bind(name, given, {"old", "new", "count"}, 2);
    const std::int64_t count = missing(args[2]) || is(args[2], Kind::none) ? -1 : whole(args[2], -1);
    return text(replace(own, str(args[0]), str(args[1]), count));
  }
  if (name == "format") {
    if (!given.named.empty() && !given.positional.empty()) fail("format takes values with or without names, not both");
    if (given.named.empty()) return result(percent_format(own, list_of(given.positional, Kind::tuple), markup));
    return result(percent_format(own, dict_from(given), markup));
  }
  if (name == "indent") {
    if (!is(value, Kind::string)) fail(is(value, Kind::undefined) ? why(value) : std::string("indent of ") + type_name(value));
    const auto args = bind(name, given, {"width", "first", "blank"}, 0);
    const std::string by =
        !missing(args[0]) && is(args[0], Kind::string) ? string(args[0]) : pad("", whole(args[0], 4), " ", '<');
    const bool first = flag(args[1], false), blank = flag(args[2], false);
    const std::string whole_text = own + "\n";
    std::string indented;
    bool begins = true;
    for (const std::string_view line : lines(whole_text, false)) {
      if (!begins) append(indented, "\n");
      if (begins ? first : blank || !line.empty()) append(indented, by);
      append(indented, line);
      begins = false;
    }
    return result(std::move(indented));
  }
  if (name == "truncate") {
    const auto args = bind(name, given, {"length", "killwords", "end", "leeway"}, 0);
    const std::string end = missing(args[2]) ? "..." : text_of(args[2]);
    const auto end_size = static_cast<std::int64_t>(Characters(end).size());
    const std::int64_t most = whole(args[0], 255), leeway = missing(args[3]) || is(args[3], Kind::none) ? 5 : whole(args[3], 5);
    if (most < end_size) fail("truncate: length is shorter than the end");
    if (!is(value, Kind::string)) {
      if (size_of(value) <= most + leeway) return value;
      fail(std::string("truncate of ") + type_name(value));
    }
    const Characters characters(own);
    if (static_cast<std::int64_t>(characters.size()) <= most + leeway) return result(own);
    std::string cut(characters.between(0, static_cast<std::size_t>(most - end_size)));
    if (!flag(args[1], false))
      if (const std::size_t blank = cut.rfind(' '); blank != std::string::npos) cut.resize(blank);
    return result(cut + end);
  }
  // urlencode
  bind(name, given, {}, 0);
  std::string encoded;
  const auto quote_url = [&](const std::string& part, bool query) {
    for (const char c : part) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         std::string_view("_.-~").find(c) != std::string_view::npos || (!query && c == '/');
      if (plain)
        encoded += c;
      else if (query && c == ' ')
        encoded += '+';
      else
        encoded += {'%', "0123456789ABCDEF"[static_cast<unsigned char>(c) >> 4],
                    "0123456789ABCDEF"[static_cast<unsigned char>(c) & 15U]};
    }
  };
  if (is(value, Kind::string) || !(is(value, Kind::dict) || is_sequence(value))) {
    quote_url(own, false);
  } else {
    const std::vector<Value> entries = is(value, Kind::dict) ? elements(method(value, "items", {})) : elements(value);
    for (const Value& entry : entries) {
      const std::vector<Value> both = elements(entry);
      if (both.size() != 2) fail("urlencode needs pairs");
      if (!encoded.empty()) encoded += '&';
      quote_url(str(both[0]), true);
      encoded += '=';
      quote_url(str(both[1]), true);
    }
  }
  return text(std::move(encoded));
}

inline Value Run::number_filter(const std::string& name, const Value& value, const Arguments& given) {
  if (name == "length" || name == "count") return bind(name, given, {}, 0), size_of(value);
  if (name == "wordcount") {
    bind(name, given, {}, 0);
    const std::string own = str(value);
    std::int64_t words = 0;
    bool inside = false;
    for (std::size_t at = 0; at < own.size();) {
      const CodePoint c = code_point(own, at);
      const bool word = c.value == '_' || unicode::is_letter(c.value) || unicode::is_number(c.value);
      if (word && !inside) ++words;
      inside = word;
      at += c.size;
    }
    return words;
  }
  if (name == "sum") {
    const auto args = bind(name, given, {"attribute", "start"}, 0);
    Value total = missing(args[1]) ? Value(0) : args[1];
    if (is(total, Kind::string)) fail("strings cannot be summed");
    const bool by_attribute = !missing(args[0]) && !is(args[0], Kind::none);
    for (const Value& item : elements(value))
      total = arithmetic(Expr::Op::add, total, by_attribute ? path(item, args[0], Value()) : item);
    return total;
  }
  if (name == "max" || name == "min") {
    const auto args = bind(name, given, {"case_sensitive", "attribute"}, 0);
    const Value attribute = missing(args[1]) ? Value() : args[1];
    const bool sensitive = flag(args[0], false);
    std::optional<Value> best;
    Value best_key;
    for (const Value& item : elements(value)) {
      const Value key = sort_key(item, attribute, sensitive);
      const int sign = best ? order(key, best_key) : 0;
      if (!best || (name == "max" ? sign > 0 : sign < 0)) best = item, best_key = key;
    }
    return best ? *best : make_undefined("no aggregated item, the sequence is empty");
  }
  if (is(value, Kind::undefined)) fail(why(value));
  if (name == "abs") {
    bind(name, given, {}, 0);
    if (!is_numeric(value)) fail(std::string("abs of ") + type_name(value));
    if (is(value, Kind::number)) return std::abs(number(value));
    if (integer(value) == std::numeric_limits<std::int64_t>::min()) overflow();
    return std::abs(integer(value));
  }
  if (name == "round") {
    const auto args = bind(name, given, {"precision", "method"}, 0);
    const std::int64_t precision = whole(args[0], 0);
    const std::string method = missing(args[1]) ? "common" : text_of(args[1]);
    if (method != "common" && method != "ceil" && method != "floor") fail("round: method " + quote(method));
    if (!is_numeric(value)) fail(std::string("round of ") + type_name(value));
    if (precision < -300 || precision > 300) fail("round: precision " + std::to_string(precision));
    if (method == "common") {
      if (is_integral(value)) {
        if (precision >= 0) return integer(value);
        if (precision < -18) return 0;
        std::int64_t unit = 1;
        for (std::int64_t i = precision; i < 0; ++i) unit *= 10;
        const std::int64_t n = integer(value), down = n - ((n % unit) + unit) % unit, rest = n - down;
        const bool up = rest * 2 > unit || (rest * 2 == unit && down / unit % 2 != 0);
        return up ? down + unit : down;
      }
      const double x = number(value);
      if (!std::isfinite(x)) return x;
      if (precision >= 0) return std::strtod(print_real(x, 'f', static_cast<int>(precision)).c_str(), nullptr);
      const double unit = std::pow(10.0, static_cast<double>(-precision));
      return std::nearbyint(x / unit) * unit;
    }
    const double unit = std::pow(10.0, static_cast<double>(precision)), scaled = number(value) * unit;
    return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit;
  }
  // int, float: what cannot be read becomes the default.
  const auto args = name == "int" ? bind(name, given, {"default", "base"}, 0) : bind(name, given, {"default"}, 0);
  const Value fallback = !missing(args[0]) ? args[0] : name == "int" ? Value(0) : Value(0.0);
  const auto truncated = [&](double x) -> Value {
    if (std::isnan(x)) return fallback;
    if (!(std::abs(x) < 9.2e18)) overflow();
    return static_cast<std::int64_t>(x);
  };
  if (is_integral(value)) return name == "int" ? Value(integer(value)) : Value(number(value));
  if (is(value, Kind::number)) return name == "int" ? truncated(number(value)) : value;
  if (!is(value, Kind::string)) return fallback;
  std::string digits(jinja::strip(string(value), nullptr, true, true));
  if (digits.find("__") != std::string::npos || digits.starts_with("_") || digits.ends_with("_")) return fallback;
  std::erase(digits, '_');
  if (name == "int") {
    std::string number_text = digits;
    std::int64_t base = whole(args[1], 10), read = 0;
    const bool minus = number_text.starts_with("-");
    if (minus || number_text.starts_with("+")) number_text.erase(0, 1);
    const char mark = number_text.size() > 2 && number_text[0] == '0' ? static_cast<char>(number_text[1] | 0x20) : '\0';
    const std::int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) number_text.erase(0, 2), base = marked;
    if (base == 0) base = 10;
    if (base < 2 || base > 36) return fallback;
    const auto end = number_text.data() + number_text.size();
    const auto result = std::from_chars(number_text.data(), end, read, static_cast<int>(base));
    if (result.ec == std::errc::result_out_of_range) overflow();
    if (result.ec == std::errc() && result.ptr == end && !number_text.starts_with("-")) return minus ? -read : read;
  }
  std::string lowered = lower(digits);
  const bool minus = lowered.starts_with("-");
  if (minus || lowered.starts_with("+")) lowered.erase(0, 1);
  double read = 0;
  if (lowered == "inf" || lowered == "infinity") {
    read = std::numeric_limits<double>::infinity();
  } else if (lowered == "nan") {
    read = std::numeric_limits<double>::quiet_NaN();
  } else {
    if (lowered.empty() || !((lowered[0] >= '0' && lowered[0] <= '9') || lowered[0] == '.')) return fallback;
    const auto end = lowered.data() + lowered.size();
    const auto result = std::from_chars(lowered.data(), end, read);
    if (result.ptr != end || result.ec == std::errc::invalid_argument) return fallback;
    if (result.ec == std::errc::result_out_of_range) read = std::strtod(lowered.c_str(), nullptr);
  }
  if (minus) read = -read;
  if (name == "float") return read;
  if (std::isinf(read)) fail("int of an infinite number");
  return truncated(read);
}

// The value at "a.b.0", or of a number: the element.
inline Value Run::path(const Value& value, const Value& attribute, const Value& fallback) {
  Value found = value;
  const auto step = [&](const Value& key) {
    found = item(found, key);
    if (is(found, Kind::undefined) && !is(fallback, Kind::none)) found = fallback;
  };
  if (!is(attribute, Kind::string)) {
    step(attribute);
    return found;
  }
  const std::string& names = string(attribute);
  for (std::size_t at = 0; at <= names.size();) {
    const std::size_t end = std::min(names.find('.', at), names.size());
    const std::string name = names.substr(at, end - at);
    const bool digits =
        !name.empty() && name.size() < 18 && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    step(digits ? Value(static_cast<std::int64_t>(std::strtoll(name.c_str(), nullptr, 10))) : Value(name));
    at = end + 1;
  }
  return found;
}
inline Value Run::sort_key(const Value& value, const Value& attribute, bool case_sensitive) {
  const Value key = is(attribute, Kind::none) ? value : path(value, attribute, Value());
  return !case_sensitive && is(key, Kind::string) ? Value(lower(string(key))) : key;
}
inline void Run::sort(std::vector<Value>& items, const Value& attribute, bool case_sensitive, bool reverse) {
  // Jinja compares lists of keys, in which undefined ones are equal.
  std::vector<Value> attributes = {attribute};
  if (is(attribute, Kind::string))
    attributes = sequence(split(string(attribute), {Value(","), Access::make(Kind::undefined, nullptr)}, false, false)).items;
  std::vector<std::pair<Value, std::size_t>> keyed;
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::vector<Value> keys;
    for (const Value& one : attributes) keys.push_back(sort_key(items[i], one, case_sensitive));
    keyed.emplace_back(make_sequence(std::move(keys)), i);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? order(b.first, a.first) < 0 : order(a.first, b.first) < 0;
  });
  std::vector<Value> sorted;
  for (const auto& entry : keyed) sorted.push_back(items[entry.second]);
  items = std::move(sorted);
}

inline Value Run::sequence_filter(const std::string& name, const Value& value, const Arguments& given) {
  if (name == "first" || name == "last") {
    bind(name, given, {}, 0);
    if (name == "last" && is(value, Kind::generator)) fail("a generator cannot be walked backwards");
    const std::vector<Value> items = elements(value);
    if (items.empty()) return make_undefined("no " + name + " item, the sequence is empty");
    return name == "first" ? items.front() : items.back();
  }
  if (name == "list") return bind(name, given, {}, 0), list_of(elements(value));
  if (name == "items") {
    bind(name, given, {}, 0);
    if (is(value, Kind::undefined)) return list_of({}, Kind::generator);
    if (!is(value, Kind::dict)) fail(std::string("items of ") + type_name(value) + ", expected a dict");
    return list_of(elements(method(value, "items", {})), Kind::generator);
  }
  if (name == "join") {
    const auto args = bind(name, given, {"d", "attribute"}, 0);
    const std::string between = missing(args[0]) ? "" : str(args[0]);
    const bool by_attribute = !missing(args[1]) && !is(args[1], Kind::none);
    std::string joined;
    bool first = true;
    for (const Value& item : elements(value)) {
      if (!std::exchange(first, false)) append(joined, between);
      print(joined, by_attribute ? path(item, args[1], Value()) : item, false);
    }
    return Value(std::move(joined));
  }
  if (name == "reverse") {
    bind(name, given, {}, 0);
    std::vector<Value> items = elements(value);
    std::reverse(items.begin(), items.end());
    if (!is(value, Kind::string)) return list_of(std::move(items), Kind::generator);
    std::string reversed;
    for (const Value& item : items) reversed += string(item);
    return text(std::move(reversed), Access::markup(value));
  }
  if (name == "map") return map(value, given);
  if (name == "select" || name == "reject") return select(value, given, false, name == "select");
  if (name == "selectattr" || name == "rejectattr") return select(value, given, true, name == "selectattr");
  if (name == "groupby") return group(value, given);
  if (name == "sort") {
    const auto args = bind(name, given, {"reverse", "case_sensitive", "attribute"}, 0);
    std::vector<Value> items = elements(value);
    sort(items, missing(args[2]) ? Value() : args[2], flag(args[1], false), flag(args[0], false));
    return list_of(std::move(items));
  }
  if (name == "dictsort") {
    const auto args = bind(name, given, {"case_sensitive", "by", "reverse"}, 0);
    const std::string by = missing(args[1]) ? "key" : text_of(args[1]);
    if (by != "key" && by != "value") fail("dictsort: by is " + quote(by) + ", expected 'key' or 'value'");
    if (!is(value, Kind::dict)) fail(std::string("dictsort of ") + type_name(value));
    std::vector<Value> items = elements(method(value, "items", {}));
    sort(items, Value(by == "key" ? 0 : 1), flag(args[0], false), flag(args[2], false));
    return list_of(std::move(items));
  }
  if (name == "unique") {
    const auto args = bind(name, given, {"case_sensitive", "attribute"}, 0);
    std::vector<Value> kept, keys;
    for (const Value& item : elements(value)) {
      const Value key = sort_key(item, missing(args[1]) ? Value() : args[1], flag(args[0], false));
      hashable(key);
      if (std::any_of(keys.begin(), keys.end(), [&](const Value& other) { return equal(other, key); })) continue;
      keys.push_back(key);
      kept.push_back(item);
    }
    return list_of(std::move(kept), Kind::generator);
  }
  // batch, slice
  const auto args = bind(name, given, {"count", "fill_with"}, 1);
  const std::int64_t count = whole(args[0], 1);
  if (count < 1 || count > 100000) fail(name + " by " + std::to_string(count));
  const auto parts = static_cast<std::size_t>(count);
  const bool fill = !missing(args[1]) && !is(args[1], Kind::none);
  const std::vector<Value> items = elements(value);
  std::vector<Value> rows;
  if (name == "batch") {
    for (std::size_t at = 0; at < items.size(); at += parts) {
      std::vector<Value> row(items.begin() + static_cast<std::ptrdiff_t>(at),
                             items.begin() + static_cast<std::ptrdiff_t>(std::min(items.size(), at + parts)));
      if (fill) spend(parts), row.resize(parts, args[1]);
      rows.push_back(list_of(std::move(row)));
    }
  } else {
    const std::size_t each = items.size() / parts, longer = items.size() % parts;
    for (std::size_t i = 0, at = 0; i < parts; ++i) {
      const std::size_t size = each + (i < longer ? 1 : 0);
      std::vector<Value> row(items.begin() + static_cast<std::ptrdiff_t>(at),
                             items.begin() + static_cast<std::ptrdiff_t>(at + size));
      if (fill && i >= longer) row.push_back(args[1]);
      rows.push_back(list_of(std::move(row)));
      at += size;
    }
  }
  return list_of(std::move(rows), Kind::generator);
}

// map, select and their kin take anything false, None too, as a sequence of nothing.
inline Value Run::map(const Value& value, const Arguments& given) {
  std::vector<Value> mapped;
  if (!truth(value)) return list_of({}, Kind::generator);
  if (given.positional.empty()) {
    const auto args = bind("map", given, {"attribute", "default"}, 1);
    for (const Value& item : elements(value)) mapped.push_back(path(item, args[0], missing(args[1]) ? Value() : args[1]));
  } else {
    const std::string& name = text_of(given.positional[0]);
    Arguments rest = given;
    rest.positional.erase(rest.positional.begin());
    for (const Value& item : elements(value)) mapped.push_back(filter(name, item, rest));
  }
  return list_of(std::move(mapped), Kind::generator);
}
inline Value Run::select(const Value& value, const Arguments& given, bool by_attribute, bool keep) {
  if (!truth(value)) return list_of({}, Kind::generator);
  Arguments rest = given;
  Value attribute;
  const auto shift = [&] {
    Value first = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return first;
  };
  if (by_attribute) {
    if (rest.positional.empty()) fail("selectattr and rejectattr need an attribute");
    attribute = shift();
  }
  const std::optional<Value> name = rest.positional.empty() ? std::nullopt : std::optional<Value>(shift());
  std::vector<Value> kept;
  for (const Value& item : elements(value)) {
    const Value looked_at = by_attribute ? path(item, attribute, Value()) : item;
    const bool passes = name ? test(text_of(*name), looked_at, rest) : truth(looked_at);
    if (passes == keep) kept.push_back(item);
  }
  return list_of(std::move(kept), Kind::generator);
}
inline Value Run::group(const Value& value, const Arguments& given) {
  const auto args = bind("groupby", given, {"attribute", "default", "case_sensitive"}, 1);
  const Value fallback = missing(args[1]) ? Value() : args[1];
  const bool sensitive = flag(args[2], false);
  const auto key_of = [&](const Value& item) {
    const Value key = path(item, args[0], fallback);
    return !sensitive && is(key, Kind::string) ? Value(lower(string(key))) : key;
  };
  std::vector<Value> pairs;
  for (const Value& item : elements(value)) pairs.push_back(pair(key_of(item), item));
  if (pairs.size() > 1)
    for (const Value& entry : pairs)
      if (const Value& key = sequence(entry).items[0]; is(key, Kind::undefined)) fail(why(key));
  sort(pairs, Value(0), true, false);
  std::vector<Value> groups;
  for (std::size_t at = 0; at < pairs.size();) {
    const Value key = sequence(pairs[at]).items[0];
    std::vector<Value> members;
    for (; at < pairs.size() && equal(sequence(pairs[at]).items[0], key); ++at) members.push_back(sequence(pairs[at]).items[1]);
    const Value shown = sensitive ? key : path(members.front(), args[0], fallback);
    groups.push_back(list_of({shown, list_of(std::move(members))}, Kind::tuple, group_name));
  }
  return list_of(std::move(groups));
}

inline bool Run::test(const std::string& name, const Value& value, const Arguments& given) {
  const auto other = [&] { return bind(name, given, {"other"}, 1)[0]; };
  const auto compared = [&](const char* op) { return compare(op, value, other()); };
  if (name == "==" || name == "eq" || name == "equalto") return compared("==");
  if (name == "!=" || name == "ne") return compared("!=");
  if (name == "<" || name == "lt" || name == "lessthan") return compared("<");
  if (name == "<=" || name == "le") return compared("<=");
  if (name == ">" || name == "gt" || name == "greaterthan") return compared(">");
  if (name == ">=" || name == "ge") return compared(">=");
  if (name == "in") return contains(other(), value);
  if (name == "sameas") {
    const Value same = other();
    if (value.kind() != same.kind()) return false;
    if (is(value, Kind::boolean) || is(value, Kind::integer)) return integer(value) == integer(same);
    return is(value, Kind::none) || (Access::box(value) && Access::box(value) == Access::box(same));
  }
  if (name == "divisibleby" || name == "odd" || name == "even") {
    const Value by = name == "divisibleby" ? other() : Value(2);
    const Value rest = arithmetic(Expr::Op::modulo, value, by);
    return !is(rest, Kind::string) && number(rest) == (name == "odd" ? 1 : 0);
  }
  bind(name, given, {}, 0);
  if (name == "defined") return !is(value, Kind::undefined);
  if (name == "undefined") return is(value, Kind::undefined);
  if (name == "none") return is(value, Kind::none);
  if (name == "boolean") return is(value, Kind::boolean);
  if (name == "true" || name == "false") return is(value, Kind::boolean) && (integer(value) != 0) == (name == "true");
  if (name == "integer") return is(value, Kind::integer);
  if (name == "float") return is(value, Kind::number);
  if (name == "number") return is_numeric(value);
  if (name == "string") return is(value, Kind::string);
  if (name == "mapping") return is(value, Kind::dict);
  if (name == "escaped") return is(value, Kind::string) && Access::markup(value);
  if (name == "callable")
    return is(value, Kind::macro) || is(value, Kind::method) || is(value, Kind::function) || is(value, Kind::undefined) ||
           is(value, Kind::loop);
  if (name == "sequence") {
    return is(value, Kind::string) || is(value, Kind::list) || is(value, Kind::tuple) || is(value, Kind::dict) ||
           is(value, Kind::range) || is(value, Kind::undefined);
  }
  if (name == "iterable")
    return is(value, Kind::string) || is(value, Kind::dict) || is_sequence(value) || is(value, Kind::undefined) ||
           is(value, Kind::loop);
  if (name == "lower" || name == "upper") return truth(is_method(str(value), "is" + name));
  if (name == "filter")
    return is(value, Kind::string) && (listed(filter_names, string(value)) || listed(other_filter_names, string(value)));
  if (name == "test") return is(value, Kind::string) && listed(test_names, string(value));
  fail("no test named " + quote(name));
}

// --- json.dumps

inline void Run::json_text(std::string& out, const std::string& own, bool ascii) {
  std::string quoted = "\"";
  const auto hex = [&](std::uint32_t unit) {
    quoted += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) quoted += "0123456789abcdef"[unit >> shift & 15U];
  };
  for (std::size_t at = 0; at < own.size();) {
    const CodePoint c = code_point(own, at);
    switch (c.value) {
      case '"':
        quoted += "\\\"";
        break;
      case '\\':
        quoted += "\\\\";
        break;
      case '\n':
        quoted += "\\n";
        break;
      case '\r':
        quoted += "\\r";
        break;
      case '\t':
        quoted += "\\t";
        break;
      case '\f':
        quoted += "\\f";
        break;
      case '\b':
        quoted += "\\b";
        break;
      default:
        if (c.value < 0x20)
          hex(c.value);
        else if (!ascii || c.value < 0x80)
          quoted.append(own, at, c.size);
        else if (c.value < 0x10000)
          hex(c.value);
        else
          hex(0xD800 + ((c.value - 0x10000) >> 10)), hex(0xDC00 + ((c.value - 0x10000) & 0x3FFU));
    }
    at += c.size;
  }
  append(out, quoted += '"');
}

inline void Run::json(std::string& out, const Value& value, const JsonStyle& style, std::uint32_t level) {
  const Nested nested(*this);
  spend(1);
  const auto real = [](double x) {
    return std::isnan(x) ? std::string("NaN") : std::isinf(x) ? (x < 0 ? "-Infinity" : "Infinity") : jinja::print(x);
  };
  const auto line = [&](std::uint32_t indents) {
    if (!style.pretty) return;
    append(out, "\n");
    for (std::uint32_t i = 0; i < indents; ++i) append(out, style.indent);
  };
  switch (value.kind()) {
    case Kind::none:
      append(out, "null");
      break;
    case Kind::boolean:
      append(out, integer(value) ? "true" : "false");
      break;
    case Kind::integer:
      append(out, std::to_string(integer(value)));
      break;
    case Kind::number:
      append(out, real(number(value)));
      break;
    case Kind::string:
      json_text(out, string(value), style.ascii);
      break;
    case Kind::list:
    case Kind::tuple: {
      append(out, "[");
      bool first = true;
      for (const Value& element : sequence(value).items) {
        if (!std::exchange(first, false)) append(out, style.item_separator);
        line(level + 1);
        json(out, element, style, level + 1);
      }
      if (!first) line(level);
      append(out, "]");
      break;
    }
    case Kind::dict: {
      std::vector<Value> keys = elements(value);
      if (style.sort_keys) sort(keys, Value(), true, false);
      append(out, "{");
      bool first = true;
      for (const Value& key : keys) {
        if (!std::exchange(first, false)) append(out, style.item_separator);
        line(level + 1);
        if (is(key, Kind::string))
          json_text(out, string(key), style.ascii);
        else if (is(key, Kind::none))
          append(out, "\"null\"");
        else if (is(key, Kind::boolean))
          append(out, integer(key) ? "\"true\"" : "\"false\"");
        else if (is_numeric(key))
          append(out, "\"" + (is(key, Kind::number) ? real(number(key)) : std::to_string(integer(key))) + "\"");
        else
          fail(std::string("tojson: a key is ") + type_name(key));
        append(out, style.key_separator);
        json(out, *member(dictionary(value), key), style, level + 1);
      }
      if (!first) line(level);
      append(out, "}");
      break;
    }
    default:
      fail(std::string("tojson of ") + type_name(value));
  }
}

}  // namespace detail::jinja
}  // namespace chiasm::inline CHIASM_ABI
