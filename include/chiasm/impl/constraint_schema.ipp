#pragma once

#include <chiasm/impl/constraint_regex.ipp>
#include <chiasm/io/json.hpp>

#include <charconv>
#include <cmath>
#include <optional>
#include <set>

namespace chiasm::inline CHIASM_ABI {
namespace constrained {

/// A JSON schema becomes a grammar of the compact documents that it allows.
class Schema {
 public:
  static void compile(Grammar& grammar, const Json& root) {
    Schema schema(grammar, root);
    grammar.add_rule();
    schema.rule_of({root}, 0);
    while (!schema.open_.empty()) {
      const auto [rule, all_of] = std::move(schema.open_.back());
      schema.open_.pop_back();
      const std::uint32_t start = schema.value(all_of);
      grammar.rules[rule] = start;
    }
  }

 private:
  using AllOf = std::vector<Json>;  // schemas that hold together
  enum Type : unsigned { null = 1, boolean = 2, integer = 4, fraction = 8, string = 16, array = 32, object = 64, everything = 127 };

  /// One alternative of a schema: anyOf, allOf and $ref are gone.
  struct Flat {
    unsigned types = everything;
    bool typed = false;
    std::vector<Json> enums;
    std::vector<std::pair<Json, bool>> lowest, highest;  // the bound, and whether it is itself out
    std::size_t min_length = 0;
    std::optional<std::size_t> max_length;
    std::vector<std::string> patterns;  // anywhere in the string
    std::vector<std::string> formats;   // the whole string
    std::vector<Json> arrays, objects;  // schemas with keywords for them
  };

  static constexpr std::size_t most_alternatives = 1024;
  // Lengths beyond these are out of reach of an answer. Less than a schema allows is still valid.
  static constexpr std::size_t longest_string = 4096, longest_array = 4096;

  Schema(Grammar& grammar, Json root) : grammar_(grammar), root_(std::move(root)) {}

  [[noreturn]] static void unsupported(const Json& at, const std::string& what) {
    throw UnsupportedError("JSON schema " + at.file() + ": " + (at.pointer().empty() ? "/" : at.pointer()) + ": " + what);
  }

  // Rules.

  /// Rules of the same schemas are one: recursion ends, and what is written twice is built once.
  std::uint32_t rule_of(AllOf all_of, std::optional<std::uint32_t> as = {}) {
    std::erase_if(all_of, [](const Json& schema) { return (schema.is_bool() && schema.as_bool()) || (schema.is_object() && schema.size() == 0); });
    std::set<std::string> texts;
    for (const Json& schema : all_of) texts.insert(schema.dump());
    std::string key;
    for (const std::string& text : texts) key += text + '\n';
    const auto [found, fresh] = rule_of_.try_emplace(std::move(key), 0);
    if (fresh) {
      found->second = as ? *as : grammar_.add_rule();
      open_.emplace_back(found->second, std::move(all_of));
    } else if (as) {
      const std::uint32_t alias = grammar_.call(found->second, Grammar::end);
      grammar_.rules[*as] = alias;
    }
    return found->second;
  }
  std::uint32_t call(AllOf all_of, std::uint32_t next) {
    if (next == Grammar::dead) return next;
    for (const Json& schema : all_of)
      if (schema.is_bool() && !schema.as_bool()) return Grammar::dead;
    const std::uint32_t rule = rule_of(std::move(all_of));
    return grammar_.call(rule, next);
  }

  // From schemas to alternatives.

  Json resolve(const Json& reference) const {
    const std::string text(reference.as_string());
    if (text.empty() || text[0] != '#') unsupported(reference, "a reference to another document, \"" + text + "\"");
    if (text.size() > 1 && text[1] != '/') unsupported(reference, "a reference to an anchor, \"" + text + "\"");
    Json at = root_;
    for (std::size_t i = 1; i < text.size();) {
      const std::size_t stop = std::min(text.find('/', i + 1), text.size());
      std::string name;
      for (std::size_t j = i + 1; j < stop; ++j) {
        const auto digit = [&](std::size_t k) {
          const char c = k < stop ? text[k] : ' ';
          return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        };
        if (text[j] == '~' && j + 1 < stop && (text[j + 1] == '0' || text[j + 1] == '1')) {
          name += text[++j] == '0' ? '~' : '/';
        } else if (text[j] == '%' && digit(j + 1) >= 0 && digit(j + 2) >= 0) {
          name += static_cast<char>(static_cast<unsigned char>(digit(j + 1) * 16 + digit(j + 2)));
          j += 2;
        } else {
          name += text[j];
        }
      }
      if (at.is_array()) {
        std::size_t index = 0;
        const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
        if (error != std::errc() || end != name.data() + name.size() || index >= at.size()) reference.fail("\"" + text + "\" is not there");
        at = at.at(index);
      } else {
        if (!at.contains(name)) reference.fail("\"" + text + "\" is not there");
        at = at[name];
      }
      i = stop;
    }
    return at;
  }

