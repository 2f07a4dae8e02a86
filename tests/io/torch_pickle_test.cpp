#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/torch_pickle.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/thrown.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

using namespace chiasm;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

/// Little-endian.
std::string number(std::uint64_t value, std::size_t width) {
  std::string bytes;
  for (std::size_t i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

/// An archive of stored files, as torch.save makes them; `zip64`: with the wide forms of all numbers.
std::string archive(const std::vector<std::pair<std::string, std::string>>& files, bool zip64 = false) {
  std::string bytes, directory;
  for (const auto& [name, data] : files) {
    const std::string sizes = number(data.size(), 4) + number(data.size(), 4), wide = zip64 ? number(1, 2) + number(24, 2) + number(data.size(), 8) + number(data.size(), 8) + number(bytes.size(), 8) : "";
    directory += number(0x02014b50, 4) + std::string(16, '\0') + (zip64 ? std::string(8, '\xff') : sizes) + number(name.size(), 2) + number(wide.size(), 2) + std::string(10, '\0') +
                 (zip64 ? std::string(4, '\xff') : number(bytes.size(), 4)) + name + wide;
    bytes += number(0x04034b50, 4) + std::string(14, '\0') + sizes + number(name.size(), 2) + number(0, 2) + name + data;
  }
  const std::size_t begin = bytes.size();
  bytes += directory;
  if (zip64) {
    const std::size_t end = bytes.size();
    bytes += number(0x06064b50, 4) + number(44, 8) + std::string(12, '\0') + number(files.size(), 8) + number(files.size(), 8) + number(directory.size(), 8) + number(begin, 8);
    bytes += number(0x07064b50, 4) + number(0, 4) + number(end, 8) + number(1, 4);
    return bytes + number(0x06054b50, 4) + number(0, 4) + std::string(12, '\xff') + number(0, 2);
  }
  return bytes + number(0x06054b50, 4) + number(0, 4) + number(files.size(), 2) + number(files.size(), 2) + number(directory.size(), 4) + number(begin, 4) + number(0, 2);
}

// Pickle, by its opcodes.
std::string text(const std::string& value) { return "X" + number(value.size(), 4) + value; }
std::string integer(std::int32_t value) { return "J" + number(static_cast<std::uint32_t>(value), 4); }
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string tuple(const std::vector<std::int32_t>& values) {
  std::string bytes = "(";
  for (const std::int32_t value : values) bytes += integer(value);
  return bytes + "t";
}
std::string storage(const std::string& key, std::int32_t elements, const std::string& type = "FloatStorage") {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(elements) + "tQ";
}
std::string tensor(const std::string& of, std::int32_t first, const std::vector<std::int32_t>& size, const std::vector<std::int32_t>& stride) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + of + integer(first) + tuple(size) + tuple(stride) + "\x89}tR";
}
std::string dict(const std::string& items) { return "}(" + items + "u"; }
/// A file with one storage "0" of six floats 0 1 2 3 4 5.
std::string file_of(const std::string& pickle) {
  std::string floats;
  for (const float value : {0.f, 1.f, 2.f, 3.f, 4.f, 5.f}) floats.append(reinterpret_cast<const char*>(&value), 4);
  return archive({{"m/data.pkl", "\x80\x02" + pickle + "."}, {"m/data/0", floats}, {"m/version", "3\n"}});
}
std::string file_of_tensor(const std::string& one) { return file_of(dict(text("a") + one)); }

std::vector<Weight> parse(const std::string& bytes) { return TorchPickle::parse(FileMap(bytes_of(bytes), "m.pt")).tensors; }
std::string message(const std::string& bytes) { return message_of([&] { parse(bytes); }); }
std::vector<float> values(const Weight& weight) {
  const Tensor tensor = weight.to_f32();
  return {tensor.values().begin(), tensor.values().end()};
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
std::string golden(const std::string& name) { return test_data("torch/" + name); }

}  // namespace

TEST_CASE("state dicts, as torch reads them") {
  for (const auto& [name, expected] : {std::pair("state_dict", "state_dict"), std::pair("protocol_4", "state_dict"), std::pair("training_run", "training_run"),
                                       std::pair("small", "small"), std::pair("zipped_anew", "small"), std::pair("six_dimensions", "six_dimensions")}) {
    INFO(name);
    const std::string path = golden(std::string(name) + ".pt");
    const std::string content = read_file(path);
    const Weights want = read_safetensors(golden(std::string(expected) + ".safetensors"));
    for (const Weights& have : {read_torch_pickle(path), read_torch_pickle(bytes_of(content), "memory")}) {
      REQUIRE(have.names() == want.names());
      std::vector<WeightError> wrong;
      const Weights a = have.noting(wrong), b = want.noting(wrong);  // nothing is converted: the files' own dtypes
      for (const std::string& tensor : want.names()) {
        INFO(tensor);
        const Weight x = a.get(tensor), y = b.get(tensor);
        CHECK(x.describe() == y.describe());
        REQUIRE(x.bytes() == y.bytes());
        CHECK(std::memcmp(x.data(), y.data(), x.bytes()) == 0);
      }
    }
  }
}

TEST_CASE("a training run's state dict lies below its key") {
  const Weights run = read_torch_pickle(golden("training_run.pt")) / "model_state_dict" / "module";
  CHECK(run.names() == std::vector<std::string>{"a.weight"});
  CHECK(run.get("a.weight", {2, 3}).name() == "model_state_dict.module.a.weight");
}

TEST_CASE("views point into the file, and only what does not lie in rows is a copy") {
  const std::string content = read_file(golden("state_dict.pt"));
  const char *const begin = content.data(), *const end = begin + content.size();
  const auto inside = [&](const Weight& weight) {
    const char* const data = reinterpret_cast<const char*>(weight.data());
    return data >= begin && data + weight.bytes() <= end;
  };
  const std::vector<Weight> tensors = parse(content);
  std::map<std::string, Weight> named;
  for (const Weight& weight : tensors) named[weight.name()] = weight;
  CHECK(named["rows"].data() == named["whole"].data() + 6 * sizeof(float));
  for (const char* const name : {"whole", "rows", "parameter", "scalar", "empty", "bfloat16"}) CHECK(inside(named[name]));
  for (const char* const name : {"transposed", "every_second", "broadcast", "five"}) CHECK_FALSE(inside(named[name]));
  CHECK(tensors.front().name() == "whole");
}

TEST_CASE("a map outlives everything but its weights: torch") {
  auto owner = std::make_shared<std::string>(read_file(golden("small.pt")));
  const std::weak_ptr<std::string> watch = owner;
  Weights held = read_torch_pickle(bytes_of(*owner), "memory", owner);
  owner.reset();
  CHECK_FALSE(watch.expired());
  CHECK(values(held.get("a")) == std::vector<float>{0, 1, 2, 3, 4, 5});
  held = Weights();
  CHECK(watch.expired());
}

TEST_CASE("what is no state dict of plain tensors is refused, and nothing of it is run") {
  const std::pair<const char*, const char*> refused[] = {{"runs_a_program", "GLOBAL posix.system"},
                                                         {"whole_module", "GLOBAL torch.nn.modules.linear.Linear"},
                                                         {"before_1_6", "before version 1.6"},
                                                         {"one_tensor", "the file is one tensor"},
                                                         {"complex", "GLOBAL torch.ComplexFloatStorage"},
                                                         {"sparse", "_rebuild_sparse_tensor"},
                                                         {"nine_dimensions", "9 dimensions, at most 8"},
                                                         {"torchscript", "a TorchScript program"},
                                                         {"compressed", "'small/byteorder' is compressed (method 8)"},
                                                         {"big_endian", "big-endian"}};
  for (const auto& [name, why] : refused) {
    INFO(name);
    const std::string content = read_file(golden(std::string(name) + ".pt"));
    CHECK_THROWS_AS(parse(content), UnsupportedError);
    INFO(message(content));
    CHECK(message(content).find(why) != std::string::npos);
    CHECK(message(content).find("m.pt") != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists("chiasm_was_here"));
}

TEST_CASE("tensors of a storage: where they begin, sizes and strides") {
  const auto of = [](std::int32_t first, const std::vector<std::int32_t>& size, const std::vector<std::int32_t>& stride) {
    return values(parse(file_of_tensor(tensor(storage("0", 6), first, size, stride))).at(0));
  };
  CHECK(of(0, {2, 3}, {3, 1}) == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(of(2, {3}, {1}) == std::vector<float>{2, 3, 4});
  CHECK(of(0, {3, 2}, {1, 3}) == std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(of(5, {}, {}) == std::vector<float>{5});
  CHECK(of(1, {1, 2}, {77, 1}) == std::vector<float>{1, 2});  // the stride of one row says nothing
  CHECK(of(1, {2, 2}, {0, 2}) == std::vector<float>{1, 3, 1, 3});
  CHECK(of(9, {0, 3}, {3, 1}).empty());
  CHECK(parse(file_of_tensor(tensor(storage("0", 12, "HalfStorage"), 0, {12}, {1}))).at(0).describe() == "f16 (12)");

  for (const auto& [first, size, stride] : std::vector<std::tuple<std::int32_t, std::vector<std::int32_t>, std::vector<std::int32_t>>>{
           {0, {7}, {1}}, {6, {}, {}}, {1, {2, 3}, {3, 1}}, {-1, {2}, {1}}, {0, {-2}, {1}}, {0, {2}, {-1}}, {0, {2, 3}, {1}}, {0, {2}, {6}},
           {0, {0x7fffffff, 0x7fffffff, 0x7fffffff}, {0, 0, 0}}, {0, {2, 2, 2, 2}, {0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}}, {0x7fffffff, {2}, {0x7fffffff}},
           {0, {1 << 20}, {0}}}) {
    const std::string content = file_of_tensor(tensor(storage("0", 6), first, size, stride));
    INFO(message(content));
    CHECK_THROWS_AS(parse(content), FormatError);
  }
  CHECK(message(file_of_tensor(tensor(storage("0", 6), 1, {2, 3}, {3, 1}))).find("a tensor (2, 3) that reaches beyond the 6 elements of its storage 'm/data/0'") != std::string::npos);
  CHECK(message(file_of_tensor(tensor(storage("0", 7), 0, {7}, {1}))).find("storage '0' is 7 elements f32, its file has 24 bytes") != std::string::npos);
  CHECK(message(file_of_tensor(tensor(storage("1", 6), 0, {6}, {1}))).find("storage '1' is not in the archive") != std::string::npos);
  CHECK_THROWS_AS(parse(file_of_tensor(tensor(storage("0", 6), 0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}))), UnsupportedError);
}

TEST_CASE("names are paths of keys") {
  const std::string one = tensor(storage("0", 6), 0, {6}, {1});
  const auto names = [](const std::string& bytes) {
    std::string list;
    for (const Weight& weight : parse(bytes)) list += weight.name() + " ";
    return list;
  };
  CHECK(names(file_of(dict(text("b") + dict(text("c.d") + one + integer(3) + one) + text("a") + "]" + one + "a"))) == "b.c.d b.3 a.0 ");
  CHECK(names(file_of("](" + one + integer(1) + one + "e")) == "0 2 ");
  CHECK(names(file_of("}")).empty());
  CHECK(message(file_of(dict(text("a.b") + one + text("a") + dict(text("b") + one)))).find("two tensors by the name 'a.b'") != std::string::npos);
  CHECK(message(file_of(dict(text(std::string(2000, 'x')) + one))).find("a name of more than 1024 bytes") == std::string::npos);
  CHECK_THROWS_AS(parse(file_of(dict(text(std::string(2000, 'x')) + one))), FormatError);
}

TEST_CASE("pickles that are broken or hostile end soon, with the byte") {
  const std::string one = tensor(storage("0", 6), 0, {6}, {1}), tuple_of_one = "\x85";
  std::string deep, wide = "]q" + number(0, 1), self = "}q" + number(0, 1) + "(" + text("a") + "h" + number(0, 1) + "u";
  for (int i = 0; i < 100'000; ++i) deep += tuple_of_one;
  for (int i = 0; i < 60; ++i) wide += "h" + number(0, 1) + "\x86q" + number(0, 1);
  const std::pair<std::string, const char*> broken[] = {{"}" + deep, "more than 64"},
                                                        {wide, "the same dicts in many places"},
                                                        {self, "the same dicts in many places"},
                                                        {"", "STOP with 0 values"},
                                                        {"}}", "STOP with 2 values"},
                                                        {"(}", "STOP with 1 values"},
                                                        {"\x86", "fewer are on the stack"},
                                                        {"}(\x86", "fewer are on the stack"},
                                                        {"u", "there is none"},
                                                        {"}u", "there is none"},
                                                        {"}(Nu", "a key without its value"},
                                                        {"]NNs", "items for what is no dict"},
                                                        {"}Na", "items for what is no list"},
                                                        {"}a", "none is on the stack"},
                                                        {"h\x05", "memo 5 is empty"},
                                                        {"j\xff\xff\xff\xff", "memo 4294967295 is empty"},
                                                        {"}r\xff\xff\xff\xff", "memo 4294967295 after 1 values"},
                                                        {"q\x01", "none is on the stack"},
                                                        {"X\xff\xff\xff\xff", "the pickle ends inside"},
                                                        {"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "the pickle ends inside"},
                                                        {"ctorch", "GLOBAL without the end"},
                                                        {"NQ", "BINPERSID of what is no storage"},
                                                        {"(NNNNNtQ", "BINPERSID of what is no storage"},
                                                        {"N)R", "REDUCE of what is no call"},
                                                        {global("torch", "FloatStorage") + ")R", "FloatStorage with other arguments"},
                                                        {global("torch._utils", "_rebuild_tensor_v2") + ")R", "with other arguments"},
                                                        {global("collections", "OrderedDict") + "N\x85R", "with other arguments"},
                                                        {"\xff", "byte 255 is no opcode"}};
  for (const auto& [pickle, why] : broken) {
    const std::string content = file_of(pickle);
    INFO(message(content).substr(0, 300) << " | " << why);
    CHECK_THROWS_AS(parse(content), FormatError);
    CHECK(message(content).find(why) != std::string::npos);
  }
  CHECK(message(archive({{"m/data.pkl", "\x80\x02}"}})) == "m.pt: byte 43: the pickle ends without STOP");
  for (const std::string& foreign : {global("os", "system") + text("true") + "\x85R", std::string("\x8c\x02os\x8c\x06system\x93"), global("torch", "load"), global("builtins", "eval"),
                                   std::string("i0\n"), std::string("}\x81"), std::string("I1\n"), std::string("\x82\x01"), std::string("}0"), std::string("\x80\x01}"), std::string("\x80\x06}"),
                                   one + "}b"}) {
    INFO(message(file_of(foreign)));
    CHECK_THROWS_AS(parse(file_of(foreign)), UnsupportedError);
    CHECK(message(file_of(foreign)).find("m.pt: byte ") != std::string::npos);
  }
}

TEST_CASE("many small values do not become gigabytes") {
  CHECK_THROWS_AS(parse(file_of(std::string(20'000'000, '}'))), FormatError);
  CHECK_THROWS_AS(parse(file_of(std::string(20'000'000, '('))), FormatError);
  CHECK_THROWS_AS(parse(archive({{"m/data.pkl", std::string(70'000'000, '}')}})), FormatError);
  // One long name before many tensors of one storage.
  std::string items;
  for (int i = 0; i < 200'000; ++i) items += integer(i) + "h" + number(1, 1);
  CHECK_THROWS_AS(parse(file_of(tensor(storage("0", 6), 0, {6}, {1}) + "q" + number(1, 1) + "\x85" + "]" + dict(text(std::string(1000, 'x')) + dict(items)) + "a\x86")), FormatError);
}

TEST_CASE("directories of archives are read strictly") {
  const std::string good = file_of_tensor(tensor(storage("0", 6), 0, {6}, {1})), pickle = "\x80\x02}.";
  REQUIRE(parse(good).size() == 1);
  CHECK(parse(archive({{"m/data.pkl", pickle}}, true)).empty());
  // Cut anywhere, and with something behind it.
  for (std::size_t size = 0; size < good.size(); ++size) CHECK_THROWS_AS(parse(good.substr(0, size)), FormatError);
  CHECK_THROWS_AS(parse(good + "x"), FormatError);
  CHECK(message(good.substr(0, 100)).find("cut short") != std::string::npos);
  CHECK(message("version https://git-lfs.github.com/spec/v1\n").find("was not downloaded") != std::string::npos);
  CHECK_THROWS_AS(parse("\x80\x04}."), UnsupportedError);
  CHECK_THROWS_AS(parse("GGUF"), FormatError);

  CHECK(message(archive({{"m/version", "3\n"}})).find("without data.pkl") != std::string::npos);
  CHECK(message(archive({{"m/data.pkl", pickle}, {"n/data.pkl", pickle}})).find("a second data.pkl") != std::string::npos);
  CHECK(message(archive({{"m/data.pkl", pickle}, {"m/x", ""}, {"m/x", ""}})).find("'m/x' is twice in the archive") != std::string::npos);
  CHECK(message(archive({{"m/data.pkl", pickle}, {"m/byteorder", "middle"}})).find("byteorder is 'middle'") != std::string::npos);

  // Every byte of the directory changed in turn: another answer, an error, but never a crash.
  for (std::string bytes : {archive({{"m/data.pkl", pickle}, {"m/x", "12"}}), archive({{"m/data.pkl", pickle}, {"m/x", "12"}}, true), good}) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      const char before = bytes[i];
      for (const int change : {1, 4, 0x80, 0xff}) {
        bytes[i] = static_cast<char>(before ^ change);
        try {
          for (const Weight& weight : parse(bytes)) weight.data();
        } catch (const Error&) {
        }
      }
      bytes[i] = before;
    }
  }
  const auto edited = [&](std::size_t from_end, const std::string& by) {
    std::string bytes = archive({{"m/data.pkl", pickle}, {"m/x", "12"}});
    return message(bytes.replace(bytes.size() - from_end, by.size(), by));
  };
  CHECK(edited(12, number(3, 2)).find("3 entries by its end") != std::string::npos);
  CHECK(edited(12, number(1, 2)).find("bytes behind the last entry") != std::string::npos);
  CHECK(edited(6, number(0xfffffff0, 4)).find("directory says") != std::string::npos);
  // The last entry's: local header, size.
  CHECK(edited(22 + 3 + 4, number(0, 4)).find("'m/x': has another name at byte 0") != std::string::npos);
  CHECK(edited(22 + 3 + 4, number(0x7fffffff, 4)).find("'m/x': begins at byte 2147483647") != std::string::npos);
  CHECK(edited(22 + 3 + 26, number(1000, 4) + number(1000, 4)).find("'m/x': has 1000 bytes from") != std::string::npos);
  CHECK(edited(22 + 3 + 26, number(1, 4)).find("'m/x': takes 1 bytes for 2") != std::string::npos);
}

TEST_CASE("checkpoints of pytorch_model.bin, of its shards, and of another name") {
  const std::string small = read_file(golden("small.pt")), index = R"({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}})";
  const auto open = [](const std::vector<std::pair<std::string, const std::string*>>& files) {
    std::vector<std::pair<std::string, std::span<const std::byte>>> spans;
    for (const auto& [name, content] : files) spans.emplace_back(name, bytes_of(*content));
    return Checkpoint::from_memory(std::move(spans));
  };
  const auto said = [](const Checkpoint& checkpoint) { return message_of([&] { checkpoint.weights(); }); };
  const std::string safetensors = read_file(golden("training_run.safetensors"));
  CHECK(open({{"pytorch_model.bin", &small}, {"optimizer.pt", &small}}).weights().names() == std::vector<std::string>{"a"});
  CHECK(open({{"pytorch_model.bin", &small}, {"model.safetensors", &safetensors}}).weights().names().size() == 3);
  CHECK(open({{"pytorch_model.bin", &small}, {"other.safetensors", &safetensors}}).weights().names().size() == 3);
  CHECK(open({{"pytorch_model.bin", &small}, {"one.safetensors", &safetensors}, {"two.safetensors", &safetensors}}).weights().names() == std::vector<std::string>{"a"});
  CHECK(open({{"pytorch_model.bin.index.json", &index}, {"pytorch_model-00001-of-00001.bin", &small}}).weights().names() == std::vector<std::string>{"a"});
  for (const char* const name : {"checkpoint.pt", "weights.bin", "consolidated.00.pth"})
    CHECK(open({{name, &small}, {"training_args.bin", &small}, {"optimizer.pt", &small}, {"scheduler.pt", &small}, {"rng_state_0.pth", &small}}).weights().names() ==
          std::vector<std::string>{"a"});
  CHECK(said(open({{"pytorch_model.bin.index.json", &index}})).find("pytorch_model-00001-of-00001.bin: not there, but pytorch_model.bin.index.json names it") != std::string::npos);
  CHECK(said(open({{"a.pt", &small}, {"b.pt", &small}})).find("2 files of weights (a.pt, b.pt, ...) but none of") != std::string::npos);
  CHECK(said(open({{"training_args.bin", &small}})).find("no weights") != std::string::npos);
  CHECK_THROWS_AS(open({{"pytorch_model.bin", &index}}).weights(), FormatError);
}

TEST_CASE("every torch file of the reference equals its safetensors copy") {
  const auto cases = shared_data("golden/cases");
  if (!cases) return;
  std::size_t compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*cases)) {
    const std::string folder = entry.path().string() + "/model/";
    if (!std::filesystem::exists(folder + "checkpoint.pt") || !std::filesystem::exists(folder + "checkpoint.safetensors")) continue;
    INFO(folder);
    const Weights have = read_torch_pickle(folder + "checkpoint.pt"), want = read_safetensors(folder + "checkpoint.safetensors");
    const Weights state = have.contains("model_state_dict") ? have / "model_state_dict" / "module" : have;
    for (const std::string& name : want.names()) {
      INFO(name);
      CHECK(values(state.get(name)) == values(want.get(name)));
    }
    ++compared;
  }
  CHECK(compared > 0);
}
