/// JSON schemas for tests: a seeded generator, and a validator that shares nothing with the library but the specification. oneOf is read as anyOf.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace schemas {

using nlohmann::ordered_json;

class Validator {
 public:
  explicit Validator(ordered_json root) : root_(std::move(root)) {}
  bool operator()(const ordered_json& value) const { return valid(value, root_); }

 private:
  static std::size_t characters(const std::string& text) {
    std::size_t count = 0;
    for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
    return count;
  }
  static bool is(const ordered_json& value, const std::string& type) {
    if (type == "null") return value.is_null();
    if (type == "boolean") return value.is_boolean();
    if (type == "string") return value.is_string();
    if (type == "array") return value.is_array();
    if (type == "object") return value.is_object();
    if (type == "number") return value.is_number();
    if (type == "integer") return value.is_number_integer() || (value.is_number() && value.get<double>() == std::floor(value.get<double>()));
    return false;
  }
  static bool same(const ordered_json& a, const ordered_json& b) { return nlohmann::json(a) == nlohmann::json(b); }
  static bool formatted(const std::string& text, const std::string& format) {
    static const std::regex date(R"((\d{4})-(\d\d)-(\d\d))"), uuid(R"([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"), email(R"([^@\s]+@[^@\s.]+(\.[^@\s.]+)+)"),
        time(R"((\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d))");
    std::smatch match;
    const auto is_date = [&](const std::string& day) {
      if (!std::regex_match(day, match, date)) return false;
      const int year = std::stoi(match[1]), month = std::stoi(match[2]), number = std::stoi(match[3]);
      const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
      static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
      return year > 0 && month >= 1 && month <= 12 && number >= 1 && number <= days[month - 1] + (month == 2 && leap);
    };
    if (format == "date") return is_date(text);
    if (format == "date-time") {
      if (text.size() < 11 || text[10] != 'T' || !is_date(text.substr(0, 10))) return false;
      const std::string clock = text.substr(11);
      return std::regex_match(clock, match, time) && std::stoi(match[1]) < 24 && std::stoi(match[2]) < 60 && std::stoi(match[3]) < 60;
    }
    if (format == "uuid") return std::regex_match(text, uuid);
    if (format == "email") return std::regex_match(text, email);
    return false;
  }

  bool valid(const ordered_json& value, const ordered_json& schema) const {
    if (schema.is_boolean()) return schema.get<bool>();
    if (schema.contains("$ref") && !valid(value, root_.at(ordered_json::json_pointer(schema["$ref"].get<std::string>().substr(1))))) return false;
    if (schema.contains("type")) {
      bool any = schema.value("nullable", false) && value.is_null();
      if (schema["type"].is_string()) any = any || is(value, schema["type"]);
      else
        for (const std::string type : schema["type"]) any = any || is(value, type);
      if (!any) return false;
    }
    if (schema.contains("const") && !same(value, schema["const"])) return false;
    if (schema.contains("enum")) {
      bool any = false;
      for (const ordered_json& option : schema["enum"]) any = any || same(value, option);
      if (!any) return false;
    }
    if (schema.contains("allOf"))
      for (const ordered_json& part : schema["allOf"])
        if (!valid(value, part)) return false;
    for (const char* key : {"anyOf", "oneOf"}) {
      if (!schema.contains(key)) continue;
      bool any = false;
      for (const ordered_json& part : schema[key]) any = any || valid(value, part);
      if (!any) return false;
    }
    if (value.is_number()) {
      const double number = value.get<double>();
      if (schema.contains("minimum") && !(number >= schema["minimum"].get<double>())) return false;
      if (schema.contains("maximum") && !(number <= schema["maximum"].get<double>())) return false;
      if (schema.contains("exclusiveMinimum") && !(number > schema["exclusiveMinimum"].get<double>())) return false;
      if (schema.contains("exclusiveMaximum") && !(number < schema["exclusiveMaximum"].get<double>())) return false;
    }
    if (value.is_string()) {
      const std::string text = value;
      if (characters(text) < schema.value("minLength", std::size_t{0}) || characters(text) > schema.value("maxLength", text.size())) return false;
      if (schema.contains("pattern") && !std::regex_search(text, std::regex(schema["pattern"].get<std::string>()))) return false;
      if (schema.contains("format") && !formatted(text, schema["format"])) return false;
    }
    if (value.is_array()) {
      if (value.size() < schema.value("minItems", std::size_t{0}) || value.size() > schema.value("maxItems", value.size())) return false;
      const ordered_json prefix = schema.value("prefixItems", ordered_json::array());
      for (std::size_t i = 0; i < value.size(); ++i) {
        if (i < prefix.size()) {
          if (!valid(value[i], prefix[i])) return false;
        } else if (schema.contains("items") && !valid(value[i], schema["items"])) {
          return false;
        }
      }
    }
    if (value.is_object()) {
      if (schema.contains("required"))
        for (const std::string name : schema["required"])
          if (!value.contains(name)) return false;
      if (value.size() < schema.value("minProperties", std::size_t{0}) || value.size() > schema.value("maxProperties", value.size())) return false;
      const ordered_json properties = schema.value("properties", ordered_json::object());
      for (const auto& [name, member] : value.items()) {
        if (properties.contains(name)) {
          if (!valid(member, properties[name])) return false;
        } else if (schema.contains("additionalProperties") && !valid(member, schema["additionalProperties"])) {
          return false;
        }
      }
    }
    return true;
  }

  ordered_json root_;
};

