#include <chiasm/io/constraint.hpp>

#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer.hpp>

#include "support/catch.hpp"
#include "support/json_schema.hpp"
#include "support/paths.hpp"

#include <bit>
#include <fstream>
#include <thread>

using namespace chiasm;
using nlohmann::ordered_json;

namespace {

std::uint64_t random_bits(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// An answer drawn evenly from the allowed tokens, the end token among them; at most `budget` of them.
std::vector<TokenId> draw(const Constraint& constraint, std::span<const TokenId> ends, std::size_t budget, std::uint64_t seed) {
  std::vector<TokenId> answer;
  std::vector<std::uint64_t> mask;
  Constraint::State state;
  while (answer.size() < budget) {
    constraint.allowed(state, answer, ends, budget - answer.size(), mask);
    std::size_t count = 0;
    for (const std::uint64_t word : mask) count += static_cast<std::size_t>(std::popcount(word));
    std::size_t nth = static_cast<std::size_t>(random_bits(seed) % count);
    TokenId id = 0;
    for (std::size_t i = 0; i < mask.size() * 64; ++i)
      if ((mask[i / 64] >> (i % 64) & 1) && nth-- == 0) id = static_cast<TokenId>(i);
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) break;
    answer.push_back(id);
    if (constraint.complete(state, answer, ends, budget - answer.size())) break;
  }
  return answer;
}

Constraint schema(const ordered_json& json) { return Constraint::json_schema(json.dump()); }

std::string said(const std::string& text) { return Json::parse("[" + ordered_json(text).dump(-1, ' ', true, ordered_json::error_handler_t::replace) + "]").at(0).dump(); }

}  // namespace

TEST_CASE("a regular expression matches what Python's does") {
  std::ifstream file(test_data("constraint/regex.json"));
  for (const ordered_json& example : ordered_json::parse(file)) {
    const std::string pattern = example["pattern"];
    INFO(pattern);
    const Constraint constraint = [&] {
      try {
        return Constraint::regex(pattern);
      } catch (const Error& error) {
        FAIL(pattern << ": " << error.what());
        throw;
      }
    }();
    for (const std::string text : example["yes"]) {
      INFO("matches " << said(text));
      CHECK(constraint.matches(text));
    }
    for (const std::string text : example["no"]) {
      INFO("does not match " << said(text));
      CHECK_FALSE(constraint.matches(text));
    }
  }
}

TEST_CASE("what a regular expression cannot be is said with its place") {
  const auto fails = [](const std::string& pattern, const std::string& word) {
    INFO(pattern);
    try {
      (void)Constraint::regex(pattern);
      FAIL("no error");
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(std::string(error.what()).find(word) != std::string::npos);
    }
  };
  for (const auto& [pattern, word] : std::vector<std::pair<std::string, std::string>>{
           {"a(?=b)", "lookaround in a regular expression (byte 1"}, {"(?<!a)b", "lookaround"}, {"(a)\\1", "back reference in a regular expression (byte 3"}, {"(?P<x>a)(?P=x)", "back reference"},
           {"a\\b", "word boundary"}, {"(?i)a", "flags"}, {"a++", "possessive"}, {"(?>a)", "atomic"}, {"a^b", "'^' behind the beginning"}, {"a$b", "'$' before the end"}, {"\\q", "'\\q'"},
           {"\\p{Greek}", "property"}, {"((((a{1000}){1000}){1000}){1000})", "unfolds"}})
    {
      fails(pattern, "not supported: ");
      fails(pattern, word);
    }
  for (const auto& [pattern, word] : std::vector<std::pair<std::string, std::string>>{
           {"a)", "byte 1: ')'"}, {"b(a", "byte 1: '('"}, {"[a", "byte 0: '['"}, {"*a", "byte 0: nothing to repeat"}, {"a**", "quantifier after"}, {"[b-a]", "range"}, {"a{3,2}", "least number"},
           {"a\\", "at the end"}, {"\\xg1", "hexadecimal"}, {"\xFF", "UTF-8"}, {"[^\\s\\S]", "no text"}})
    {
      fails(pattern, word);
      CHECK_THROWS_AS(Constraint::regex(pattern), FormatError);
    }
  CHECK_THROWS_AS(Constraint::choices({}), ArgumentError);
  CHECK_THROWS_AS(Constraint::choices({"\xFF"}), ArgumentError);
}

