#include <chiasm/core/mapped_file.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/packed_cache.hpp>
#include <chiasm/io/safetensors.hpp>

#include "support/catch.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace chiasm;

namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("chiasm-packed-" + std::to_string(std::random_device()()));
  Folder() { fs::create_directories(path); }
  ~Folder() {
    std::error_code error;
    fs::remove_all(path, error);
  }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// A file of three matrices and a vector.
void make(const std::string& path, unsigned seed, std::size_t columns = 96) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<Weight> tensors;
  for (const auto& [name, shape] : {std::pair("a.weight", Shape{40, columns}), std::pair("b.weight", Shape{17, columns}), std::pair("conv.weight", Shape{8, 3, 4, 4}), std::pair("norm.weight", Shape{64})}) {
    Tensor values(shape);
    for (float& value : values.values()) value = normal(random);
    const auto owner = std::make_shared<Tensor>(std::move(values));
    tensors.emplace_back(name, DType::f32, shape, reinterpret_cast<const std::byte*>(owner->data()), owner, path);
  }
  write_safetensors(path, tensors);
}

struct Taken {
  std::vector<float> a, b, conv;
  bool operator==(const Taken&) const = default;
};
/// What a model would take. How many tensors the cache did not have goes to `missed`.
Taken take(const std::string& file, const std::string& cache_path, WeightKind kind, std::size_t* missed = nullptr, bool write = true, bool bf16_panels = false) {
  const Weights stored = read_safetensors(file);
  const auto cache = std::make_shared<PackedCache>(cache_path, *WeightsIdentity::of(stored), kind);
  const std::size_t before = cache->size();
  Conversion how;
  how.kind = kind;
  how.bf16_panels = bf16_panels;
  how.before = cache;
  const Weights w = stored.converting(how);
  const auto numbers = [](const Weight& weight) {
    const Tensor tensor = weight.to_f32();
    return std::vector<float>(tensor.values().begin(), tensor.values().end());
  };
  const Weight a = w.packed("a.weight", w.stored("a.weight").shape());
  CHECK(w.get("norm.weight").dtype() == DType::f32);
  const Taken taken{numbers(a), numbers(w.packed("b.weight", w.stored("b.weight").shape())), numbers(w.get("conv.weight"))};
  if (missed != nullptr) *missed = cache->size() - before;
  if (write) CHECK(cache->write());
  return taken;
}

}  // namespace

TEST_CASE("a second start takes from the cache what the first one converted") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "sub/folder/cache.packed";
  make(file, 1);
  for (const WeightKind kind : {WeightKind::q8, WeightKind::q4, WeightKind::i8, WeightKind::bf16}) {
    std::size_t missed = 0;
    const Taken first = take(file, path, kind, &missed);  // a cache of another kind is replaced
    CHECK(missed == 3);
    CHECK(take(file, path, kind, &missed) == first);
    CHECK(missed == 0);
    CHECK(std::distance(fs::directory_iterator(fs::path(path).parent_path()), {}) == 1);
  }
}

TEST_CASE("a cache keeps bf16 in panels and in rows apart") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "cache.packed";
  make(file, 1);
  std::size_t missed = 0;
  const Taken rows = take(file, path, WeightKind::bf16, &missed);
  CHECK(take(file, path, WeightKind::bf16, &missed, true, true) == rows);
  CHECK(missed == 2);  // the matrices of products
  for (const bool panels : {true, false}) {
    CHECK(take(file, path, WeightKind::bf16, &missed, true, panels) == rows);
    CHECK(missed == 0);
  }
}