/// Random schemas; each has a document of moderate length.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed) {}

  ordered_json operator()() {
    recursive_ = chance(4);
    ordered_json schema = make(3);
    if (!schema.is_object()) schema = {{"type", "object"}};
    if (recursive_)
      schema["$defs"] = {{"node", {{"type", "object"},
                                    {"properties", {{"value", leaf()}, {"next", {{"anyOf", {{{"type", "null"}}, {{"$ref", "#/$defs/node"}}}}}}, {"children", {{"type", "array"}, {"items", {{"$ref", "#/$defs/node"}}}}}}},
                                    {"required", {"value"}},
                                    {"additionalProperties", false}}}};
    return schema;
  }

 private:
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
  bool chance(std::size_t one_in) { return below(one_in) == 0; }
  template <class T>
  T pick(std::vector<T> options) { return options[below(options.size())]; }

  ordered_json text() {
    ordered_json schema = {{"type", "string"}};
    switch (below(6)) {
      case 0: schema["minLength"] = below(6); break;
      case 1: schema["maxLength"] = below(20); break;
      case 2: {
        const std::size_t least = below(8);
        schema["minLength"] = least;
        schema["maxLength"] = least + below(10);
        break;
      }
      case 3: {
        schema["pattern"] = pick<std::string>({"^[a-z]{2,8}$", "^[A-Z][a-z]+( [A-Z][a-z]+)?$", "[0-9]", "^\\d{3}-\\d{4}$", "^(red|green|blue)$", "a.c", "^[^\"\\\\]*$", "^\\S+$", "\\w{2}", "^[\"\\\\/]{1,3}$"});
        if (chance(4)) schema["maxLength"] = 12;
        break;
      }
      case 4: schema["format"] = pick<std::string>({"date", "date-time", "uuid", "email"}); break;
      default: break;
    }
    return schema;
  }
  ordered_json number() {
    const bool whole = chance(2);
    ordered_json schema = {{"type", whole ? "integer" : "number"}};
    const auto bound = [&]() -> ordered_json {
      const auto value = static_cast<std::int64_t>(below(4001)) - 2000;
      if (whole && !chance(6)) return value;
      switch (below(3)) {
        case 0: return value;
        case 1: return static_cast<double>(value) / 8;
        default: return static_cast<double>(value) / 1000;
      }
    };
    const auto low = bound();
    const double width = static_cast<double>(below(2000)) / pick<double>({1, 10, 100}) + (whole ? 2 : 0.01);
    if (chance(2)) schema[chance(2) ? "minimum" : "exclusiveMinimum"] = low;
    if (chance(2)) schema[chance(2) ? "maximum" : "exclusiveMaximum"] = low.get<double>() + width;
    return schema;
  }
  ordered_json leaf() {
    switch (below(9)) {
      case 0: return {{"type", "boolean"}};
      case 1: return {{"type", "null"}};
      case 2: return {{"enum", {"red", 1, nullptr, true, "gr\"een", 2.5, {{"a", 1}}}}};
      case 3: return {{"const", pick<ordered_json>({"yes", 7, false, ordered_json::array({1, "x"})})}};
      case 4: {
        ordered_json schema = text();
        schema["nullable"] = true;
        return schema;
      }
      case 5:
      case 6: return number();
      default: return text();
    }
  }
  ordered_json make(int depth) {
    if (depth == 0) return leaf();
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
      case 3: return object(depth);
      case 4:
      case 5: return list(depth);
      case 6: {
        ordered_json any = ordered_json::array();
        for (std::size_t i = 0; i < 1 + below(3); ++i) any.push_back(make(depth - 1));
        return {{chance(2) ? "anyOf" : "oneOf", any}};
      }
      case 7: return {{"type", pick<ordered_json>({{"string", "null"}, {"integer", "boolean"}, {"number", "string"}, {"array", "null"}})}};
      case 8: {
        ordered_json all = ordered_json::array({object(depth), object(depth)});
        for (ordered_json& part : all) part.erase("additionalProperties"), part.erase("maxProperties");
        // Both may name a property: keep them compatible.
        for (auto& [name, schema] : all[1]["properties"].items())
          if (all[0]["properties"].contains(name)) schema = all[0]["properties"][name];
        return {{"allOf", all}};
      }
      case 9:
        if (recursive_) return {{"$ref", "#/$defs/node"}};
        return leaf();
      case 10: return ordered_json::object();
      default: return leaf();
    }
  }
  ordered_json object(int depth) {
    static const std::vector<std::string> names = {"name", "age", "color", "size", "tags", "id", "is \"it\"", "日本", "x", "nested", ""};
    ordered_json schema = {{"type", "object"}, {"properties", ordered_json::object()}};
    std::vector<std::string> required;
    for (std::size_t i = 0; i < below(5); ++i) {
      const std::string name = pick(names);
      if (schema["properties"].contains(name)) continue;
      schema["properties"][name] = make(depth - 1);
      if (chance(2)) required.push_back(name);
    }
    if (!required.empty() || chance(3)) schema["required"] = required;
    switch (below(4)) {
      case 0: schema["additionalProperties"] = false; break;
      case 1: schema["additionalProperties"] = chance(2) ? ordered_json(true) : leaf(); break;
      default: break;
    }
    if (chance(6) && !schema["properties"].empty()) schema["minProperties"] = 1;
    if (chance(6)) schema["maxProperties"] = required.size() + 1;
    return schema;
  }
  ordered_json list(int depth) {
    ordered_json schema = {{"type", "array"}};
    if (!chance(5)) schema["items"] = make(depth - 1);
    if (chance(4)) {
      schema["prefixItems"] = ordered_json::array();
      for (std::size_t i = 0; i < 1 + below(2); ++i) schema["prefixItems"].push_back(make(depth - 1));
    }
    const std::size_t least = below(3);
    if (chance(2)) schema["minItems"] = least;
    if (chance(2)) schema["maxItems"] = least + below(4);
    return schema;
  }

  std::uint64_t state_;
  bool recursive_ = false;
};

}  // namespace schemas