TEST_CASE("choices are the texts themselves") {
  const Constraint constraint = Constraint::choices({"red", "green", "red wine", "", "gr\xC3\xBCn"});
  for (const char* yes : {"red", "green", "red wine", "", "gr\xC3\xBCn"}) CHECK(constraint.matches(yes));
  for (const char* no : {"re", "redd", "gree", "red ", "gr\xC3", " red"}) CHECK_FALSE(constraint.matches(no));
  CHECK(constraint.source() == Constraint::choices({"red", "green", "red wine", "", "gr\xC3\xBCn"}).source());
}

TEST_CASE("a JSON schema allows compact documents of its kind") {
  struct Example {
    const char* schema;
    std::vector<std::string> yes, no;
  };
  const std::vector<Example> examples = {
      {R"({"type": "integer", "minimum": -12, "maximum": 105})", {"0", "-12", "105", "99", "-1", "7"}, {"-13", "106", "00", "-0", "1.0", "01", "", "-", "1000"}},
      {R"({"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 4})", {"2", "3"}, {"1", "4"}},
      {R"({"type": "integer"})", {"0", "-1", "123456789012345678"}, {"-0", "1234567890123456789", "1.5"}},
      {R"({"type": "number", "minimum": 0.25, "exclusiveMaximum": 0.5})", {"0.25", "0.3", "0.49999", "0.250"}, {"0.2", "0.5", "0.50", "0", "0.249", "1", ".3", "0."}},
      {R"({"type": "number", "exclusiveMinimum": -1, "maximum": 1})", {"-0.5", "0", "1", "1.0", "0.0", "-0.999999"}, {"-1", "-1.0", "1.000001", "2"}},
      {R"({"type": "number", "minimum": 1e3})", {"1000", "1000.5", "99999999"}, {"999.9", "-1000"}},
      {R"({"type": "number"})", {"0", "-1.5", "1e9", "2.5E-3"}, {"1.", "+1", "01"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})", {"\"ab\"", "\"\\n\\\"\"", "\"日本語\"", "\"\\u001f\xF0\x9F\x98\x80\""}, {"\"a\"", "\"abcd\"", "ab", "\"a\n\"", "\"\\u0061b\""}},
      {R"({"type": "string", "pattern": "b+"})", {"\"b\"", "\"abba\""}, {"\"aa\"", "\"\""}},
      {R"({"type": "string", "pattern": "^\\d\\D$"})", {"\"1a\""}, {"\"\xD9\xA1" "a\"", "\"1\xD9\xA1\"", "\"11\""}},
      {R"({"type": "string", "pattern": "^a", "maxLength": 2})", {"\"a\"", "\"ab\""}, {"\"ba\"", "\"abc\""}},
      {R"({"type": "string", "format": "date"})", {"\"2024-02-28\"", "\"1999-12-31\""}, {"\"2024-02-30\"", "\"2023-04-31\"", "\"2024-13-01\""}},
      {R"({"type": "string", "enum": ["a", 1, "b"]})", {"\"a\"", "\"b\""}, {"1"}},
      {R"({"enum": ["a", 1, null, [1, {"x": 2}]]})", {"\"a\"", "1", "null", "[1,{\"x\":2}]"}, {"2", "[1,{\"x\": 2}]"}},
      {R"({"const": null})", {"null"}, {"0", ""}},
      {R"({"type": ["boolean", "null"]})", {"true", "false", "null"}, {"0"}},
      {R"({"type": "string", "nullable": true})", {"null", "\"\""}, {"1"}},
      {R"({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 3})", {"[1]", "[1,2,3]"}, {"[]", "[1,2,3,4]", "[1, 2]", "[10]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}})", {"[]", "[1]", "[1,2]", "[1,2,3,3,3]"}, {"[2]", "[1,2,4]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}], "items": false})", {"[]", "[1]"}, {"[1,1]"}},
      {R"({"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 2})", {"[1,2]", "[1,2,2]"}, {"[1]", "[1,1]"}},
      {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
      {R"({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]})",
       {R"({"b":2})", R"({"a":1,"b":2,"c":3})", R"({"b":2,"c":3})"}, {"{}", R"({"a":1})", R"({"b":2,"a":1})", R"({"b":2,"d":1})", R"({,"b":2})"}},
      {R"({"type": "object", "properties": {"ab": {"const": 1}}, "additionalProperties": {"const": 0}})",
       {"{}", R"({"ab":1})", R"({"ab":1,"a":0,"abc":0,"":0})", R"({"b":0})", R"({"é":0})"}, {R"({"ab":0})", R"({"a":0,"ab":1})", R"({"\u0061b":0})", R"({"a":1})"}},
      {R"({"type": "object"})", {"{}", R"({"a":[1,{"b":null}]})"}, {"[]", R"({"a":})"}},
      {R"({"type": "object", "required": ["x"]})", {R"({"x":1})", R"({"x":1,"y":2})"}, {"{}", R"({"y":2})"}},
      {R"({"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"const": 0}})", {R"({"a":0})", R"({"a":0,"b":0})"}, {"{}", R"({"a":0,"b":0,"c":0})"}},
      {R"({"type": "object", "properties": {"a": {"const": 0}, "b": {"const": 0}, "c": {"const": 0}}, "minProperties": 2})",
       {R"({"a":0,"b":0})", R"({"b":0,"c":0})", R"({"a":0,"b":0,"c":0})"}, {"{}", R"({"c":0})"}},
      {R"({"anyOf": [{"type": "integer"}, {"const": "x"}], "maximum": 5, "type": ["integer", "string"]})", {"5", "\"x\""}, {"6", "\"y\""}},
      {R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}, {"properties": {"a": {"maximum": 2}, "b": {"const": 0}}}]})",
       {R"({"a":1})", R"({"a":2,"b":0})"}, {R"({"a":3})", R"({"b":0})"}},
      {R"({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": false}, {"properties": {"b": {"const": 0}}}]})", {"{}", R"({"a":1})"}, {R"({"b":0})"}},
      {R"({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "required": ["v"]}}})",
       {R"({"v":1})", R"({"v":1,"kids":[{"v":2,"kids":[{"v":3}]},{"v":4}]})"}, {R"({"kids":[]})", R"({"v":1,"kids":[1]})"}},
      {R"({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]})", {"1", "[]", "[[1],[[2,3]]]"}, {"[a]", "[[1]"}},
      {"true", {"null", "[1,\"a\",{}]", "-1.5"}, {"", "nul"}},
      {R"({"properties": {"a": {"type": "null"}}})", {"{}", R"({"a":null})"}, {"1", R"({"a":1})"}},
      {R"({"type": "object", "properties": {"a/b": {"$ref": "#/properties/c~1d"}, "c/d": {"const": 1}}})", {R"({"a/b":1})"}, {R"({"a/b":2})"}},
  };
  for (const Example& example : examples) {
    INFO(example.schema);
    const Constraint constraint = Constraint::json_schema(std::string_view(example.schema));
    for (const std::string& text : example.yes) {
      INFO("allows " << text);
      CHECK(constraint.matches(text));
    }
    for (const std::string& text : example.no) {
      INFO("forbids " << text);
      CHECK_FALSE(constraint.matches(text));
    }
  }
}

