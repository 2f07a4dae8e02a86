#include <chiasm/io/gguf.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/thrown.hpp"

#include <nlohmann/json.hpp>

#include <cstring>
#include <fstream>
#include <memory>

using namespace chiasm;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }
Gguf parse(const std::string& bytes) { return Gguf::parse(FileMap(bytes_of(bytes), "m.gguf")); }

std::string message(const std::string& bytes) { return message_of([&] { parse(bytes); }); }

/// A file, written part by part.
class File {
 public:
  explicit File(std::uint64_t tensors = 0, std::uint64_t values = 0, std::uint32_t version = 3) {
    text_ = "GGUF";
    put(version), put(tensors), put(values);
  }
  template <class T>
  requires std::is_arithmetic_v<T> File& put(T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    text_.append(bytes, sizeof value);
    return *this;
  }
  File& put(std::string_view text) {
    put(std::uint64_t{text.size()});
    text_ += text;
    return *this;
  }
  File& value(std::string_view key, Gguf::Type type) { return put(key).put(static_cast<std::uint32_t>(type)); }
  File& tensor(std::string_view name, std::initializer_list<std::int64_t> ne, std::uint32_t type, std::uint64_t offset) {
    put(name).put(static_cast<std::uint32_t>(ne.size()));
    for (const std::int64_t extent : ne) put(extent);
    return put(type).put(offset);
  }
  File& data(std::size_t bytes, std::size_t alignment = 32) {
    text_.append((alignment - text_.size() % alignment) % alignment, '\0');
    text_.append(bytes, '\1');
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

TEST_CASE("values and tensors of every type, as gguf-py reads them") {
  const Gguf file = Gguf::open(test_data("gguf/kinds.gguf"));
  std::ifstream stream(test_data("gguf/kinds.json"));
  const auto expected = nlohmann::json::parse(stream);
  CHECK(file.version() == 3);
  CHECK(file.alignment() == 64);
  CHECK(file.metadata().size() == expected["values"].size() + 1);  // gguf-py does not read nested arrays
  for (const auto& [key, want] : expected["values"].items()) {
    INFO(key);
    const Gguf::Value& value = file[key];
    CHECK(value.key() == key);
    if (want.is_array()) {
      REQUIRE(value.size() == want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        if (want[i].is_string()) CHECK(value[i].as_string() == want[i].get<std::string>());
        else if (want[i].is_boolean()) CHECK(value[i].as_bool() == want[i].get<bool>());
        else CHECK(value[i].as_double() == want[i].get<double>());
      }
    } else if (want.is_string()) {
      CHECK(value.as_string() == want.get<std::string>());
    } else if (want.is_boolean()) {
      CHECK(value.as_bool() == want.get<bool>());
    } else {
      CHECK(value.as_double() == want.get<double>());
      if (want.is_number_integer() && key != "integer.uint64") CHECK(value.as_int() == want.get<std::int64_t>());
    }
  }
  CHECK(file["nested"].size() == 3);
  CHECK(file["nested"].element_type() == Gguf::Type::array);
  CHECK(file["nested"][2][1].as_int() == 5);
  CHECK(file["nested"].describe() == "[[1, 2], [3], [4, 5, 6]]");

  REQUIRE(file.tensors().size() == expected["tensors"].size());
  const FileMap raw = FileMap::open(test_data("gguf/kinds.gguf"));
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    const Weight& tensor = file.tensors()[i];
    const auto& want = expected["tensors"][i];
    INFO(tensor.name());
    CHECK(tensor.name() == want["name"].get<std::string>());
    CHECK(std::vector<std::size_t>(tensor.shape().begin(), tensor.shape().end()) == want["shape"].get<std::vector<std::size_t>>());
    CHECK(tensor.bytes() == want["bytes"].get<std::size_t>());
    CHECK(std::memcmp(tensor.data(), raw.data() + want["offset"].get<std::size_t>(), tensor.bytes()) == 0);
    if (tensor.name().starts_with("tensor.")) CHECK(tensor.name() == "tensor." + std::string(name(tensor.dtype())));
  }
  CHECK(file.weights().get("tensor.q6_k", Shape{2, 3, 256}).dtype() == DType::q6_k);
}

TEST_CASE("getters say where, what and what was expected") {
  const Gguf file = Gguf::open(test_data("gguf/kinds.gguf"));
  const std::string path = test_data("gguf/kinds.gguf");
  CHECK(file.find("none") == nullptr);
  CHECK_FALSE(file.contains("tex"));
  CHECK(file.contains("text"));
  CHECK(file.get<std::uint32_t>("none", 7) == 7);
  CHECK(file.get<std::uint32_t>("integer.uint32", 7) == 4000000000u);
  CHECK(file.get<std::string>("general.architecture", "") == "llama");
  CHECK(file["integers"].as_vector<int>().back() == 19);
  CHECK(file["strings"].as_vector<std::string_view>()[2] == "▁the");
  CHECK(message_of([&] { file["none"]; }) == path + ": none: missing");
  CHECK(message_of([&] { (void)file["text"].as_int(); }) == path + ": text: is \"naïve 图像\\u000a\\u0000 \\\"quoted\\\"\", expected an integer");
  CHECK(message_of([&] { (void)file["strings"].as_string(); }).find(": strings: is [\"<s>\", \"\", \"▁the\", \"xxx") != std::string::npos);
  CHECK(message_of([&] { (void)file["integers"][23]; }) == path + ": integers: has 23 elements, no element 23");
  CHECK(message_of([&] { (void)file["yes"][0]; }) == path + ": yes: is true, expected an array");
  CHECK(message_of([&] { (void)file["yes"].as_int(); }) == path + ": yes: is true, expected an integer");
  CHECK(message_of([&] { (void)file["number.f32"].as_int(); }) == path + ": number.f32: is 0.48145467, expected an integer");
  CHECK(message_of([&] { (void)file["integer.uint8"].as_bool(); }) == path + ": integer.uint8: is 200, expected a bool");
  CHECK(message_of([&] { (void)file["integer.uint8"].as<std::int8_t>(); }) == path + ": integer.uint8: is 200, out of range");
  CHECK(message_of([&] { (void)file["integer.uint64"].as_int(); }) == path + ": integer.uint64: is 9223372036854775813, out of range");
  CHECK(file["integers"].describe() == "[-3, -2, -1, 0, 1, 2, 3, 4, ... 23 in all]");
}

TEST_CASE("a format that is not read is said by name, where tensors are asked for") {
  const Gguf file = Gguf::open(test_data("gguf/iq2_xxs.gguf"));
  CHECK(file.tensors().size() == 1);
  CHECK(message_of([&] { file.weights(); }).find("'blk.0.attn_q.weight' is IQ2_XXS") != std::string::npos);
  for (const auto& [number, name] : {std::pair(133u, "Q6_0"), std::pair(139u, "IQ4_K"), std::pair(39u, "MXFP4"), std::pair(152u, "IQ5_KS")}) {
    const std::string bytes = File(1).tensor("a.weight", {256, 2}, number, 0).data(64).text();
    CHECK(message_of([&] { parse(bytes).weights(); }).find("'a.weight' is " + std::string(name)) != std::string::npos);
  }
  CHECK(message(File(1).tensor("a.weight", {256, 2}, 202, 0).data(64).text()).find("'a.weight' has type 202, one of ik_llama.cpp's") != std::string::npos);
  CHECK(message(File(1).tensor("a.weight", {256, 2}, 999, 0).data(64).text()).find("'a.weight' has type 999, which is none of ggml's") != std::string::npos);
}

TEST_CASE("versions, alignments, places") {
  CHECK(parse(File(0, 0, 2).text()).version() == 2);
  CHECK_THROWS_AS(parse(File(0, 0, 1).text()), UnsupportedError);
  CHECK_THROWS_AS(parse(File(0, 0, 0x03000000u).text()), UnsupportedError);
  CHECK_THROWS_AS(parse(File(0, 0, 4).text()), FormatError);
  const auto aligned = [](std::uint32_t alignment) { return File(1, 1).value("general.alignment", Gguf::Type::u32).put(alignment).tensor("a", {2}, 0, 0); };
  CHECK(parse(aligned(8).data(8, 8).text()).tensors()[0].to_f32().size() == 2);
  const std::string wide = aligned(256).data(8, 256).text();
  const Gguf file = parse(wide);
  CHECK(file.tensors()[0].data() == bytes_of(wide).data() + 256);
  for (const std::uint32_t bad : {0u, 1u, 4u, 24u, 0x80000000u}) CHECK_THROWS_AS(parse(aligned(bad).data(8, 8).text()), FormatError);
  CHECK_THROWS_AS(parse(File(0, 1).value("general.alignment", Gguf::Type::u64).put(std::uint64_t{32}).text()), FormatError);
  // Holes between tensors are no harm, nor is an order of their own; sharing bytes is.
  CHECK(parse(File(2).tensor("b", {8}, 0, 64).tensor("a", {8}, 0, 0).data(96).text()).tensors()[0].name() == "b");
  CHECK(message(File(2).tensor("b", {8}, 0, 0).tensor("a", {9}, 0, 0).data(96).text()).find("inside 'b'") != std::string::npos);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {0, 4}, 0, 0).data(32).text()), FormatError);
  CHECK(parse(File(1).tensor("s", {}, 0, 0).data(4).text()).tensors()[0].shape().rank() == 0);
}