  static unsigned type_named(const Json& name) {
    static constexpr std::pair<std::string_view, unsigned> names[] = {{"null", null},       {"boolean", boolean}, {"integer", integer}, {"number", integer | fraction},
                                                                      {"string", string}, {"array", array},     {"object", object}};
    for (const auto& [text, bits] : names)
      if (name.as_string() == text) return bits;
    name.fail("is \"" + std::string(name.as_string()) + "\", no type of JSON");
  }
  static unsigned types_of(const Json& schema) {
    const Json type = schema.find("type");
    if (type.is_null()) return everything;
    unsigned types = 0;
    if (type.is_array())
      for (const Json name : type) types |= type_named(name);
    else
      types = type_named(type);
    if (schema.get("nullable", false)) types |= null;
    return types;
  }

  static std::size_t count_of(const Json& value) {
    const double number = value.as_double();
    if (!(number >= 0) || number != std::floor(number)) value.fail("is " + value.dump(40) + ", must be a number of things");
    return static_cast<std::size_t>(std::min(number, 1e9));
  }

  /// The keywords of one schema, its references and alternatives aside.
  void merge(Flat& flat, const Json& schema) const {
    for (const Json value : schema) {
      const std::string_view key = value.key();
      static constexpr std::string_view elsewhere[] = {"$ref", "allOf", "anyOf", "oneOf", "nullable"};
      static constexpr std::string_view for_arrays[] = {"items", "prefixItems", "additionalItems", "minItems", "maxItems"};
      static constexpr std::string_view for_objects[] = {"properties", "required", "additionalProperties", "minProperties", "maxProperties"};
      static constexpr std::string_view never[] = {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties",
                                                   "propertyNames", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties",
                                                   "$dynamicRef", "$recursiveRef", "extends", "disallow", "divisibleBy"};
      const auto among = [&](const auto& keys) { return std::find(std::begin(keys), std::end(keys), key) != std::end(keys); };
      if (among(elsewhere)) continue;
      if (among(never)) unsupported(value, "the keyword '" + std::string(key) + "'");
      if (among(for_arrays)) {
        if (flat.arrays.empty() || flat.arrays.back().pointer() != schema.pointer()) flat.arrays.push_back(schema);
      } else if (among(for_objects)) {
        if (flat.objects.empty() || flat.objects.back().pointer() != schema.pointer()) flat.objects.push_back(schema);
      } else if (key == "type") {
        flat.types &= types_of(schema);
        flat.typed = true;
      } else if (key == "enum") {
        if (!value.is_array()) value.fail("is not an array");
        flat.enums.push_back(value);
      } else if (key == "const") {
        flat.enums.push_back(value);
      } else if (key == "minimum") {
        const Json exclusive = schema.find("exclusiveMinimum");
        flat.lowest.emplace_back(value, exclusive.is_bool() && exclusive.as_bool());
      } else if (key == "maximum") {
        const Json exclusive = schema.find("exclusiveMaximum");
        flat.highest.emplace_back(value, exclusive.is_bool() && exclusive.as_bool());
      } else if (key == "exclusiveMinimum" || key == "exclusiveMaximum") {
        if (!value.is_bool()) (key == "exclusiveMinimum" ? flat.lowest : flat.highest).emplace_back(value, true);
      } else if (key == "multipleOf") {
        if (value.as_double() != 1) unsupported(value, "the keyword 'multipleOf' other than 1");
        flat.types &= ~static_cast<unsigned>(fraction);
      } else if (key == "uniqueItems") {
        if (value.as_bool()) unsupported(value, "the keyword 'uniqueItems'");
      } else if (key == "minLength") {
        flat.min_length = std::max(flat.min_length, count_of(value));
      } else if (key == "maxLength") {
        flat.max_length = std::min(flat.max_length.value_or(longest_string * 1000), count_of(value));
      } else if (key == "pattern") {
        flat.patterns.push_back(value.as<std::string>());
      } else if (key == "format") {
        flat.formats.push_back(format_named(value));
      }
      // What is left says nothing about validity: title, description, default, $defs, ...
    }
    for (const auto* bounds : {&flat.lowest, &flat.highest})
      for (const auto& [bound, exclusive] : *bounds) (void)bound.as_double();
  }

