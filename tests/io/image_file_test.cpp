/// Image files against Pillow 13: pixels, orientation, transparent colours, and files that are broken.
#include <chiasm/io/image_file.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/io/json.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/sha256.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

using namespace chiasm;

namespace {

#ifdef CHIASM_HAS_JPEG
constexpr bool exact_jpeg = true;
#else
constexpr bool exact_jpeg = false;
#endif
#ifdef CHIASM_HAS_WEBP
constexpr bool has_webp = true;
#else
constexpr bool has_webp = false;
#endif

std::vector<std::byte> read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

bool is_jpeg(std::span<const std::byte> file) { return file.size() > 1 && file[0] == std::byte{0xFF} && file[1] == std::byte{0xD8}; }

bool is_webp(std::span<const std::byte> file) { return file.size() > 11 && file[0] == std::byte{'R'} && file[8] == std::byte{'W'}; }

int difference(const Image& a, std::span<const std::byte> b) {
  if (a.pixels().size() != b.size()) return 256;
  int most = 0;
  for (std::size_t i = 0; i < b.size(); ++i) most = std::max(most, std::abs(a.pixels()[i] - std::to_integer<int>(b[i])));
  return most;
}

std::string white(const Image& image) {
  Image painted = image;
  if (const auto& key = image.transparent())
    for (std::size_t i = 0; i < painted.pixels().size(); i += 3)
      if (std::equal(key->begin(), key->end(), painted.pixels().begin() + static_cast<std::ptrdiff_t>(i))) std::fill_n(painted.pixels().data() + i, 3, std::uint8_t{255});
  return sha256(painted.pixels());
}

struct Case {
  std::string name;
  bool random;  // of make_random.py
  std::vector<std::byte> file;
  Json wanted;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool random : {false, true}) {
    std::ifstream lines(test_data(random ? "image/formats.jsonl" : "image/decode.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const Json wanted = Json::parse(line);
      std::vector<std::byte> file = base64(wanted["file"].as_string());
      if (has_webp || !is_webp(file)) all.push_back({wanted["name"].as<std::string>(), random, std::move(file), wanted});
    }
  }
  REQUIRE(all.size() > 260);
  return all;
}

}  // namespace

TEST_CASE("every kind of file decodes to Pillow's pixels") {
  for (const Case& c : cases()) {
    INFO(c.name);
    const Image image = load_image(c.file, c.name);
    CHECK(image.width() == c.wanted["width"].as_int());
    CHECK(image.height() == c.wanted["height"].as_int());
    if (!is_jpeg(c.file) || exact_jpeg) {
      CHECK(sha256(image.pixels()) == c.wanted["sha256"].as_string());
      CHECK(white(image) == c.wanted["key_sha256"].as_string());
      const Image on_white = load_image(c.file, c.name, Alpha::white);
      CHECK(sha256(on_white.pixels()) == c.wanted["white_sha256"].as_string());
      CHECK(!on_white.transparent());
    } else {
      CHECK(difference(image, base64(c.wanted["rgb"].as_string())) <= 3);
    }
  }
}

TEST_CASE("open_clip's preprocessing resizes each file in its own mode") {
  std::map<std::string, std::vector<std::byte>> files;
  for (Case& c : cases()) files.emplace(std::move(c.name), std::move(c.file));
  std::ifstream lines(test_data("image/modes.jsonl"));
  std::map<std::string, int> modes;
  for (std::string line; std::getline(lines, line);) {
    const Json wanted = Json::parse(line);
    const auto file = files.find(wanted["name"].as<std::string>());
    if (file == files.end()) continue;  // WebP without libwebp
    INFO(line);
    ImageProcessorConfig config;
    config.do_convert_rgb = false;
    config.resize_in_mode = config.do_center_crop = config.crop_rounds = true;
    config.size.shortest_edge = config.crop_size.height = config.crop_size.width = wanted["side"].as<int>();
    config.image_std = {1, 1, 1};
    const Image image = load_image(file->second, file->first);
    CHECK(sha256(ImageProcessor(config).views(image).front().pixels()) == wanted["sha256"].as_string());
    const std::string mode = wanted["mode"].as<std::string>();
    CHECK(image.indexed() == (mode == "P" || mode == "1"));
    CHECK((mode.ends_with("A") || image.alpha().empty()));
    ++modes[mode];
  }
  for (const char* mode : {"1", "P", "L", "LA", "RGB", "RGBA"}) CHECK(modes[mode] >= 10);
}

TEST_CASE("a cut file is an error, never a picture of what is left") {
  for (const Case& c : cases()) {
    INFO(c.name);
    // Pillow too needs every byte up to the pixels' end; what may be missing is the trailer.
    for (std::size_t keep = 0; keep < c.file.size() * 3 / 4; keep += 1 + keep / 7) {
      INFO(keep);
      const std::vector<std::byte> cut(c.file.begin(), c.file.begin() + static_cast<std::ptrdiff_t>(keep));
      if (c.random || c.name.find("rle") != c.name.npos || c.name == "pnm P1" || c.name == "jpeg with bytes behind its end" || c.name == "gif two frames")
        try {
          load_image(cut, c.name);
        } catch (const FormatError&) {
        }
      else
        CHECK_THROWS_AS(load_image(cut, c.name), FormatError);
    }
  }
}

