#include <chiasm/core/error.hpp>

#include "support/catch.hpp"

using namespace chiasm;

TEST_CASE("errors say where, what, have and want, and keep the parts") {
  const FileError file("a/b.json", "cannot be read");
  CHECK(std::string(file.what()) == "a/b.json: cannot be read");
  CHECK(file.file == "a/b.json");

  const FormatError format("m.safetensors", 17, "no header");
  CHECK(std::string(format.what()) == "m.safetensors: byte 17: no header");
  CHECK(format.file == "m.safetensors");
  CHECK(format.byte == 17);

  const WeightError weight("m.safetensors", "q_proj.weight", "bf16 (4096, 4096)", "(5120, 4096)");
  CHECK(std::string(weight.what()) == "m.safetensors: 'q_proj.weight' is bf16 (4096, 4096), expected (5120, 4096)");
  CHECK(weight.tensor == "q_proj.weight");
  CHECK(weight.have == "bf16 (4096, 4096)");
  CHECK(weight.want == "(5120, 4096)");

  const ConfigError config("config.json", "/vision_config/hidden_size", "is a string, expected an integer");
  CHECK(std::string(config.what()) == "config.json: /vision_config/hidden_size: is a string, expected an integer");
  CHECK(config.pointer == "/vision_config/hidden_size");
  CHECK(std::string(ConfigError("config.json", "", "is a string").what()) == "config.json: is a string");

  const ShapeError shape("concat", "(2, 3) and (2, 4)");
  CHECK(std::string(shape.what()) == "concat: shapes do not fit: (2, 3) and (2, 4)");
  CHECK(shape.op == "concat");

  const UnsupportedError unsupported("weights in a.bin");
  CHECK(std::string(unsupported.what()) == "not supported: weights in a.bin");
  CHECK(unsupported.feature == "weights in a.bin");
}

TEST_CASE("every error is a chiasm::Error and a std::exception") {
  CHECK_THROWS_AS(throw FileError("a", "b"), Error);
  CHECK_THROWS_AS(throw FormatError("a", 0, "b"), Error);
  CHECK_THROWS_AS(throw WeightError("a", "b", "c", "d"), Error);
  CHECK_THROWS_AS(throw ConfigError("a", "/b", "c"), Error);
  CHECK_THROWS_AS(throw ShapeError("a", "b"), Error);
  CHECK_THROWS_AS(throw ArgumentError("a"), Error);
  CHECK_THROWS_AS(throw UnsupportedError("a"), Error);
  CHECK_THROWS_AS(throw Cancelled(), Error);
  CHECK_THROWS_AS(throw Cancelled(), std::runtime_error);
}