  void conjoin(std::vector<Flat>& alternatives, const Json& schema, std::vector<std::string>& within) const {
    if (schema.is_bool()) {
      if (!schema.as_bool()) alternatives.clear();
      return;
    }
    if (!schema.is_object()) schema.fail("is no schema, which is an object, true or false");
    const std::string pointer = schema.pointer();
    if (std::find(within.begin(), within.end(), pointer) != within.end() || within.size() > 100)
      unsupported(schema, "a schema that refers to itself for the same value");
    within.push_back(pointer);
    for (Flat& flat : alternatives) merge(flat, schema);
    if (const Json reference = schema.find("$ref"); !reference.is_null()) conjoin(alternatives, resolve(reference), within);
    if (const Json all = schema.find("allOf"); !all.is_null()) {
      if (!all.is_array()) all.fail("is not an array");
      for (const Json part : all) conjoin(alternatives, part, within);
    }
    for (const char* key : {"anyOf", "oneOf"}) {
      const Json any = schema.find(key);
      if (any.is_null()) continue;
      if (!any.is_array()) any.fail("is not an array");
      std::vector<Flat> result;
      for (const Json part : any) {
        std::vector<Flat> option = alternatives;
        conjoin(option, part, within);
        result.insert(result.end(), option.begin(), option.end());
        if (result.size() > most_alternatives) unsupported(any, "more than " + std::to_string(most_alternatives) + " alternatives in combination");
      }
      alternatives = std::move(result);
    }
    within.pop_back();
  }

  // From alternatives to texts.

  std::uint32_t value(const AllOf& all_of) {
    std::vector<Flat> alternatives(1);
    std::vector<std::string> within;
    for (const Json& schema : all_of) conjoin(alternatives, schema, within);
    std::uint32_t node = Grammar::dead;
    std::set<std::string> literals;
    for (const Flat& flat : alternatives) {
      if (!flat.enums.empty()) {
        for (const Json& candidate : values_of(flat.enums[0]))
          if (std::all_of(all_of.begin(), all_of.end(), [&](const Json& schema) { return valid(candidate, schema, 0); })) literals.insert(candidate.dump());
        continue;
      }
      node = grammar_.split(node, any_of_types(flat));
    }
    if (!literals.empty()) node = grammar_.split(grammar_.one_of({literals.begin(), literals.end()}, Grammar::end), node);
    return node;
  }

  std::uint32_t any_of_types(const Flat& flat) {
    constexpr std::uint32_t end = Grammar::end;
    unsigned types = flat.types;
    if (!flat.typed) {
      unsigned meant = 0;
      if (!flat.lowest.empty() || !flat.highest.empty()) meant |= integer | fraction;
      if (flat.min_length > 0 || flat.max_length || !flat.patterns.empty() || !flat.formats.empty()) meant |= string;
      if (!flat.arrays.empty()) meant |= array;
      if (!flat.objects.empty()) meant |= object;
      if (meant != 0) types &= meant;
    }
    std::uint32_t node = Grammar::dead;
    if (types & object) node = grammar_.split(object_of(flat), node);
    if (types & array) node = grammar_.split(array_of(flat), node);
    if (types & string) node = grammar_.split(string_of(flat), node);
    if (types & (integer | fraction)) node = grammar_.split(number_of(flat, (types & fraction) != 0), node);
    std::vector<std::string> words;
    if (types & null) words.emplace_back("null");
    if (types & boolean) words.insert(words.end(), {"true", "false"});
    return grammar_.split(grammar_.one_of(std::move(words), end), node);
  }

  std::uint32_t quoted(const Letters& letters, Spelling spelling = Spelling::json, std::uint32_t next = Grammar::end) {
    const std::uint32_t body = letters.spell(grammar_, spelling, grammar_.byte('"', '"', next));
    return grammar_.byte('"', '"', body);
  }

  std::uint32_t string_of(const Flat& flat) {
    if (flat.min_length > longest_string) throw UnsupportedError("a JSON schema with strings of at least " + std::to_string(flat.min_length) + " characters");
    std::optional<Letters> letters;
    const auto also = [&](Letters other) { letters = letters ? Letters::both(*letters, other) : std::move(other); };
    for (const std::string& pattern : flat.patterns) also(Regex::compile(pattern, Regex::Mode::search));
    for (const std::string& pattern : flat.formats) also(Regex::compile(pattern, Regex::Mode::exact));
    std::optional<std::size_t> most = flat.max_length;
    if (most && *most < flat.min_length) return Grammar::dead;
    if (most) most = std::min(*most, longest_string);
    if (most && letters) {
      const std::size_t room = Letters::most_nodes / 4 / letters->nodes.size();
      most = std::min(*most, std::max(flat.min_length, room));
    }
    if (!letters || flat.min_length > 0 || most) also(Letters::length(flat.min_length, most));
    return quoted(*letters);
  }