TEST_CASE("a GGUF file's map outlives everything but its weights") {
  auto owner = std::make_shared<std::string>(File(1).tensor("a", {4}, 0, 0).data(16).text());
  const std::weak_ptr<std::string> watch = owner;
  Weight weight;
  {
    const Gguf file = Gguf::parse(FileMap(bytes_of(*owner), "memory", owner));
    weight = file.weights().get("a");
    owner.reset();
  }
  CHECK_FALSE(watch.expired());
  weight = Weight();
  CHECK(watch.expired());
}

TEST_CASE("counts and lengths are held against the file's end before anything is made of them") {
  constexpr std::uint64_t huge = std::uint64_t{1} << 62;
  CHECK(message(File(huge).text()) == "m.gguf: byte 8: 4611686018427387904 tensors, the file ends after 8 bytes more");
  CHECK(message(File(0, huge).text()).find("4611686018427387904 values") != std::string::npos);
  CHECK(message(File(0, 1).put(huge).put(std::uint64_t{0}).text()).find("bytes of a key") != std::string::npos);
  for (const Gguf::Type type : {Gguf::Type::u8, Gguf::Type::string, Gguf::Type::array, Gguf::Type::f64})
    CHECK_THROWS_AS(parse(File(0, 1).value("k", Gguf::Type::array).put(static_cast<std::uint32_t>(type)).put(huge).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {std::int64_t{1} << 62}, 0, 0).data(16).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {std::int64_t{1} << 40, std::int64_t{1} << 40}, 0, 0).data(16).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {-1}, 0, 0).data(16).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {1, 1, 1, 1, 1}, 0, 0).data(16).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {4}, 0, huge).data(16).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {4}, 0, 16).data(32).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("a", {4}, 0, 0).data(15).text()), FormatError);
  CHECK_THROWS_AS(parse(File(1).tensor("", {4}, 0, 0).data(16).text()), FormatError);
  CHECK_THROWS_AS(parse(File(2).tensor("a", {4}, 0, 0).tensor("a", {4}, 0, 32).data(64).text()), FormatError);
  CHECK(message(File(1).tensor("a", {48, 2}, 2, 0).data(64).text()).find("'a': Q4_0 with rows of 48, expected a multiple of 32") != std::string::npos);

  File deep(0, 1);
  deep.value("k", Gguf::Type::array);
  for (int i = 0; i < 1000; ++i) deep.put(static_cast<std::uint32_t>(Gguf::Type::array)).put(std::uint64_t{1});
  CHECK(message(deep.put(std::uint32_t{0}).put(std::uint64_t{0}).text()).find("deeper than 4") != std::string::npos);

  // Every beginning of a good file.
  std::ifstream stream(test_data("gguf/kinds.gguf"), std::ios::binary);
  const std::string whole(std::istreambuf_iterator<char>(stream), {});
  const Weight last = parse(whole).tensors().back();  // behind it the writer has filled up to the alignment
  const auto end = static_cast<std::size_t>(last.data() - bytes_of(whole).data()) + last.bytes();
  for (std::size_t size = 0; size < end; size += size < 4000 ? 1 : 61) {
    INFO(size);
    CHECK_THROWS_AS(parse(whole.substr(0, size)), FormatError);
  }
}