TEST_CASE("a checkpoint that has changed is converted anew") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "cache.packed";
  make(file, 1);
  take(file, path, WeightKind::q8);
  std::size_t missed = 0;

  make(file, 2);  // other numbers
  const Taken other = take(file, path, WeightKind::q8, &missed);
  CHECK(missed == 3);
  CHECK(take(file, path, WeightKind::q8, &missed) == other);
  CHECK(missed == 0);

  make(file, 2, 128);  // other shapes
  take(file, path, WeightKind::q8, &missed);
  CHECK(missed == 3);

  fs::copy_file(file, folder / "copy");  // the same bytes in another file
  fs::rename(folder / "copy", file);
  take(file, path, WeightKind::q8, &missed);
  CHECK(missed == 3);

  fs::last_write_time(file, fs::last_write_time(file) + std::chrono::seconds(5));  // touched
  take(file, path, WeightKind::q8, &missed);
  CHECK(missed == 3);
  take(file, path, WeightKind::q8, &missed);
  CHECK(missed == 0);
}

TEST_CASE("a damaged cache is not believed") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "cache.packed";
  make(file, 1);
  const Taken right = take(file, path, WeightKind::q4);
  const std::string good = read(path);
  REQUIRE(good.size() > 8192);
  std::size_t missed = 0;
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{79}, std::size_t{80}, std::size_t{200}, good.size() - 1}) {
    INFO("cut to " << size);
    write(path, good.substr(0, size));
    CHECK(take(file, path, WeightKind::q4, &missed, false) == right);
    CHECK(missed == 3);
  }
  write(path, good + "x");
  CHECK(take(file, path, WeightKind::q4, &missed, false) == right);
  CHECK(missed == 3);
  // The header and the table: each byte counts.
  std::uint64_t table = 0;
  std::memcpy(&table, good.data() + 48, sizeof table);
  REQUIRE(table > 3 * 40);
  for (std::size_t at = 0; at < 80 + table; at += 3) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x41);
    if (bad == good || good.substr(at, 1) == std::string(1, '\0')) bad[at] = 1;
    write(path, bad);
    INFO("byte " << at);
    take(file, path, WeightKind::q4, &missed, false);
    CHECK(missed == 3);
  }
  // It is replaced.
  CHECK(take(file, path, WeightKind::q4) == right);
  CHECK(take(file, path, WeightKind::q4, &missed) == right);
  CHECK(missed == 0);
}

TEST_CASE("what another model of the checkpoint took stays in the cache") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "cache.packed";
  make(file, 1);
  const Weights stored = read_safetensors(file);
  for (const char* const name : {"a.weight", "b.weight"}) {
    const auto cache = std::make_shared<PackedCache>(path, *WeightsIdentity::of(stored), WeightKind::q8);
    Conversion how;
    how.kind = WeightKind::q8;
    how.before = cache;
    (void)stored.converting(how).packed(name, stored.stored(name).shape());
    CHECK(cache->write());
  }
  CHECK(PackedCache(path, *WeightsIdentity::of(stored), WeightKind::q8).size() == 2);
}

TEST_CASE("tensors of a file that the cache knows nothing of") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "cache.packed";
  make(file, 1);
  make(folder / "glue.safetensors", 2);
  const Weights stored = read_safetensors(file), glue = read_safetensors(folder / "glue.safetensors").renamed([](std::string_view name) { return "glue." + std::string(name); });
  const auto cache = std::make_shared<PackedCache>(path, *WeightsIdentity::of(stored), WeightKind::q8);
  Conversion how;
  how.kind = WeightKind::q8;
  how.before = cache;
  const Weights both = stored.converting(how).merged(glue);
  for (const char* const name : {"a.weight", "glue.a.weight"}) (void)both.packed(name, both.stored(name).shape());
  CHECK(cache->size() == 1);
}

TEST_CASE("weights in memory have no identity, and a folder that cannot be written to is no error") {
  const Folder folder;
  const std::string file = folder / "model.safetensors";
  make(file, 1);
  CHECK_FALSE(WeightsIdentity::of(Weights({Weight("w", DType::f32, {1}, reinterpret_cast<const std::byte*>("abc"), nullptr, "<memory>")}, "<memory>")).has_value());
  const Weights stored = read_safetensors(file);
  write(folder / "no folder", "");
  PackedCache cache(folder / "no folder/cache.packed", *WeightsIdentity::of(stored), WeightKind::q8);
  CHECK(cache.write());  // nothing to write
  cache.add("a.weight", stored.stored("a.weight"), convert(stored.stored("a.weight"), DType::q8_0));
  CHECK_FALSE(cache.write());
}