  static std::string format_named(const Json& name) {
    static const std::string date =
        "[1-9][0-9]{3}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)",
                             time = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
                             label = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", host = label + "(\\." + label + "){0,5}", byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])",
                             word = "[A-Za-z0-9_+-]{1,24}";
    const std::string_view format = name.as_string();
    if (format == "date") return date;
    if (format == "time") return time;
    if (format == "date-time") return date + "T" + time;
    if (format == "uuid") return "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    if (format == "email") return word + "(\\." + word + "){0,1}@" + label + "(\\." + label + "){0,2}\\.[a-z]{2,12}";
    if (format == "hostname") return host;
    if (format == "ipv4") return byte + "(\\." + byte + "){3}";
    if (format == "uri") return "https?://" + host + "\\.[a-z]{2,12}(/[A-Za-z0-9._~-]*)*";
    unsupported(name, "the format \"" + std::string(format) + "\"");
  }

  // Numbers: those of a range are digits of a fixed point, compared from left to right.

  struct Decimal {
    bool negative = false;
    std::string digits;  // of the magnitude, no leading zeros; empty for 0
    int exponent = 0;    // value = digits * 10^exponent
  };
  static Decimal decimal(const Json& number) {
    Decimal result;
    const std::string text = number.dump();
    std::size_t i = 0;
    if (text[i] == '-') result.negative = true, ++i;
    bool point = false;
    for (; i < text.size() && text[i] != 'e' && text[i] != 'E'; ++i) {
      if (text[i] == '.') {
        point = true;
      } else {
        result.digits += text[i];
        if (point) --result.exponent;
      }
    }
    if (i < text.size()) {
      int power = 0;
      std::from_chars(text.data() + i + (text[i + 1] == '+' ? 2 : 1), text.data() + text.size(), power);
      result.exponent += power;
    }
    result.digits.erase(0, std::min(result.digits.find_first_not_of('0'), result.digits.size()));
    while (!result.digits.empty() && result.digits.back() == '0') result.digits.pop_back(), ++result.exponent;
    return result;
  }
  static constexpr std::int64_t beyond = 2'000'000'000'000'000'000;
  /// value * 10^places, rounded inwards from a bound: up from a lowest one, down from a highest one, and one further if the bound itself is out.
  static std::int64_t scaled(const Decimal& value, int places, bool lowest, bool exclusive) {
    const int shift = value.exponent + places;
    std::string digits = value.digits;
    bool exact = true;
    if (shift >= 0) {
      if (!digits.empty()) digits.append(static_cast<std::size_t>(std::min(shift, 40)), '0');
    } else {
      const std::size_t cut = std::min(digits.size(), static_cast<std::size_t>(std::min(-shift, 100000)));
      exact = cut == 0 || digits.empty();
      digits.resize(digits.size() - cut);
    }
    std::int64_t magnitude = 0;
    for (const char digit : digits) magnitude = std::min<std::int64_t>(beyond, magnitude > beyond / 10 ? beyond : magnitude * 10 + (digit - '0'));
    std::int64_t result = value.negative ? -magnitude : magnitude;  // rounded towards 0
    if (!exact && lowest && !value.negative) ++result;
    if (!exact && !lowest && value.negative) --result;
    if (exact && exclusive) result += lowest ? 1 : -1;
    return result;
  }

