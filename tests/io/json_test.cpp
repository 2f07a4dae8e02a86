#include <chiasm/io/json.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/thrown.hpp"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

#if defined(__unix__)
#include <sys/stat.h>
#endif

using namespace chiasm;

namespace {
std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }
}  // namespace

TEST_CASE("values of every kind") {
  const Json json = Json::parse(R"({"n": null, "b": true, "i": -3, "f": 1.5, "s": "\u00e4\n", "a": [1, 2, [3]], "o": {"k": "v"}})");
  CHECK(json.is_object());
  CHECK(json.size() == 7);
  CHECK(json["n"].is_null());
  CHECK(json["b"].as_bool());
  CHECK(json["i"].as_int() == -3);
  CHECK(json["i"].as_double() == -3);
  CHECK(json["f"].as_double() == 1.5);
  CHECK(json["f"].is_number());
  CHECK_FALSE(json["f"].is_integer());
  CHECK(json["s"].as_string() == "\xc3\xa4\n");
  CHECK(json["a"].at(2).at(0).as_int() == 3);
  CHECK(json["o"]["k"].as<std::string>() == "v");
  CHECK(Json::parse("[1, 2, 3]").as_vector<int>() == std::vector<int>{1, 2, 3});
  CHECK(Json::parse("17").as_int() == 17);
  CHECK(Json().is_null());
}

TEST_CASE("members keep the file's order, and the last of two equal keys counts") {
  const Json json = Json::parse(R"({"z": 1, "a": 2, "m": 3, "a": 4})");
  std::string keys;
  for (const Json member : json) keys += member.key();
  CHECK(keys == "zama");
  CHECK(json["a"].as_int() == 4);
  CHECK_THROWS_AS(Json::parse(R"({"x": {"a": 1, "b": 2, "a": 3}})", "f", Json::Duplicates::error), FormatError);
  CHECK(Json::parse(R"([{"a": 1}, {"a": 1}, {"b": {"a": 1}}])", "f", Json::Duplicates::error).size() == 3);
}

TEST_CASE("get() with a fallback") {
  const Json json = Json::parse(R"({"heads": 8, "eps": 1e-5, "name": "x", "none": null, "big": 300, "whole": 4.0})");
  CHECK(json.get("heads", 1) == 8);
  CHECK(json.get("layers", 12) == 12);
  CHECK(json.get("none", 5) == 5);
  CHECK(json.get("eps", 0.0f) == Approx(1e-5f));
  CHECK(json.get("name", std::string("y")) == "x");
  CHECK(json.get("whole", 0) == 4);
  CHECK_THROWS_AS(json.get("heads", std::string()), ConfigError);
  CHECK_THROWS_AS(json.get("eps", 1), ConfigError);
  CHECK_THROWS_AS(json.get("big", std::uint8_t{0}), ConfigError);
  CHECK_THROWS_AS(Json::parse("[-1]").as_vector<std::size_t>(), ConfigError);
}

TEST_CASE("a complaint names the file and the place") {
  const Json json = Json::parse(R"({"vision_config": {"a/b~c": [1, {"x": "y"}]}})", "config.json");
  const Json place = json["vision_config"]["a/b~c"].at(1)["x"];
  CHECK(place.pointer() == "/vision_config/a~1b~0c/1/x");
  const auto error = caught<ConfigError>([&] { place.as_int(); });
  CHECK(std::string(error.what()) == "config.json: /vision_config/a~1b~0c/1/x: is a string, expected an integer");
  CHECK(caught<ConfigError>([&] { json["vision_config"]["gone"]; }).pointer == "/vision_config");
  CHECK_THROWS_AS(json["vision_config"]["a/b~c"].at(2), ConfigError);
  CHECK_THROWS_AS(json.at(0), ConfigError);
  CHECK_THROWS_AS(place["x"], ConfigError);
  CHECK(place.find("x").is_null());
}

TEST_CASE("dump() gives the text back") {
  const std::string text = R"({"a":[1,2.5,true,null,"ä\"\n"],"b":{},"c":[]})";
  CHECK(Json::parse(text).dump() == text);
  CHECK(Json::parse("[1,2,3,4,5,6]").dump(4) == "[1,2...");
}

TEST_CASE("what is no JSON is refused, with its byte") {
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\":1,}", "nul", "NaN", "[1e999]", "\"\xff\"", "\"\\ud800\"", "1 2", "{'a': 1}", "{\"a\" 1}", "[\"\n\"]", "// x\n1"}) {
    INFO(text);
    CHECK_THROWS_AS(Json::parse(text), FormatError);
  }
  const auto error = caught<FormatError>([] { Json::parse("[1, 2, x]", "f.json", Json::Duplicates::last_wins, 100); });
  CHECK(error.file == "f.json");
  CHECK(error.byte == 108);
}