TEST_CASE("many that write at once leave one whole file") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "caches/cache.packed";
  make(file, 1);
  const Taken right = take(file, path, WeightKind::q8);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int turn = 0; turn < 10; ++turn) {
        const Weights stored = read_safetensors(file);
        const auto cache = std::make_shared<PackedCache>(path, *WeightsIdentity::of(stored), i % 2 == 0 ? WeightKind::q8 : WeightKind::q4);
        cache->add("another" + std::to_string(turn), stored.stored("b.weight"), convert(stored.stored("b.weight"), DType::q8_0));
        wrong += !cache->write();
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(std::distance(fs::directory_iterator(fs::path(path).parent_path()), {}) == 1);
  CHECK(take(file, path, WeightKind::q8) == right);
}

TEST_CASE("what a process left that ended while it wrote goes with the next write") {
  const Folder folder;
  const std::string file = folder / "model.safetensors", path = folder / "caches/cache.packed";
  make(file, 1);
  fs::create_directories(folder / "caches");
  for (const char* const name : {".0011.part", ".2233.part", "-other.part"}) write(path + name, "x");
  for (const char* const name : {".0011.part", "-other.part"}) fs::last_write_time(path + name, fs::file_time_type::clock::now() - std::chrono::hours(2));
  take(file, path, WeightKind::q8);
  CHECK_FALSE(fs::exists(path + ".0011.part"));
  CHECK(fs::exists(path + ".2233.part"));  // somebody may be writing it
  CHECK(fs::exists(path + "-other.part"));
}

TEST_CASE("a checkpoint with a cache") {
  const Folder folder;
  fs::create_directories(folder.path / "model");
  make(folder / "model/model.safetensors", 1);
  write(folder / "model/config.json", "{}");
  CheckpointOptions options;
  options.weights = WeightKind::q4;
  options.packed_cache = folder / "caches";
  std::vector<std::string> seen;
  options.on_progress = [&](std::string_view name, std::size_t, std::size_t) { seen.emplace_back(name); };
  const void* mapped[2] = {};
  std::vector<float> numbers[2];
  for (int turn = 0; turn < 2; ++turn) {
    const Checkpoint checkpoint = Checkpoint::open(folder / "model", options);
    const Weight a = checkpoint.weights().packed("a.weight", Shape{40, 96});
    mapped[turn] = std::get_deleter<detail::Unmap>(a.owner());
    const Tensor values = a.to_f32();
    numbers[turn].assign(values.values().begin(), values.values().end());
    checkpoint.keep_converted();
  }
  CHECK(mapped[0] == nullptr);
  CHECK((mapped[1] != nullptr) == (std::get_deleter<detail::Unmap>(FileMap::open(folder / "model/config.json").owner()) != nullptr));
  CHECK(numbers[0] == numbers[1]);
  CHECK(seen == std::vector<std::string>{"model.safetensors", "a.weight", "model.safetensors", "a.weight"});
  CHECK(std::distance(fs::directory_iterator(folder / "caches"), {}) == 1);

  options.packed_cache.clear();
  options.cancel.cancel();
  CHECK_THROWS_AS(Checkpoint::open(folder / "model", options).weights().packed("a.weight", Shape{40, 96}), Cancelled);
}

TEST_CASE("the file of a checkpoint") {
  const Folder folder;
  fs::create_directories(folder.path / "model");
  const std::string one = PackedCache::path_in("cache", folder / "model", WeightKind::q4);
  CHECK(one == PackedCache::path_in("cache", folder / "model/../model", WeightKind::q4));
  CHECK(one != PackedCache::path_in("cache", folder / "model", WeightKind::q8));
  CHECK(one != PackedCache::path_in("cache", folder / "other", WeightKind::q4));
  CHECK(one.find("model-") != std::string::npos);
}
