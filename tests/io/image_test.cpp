/// Image and its geometry against Pillow 13.
#include <chiasm/io/image.hpp>
#include <chiasm/io/json.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/sha256.hpp"

#include <fstream>

using namespace chiasm;

namespace {

// The picture of tests/golden/image/make.py's pattern().
Image pattern(std::uint32_t seed, int width, int height) {
  Image image(width, height);
  for (std::uint8_t& value : image.pixels()) value = static_cast<std::uint8_t>((seed = seed * 1664525u + 1013904223u) >> 24);
  return image;
}

}  // namespace

TEST_CASE("Image owns its pixels and checks its size") {
  Image image(3, 2);
  CHECK(image.pixels().size() == 18);
  CHECK(image.row(1) == image.pixels().data() + 9);
  const Image copy = image;
  image.pixels()[0] = 7;
  CHECK(copy.pixels()[0] == 0);
  CHECK(copy != image);
  CHECK_THROWS_AS(Image(0, 2), ArgumentError);
  CHECK_THROWS_AS(Image(2, -1), ArgumentError);
  CHECK_THROWS_AS(Image(1 << 30, 1 << 30), ArgumentError);
  CHECK_THROWS_AS(Image(2, 2, std::vector<std::uint8_t>(11)), ArgumentError);
  CHECK_NOTHROW(Image(2, 2, std::vector<std::uint8_t>(12)));
}