  std::uint32_t number_of(const Flat& flat, bool with_fraction) {
    constexpr std::uint32_t end = Grammar::end;
    if (flat.lowest.empty() && flat.highest.empty()) {
      // Digits enough for a double or an int64, and not more: each reader then reads the same number.
      static constexpr std::string_view whole = "-?[1-9][0-9]{0,17}|0", real = "-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?";
      return Regex::compile(with_fraction ? real : whole, Regex::Mode::exact).spell(grammar_, Spelling::plain, end);
    }
    int places = 0, whole_digits = 18;
    if (with_fraction) {
      int deepest = 6, widest = 1;
      for (const auto* bounds : {&flat.lowest, &flat.highest})
        for (const auto& [bound, exclusive] : *bounds) {
          const Decimal value = decimal(bound);
          if (value.digits.empty()) continue;
          deepest = std::max(deepest, std::min(-value.exponent, 14));
          widest = std::max(widest, std::min(static_cast<int>(value.digits.size()) + value.exponent, 15));
        }
      // 15 digits in all: so many a double tells apart.
      const bool both = !flat.lowest.empty() && !flat.highest.empty();
      whole_digits = both ? widest : std::min(15, std::max(widest + 1, 9));
      places = std::min(deepest, 15 - whole_digits);
    }
    std::int64_t most = 1;
    for (int i = 0; i < whole_digits + places; ++i) most *= 10;
    std::int64_t lowest = 1 - most, highest = most - 1;
    for (const auto& [bound, exclusive] : flat.lowest) lowest = std::max(lowest, scaled(decimal(bound), places, true, exclusive));
    for (const auto& [bound, exclusive] : flat.highest) highest = std::min(highest, scaled(decimal(bound), places, false, exclusive));
    std::uint32_t node = Grammar::dead;
    if (lowest < 0) {
      const std::uint32_t magnitude = magnitudes(std::max<std::int64_t>(1, -highest), -lowest, places);
      node = grammar_.byte('-', '-', magnitude);
    }
    if (highest >= 0) node = grammar_.split(magnitudes(std::max<std::int64_t>(0, lowest), highest, places), node);
    return node;
  }

  /// Texts of lowest..highest / 10^places.
  std::uint32_t magnitudes(std::int64_t lowest, std::int64_t highest, int places) {
    std::uint32_t node = Grammar::dead;
    if (lowest > highest) return node;
    const auto padded = [&](std::int64_t value, std::size_t width) {
      std::string text = std::to_string(value);
      return text.size() < width ? std::string(width - text.size(), '0') + text : text;
    };
    const auto fraction_digits = static_cast<std::size_t>(places);
    const std::size_t widest = padded(highest, fraction_digits + 1).size();
    for (std::size_t width = padded(lowest, fraction_digits + 1).size(); width <= widest; ++width) {
      std::int64_t from = 0, to = 1;  // of numbers whose whole part has width - places digits
      for (std::size_t i = 0; i < width; ++i) to *= 10;
      if (width > fraction_digits + 1) from = to / 10;
      from = std::max(from, lowest);
      to = std::min(to - 1, highest);
      if (from <= to) node = grammar_.split(digits(padded(from, width), padded(to, width), fraction_digits), node);
    }
    return node;
  }

  /// Numbers between two of equal width; zeros at the end of the fraction, and a fraction of zeros, may be left out.
  std::uint32_t digits(const std::string& from, const std::string& to, std::size_t places) {
    const std::size_t width = from.size(), whole = width - places;
    // after[low][high]: what may follow once so many digits are read, which are those of `from`, or of `to`, or lie between.
    std::array<std::array<std::uint32_t, 2>, 2> after{};
    for (std::size_t at = width + 1; at-- > 0;) {
      std::array<std::array<std::uint32_t, 2>, 2> now{};
      for (const std::size_t low : {std::size_t{0}, std::size_t{1}})
        for (const std::size_t high : {std::size_t{0}, std::size_t{1}}) {
          const bool rest_of_from_is_0 = from.find_first_not_of('0', at) == std::string::npos;
          const std::uint32_t stop = at >= whole && (low == 0 || rest_of_from_is_0) ? Grammar::end : Grammar::dead;
          std::uint32_t more = Grammar::dead;
          if (at < width) {
            const auto least = static_cast<unsigned char>(low ? from[at] : '0'), most = static_cast<unsigned char>(high ? to[at] : '9');
            if (least == most) {
              more = grammar_.byte(least, most, after[low][high]);
            } else if (least < most) {
              unsigned first = least, last = most;
              if (low) more = grammar_.split(grammar_.byte(first, first, after[1][0]), more), ++first;
              if (high) more = grammar_.split(grammar_.byte(last, last, after[0][1]), more), --last;
              if (first <= last) more = grammar_.split(grammar_.byte(first, last, after[0][0]), more);
            }
            if (at == whole) more = grammar_.byte('.', '.', more);
          }
          now[low][high] = grammar_.split(stop, more);
        }
      after = now;
    }
    return after[1][1];
  }

  // Arrays.