TEST_CASE("a damaged file is a picture or an error, nothing else") {
  std::uint32_t state = 1;
  int pictures = 0;
  const auto random = [&](std::size_t below) { return static_cast<std::size_t>((state = state * 1664525u + 1013904223u) >> 8) % below; };
  for (const Case& c : cases())
    for (int round = 0; round < 40; ++round) {
      std::vector<std::byte> file = c.file;
      for (std::size_t hits = 1 + random(3); hits > 0; --hits) file[random(file.size())] = static_cast<std::byte>(random(4) ? random(256) : 255);
      try {
        load_image(file, c.name, round % 2 ? Alpha::white : Alpha::drop);
        ++pictures;
      } catch (const FormatError&) {
      } catch (const UnsupportedError&) {
      }
    }
  CHECK(pictures > 500);
}

TEST_CASE("errors name the file, the byte and the finding") {
  const auto bytes = [](std::string_view text) { return std::span(reinterpret_cast<const std::byte*>(text.data()), text.size()); };
  CHECK_THROWS_AS(load_image("no such picture.png"), FileError);
  CHECK_THROWS_AS(load_image(source_dir()), FileError);
  CHECK_THROWS_AS(load_image(bytes("")), FormatError);
  CHECK_THROWS_AS(load_image(bytes("hello")), FormatError);
  if (has_webp)
    CHECK_THROWS_AS(load_image(bytes("RIFF....WEBPVP8 ")), FormatError);
  else
    CHECK_THROWS_AS(load_image(bytes("RIFF....WEBPVP8 ")), UnsupportedError);
  CHECK_THROWS_AS(load_image(bytes(std::string_view("II*\0........", 12))), FormatError);
  CHECK_THROWS_AS(load_image(bytes("....ftypavif")), UnsupportedError);
  CHECK_THROWS_AS(load_image(bytes("P6 100000 100000 255\n")), FormatError);
  CHECK_THROWS_AS(load_image(bytes("P6 4000 4000 255\nxyz")), FormatError);
  try {
    load_image(bytes("P6 2 2 255\nxyz"), "tiny.ppm");
    FAIL("not reached");
  } catch (const FormatError& error) {
    CHECK(error.file == "tiny.ppm");
    CHECK(error.byte == 11);
    CHECK(std::string(error.what()) == "tiny.ppm: byte 11: truncated: 12 bytes expected, 3 left");
  }
}

TEST_CASE("load_image reads from a path") {
  const Case c = cases().front();
  const std::string path = (std::filesystem::temp_directory_path() / ("chiasm_image_" + std::to_string(std::rand()) + ".bin")).string();
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(c.file.data()), static_cast<std::streamsize>(c.file.size()));
  CHECK(load_image(path) == load_image(c.file));
  std::filesystem::remove(path);
}

TEST_CASE("the whole reference collection of pictures") {
  const auto folder = shared_data("io/images");
  if (!folder) return;
  for (const Json wanted : Json::read(*folder + "/decode.json")) {
    const std::string name(wanted.key());
    INFO(name);
    const std::vector<std::byte> file = read(*folder + "/in/" + name);
    const std::string format(wanted["format"].as_string());
    if ((format == "WEBP" && !has_webp) || (!exact_jpeg && name == "jpg_arith.jpg")) {
      CHECK_THROWS_AS(load_image(file, name), UnsupportedError);
      continue;
    }
    const Image image = load_image(file, name);
    CHECK(image.width() == wanted["size_exif"].at(0).as_int());
    CHECK(image.height() == wanted["size_exif"].at(1).as_int());
    if (format != "JPEG" || exact_jpeg) {
      CHECK(sha256(image.pixels()) == wanted["rgb_sha256_exif"].as_string());
      if (const Json on_white = wanted.find("rgb_on_white_sha256"); !on_white.is_null()) CHECK(sha256(load_image(file, name, Alpha::white).pixels()) == on_white.as_string());
    } else {
      std::size_t i = 0;
      for (const Json pixel : wanted["first_pixels"])
        for (const Json value : pixel) CHECK(std::abs(image.pixels()[i++] - value.as<int>()) <= 3);
    }
  }
}

TEST_CASE("the malformed reference pictures") {
  const auto folder = shared_data("io/robust");
  if (!folder) return;
  for (const Json entry : Json::read(*folder + "/manifest.json")) {
    const std::string name(entry.key());
    if (!name.starts_with("image/")) continue;
    INFO(name);
    const std::string expect(entry["expect"].as_string());
    const bool may_be_read = expect.find("ok") != expect.npos || expect.find("partial") != expect.npos || expect.find("default") != expect.npos;
    try {
      load_image(*folder + "/" + name);
      CHECK(may_be_read);
    } catch (const FormatError& error) {
      CHECK(expect != "ok");
      CHECK(error.file == *folder + "/" + name);
    }
  }
}
