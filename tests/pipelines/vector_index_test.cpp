// Vector indexes: against double precision; their files, whole and broken; what changes and what stays; the pictures' index; selection of demonstrations.
#include "support/catch.hpp"
#include "support/paths.hpp"

#include <chiasm/chiasm.hpp>
#ifdef CHIASM_HAS_HNSWLIB
#include <chiasm/pipelines/hnsw_index.hpp>
#endif

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

using namespace chiasm;

namespace {

/// A file that goes away with the test.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& name) : path_((std::filesystem::temp_directory_path() / ("chiasm_" + std::to_string(getpid()) + "_" + name)).string()) {}
  ~ScratchFile() { std::remove(path_.c_str()); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::string& path() const { return path_; }
  std::string bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

 private:
  std::string path_;
};

/// Rows of length 1 around `clusters` centres.
Tensor clustered(std::size_t rows, std::size_t dim, std::size_t clusters, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> centres(clusters * dim);
  for (float& x : centres) x = normal(random);
  Tensor x(Shape{rows, dim});
  for (std::size_t i = 0; i < rows; ++i) {
    double length = 0;
    for (std::size_t d = 0; d < dim; ++d) {
      x.row(i)[d] = centres[(i % clusters) * dim + d] + 0.5f * normal(random);
      length += static_cast<double>(x.row(i)[d]) * static_cast<double>(x.row(i)[d]);
    }
    for (std::size_t d = 0; d < dim; ++d) x.row(i)[d] /= static_cast<float>(std::sqrt(length));
  }
  return x;
}

double dot(const float* a, const float* b, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// The true scores: the best of each id's vectors, in double.
std::vector<std::pair<double, std::uint64_t>> truth(const VectorIndex& index, const float* query) {
  std::vector<std::pair<double, std::uint64_t>> scores;
  for (const std::uint64_t id : index.ids()) {
    const View rows = index.vectors(id);
    double best = -1e300;
    for (std::size_t i = 0; i < rows.rows(); ++i) best = std::max(best, dot(rows.row(i), query, rows.columns()));
    scores.emplace_back(best, id);
  }
  std::sort(scores.begin(), scores.end(), [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
  return scores;
}

/// Hits are the true ones: each score is right, in order, and none that is clearly better is missing.
void check_exact(const VectorIndex& index, View queries, std::size_t k, const std::vector<std::vector<Hit>>& results) {
  REQUIRE(results.size() == queries.rows());
  constexpr double tolerance = 1e-5;
  for (std::size_t q = 0; q < results.size(); ++q) {
    const auto expected = truth(index, queries.row(q));
    REQUIRE(results[q].size() == std::min(k, index.size()));
    std::set<std::uint64_t> ids;
    for (std::size_t i = 0; i < results[q].size(); ++i) {
      const Hit& hit = results[q][i];
      CHECK(ids.insert(hit.id).second);
      CHECK(std::abs(static_cast<double>(hit.score) - expected[i].first) < tolerance);
      const auto own = std::find_if(expected.begin(), expected.end(), [&](const auto& entry) { return entry.second == hit.id; });
      REQUIRE(own != expected.end());
      CHECK(std::abs(own->first - expected[i].first) < 2 * tolerance);
      if (i > 0) CHECK((results[q][i - 1].score > hit.score || (results[q][i - 1].score == hit.score && results[q][i - 1].id < hit.id)));
    }
  }
}

double recall(const std::vector<std::vector<Hit>>& exact, const std::vector<std::vector<Hit>>& found) {
  std::size_t right = 0, all = 0;
  for (std::size_t q = 0; q < exact.size(); ++q)
    for (const Hit& hit : exact[q]) {
      ++all;
      right += std::any_of(found[q].begin(), found[q].end(), [&](const Hit& other) { return other.id == hit.id; });
    }
  return static_cast<double>(right) / static_cast<double>(all);
}

void check_same(const VectorIndex& a, const VectorIndex& b) {
  REQUIRE(a.ids() == b.ids());
  REQUIRE(a.dim() == b.dim());
  for (const std::uint64_t id : a.ids()) {
    const View x = a.vectors(id), y = b.vectors(id);
    REQUIRE(x.rows() == y.rows());
    for (std::size_t i = 0; i < x.rows(); ++i) CHECK(std::memcmp(x.row(i), y.row(i), a.dim() * sizeof(float)) == 0);
  }
}

/// Every truncation and every flipped bit of a file is a FormatError.
template <class Load>
void check_damage(const ScratchFile& file, Load load) {
  const std::string whole = file.bytes();
  REQUIRE(!whole.empty());
  const auto refused = [&](const std::string& bytes) {
    file.write(bytes);
    try {
      load();
    } catch (const FormatError&) {
      return true;
    }
    return false;
  };
  std::size_t accepted = 0;
  for (std::size_t length = 0; length < whole.size(); ++length) accepted += !refused(whole.substr(0, length));
  CHECK(accepted == 0);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    for (const int flip : {0x01, 0x10, 0x80}) {
      damaged[at] = static_cast<char>(whole[at] ^ flip);
      if (refused(damaged)) continue;
      ++accepted;
      UNSCOPED_INFO("byte " << at << " ^ " << flip);
    }
  }
  CHECK(accepted == 0);
  CHECK(refused(whole + '\0'));
  file.write(whole);
  CHECK_NOTHROW(load());
}

/// A copy of an index's file with one value changed and a checksum that fits: SipHash-1-3 of the texts and the tables.
void tamper(const ScratchFile& from, const ScratchFile& to, const std::string& name, std::size_t element, std::uint64_t value) {
  const Safetensors good = Safetensors::parse(FileMap::open(from.path()));
  std::vector<std::vector<std::byte>> bytes;
  std::vector<Weight> tensors;
  bool found = false;
  for (const Weight& weight : good.tensors) {
    bytes.emplace_back(weight.data(), weight.data() + weight.bytes());
    if (weight.name() == name) {
      const std::size_t size = size_of(weight.dtype());
      REQUIRE((element + 1) * size <= bytes.back().size());
      std::memcpy(bytes.back().data() + element * size, &value, size);
      found = true;
    }
    tensors.emplace_back(weight.name(), weight.dtype(), weight.shape(), bytes.back().data(), nullptr, "");
  }
  REQUIRE(found);
  ContentHash<> sum({});
  const auto absorb = [&](std::string_view text) { sum << static_cast<std::uint64_t>(text.size()) << std::as_bytes(std::span(text.data(), text.size())); };
  std::vector<std::pair<std::string, std::string>> texts;
  for (const Json entry : good.metadata)
    if (entry.key() != "checksum") texts.emplace_back(std::string(entry.key()), std::string(entry.as_string()));
  for (const auto& [key, text] : texts) absorb(key), absorb(text);
  for (const Weight& weight : tensors) absorb(weight.name()), absorb(weight.describe()), sum << std::span(weight.data(), weight.bytes());
  const Digest digest = sum.digest();
  char hex[33];
  std::snprintf(hex, sizeof hex, "%016llx%016llx", static_cast<unsigned long long>(digest.high), static_cast<unsigned long long>(digest.low));
  texts.emplace_back("checksum", hex);
  write_safetensors(to.path(), tensors, texts);
}

FlatIndex small_index() {
  FlatIndex index(3);
  const float a[] = {1, 0, 0}, b[] = {0, 1, 0, 0, 0, 1}, c[] = {-1, 0.5f, 0};
  index.put(7, View(a, Shape{3}));
  index.put(2, View(b, Shape{2, 3}));
  index.put(9, View(c, Shape{1, 3}));
  return index;
}

}  // namespace

TEST_CASE("FlatIndex: what double precision finds") {
  for (const std::size_t threads : std::vector<std::size_t>{1, 3}) {
    Context ctx({.threads = threads});
    for (const std::size_t dim : std::vector<std::size_t>{1, 7, 64, 129}) {
      const std::size_t rows = 500;
      const Tensor x = clustered(rows, dim, 20, 1), queries = clustered(9, dim, 20, 2);
      FlatIndex index(dim);
      for (std::size_t i = 0; i < rows; ++i) index.put(1000 - i, x.view()[i]);
      CHECK(index.size() == rows);
      for (const std::size_t k : std::vector<std::size_t>{1, 10, 499, 500, 1000}) {
        INFO("threads " << threads << ", dim " << dim << ", k " << k);
        check_exact(index, queries, k, index.search(ctx, queries, k));
        CHECK(index.nearest(ctx, queries.view()[3], k) == index.search(ctx, queries.slice(3, 1), k)[0]);
      }
      CHECK(index.search(ctx, queries, 0) == std::vector<std::vector<Hit>>(9));
    }
  }
}

TEST_CASE("FlatIndex: many queries and more rows than a block") {
  Context ctx;
  const Tensor x = clustered(30000, 16, 50, 3), queries = clustered(300, 16, 50, 4);
  FlatIndex index(16);
  for (std::size_t i = 0; i < x.rows(); ++i) index.put(i, x.view()[i]);
  const auto found = index.search(ctx, queries, 5);
  check_exact(index, queries.slice(0, 20), 5, {found.begin(), found.begin() + 20});
  check_exact(index, queries.slice(290, 10), 5, {found.end() - 10, found.end()});
}

TEST_CASE("FlatIndex: equal scores come by id, several vectors count by the best") {
  Context ctx({.threads = 1});
  FlatIndex index(2);
  const float one[] = {1, 0}, two[] = {0, 1, 1, 0}, third[] = {0, -1};
  for (const std::uint64_t id : std::vector<std::uint64_t>{5, 3, 8, 1}) index.put(id, View(one, Shape{2}));
  index.put(4, View(two, Shape{2, 2}));
  index.put(0, View(third, Shape{2}));
  const std::vector<Hit> expected = {{1, 1}, {3, 1}, {4, 1}, {5, 1}, {8, 1}, {0, 0}};
  CHECK(index.nearest(ctx, View(one, Shape{2}), 10) == expected);
  CHECK(index.nearest(ctx, View(one, Shape{2}), 3) == std::vector<Hit>(expected.begin(), expected.begin() + 3));
  CHECK(index.nearest(ctx, View(two, Shape{2}), 1) == std::vector<Hit>{{4, 1}});
}

TEST_CASE("FlatIndex: put, replace and remove in any order") {
  Context ctx;
  std::mt19937 random(5);
  const std::size_t dim = 8;
  FlatIndex index(dim);
  std::map<std::uint64_t, Tensor> model;
  for (int step = 0; step < 3000; ++step) {
    const std::uint64_t id = random() % 60;
    if (random() % 3 == 0) {
      CHECK(index.remove(id) == (model.erase(id) == 1));
    } else {
      Tensor rows = clustered(1 + random() % 3, dim, 3, static_cast<unsigned>(step));
      index.put(id, rows);
      model[id] = std::move(rows);
    }
    CHECK(index.size() == model.size());
  }
  std::set<std::uint64_t> ids;
  for (const std::uint64_t id : index.ids()) ids.insert(id);
  REQUIRE(ids.size() == model.size());
  for (const auto& [id, rows] : model) {
    REQUIRE(index.contains(id));
    const View have = index.vectors(id);
    REQUIRE(have.shape() == rows.shape());
    CHECK(std::memcmp(have.data(), rows.data(), rows.bytes()) == 0);
  }
  const Tensor queries = clustered(4, dim, 3, 99);
  check_exact(index, queries, 7, index.search(ctx, queries, 7));
  const ScratchFile file("changed.index");
  index.save(file.path());
  check_same(FlatIndex::load(file.path()), index);
  for (const auto& [id, rows] : model) index.remove(id);
  CHECK(index.size() == 0);
  CHECK(index.nearest(ctx, queries.view()[0], 3).empty());
}

TEST_CASE("FlatIndex: what it refuses") {
  Context ctx;
  CHECK_THROWS_AS(FlatIndex(0), ArgumentError);
  CHECK_THROWS_AS(FlatIndex(std::size_t{1} << 40), ArgumentError);
  FlatIndex index = small_index();
  const float nan[] = {0, std::nanf(""), 0}, infinite[] = {0, 0, INFINITY}, four[] = {1, 2, 3, 4}, huge[] = {3e38f, 3e38f, -3e38f};
  CHECK_THROWS_AS(index.put(1, View(nan, Shape{3})), ArgumentError);
  CHECK_THROWS_AS(index.put(1, View(infinite, Shape{3})), ArgumentError);
  CHECK_THROWS_AS(index.put(1, View(four, Shape{4})), ShapeError);
  CHECK_THROWS_AS(index.put(1, View(four, Shape{0, 3})), ArgumentError);
  CHECK_THROWS_AS(index.nearest(ctx, View(four, Shape{4}), 1), ShapeError);
  CHECK_THROWS_AS(index.nearest(ctx, View(nan, Shape{3}), 1), ArgumentError);
  CHECK_THROWS_AS(index.vectors(1), ArgumentError);
  CHECK(index.size() == 3);
  index.put(1, View(huge, Shape{3}));  // products overflow: it comes last or first, and nothing breaks
  CHECK(index.nearest(ctx, View(huge, Shape{3}), 10).size() == 4);
}

TEST_CASE("FlatIndex: its file, and every damaged one") {
  const ScratchFile file("flat.index");
  const FlatIndex index = small_index();
  index.save(file.path());
  check_same(FlatIndex::load(file.path()), index);
  CHECK(!std::filesystem::exists(file.path() + ".part"));
  check_damage(file, [&] { (void)FlatIndex::load(file.path()); });
  FlatIndex(5).save(file.path());
  CHECK(FlatIndex::load(file.path()).dim() == 5);
  CHECK(FlatIndex::load(file.path()).size() == 0);
  CHECK_THROWS_AS(FlatIndex::load(file.path() + ".not"), FileError);
  CHECK_THROWS_AS(index.save("/no/such/folder/index"), FileError);
  const ScratchFile other("other.safetensors");
  write_safetensors(other.path(), {});
  CHECK_THROWS_AS(FlatIndex::load(other.path()), FormatError);
  PictureIndex({"model", {1, 2}}, 3).save(other.path());
  CHECK_THROWS_AS(FlatIndex::load(other.path()), FormatError);
}

TEST_CASE("PictureIndex: put, change, move, remove, and its file") {
  Context ctx;
  const ScratchFile file("pictures.index");
  const Tensor x = clustered(6, 4, 6, 7);
  PictureIndex index({"a model", {3, 4}}, 4);
  index.put({"a.png", 10, 1, {1, 1}}, x.view()[0]);
  index.put({"folder/b c.png", 20, -2, {2, 2}}, x.view()[1]);
  index.put({"d.png", 30, 3, {3, 3}}, x.slice(2, 2));
  index.save(file.path());
  const auto same = [&] {
    const PictureIndex read = PictureIndex::load(file.path());
    CHECK(read.model().name == "a model");
    CHECK(read.model().digest == Digest{3, 4});
    CHECK(read.files() == index.files());
    check_same(read.vectors(), index.vectors());
  };
  same();
  CHECK(index.size() == 3);
  CHECK(index.search(ctx, x.view()[1], 1).at(0).path == "folder/b c.png");
  CHECK(index.search(ctx, x.slice(2, 2), 3).at(0).path == "d.png");  // a query of several rows

  // Changed, then moved, then gone.
  index.put({"a.png", 11, 2, {4, 4}}, x.view()[4]);
  CHECK(index.size() == 3);
  CHECK(index.find("a.png")->size == 11);
  CHECK(index.find(Digest{1, 1}) == nullptr);
  CHECK(!index.put_known({"new.png", 1, 1, {9, 9}}));
  CHECK(index.put_known({"new.png", 11, 5, {4, 4}}));
  CHECK(index.put_known({"a.png", 11, 6, {4, 4}}));
  CHECK(index.find("a.png")->modified == 6);
  CHECK(index.search(ctx, x.view()[4], 2).at(1).score == index.search(ctx, x.view()[4], 2).at(0).score);
  CHECK(index.remove("folder/b c.png"));
  CHECK(!index.remove("folder/b c.png"));
  CHECK(index.find(Digest{2, 2}) == nullptr);
  index.save(file.path());
  same();

  // An id never comes back, not even after the file was closed.
  const std::uint64_t last = *index.id("a.png");
  index.remove("a.png");
  index.save(file.path());
  PictureIndex read = PictureIndex::load(file.path());
  read.put({"z.png", 1, 1, {5, 5}}, x.view()[5]);
  CHECK(*read.id("z.png") > last);

  CHECK_NOTHROW(index.expect_model({"renamed", {3, 4}}, "file"));
  CHECK_THROWS_AS(index.expect_model({"a model", {3, 5}}, "file"), ArgumentError);
  try {
    index.expect_model({"other", {3, 5}}, "x.index");
  } catch (const ArgumentError& error) {
    for (const std::string part : {"x.index", "'a model'", "'other'"}) CHECK(std::string(error.what()).find(part) != std::string::npos);
  }
}

TEST_CASE("PictureIndex: every damaged file") {
  const ScratchFile file("damaged.index");
  PictureIndex index({"m", {3, 4}}, 2);
  const float x[] = {1, 0, 0, 1};
  index.put({"a.png", 10, 1, {1, 1}}, View(x, Shape{2}));
  index.put({"b.png", 10, 1, {1, 2}}, View(x, Shape{2, 2}));
  index.save(file.path());
  check_damage(file, [&] { (void)PictureIndex::load(file.path()); });
}

TEST_CASE("FlatIndex and PictureIndex: hostile files with the right checksum") {
  const ScratchFile good("hostile.index"), bad("hostile.bad");
  PictureIndex index({"m", {3, 4}}, 2);
  const float x[] = {1, 0, 0, 1};
  index.put({"a.png", 10, 1, {1, 1}}, View(x, Shape{2}));
  index.put({"b.png", 10, 1, {1, 2}}, View(x, Shape{2, 2}));
  index.save(good.path());
  const auto load_with = [&](const std::string& name, std::size_t element, std::uint64_t value) {
    tamper(good, bad, name, element, value);
    return PictureIndex::load(bad.path()).size();
  };
  CHECK(load_with("ids", 0, 0) == 2);
  CHECK_THROWS_AS(load_with("ids", 0, 1), FormatError);  // twice
  CHECK_THROWS_AS(load_with("ids", 0, 2), FormatError);  // one that is yet to come
  CHECK_THROWS_AS(load_with("counts", 0, 0), FormatError);
  CHECK_THROWS_AS(load_with("counts", 0, 2), FormatError);
  CHECK_THROWS_AS(load_with("counts", 1, 1), FormatError);
  CHECK_THROWS_AS(load_with("counts", 1, ~std::uint64_t{0}), FormatError);
  CHECK_THROWS_AS(load_with("path_ends", 0, 11), FormatError);
  CHECK_THROWS_AS(load_with("path_ends", 1, 4), FormatError);
  CHECK_THROWS_AS(load_with("path_ends", 1, 9), FormatError);
  CHECK_THROWS_AS(load_with("paths", 0, 'b'), FormatError);  // two of one path
  CHECK_THROWS_AS(load_with("vectors", 3, 0xff800000u), FormatError);
}

TEST_CASE("ModelIdentity: the same for a copy, another for another model") {
  const std::string folder = test_data("cases/clip_quickgelu/model");
  const ModelIdentity one = ModelIdentity::of(Checkpoint::open(folder));
  CHECK(one.name == "model");
  CHECK(ModelIdentity::of(Checkpoint::open(folder + "/")).name == "model");
  CHECK(ModelIdentity::of(Checkpoint::open(folder)).digest == one.digest);
  CHECK(!(ModelIdentity::of(Checkpoint::open(test_data("cases/clip_gelu/model"))).digest == one.digest));
  CHECK(!(ModelIdentity::of(Checkpoint::open(test_data("cases/siglip/model"))).digest == one.digest));
  // The weights may be converted while loading: the model is the same.
  CHECK(ModelIdentity::of(Checkpoint::open(folder, {.weights = WeightKind::bf16})).digest == one.digest);
}

TEST_CASE("demonstrations: the nearest last, at random the same for a seed") {
  Context ctx;
  FlatIndex index(2);
  for (std::uint64_t i = 0; i < 10; ++i) {
    const float angle = 0.1f * static_cast<float>(i), row[] = {std::cos(angle), std::sin(angle)};
    index.put(i, View(row, Shape{2}));
  }
  const float query[] = {std::cos(0.32f), std::sin(0.32f)};
  CHECK(select_nearest(ctx, index, View(query, Shape{2}), 4) == std::vector<std::uint64_t>{5, 2, 4, 3});
  CHECK(select_nearest(ctx, index, View(query, Shape{2}), 0).empty());
  CHECK(select_nearest(ctx, index, View(query, Shape{2}), 99).size() == 10);

  const auto some = select_random(50, 8, 1);
  CHECK(some == select_random(50, 8, 1));
  CHECK(some != select_random(50, 8, 2));
  CHECK(std::set<std::uint64_t>(some.begin(), some.end()).size() == 8);
  CHECK(*std::max_element(some.begin(), some.end()) < 50);
  CHECK(select_random(3, 8, 0).size() == 3);
  CHECK(select_random(0, 8, 0).empty());
}

TEST_CASE("demonstrations: files and folders of them") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("chiasm_demonstrations_" + std::to_string(getpid()));
  fs::create_directories(folder);
  const auto write = [&](const std::string& name, const std::string& text) { std::ofstream(folder / name) << text; };
  const auto path = [&](const std::string& name) { return (folder / name).string(); };
  write("shots.jsonl", "{\"image\": \"a.png\", \"question\": \"What?\", \"answer\": \"This.\"}\n\n  \n{\"image\": \"/b.png\", \"caption\": \"A b.\"}\r\n{\"image\": \"c.png\", \"answer\": \"x\"}");
  const auto shots = DemonstrationFile::read(path("shots.jsonl"));
  REQUIRE(shots.size() == 3);
  CHECK(shots[0].image == path("a.png"));
  CHECK(shots[0].question == "What?");
  CHECK(shots[0].answer == "This.");
  CHECK(shots[1].image == "/b.png");
  CHECK(shots[1].question.empty());
  CHECK(shots[1].answer == "A b.");
  CHECK(shots[2].answer == "x");
  write("bad.jsonl", "{\"image\": \"a.png\", \"answer\": \"x\"}\n{\"image\": \"a.png\"}\n");
  CHECK_THROWS_AS(DemonstrationFile::read(path("bad.jsonl")), ConfigError);
  write("bad.jsonl", "{\"image\": \"a.png\", \"answer\": \"x\", \"caption\": \"y\"}\n");
  CHECK_THROWS_AS(DemonstrationFile::read(path("bad.jsonl")), ConfigError);
  write("bad.jsonl", "{\"image\": \"a.png\", \"answer\"\n");
  CHECK_THROWS_AS(DemonstrationFile::read(path("bad.jsonl")), FormatError);
  write("bad.jsonl", "\n");
  CHECK_THROWS_AS(DemonstrationFile::read(path("bad.jsonl")), FileError);
  CHECK_THROWS_AS(DemonstrationFile::read(path("no.jsonl")), FileError);

  CHECK_THROWS_AS(DemonstrationFile::read(folder.string()), FileError);
  write("two.jpg", "");
  write("two.txt", "  The second.\n");
  write("one.png", "");
  write("one.txt", "The first.");
  write("alone.png", "");
  const auto captions = DemonstrationFile::read(folder.string());
  REQUIRE(captions.size() == 2);
  CHECK(captions[0].image == path("one.png"));
  CHECK(captions[0].answer == "The first.");
  CHECK(captions[1].answer == "The second.");
  fs::remove_all(folder);
}

#ifdef CHIASM_HAS_HNSWLIB

TEST_CASE("HnswIndex: nearly what FlatIndex finds") {
  Context ctx;
  const std::size_t dim = 32;
  const Tensor x = clustered(5000, dim, 60, 11), queries = clustered(100, dim, 60, 12);
  FlatIndex flat(dim);
  for (std::size_t i = 0; i < x.rows(); ++i) flat.put(3 * i, x.view()[i]);
  HnswIndex hnsw(dim);
  CHECK(hnsw.follow(ctx, flat) == 5000);
  CHECK(hnsw.follow(ctx, flat) == 0);
  const auto exact = flat.search(ctx, queries, 10), found = hnsw.search(ctx, queries, 10);
  CHECK(recall(exact, found) >= 0.95);
  for (std::size_t q = 0; q < found.size(); ++q) {
    REQUIRE(found[q].size() == 10);
    for (const Hit& hit : found[q]) CHECK(std::abs(static_cast<double>(hit.score) - dot(flat.vectors(hit.id).data(), queries.row(q), dim)) < 1e-5);
  }
  // The same graph again, with any number of threads.
  HnswIndex again(dim);
  again.follow(ctx, flat);
  Context one({.threads = 1});
  CHECK(again.search(one, queries, 10) == found);

  const ScratchFile file("hnsw.index");
  hnsw.save(file.path());
  HnswIndex read = HnswIndex::load(file.path());
  check_same(read, flat);
  CHECK(read.search(ctx, queries, 10) == found);
  CHECK(read.options().M == 16);

  // A third goes, a third comes; what was read goes on like what was made.
  for (std::uint64_t i = 0; i < 5000; i += 3) flat.remove(3 * i);
  const Tensor more = clustered(1600, dim, 60, 13);
  for (std::size_t i = 0; i < more.rows(); ++i) flat.put(100000 + i, more.view()[i]);
  flat.put(3, more.view()[0]);
  read.follow(ctx, flat);
  REQUIRE(read.size() == flat.size());
  CHECK(recall(flat.search(ctx, queries, 10), read.search(ctx, queries, 10)) >= 0.95);
  read.save(file.path());
  const HnswIndex later = HnswIndex::load(file.path());
  CHECK(later.search(ctx, queries, 10) == read.search(ctx, queries, 10));
  // Most of it goes: the graph is made anew from what is left.
  for (const std::uint64_t id : read.ids())
    if (id >= 600) read.remove(id);
  CHECK(read.size() < 300);
  for (const auto& hits : read.search(ctx, queries, 10)) {
    CHECK(hits.size() == 10);
    for (const Hit& hit : hits) CHECK(hit.id < 600);
  }
}

TEST_CASE("HnswIndex: several vectors of an id") {
  Context ctx;
  const std::size_t dim = 16;
  FlatIndex flat(dim);
  for (std::uint64_t id = 0; id < 300; ++id) flat.put(id, clustered(1 + id % 8, dim, 8, static_cast<unsigned>(id)));
  HnswIndex hnsw(dim, {.ef = 200});
  hnsw.follow(ctx, flat);
  const Tensor queries = clustered(40, dim, 40, 1234);
  const auto exact = flat.search(ctx, queries, 10), found = hnsw.search(ctx, queries, 10);
  for (const auto& hits : found) CHECK(hits.size() == 10);
  CHECK(recall(exact, found) >= 0.95);
  const ScratchFile file("several.hnsw");
  hnsw.save(file.path());
  CHECK(HnswIndex::load(file.path()).search(ctx, queries, 10) == found);
}

TEST_CASE("HnswIndex: what it refuses, and every damaged file") {
  Context ctx;
  CHECK_THROWS_AS(HnswIndex(0), ArgumentError);
  CHECK_THROWS_AS(HnswIndex(4, {.M = 1}), ArgumentError);
  CHECK_THROWS_AS(HnswIndex(4, {.ef = 0}), ArgumentError);
  HnswIndex index(3, {.M = 2});
  CHECK(index.nearest(ctx, small_index().vectors(7), 5).empty());
  CHECK_THROWS_AS(index.follow(ctx, FlatIndex(4)), ShapeError);
  index.follow(ctx, small_index());
  CHECK(index.nearest(ctx, small_index().vectors(7), 5).size() == 3);
  CHECK(!index.remove(5));
  CHECK(index.remove(9));
  CHECK(index.size() == 2);
  const ScratchFile file("damaged.hnsw");
  index.save(file.path());
  check_damage(file, [&] { (void)HnswIndex::load(file.path()); });
  CancelToken cancel;
  cancel.cancel();
  Context cancelled({.cancel = cancel});
  HnswIndex other(3);
  CHECK_THROWS_AS(other.follow(cancelled, small_index()), Cancelled);
}

TEST_CASE("HnswIndex: links of a hostile file lead nowhere") {
  const ScratchFile good("hostile.hnsw"), bad("hostile.bad");
  HnswIndex index(3, {.M = 2});
  Context ctx;
  index.follow(ctx, small_index());
  index.save(good.path());
  const auto load_with = [&](const std::string& name, std::size_t element, std::uint64_t value) {
    tamper(good, bad, name, element, value);
    return HnswIndex::load(bad.path()).size();
  };
  CHECK(load_with("ids", 0, 7) == 3);  // nothing changed: this is how a good file is made
  CHECK_THROWS_AS(load_with("links", 0, 1000), FormatError);  // more links than there are
  CHECK_THROWS_AS(load_with("links", 1, 4), FormatError);     // to a vector that is not there
  CHECK_THROWS_AS(load_with("links", 1, 0), FormatError);     // to itself
  CHECK_THROWS_AS(load_with("levels", 0, 5), FormatError);    // layers without links
  CHECK_THROWS_AS(load_with("levels", 0, 4000000000u), FormatError);
  CHECK_THROWS_AS(load_with("options", 0, 1), FormatError);   // M
  CHECK_THROWS_AS(load_with("options", 0, std::uint64_t{1} << 60), FormatError);
  CHECK_THROWS_AS(load_with("options", 1, std::uint64_t{1} << 60), FormatError);
  CHECK_THROWS_AS(load_with("options", 4, 4), FormatError);   // the entry
  CHECK_THROWS_AS(load_with("ids", 3, 7), FormatError);       // one id in two places
  CHECK_THROWS_AS(load_with("vectors", 0, 0x7fc00000u), FormatError);
  CHECK_THROWS_AS(load_with("vectors", 0, 0x7f800000u), FormatError);
}

#endif