TEST_CASE("depth is bounded, for arrays and objects, and 512 levels are fine") {
  CHECK(Json::parse(nested(512)).is_array());
  CHECK_THROWS_AS(Json::parse(nested(513)), FormatError);
  CHECK_THROWS_AS(Json::parse(nested(200'000)), FormatError);
  CHECK_THROWS_AS(Json::parse(std::string(1'000'000, '[')), FormatError);
  std::string objects;
  for (int i = 0; i < 3000; ++i) objects += "{\"a\":";
  CHECK_THROWS_AS(Json::parse(objects), FormatError);
}

TEST_CASE("a byte order mark is passed over") { CHECK(Json::parse("\xEF\xBB\xBF[1]").size() == 1); }

TEST_CASE("integers beyond 64 bits are numbers") {
  CHECK(Json::parse("9223372036854775807").as_int() == std::numeric_limits<std::int64_t>::max());
  CHECK(Json::parse("18446744073709551615").kind() == Json::Kind::number);
  CHECK_THROWS_AS(Json::parse("18446744073709551615").as_int(), ConfigError);
  CHECK(Json::parse("1e5").as_int() == 100000);
}

TEST_CASE("files that cannot be read") {
  const auto folder = std::filesystem::temp_directory_path() / "chiasm_json_test";
  std::filesystem::create_directories(folder);
  CHECK_THROWS_AS(Json::read((folder / "none.json").string()), FileError);
  CHECK_THROWS_AS(Json::read(folder.string()), FileError);
  std::ofstream(folder / "empty.json").close();
  CHECK_THROWS_AS(Json::read((folder / "empty.json").string()), FormatError);
#if defined(__unix__)
  const std::string fifo = (folder / "fifo.json").string();
  ::mkfifo(fifo.c_str(), 0600);
  CHECK_THROWS_AS(Json::read(fifo), FileError);
#endif
  std::filesystem::remove_all(folder);
}

TEST_CASE("equal to another reader on every JSON file there is") {
  std::vector<std::filesystem::path> roots{test_data("")};
  if (const auto shared = shared_data("io")) roots.emplace_back(*shared);
  std::size_t files = 0;
  for (const auto& root : roots)
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().extension() != ".json" || entry.file_size() > 1 << 20) continue;
      INFO(entry.path());
      std::ifstream stream(entry.path());
      std::string problem;
      try {
        const Json json = Json::read(entry.path().string());
        // Through text, as neither has a common tree; duplicate keys are resolved by nlohmann's second pass.
        CHECK(nlohmann::json::parse(json.dump()) == nlohmann::json::parse(stream));
      } catch (const FormatError& error) {
        problem = error.what();
      }
      if (!problem.empty() && problem.find("nested deeper") == std::string::npos) CHECK_FALSE(nlohmann::json::accept(stream));
      ++files;
    }
  CHECK(files > 10);
}

TEST_CASE("what is JSON, and what it says, is what nlohmann's parser says", "[json]") {
  // One that knows well-formed text alone goes first; nothing may show it.
  const std::string seeds[] = {
      R"({"a":[1,-2,0,-0,1.5,-0.25e3,1E-2,123456789012345678,1234567890123456789,18446744073709551615,1e308],"b":{},"c":[],"d":null,"e":[true,false]})",
      R"( [ "" , "x\"\\\/\b\f\n\r\t" , "\u0041\u00e9\u20AC\ud83d\ude00\u0000" , "é€😀" ] )", R"({"k":{"k":[[[{"k":"v","k":2}]]]},"":0})", "\"one\"", " 7 ", "[1,[2,[3,[4]]],{\"a\":{\"b\":[]}}]"};
  const std::string letters = "{}[]\",:0123456789.eE+-\\u tfnlrsaEd\x01\x7F\xC3\xA9\xED\xA0\xF4\xEF\xBB\xBF";
  std::uint32_t random = 1;
  const auto next = [&](std::size_t below) { return (random = random * 1664525U + 1013904223U) / 256U % below; };
  for (int round = 0; round < 20000; ++round) {
    std::string text = seeds[static_cast<std::size_t>(round) % std::size(seeds)];
    for (std::size_t edits = next(4); edits > 0; --edits) {
      const std::size_t at = next(text.size() + 1);
      const std::size_t kind = next(4);
      if (kind == 0) text.erase(at, 1 + next(3));
      if (kind == 1) text.insert(at, 1, letters[next(letters.size())]);
      if (kind == 2 && at < text.size()) text[at] = letters[next(letters.size())];
      if (kind == 3) text.insert(at, seeds[next(std::size(seeds))].substr(0, next(12)));
    }
    INFO(text);
    const nlohmann::ordered_json expected = nlohmann::ordered_json::parse(text, nullptr, false);
    if (text.empty() || expected.is_discarded()) {
      CHECK_THROWS_AS(Json::parse(text), FormatError);
      continue;
    }
    // Keys may stand twice here, so compare what has one form: each in its own words, read again.
    const Json json = Json::parse(text);
    CHECK(nlohmann::json::parse(json.dump()) == nlohmann::json::parse(expected.dump()));
  }
}