  std::uint32_t array_of(const Flat& flat) {
    std::size_t fewest = 0, most = longest_array * 1000, listed = 0;
    bool bounded = false;
    for (const Json& schema : flat.arrays) {
      if (const Json count = schema.find("minItems"); !count.is_null()) fewest = std::max(fewest, count_of(count));
      if (const Json count = schema.find("maxItems"); !count.is_null()) most = std::min(most, count_of(count)), bounded = true;
      const Json items = schema.find("items"), prefix = schema.find("prefixItems");
      if (!prefix.is_null() && !prefix.is_array()) prefix.fail("is not an array");
      listed = std::max({listed, prefix.size(), items.is_array() ? items.size() : 0});
    }
    if (fewest > longest_array) throw UnsupportedError("a JSON schema with arrays of at least " + std::to_string(fewest) + " elements");
    if (most < fewest) return Grammar::dead;
    const auto item = [&](std::size_t index) {
      AllOf all_of;
      for (const Json& schema : flat.arrays) {
        // Before 2020 the list stood in `items` and the rest in `additionalItems`.
        const Json items = schema.find("items"), prefix = schema.find("prefixItems");
        const Json list = items.is_array() ? items : prefix, rest = items.is_array() ? schema.find("additionalItems") : items;
        if (index < list.size())
          all_of.push_back(list.at(index));
        else if (!rest.is_null())
          all_of.push_back(rest);
      }
      return all_of;
    };
    const std::size_t regular = std::max(listed, fewest);  // from here on each element is like the one before
    std::uint32_t after = 0;
    const std::uint32_t close = grammar_.byte(']', ']', Grammar::end);
    const auto comma = [&](std::uint32_t node) { return grammar_.byte(',', ',', node); };
    std::size_t at = regular;
    if (bounded) {
      at = std::min(most, regular + longest_array);
      after = close;
    } else {
      const std::uint32_t loop = grammar_.placeholder();
      grammar_.become(loop, close, comma(call(item(regular), loop)));
      after = loop;
    }
    // `after`: what may follow `at` elements.
    const std::uint32_t unbounded = after;
    for (; at > 0; --at) {
      const std::uint32_t element = call(item(at - 1), after);
      if (at == 1)
        after = grammar_.split(fewest == 0 ? close : Grammar::dead, element);
      else
        after = grammar_.split(at - 1 >= fewest ? close : Grammar::dead, comma(element));
    }
    if (regular == 0 && !bounded) after = grammar_.split(close, call(item(0), unbounded));
    return grammar_.byte('[', '[', after);
  }

  // Objects: the listed properties in the schema's order, then others.

  static std::string spelled(std::string_view name) {
    std::string text = "\"";
    for (const char c : name) {
      const auto byte = static_cast<unsigned char>(c);
      constexpr std::string_view codes = "\b\f\n\r\t\"\\", names = "bfnrt\"\\";
      if (const std::size_t at = codes.find(c); at != std::string_view::npos) {
        text += '\\';
        text += names[at];
      } else if (byte < 0x20) {
        text += "\\u00";
        text += byte < 0x10 ? '0' : '1';
        text += "0123456789abcdef"[byte & 15];
      } else {
        text += c;
      }
    }
    return text + '"';
  }

  std::uint32_t object_of(const Flat& flat) {
    std::vector<std::string> names;
    std::set<std::string> known, required;
    AllOf others;  // what the properties that are not listed must be
    bool others_said = false;
    std::size_t fewest = 0, most = longest_array * 1000;
    bool bounded = false;
    for (const Json& schema : flat.objects) {
      const Json properties = schema.find("properties");
      if (!properties.is_null() && !properties.is_object()) properties.fail("is not an object");
      for (const Json property : properties)
        if (known.insert(std::string(property.key())).second) names.emplace_back(property.key());
      if (const Json rest = schema.find("additionalProperties"); !rest.is_null()) {
        others.push_back(rest);
        others_said = true;
      }
      if (const Json list = schema.find("required"); !list.is_null())
        for (std::string& name : list.as_vector<std::string>()) required.insert(std::move(name));
      if (const Json count = schema.find("minProperties"); !count.is_null()) fewest = std::max(fewest, count_of(count));
      if (const Json count = schema.find("maxProperties"); !count.is_null()) most = std::min(most, count_of(count)), bounded = true;
    }
    const bool open = others_said || names.empty();
    for (const std::string& name : required)
      if (known.insert(name).second) names.push_back(name);
    const auto member = [&](const std::string& name) {
      AllOf all_of;
      for (const Json& schema : flat.objects) {
        const Json properties = schema.find("properties");
        if (properties.contains(name))
          all_of.push_back(properties[name]);
        else if (const Json rest = schema.find("additionalProperties"); !rest.is_null())
          all_of.push_back(rest);
      }
      return all_of;
    };

    // What may follow once `count` properties are there: the number matters up to `counted`.
    constexpr std::size_t most_others = 64;
    if (bounded) most = std::min(most, names.size() + most_others);
    const std::size_t counted = std::max<std::size_t>({1, std::min(fewest, names.size() + 1), bounded ? most : 0});
    const auto comma = [&](std::size_t count, std::uint32_t node) { return count == 0 ? node : grammar_.byte(',', ',', node); };
    const std::uint32_t close = grammar_.byte('}', '}', Grammar::end);
    std::vector<std::uint32_t> after(counted + 1, Grammar::dead);
    // Other properties. A key may come twice, so however many there are they count as one more towards minProperties.
    const bool more = open && std::none_of(others.begin(), others.end(), [](const Json& schema) { return schema.is_bool() && !schema.as_bool(); });
    for (std::size_t count = 0; count <= counted; ++count) {
      if (count >= fewest && (!bounded || count <= most)) after[count] = close;
      if (!more || count + 1 < fewest) continue;
      std::uint32_t then = close;
      if (!bounded) {
        const std::uint32_t loop = grammar_.placeholder();
        grammar_.become(loop, close, grammar_.byte(',', ',', other(known, others, loop)));
        then = loop;
      } else if (count >= most) {
        continue;
      } else {
        for (std::size_t left = most - count - 1; left > 0; --left) then = grammar_.split(close, grammar_.byte(',', ',', other(known, others, then)));
      }
      after[count] = grammar_.split(after[count], comma(count, other(known, others, then)));
    }
    for (std::size_t i = names.size(); i > 0; --i) {
      const std::string& name = names[i - 1];
      std::vector<std::uint32_t> now(counted + 1, Grammar::dead);
      for (std::size_t count = 0; count <= std::min(counted, i - 1); ++count) {
        const std::size_t next = std::min(count + 1, counted);
        if (!(bounded && count >= most)) now[count] = comma(count, grammar_.text(spelled(name) + ":", call(member(name), after[next])));
        if (!required.contains(name)) now[count] = grammar_.split(now[count], after[count]);
      }
      after = std::move(now);
    }
    return grammar_.byte('{', '{', after[0]);
  }