TEST_CASE("a vocabulary of a million strings costs no copies") {
  const std::size_t count = 1'000'000;
  File file(0, 1);
  file.value("tokenizer.ggml.tokens", Gguf::Type::array).put(static_cast<std::uint32_t>(Gguf::Type::string)).put(std::uint64_t{count});
  for (std::size_t i = 0; i < count; ++i) file.put(std::to_string(i));
  const Gguf gguf = parse(file.text());
  const Gguf::Value tokens = gguf["tokenizer.ggml.tokens"];
  REQUIRE(tokens.size() == count);
  bool same = true;
  for (std::size_t i = 0; i < count; i += 7) same = same && tokens[i].as_string() == std::to_string(i);
  CHECK(same);
  CHECK(tokens[count - 1].as_string().data() == file.text().data() + file.text().size() - 6);
}

namespace {
/// The malformed collection: the manifest says of each file whether it must open.
void check_robust(const std::string& folder) {
  std::ifstream stream(folder + "/manifest.json");
  const auto manifest = nlohmann::json::parse(stream);
  std::size_t files = 0;
  for (const auto& [file, facts] : manifest.items()) {
    if (!file.starts_with("gguf/")) continue;
    INFO(file);
    const std::string path = folder + "/" + file, expect = facts["expect"];
    if (expect == "ok") CHECK_NOTHROW(Gguf::open(path).weights());
    else if (expect == "unknown_dtype") CHECK_THROWS_AS(Gguf::open(path), UnsupportedError);
    else CHECK_THROWS_AS(Gguf::open(path), FormatError);
    ++files;
  }
  CHECK(files >= 16);
}
}  // namespace

TEST_CASE("malformed GGUF files are refused by name") {
  check_robust(test_data("robust"));
  if (const auto shared = shared_data("io/robust")) check_robust(*shared);
}