TEST_CASE("resize equals Pillow to the last bit") {
  std::ifstream lines(test_data("image/resize.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json wanted = Json::parse(line);
    const auto from = wanted["from"].as_vector<int>(), to = wanted["to"].as_vector<int>();
    const auto filter = static_cast<Resample>(wanted["filter"].as_int());
    INFO(line);
    const Image source = pattern(wanted["seed"].as<std::uint32_t>(), from[0], from[1]);
    const Image whole = resize(source, to[0], to[1], filter);
    CHECK(sha256(whole.pixels()) == wanted["sha256"].as_string());
    // A window is the same part of the whole.
    const Rect window{to[0] / 3, to[1] / 4, to[0] - to[0] / 3 - to[0] / 5, to[1] - to[1] / 4 - to[1] / 5};
    CHECK(resize(source, to[0], to[1], filter, window) == crop(whole, window));
  }
  CHECK(count == 120);
}

TEST_CASE("resize refuses windows that do not lie inside") {
  const Image image = pattern(1, 8, 6);
  CHECK_THROWS_AS(resize(image, 0, 3, Resample::bicubic), ArgumentError);
  CHECK_THROWS_AS(resize(image, 1 << 30, 1 << 30, Resample::bicubic), ArgumentError);
  CHECK_THROWS_AS(resize(image, 4, 3, Resample::bicubic, {1, 0, 4, 3}), ArgumentError);
  CHECK_THROWS_AS(resize(image, 4, 3, Resample::bicubic, {-1, 0, 4, 3}), ArgumentError);
  CHECK_THROWS_AS(resize(image, 4, 3, Resample::bicubic, {0, 0, 4, 0}), ArgumentError);
  CHECK_THROWS_AS(resize(image, 4, 3, static_cast<Resample>(9)), ArgumentError);
  // Of a picture that itself would be far too large, a part can be had.
  CHECK(resize(image, 1 << 20, 1 << 20, Resample::bicubic, {1000, 1000, 5, 4}).width() == 5);
}

TEST_CASE("an alpha channel has a byte for each pixel, and is gone where all is opaque") {
  Image image = pattern(3, 3, 2);
  CHECK_THROWS_AS(image.set_alpha(std::vector<std::uint8_t>(5)), ArgumentError);
  image.set_alpha({255, 255, 255, 255, 255, 254});
  CHECK(image.alpha().size() == 6);
  CHECK(image != pattern(3, 3, 2));
  image.set_alpha(std::vector<std::uint8_t>(6, 255));
  CHECK(image.alpha().empty());
  CHECK(image == pattern(3, 3, 2));
}

TEST_CASE("resized in its mode: the nearest of a palette, by opacity under an alpha channel") {
  const Image plain = pattern(4, 9, 7);
  const Rect all{0, 0, 5, 4};
  CHECK(resize_in_mode(plain, 5, 4, Resample::bicubic, all) == resize(plain, 5, 4, Resample::bicubic));
  Image indexed = plain, veiled = plain;
  indexed.set_indexed(true);
  CHECK(resize_in_mode(indexed, 5, 4, Resample::bicubic, all) == resize(plain, 5, 4, Resample::nearest));
  std::vector<std::uint8_t> alpha(63, 255);
  std::fill(alpha.begin() + 9, alpha.end(), std::uint8_t{0});  // all but the first row
  veiled.set_alpha(alpha);
  Image first_row = plain;
  for (int y = 1; y < 7; ++y) std::copy_n(plain.row(0), 27, first_row.row(y));
  CHECK(resize_in_mode(veiled, 9, 1, Resample::box, {0, 0, 9, 1}) != resize(plain, 9, 1, Resample::box));
  for (int x = 0; x < 27; ++x) CHECK(std::abs(resize_in_mode(veiled, 9, 1, Resample::box, {0, 0, 9, 1}).row(0)[x] - first_row.row(0)[x]) <= 7);  // of a seventh of the opacity, a level is worth seven
  CHECK(resize_in_mode(veiled, 9, 7, Resample::box, {0, 0, 9, 7}) == plain);
}

TEST_CASE("crop cuts, and fills what lies outside") {
  const Image image = pattern(2, 5, 4);
  CHECK(crop(image, {0, 0, 5, 4}) == image);
  const Image inside = crop(image, {1, 2, 3, 2});
  CHECK(std::equal(inside.row(0), inside.row(0) + 9, image.row(2) + 3));
  const Image around = crop(image, {-2, -1, 9, 6}, {1, 2, 3});
  CHECK(around.row(0)[1] == 2);
  CHECK(around.row(5)[26] == 3);
  CHECK(std::equal(around.row(1) + 6, around.row(1) + 21, image.row(0)));
  CHECK(crop(around, {2, 1, 5, 4}) == image);
  CHECK(crop(image, {100, 100, 2, 2}, {9, 9, 9}).pixels()[11] == 9);
  CHECK(crop(image, {-2147483647, 0, 2, 2}).pixels()[0] == 0);
  CHECK_THROWS_AS(crop(image, {0, 0, 0, 1}), ArgumentError);
}

TEST_CASE("orient turns as EXIF says") {
  Image image(2, 3);
  for (std::size_t i = 0; i < 6; ++i) image.pixels()[3 * i] = static_cast<std::uint8_t>(i);  // 0 1 / 2 3 / 4 5
  image.set_alpha({0, 1, 2, 3, 4, 5});
  const auto reds = [&](int orientation) {
    const Image turned = orient(image, orientation);
    std::string text;
    for (int y = 0; y < turned.height(); ++y)
      for (int x = 0; x < turned.width(); ++x) text += static_cast<char>('0' + turned.row(y)[3 * x]);
    for (std::size_t i = 0; i < 6; ++i) CHECK(turned.alpha()[i] == turned.pixels()[3 * i]);
    return std::to_string(turned.width()) + ":" + text;
  };
  CHECK(reds(1) == "2:012345");
  CHECK(reds(2) == "2:103254");
  CHECK(reds(3) == "2:543210");
  CHECK(reds(4) == "2:452301");
  CHECK(reds(5) == "3:024135");
  CHECK(reds(6) == "3:420531");
  CHECK(reds(7) == "3:531420");
  CHECK(reds(8) == "3:135024");
  CHECK(reds(0) == "2:012345");
  CHECK(reds(9) == "2:012345");
}