  /// A property that is none of `names`. Its key has no escapes, so that no other spelling of a listed name slips through.
  std::uint32_t other(const std::set<std::string>& names, const AllOf& schemas, std::uint32_t next) {
    if (next == Grammar::dead) return next;
    std::string key;
    for (const std::string& name : names) key += std::to_string(name.size()) + ":" + name;
    const auto [found, fresh] = key_rule_of_.try_emplace(std::move(key), 0);
    if (fresh) {
      const std::uint32_t rule = grammar_.add_rule();
      found->second = rule;
      const CharSet plain = complement(Grammar::escaped());
      const std::uint32_t close = grammar_.byte('"', '"', Grammar::end), rest = grammar_.placeholder();
      grammar_.become(rest, grammar_.character(plain, Spelling::plain, rest), close);
      const std::vector<std::string> sorted(names.begin(), names.end());
      const std::uint32_t start = unlike(sorted, 0, sorted.size(), 0, plain, close, rest);
      grammar_.rules[rule] = grammar_.byte('"', '"', start);
    }
    return grammar_.call(found->second, grammar_.byte(':', ':', call(schemas, next)));
  }
  std::uint32_t unlike(const std::vector<std::string>& names, std::size_t begin, std::size_t stop, std::size_t depth, const CharSet& plain, std::uint32_t close,
                       std::uint32_t rest) {
    if (begin == stop) return grammar_.split(close, grammar_.character(plain, Spelling::plain, rest));
    if (depth > 2000) throw UnsupportedError("a JSON schema with a property's name of more than 2000 bytes beside additionalProperties");
    std::uint32_t node = close;
    CharSet taken;
    if (names[begin].size() == depth) node = Grammar::dead, ++begin;
    while (begin < stop) {
      std::size_t at = depth;
      const char32_t code = unicode::next(names[begin], at);
      std::size_t end = begin;
      while (end < stop && names[end].compare(depth, at - depth, names[begin], depth, at - depth) == 0) ++end;
      taken.push_back({code, code});
      const std::uint32_t below = contains(plain, code) ? unlike(names, begin, end, at, plain, close, rest) : Grammar::dead;
      node = grammar_.split(grammar_.character({{code, code}}, Spelling::plain, below), node);
      begin = end;
    }
    return grammar_.split(grammar_.character(without(plain, tidy(std::move(taken))), Spelling::plain, rest), node);
  }

  // The values of an enum that the rest of the schema lets through.

  static std::vector<Json> values_of(const Json& keyword) {
    if (keyword.key() == "const") return {keyword};
    std::vector<Json> values;
    for (const Json value : keyword) values.push_back(value);
    return values;
  }

