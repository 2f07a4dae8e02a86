#include <chiasm/io/safetensors.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/temporary_folder.hpp"
#include "support/thrown.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#if defined(__unix__)
#include <sys/stat.h>
#endif

using namespace chiasm;

namespace {

/// A file of this header, `data` bytes behind it.
std::string file_of(const std::string& header, std::size_t data = 0) {
  std::string bytes(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  bytes += header;
  for (std::size_t i = 0; i < data; ++i) bytes += static_cast<char>(i);
  return bytes;
}
std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }
Safetensors parse(const std::string& bytes) { return Safetensors::parse(FileMap(bytes_of(bytes), "m.safetensors")); }

std::string message(const std::string& bytes) { return message_of([&] { parse(bytes); }); }

bool same(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) return false;
  return true;
}

struct Folder : TemporaryFolder {
  Folder() : TemporaryFolder("chiasm_safetensors_test") {}
};

}  // namespace

TEST_CASE("every dtype, as the reference converts it") {
  const Weights w = read_safetensors(test_data("safetensors/dtypes.safetensors"));
  std::size_t compared = 0;
  for (const std::string& name : w.names()) {
    if (!w.contains(name + ".as_f32")) continue;
    INFO(name);
    const Weight expected = w.get(name + ".as_f32");
    CHECK(same(w.get(name).to_f32().values(), expected.to_f32().values()));
    ++compared;
  }
  CHECK(compared == 15);
  CHECK_THROWS_AS(w.get("bool"), UnsupportedError);
}

TEST_CASE("f32 rounds to f16 and bf16 as the reference does") {
  const Weights w = read_safetensors(test_data("safetensors/dtypes.safetensors"));
  const Weight exact = w.get("rounded.f32");
  CHECK(same(exact.to(DType::f16).to_f32().values(), w.get("rounded.f16").to_f32().values()));
  CHECK(same(exact.to(DType::bf16).to_f32().values(), w.get("rounded.bf16").to_f32().values()));
}

TEST_CASE("tensors point into the file, in the order of their data") {
  const std::string bytes = file_of(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[2],"data_offsets":[8,10]},)"
                                    R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}, "z":{"dtype":"F16","shape":[0],"data_offsets":[10,10]}}   )", 10);
  const Safetensors file = parse(bytes);
  REQUIRE(file.tensors.size() == 3);
  CHECK(file.tensors[0].name() == "a");
  CHECK(file.tensors[1].data() == bytes_of(bytes).data() + bytes.size() - 2);
  CHECK(file.tensors[2].bytes() == 0);
  CHECK_FALSE(file.tensors[2].empty());
  CHECK(file.tensors[1].describe() == "u8 (2)");
  CHECK(file.metadata["format"].as_string() == "pt");
  CHECK(parse(file_of("{}")).tensors.empty());
  CHECK(parse(file_of("{}")).metadata.is_null());
}

TEST_CASE("a map outlives everything but its weights") {
  const Folder folder;
  const std::string path = folder.write("a.safetensors", file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4));
  const Weight weight = read_safetensors(path).get("a");
  std::filesystem::remove(path);
  CHECK(weight.to_f32().data()[3] == 3);

  auto owner = std::make_shared<std::string>(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4));
  const std::weak_ptr<std::string> watch = owner;
  Weights held = read_safetensors(bytes_of(*owner), "memory", owner);
  owner.reset();
  CHECK_FALSE(watch.expired());
  CHECK(held.source() == "memory");
  held = Weights();
  CHECK(watch.expired());
}

TEST_CASE("broken headers name the tensor, what it has and what it should") {
  CHECK(message("abc") == "m.safetensors: byte 3: the file ends after 3 bytes, expected 8 with the header's length");
  CHECK(message(file_of(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20)) ==
        "m.safetensors: byte 8: 'a': data_offsets span 20 bytes, f32 (2, 3) takes 24");
  CHECK(message(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})", 5)).find(
            "'b': begins at byte 3 of the data, the tensor before ends at 2") != std::string::npos);
  CHECK(message(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3)).find("'a': begins at byte 1") != std::string::npos);
  CHECK(message(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", 4)).find("'a' stands twice") !=
        std::string::npos);
  CHECK(message(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", 2)).find("begin is after end") != std::string::npos);
  for (const char* header :
       {"", " {}", "[]", "{", "{}x", "\xEF\xBB\xBF{}", R"({"a":1})", R"({"a":{}})", R"({"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4,8]}})",
        R"({"a":{"dtype":"F32","shape":[],"data_offsets":[4]}})", R"({"a":{"dtype":"f32","shape":[],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", R"({"__metadata__":[]})", R"({"__metadata__":{"a":{}}})"}) {
    INFO(header);
    CHECK_THROWS_AS(parse(file_of(header, 4)), FormatError);
  }
}