TEST_CASE("what a JSON schema cannot be is said with its JSON pointer") {
  for (const auto& [text, word] : std::vector<std::pair<std::string, std::string>>{
           {R"({"properties": {"a": {"not": {"type": "null"}}}})", "/properties/a/not"}, {R"({"type": "array", "uniqueItems": true})", "/uniqueItems"}, {R"({"multipleOf": 3})", "/multipleOf"},
           {R"({"type": "object", "patternProperties": {}})", "/patternProperties"}, {R"({"if": true})", "/if"}, {R"({"type": "string", "format": "ipv6"})", "/format"},
           {R"({"$ref": "http://x"})", "another document"}, {R"({"$ref": "#"})", "refers to itself"}, {R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", "refers to itself"}, {R"-({"type": "string", "pattern": "a(?=b)"})-", "lookaround"},
           {R"({"type": "object", "propertyNames": {}})", "propertyNames"}, {R"({"type": "string", "minLength": 100000})", "100000"}}) {
    INFO(text);
    CHECK_THROWS_AS(Constraint::json_schema(std::string_view(text)), UnsupportedError);
    try {
      (void)Constraint::json_schema(std::string_view(text));
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(std::string(error.what()).find(word) != std::string::npos);
    }
  }
  for (const char* text : {R"({"type": "strin"})", R"({"$ref": "#/$defs/none"})", R"([])", R"({"type": "integer", "minimum": 3, "maximum": 2})", R"({"type": "object", "properties": {"a": false}, "required": ["a"]})",
                           R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", R"({"enum": []})", R"({"items": 3})", R"({"minLength": -1})", "false", R"({"required": [1]})", R"({"minimum": "x"})"}) {
    INFO(text);
    CHECK_THROWS_AS(Constraint::json_schema(std::string_view(text)), ConfigError);
  }
  CHECK_THROWS_AS(Constraint::json_schema(std::string_view("{")), FormatError);
}

TEST_CASE("drawn at random within a constraint, an answer is one of its texts and ends in time", "[random]") {
  for (const std::string folder : {"tokenizer/llama", "tokenizer/qwen2"}) {
    const Tokenizer tokenizer = Tokenizer::load(test_data(folder));
    const auto vocabulary = Constraint::vocabulary(tokenizer);
    std::vector<TokenId> ends;
    for (TokenId id = 0; id < 1200 && ends.empty(); ++id)
      if (tokenizer.is_special(id)) ends.push_back(id);
    for (const bool continues : {false, true}) {
      const auto text_of = [&](std::vector<TokenId> answer) {
        if (!continues) return tokenizer.decode(answer, true);
        const std::vector<TokenId> before = tokenizer.encode("a", false);
        answer.insert(answer.begin(), before.begin(), before.end());
        return tokenizer.decode(answer, true).substr(tokenizer.decode(before, true).size());
      };
      for (const std::string pattern : {"a+", "(red|green|blue)( (red|green|blue))*", "[A-Z][a-z]{2,10} is \\d+ years old\\.", ".{0,40}", " ?[^a-z]+", "[\\u4e00-\\u9fff]{3}", "\\s*x"}) {
        const Constraint constraint = Constraint::regex(pattern), bound = constraint.on(vocabulary, continues);
        for (std::uint64_t seed = 0; seed < 20; ++seed)
          for (const std::size_t budget : {bound.shortest(), bound.shortest() + 3, std::size_t{60}}) {
            const std::string text = text_of(draw(bound, ends, budget, seed));
            INFO(folder << " " << pattern << " " << said(text));
            CHECK(constraint.matches(text));
          }
      }
    }
    schemas::Generator generator(7);
    for (int i = 0; i < 300; ++i) {
      const ordered_json json = generator();
      INFO(json.dump());
      const Constraint constraint = schema(json), bound = constraint.on(vocabulary);
      for (const std::size_t budget : {bound.shortest(), bound.shortest() + 100}) {
        const std::string text = tokenizer.decode(draw(bound, ends, budget, static_cast<std::uint64_t>(i)), true);
        INFO(said(text));
        CHECK(constraint.matches(text));
        const ordered_json document = ordered_json::parse(text, nullptr, false);
        CHECK((!document.is_discarded() && schemas::Validator(json)(document)));
      }
    }
  }
}

TEST_CASE("vocabularies that lack bytes, and decoders of other kinds") {
  const Constraint words = Constraint::regex("[a-z]{1,6}( [a-z]{1,6}){0,3}\\.?"), colors = Constraint::choices({"red", "green and blue", "the sea"});
  for (const std::string folder : {"tokenizer/t5", "tokenizer/bert", "tokenizer/siglip"}) {
    const Tokenizer tokenizer = Tokenizer::load(test_data(folder));
    std::vector<TokenId> ends;
    for (TokenId id = 0; id < 1200 && ends.empty(); ++id)
      if (tokenizer.is_special(id)) ends.push_back(id);
    for (const Constraint& constraint : {words, colors}) {
      const Constraint bound = constraint.on(tokenizer);
      for (std::uint64_t seed = 0; seed < 40; ++seed) {
        const std::string text = tokenizer.decode(draw(bound, ends, 40, seed), true);
        INFO(folder << " " << said(text));
        CHECK(constraint.matches(text));
      }
    }
    CHECK_THROWS_AS(Constraint::regex("\xF0\x9F\x98\x80\xE2\x99\xA5\xEF\xBF\xBC").on(tokenizer), ArgumentError);
  }
  CHECK_THROWS_AS(words.on(Tokenizer::load(test_data("tokenizer/clip"))), UnsupportedError);
}

TEST_CASE("threads share a constraint") {
  const Tokenizer tokenizer = Tokenizer::load(test_data("tokenizer/qwen2"));
  const Constraint constraint = Constraint::json_schema(std::string_view(R"({"type": "array", "items": {"type": ["string", "number", "null"]}})")), bound = constraint.on(tokenizer);
  std::vector<std::vector<TokenId>> alone, together(16);
  for (std::uint64_t seed = 0; seed < 16; ++seed) alone.push_back(draw(constraint.on(tokenizer), std::vector<TokenId>{1060}, 40, seed));
  std::vector<std::thread> threads;
  for (std::size_t first = 0; first < 4; ++first)
    threads.emplace_back([&, first] {
      for (std::size_t seed = first; seed < 16; seed += 4) together[seed] = draw(bound, std::vector<TokenId>{1060}, 40, seed);
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(together == alone);
}

TEST_CASE("a state follows whatever ids come next") {
  const Tokenizer tokenizer = Tokenizer::load(test_data("tokenizer/llama"));
  const Constraint bound = Constraint::regex("[ab]*c?").on(tokenizer);
  const std::vector<TokenId> ends{2};
  const auto ids = [&](const char* text) { return tokenizer.encode(text, false); };
  Constraint::State moving;
  std::vector<std::uint64_t> mask, fresh_mask;
  for (const char* text : {"ab", "abab", "aba", "b", "bbbb", "bbbb", "a"}) {
    Constraint::State fresh;
    bound.allowed(moving, ids(text), ends, 9, mask);
    bound.allowed(fresh, ids(text), ends, 9, fresh_mask);
    CHECK(mask == fresh_mask);
  }
  CHECK(bound.complete(moving, ids("abc"), ends, 9));
  CHECK_FALSE(bound.complete(moving, ids("ab"), ends, 9));
  CHECK_THROWS_AS(bound.allowed(moving, ids("x"), ends, 9, mask), ArgumentError);
  CHECK_THROWS_AS(Constraint::regex("a").allowed(moving, ids("a"), ends, 9, mask), ArgumentError);
}
