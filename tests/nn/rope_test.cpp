// Angles of every stretched form against transformers' (tests/golden/rope/make.py), and the turn itself.
#include "support/catch.hpp"
#include "support/paths.hpp"

#include <chiasm/modules/config.hpp>

TEST_CASE("rotary angles are the reference's") {
  for (const chiasm::Json one : chiasm::Json::read(test_data("rope/rope.json"))) {
    INFO(one["name"].as_string());
    const auto length = one["length"].as<std::size_t>();
    const chiasm::Rope rope(chiasm::config_rope(one["config"], 24, 10000.0, 2048));
    chiasm::Tensor cos{chiasm::Shape{length, 12}}, sin{chiasm::Shape{length, 12}};
    rope.angles(0, length, cos, sin);
    const auto positions = one["positions"].as_vector<std::size_t>();
    for (std::size_t p = 0; p < positions.size(); ++p) {
      const auto want_cos = one["cos"].at(p).as_vector<float>(), want_sin = one["sin"].at(p).as_vector<float>();
      for (std::size_t i = 0; i < 12; ++i) {
        // One unit in the last place of the frequency, times the position.
        const double tolerance = 2e-7 * static_cast<double>(positions[p] + 4);
        CHECK(std::abs(cos.row(positions[p])[i] - want_cos[i]) <= tolerance);
        CHECK(std::abs(sin.row(positions[p])[i] - want_sin[i]) <= tolerance);
      }
    }
  }
}

TEST_CASE("a sequence in pieces turns as in one go") {
  chiasm::RopeConfig config;
  config.dim = 8;
  const chiasm::Rope rope(config);
  chiasm::Tensor cos{chiasm::Shape{20, 4}}, sin{chiasm::Shape{20, 4}}, part_cos{chiasm::Shape{5, 4}}, part_sin{chiasm::Shape{5, 4}};
  rope.angles(0, 20, cos, sin);
  rope.angles(13, 5, part_cos, part_sin);
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t i = 0; i < 4; ++i) CHECK(part_cos.row(t)[i] == cos.row(13 + t)[i]);
}

TEST_CASE("only the first dimensions of a head turn where the rotary part is partial") {
  chiasm::Context ctx;
  chiasm::RopeConfig config;
  config.dim = 4;
  const chiasm::Rope rope(config);
  chiasm::Tensor x{chiasm::Shape{1, 12}}, cos{chiasm::Shape{1, 2}}, sin{chiasm::Shape{1, 2}};  // two heads of 6
  for (std::size_t i = 0; i < 12; ++i) x.data()[i] = static_cast<float>(i + 1);
  rope.angles(3, 1, cos, sin);
  rope.apply(ctx, x, 6, cos, sin);
  for (std::size_t head = 0; head < 2; ++head) {
    const float* y = x.data() + head * 6;
    const float base = static_cast<float>(head * 6);
    for (std::size_t i = 0; i < 2; ++i) {
      const float x1 = base + static_cast<float>(i + 1), x2 = base + static_cast<float>(i + 3);
      CHECK(y[i] == Approx(x1 * cos.data()[i] - x2 * sin.data()[i]).epsilon(1e-6));
      CHECK(y[i + 2] == Approx(x2 * cos.data()[i] + x1 * sin.data()[i]).epsilon(1e-6));
    }
    CHECK(y[4] == base + 5);
    CHECK(y[5] == base + 6);
  }
}

TEST_CASE("of an odd number of dimensions the last one turns with the next") {
  chiasm::Context ctx;
  chiasm::RopeConfig config;
  config.dim = 3, config.theta = 8;
  const chiasm::Rope rope(config);
  REQUIRE(rope.pairs() == 2);
  chiasm::Tensor x(chiasm::Shape{1, 5}, std::vector<float>{1, 2, 3, 4, 5}), cos{chiasm::Shape{1, 2}}, sin{chiasm::Shape{1, 2}};
  rope.angles(1, 1, cos, sin);
  CHECK(cos.data()[0] == Approx(std::cos(1.0)));
  CHECK(cos.data()[1] == Approx(std::cos(0.25)));  // 8^(-2/3)
  rope.apply(ctx, x, 5, cos, sin);
  CHECK(x.data()[0] == Approx(1 * cos.data()[0] - 3 * sin.data()[0]));
  CHECK(x.data()[1] == Approx(2 * cos.data()[1] - 4 * sin.data()[1]));
  CHECK(x.data()[2] == Approx(3 * cos.data()[0] + 1 * sin.data()[0]));
  CHECK(x.data()[3] == Approx(4 * cos.data()[1] + 2 * sin.data()[1]));
  CHECK(x.data()[4] == 5);
}

TEST_CASE("rotary settings that make no sense are named") {
  const auto read = [](const char* text) { return chiasm::config_rope(chiasm::Json::parse(text, "config.json"), 24, 10000.0, 2048); };
  CHECK_THROWS_AS(read(R"({"rope_scaling": {"rope_type": "linear"}})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"rope_scaling": {"rope_type": "linear", "factor": -1}})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"rope_theta": 0})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"partial_rotary_factor": 0})"), chiasm::ConfigError);
  CHECK_THROWS_AS(read(R"({"partial_rotary_factor": 1.5})"), chiasm::ConfigError);
  CHECK(read(R"({"partial_rotary_factor": 0.3})").dim == 7);
  CHECK_THROWS_AS(chiasm::config_rope(chiasm::Json::parse("{}"), 7, 10000.0, 2048), chiasm::ConfigError);  // the last one has nothing to turn with
  CHECK_THROWS_AS(read(R"({"rope_scaling": {"rope_type": "longrope", "factor": 2}})"), chiasm::UnsupportedError);
}