TEST_CASE("what the format has and the library has not is said") {
  for (const char* dtype : {"F4", "F6_E2M3", "F6_E3M2", "C64"}) {
    INFO(dtype);
    CHECK_THROWS_AS(parse(file_of("{\"a\":{\"dtype\":\"" + std::string(dtype) + "\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1)), UnsupportedError);
  }
  CHECK(parse(file_of(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1)).tensors[0].shape().rank() == 8);
  CHECK_THROWS_AS(parse(file_of(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1)), UnsupportedError);
}

TEST_CASE("a header of a hundred megabytes of small values is refused before it takes gigabytes") {
  std::string header = "{\"a\":[";
  for (int i = 0; i < 9'000'000; ++i) header += "0,";
  CHECK_THROWS_AS(parse(file_of(header + "0]}")), FormatError);
}

TEST_CASE("files that are no files") {
  const Folder folder;
  CHECK_THROWS_AS(read_safetensors((folder.path / "none").string()), FileError);
  CHECK_THROWS_AS(read_safetensors(folder.path.string()), FileError);
  CHECK_THROWS_AS(read_safetensors(std::string("a\0b", 3)), FileError);
  CHECK_THROWS_AS(read_safetensors(folder.write("empty.safetensors", "")), FormatError);
#if defined(__unix__)
  const std::string fifo = (folder.path / "fifo").string();
  ::mkfifo(fifo.c_str(), 0600);
  CHECK_THROWS_AS(read_safetensors(fifo), FileError);
#endif
}

TEST_CASE("shards and their index") {
  const Folder folder;
  const std::string one = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})";
  folder.write("1.safetensors", file_of(one, 2));
  folder.write("2.safetensors", file_of(R"({"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
  const auto read = [&](const std::string& index) {
    try {
      return std::to_string(read_safetensors_index(folder.write("model.safetensors.index.json", index)).names().size());
    } catch (const FormatError& error) {
      return "FormatError " + std::string(error.what());
    } catch (const WeightError& error) {
      return "WeightError " + error.tensor + " " + error.have;
    } catch (const FileError& error) {
      return "FileError " + std::string(error.what());
    }
  };
  CHECK(read(R"({"metadata": {"total_size": 3}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})") == "3");
  CHECK(read(R"({"weight_map": {"a": "1.safetensors", "b": "1.safetensors", "d": "2.safetensors"}})").starts_with("WeightError c u8 (1) that"));
  CHECK(read(R"({"weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors", "d": "2.safetensors"}})") == "WeightError d missing");
  CHECK(read(R"({"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}})").starts_with("WeightError b"));
  CHECK(read(R"({"weight_map": {"a": "3.safetensors"}})").starts_with("FileError"));
  for (const char* name : {"", ".", "..", "../1.safetensors", "/etc/passwd", "x/1.safetensors", "x\\\\1.safetensors", "C:1.safetensors", "1.safetensors\\u0000"}) {
    INFO(name);
    CHECK(read("{\"weight_map\": {\"a\": \"" + std::string(name) + "\"}}").starts_with("FormatError"));
  }
  for (const char* index : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {"a": 1}})", R"({"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}})"})
    CHECK(read(index).starts_with("FormatError"));
}

namespace {
/// The malformed collection: the manifest says of each file whether it must open.
void check_robust(const std::string& folder) {
  std::ifstream stream(folder + "/manifest.json");
  const auto manifest = nlohmann::json::parse(stream);
  std::size_t files = 0;
  for (const auto& [file, facts] : manifest.items()) {
    if (!file.starts_with("safetensors/")) continue;
    INFO(file);
    const std::string path = folder + "/" + file, expect = facts["expect"];
    const auto read = [&] { return path.ends_with(".json") ? read_safetensors_index(path) : read_safetensors(path); };
    if (expect == "ok") {
      CHECK_NOTHROW(read());
    } else if (expect == "missing_shard") {
      CHECK_THROWS_AS(read(), FileError);
    } else {
      CHECK_THROWS_AS(read(), FormatError);
    }
    ++files;
  }
  CHECK(files > 20);
}
}  // namespace

TEST_CASE("malformed files are refused by name") {
  check_robust(test_data("robust"));
  if (const auto shared = shared_data("io/robust")) check_robust(*shared);
}