  static bool equal(const Json& a, const Json& b) {
    if (a.is_number() && b.is_number()) return a.is_integer() && b.is_integer() ? a.dump() == b.dump() : a.as_double() == b.as_double();
    if (a.kind() != b.kind() || a.size() != b.size()) return false;
    if (a.is_array()) {
      for (auto i = a.begin(), j = b.begin(); i != a.end(); ++i, ++j)
        if (!equal(*i, *j)) return false;
      return true;
    }
    if (a.is_object()) {
      for (const Json member : a)
        if (!b.contains(member.key()) || !equal(member, b[member.key()])) return false;
      return true;
    }
    return a.dump() == b.dump();
  }

  bool valid(const Json& value, const Json& schema, int depth) const {
    if (schema.is_bool()) return schema.as_bool();
    if (depth > 200) unsupported(schema, "a schema that refers to itself for the same value");
    using Kind = Json::Kind;
    if (schema.contains("type")) {
      const Kind kind = value.kind();
      const bool whole = kind == Kind::integer || (kind == Kind::number && value.as_double() == std::floor(value.as_double()));
      const unsigned type = kind == Kind::null ? null : kind == Kind::boolean ? boolean : kind == Kind::string ? string : kind == Kind::array ? array
                            : kind == Kind::object ? object : whole ? integer : fraction;
      if (!(types_of(schema) & type)) return false;
    }
    if (const Json reference = schema.find("$ref"); !reference.is_null() && !valid(value, resolve(reference), depth + 1)) return false;
    for (const Json part : schema.find("allOf"))
      if (!valid(value, part, depth + 1)) return false;
    for (const char* key : {"anyOf", "oneOf"}) {
      const Json options = schema.find(key);
      if (options.is_null()) continue;
      bool any = false;
      for (const Json part : options) any = any || valid(value, part, depth + 1);
      if (!any) return false;
    }
    if (schema.contains("const") && !equal(value, schema["const"])) return false;
    if (schema.contains("enum")) {
      bool any = false;
      for (const Json option : schema["enum"]) any = any || equal(value, option);
      if (!any) return false;
    }
    Flat flat;
    merge(flat, schema);
    if (value.is_number()) {
      for (const auto& [bound, exclusive] : flat.lowest)
        if (!(exclusive ? value.as_double() > bound.as_double() : value.as_double() >= bound.as_double())) return false;
      for (const auto& [bound, exclusive] : flat.highest)
        if (!(exclusive ? value.as_double() < bound.as_double() : value.as_double() <= bound.as_double())) return false;
      if (schema.contains("multipleOf") && value.as_double() != std::floor(value.as_double())) return false;
    }
    if (value.is_string()) {
      const std::string_view text = value.as_string();
      const auto length = static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
      if (length < flat.min_length || length > flat.max_length.value_or(length)) return false;
      for (const std::string& pattern : flat.patterns)
        if (!Regex::compile(pattern, Regex::Mode::search).matches(text)) return false;
      for (const std::string& pattern : flat.formats)
        if (!Regex::compile(pattern, Regex::Mode::exact).matches(text)) return false;
    }
    if (value.is_array()) {
      const Json items = schema.find("items"), prefix = items.is_array() ? items : schema.find("prefixItems"), rest = items.is_array() ? schema.find("additionalItems") : items;
      if (const Json count = schema.find("minItems"); !count.is_null() && value.size() < count_of(count)) return false;
      if (const Json count = schema.find("maxItems"); !count.is_null() && value.size() > count_of(count)) return false;
      std::size_t index = 0;
      for (const Json element : value) {
        const Json inner = index < prefix.size() ? prefix.at(index) : rest;
        if (!inner.is_null() && !valid(element, inner, depth + 1)) return false;
        ++index;
      }
    }
    if (value.is_object()) {
      const Json properties = schema.find("properties"), rest = schema.find("additionalProperties");
      for (const Json name : schema.find("required"))
        if (!value.contains(name.as_string())) return false;
      if (const Json count = schema.find("minProperties"); !count.is_null() && value.size() < count_of(count)) return false;
      if (const Json count = schema.find("maxProperties"); !count.is_null() && value.size() > count_of(count)) return false;
      for (const Json member : value) {
        const Json inner = properties.contains(member.key()) ? properties[member.key()] : rest;
        if (!inner.is_null() && !valid(member, inner, depth + 1)) return false;
      }
    }
    return true;
  }

  Grammar& grammar_;
  Json root_;
  std::map<std::string, std::uint32_t> rule_of_, key_rule_of_;
  std::vector<std::pair<std::uint32_t, AllOf>> open_;
};

}  // namespace constrained
}  // namespace chiasm
