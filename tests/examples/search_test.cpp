// search, the program: what it indexes, what it encodes again, what it finds, and what it says of broken pictures, indexes and the wrong model.
#include "structure/source_tree.hpp"
#include "support/catch.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <nlohmann/json.hpp>

#include <sys/wait.h>
#include <unistd.h>

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const std::string model = test_data("cases/clip_quickgelu/model"), other_model = test_data("cases/siglip/model");

struct Answer {
  int status;
  std::string text;
  std::vector<json> lines;  // those that are JSON
  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
};

Answer search(const std::string& arguments, const std::string& before = "") {
  const Result result = run(before + std::string(CHIASM_SEARCH) + " " + arguments);
  Answer answer{WIFEXITED(result.status) ? WEXITSTATUS(result.status) : -1, result.output, {}};
  for (const std::string& line : lines_of(result.output))
    if (line.starts_with('{')) answer.lines.push_back(json::parse(line));
  return answer;
}

std::string bundled_picture(int number) { return source_dir() + "/examples/pictures/shapes-" + (number < 10 ? "0" : "") + std::to_string(number) + ".png"; }

/// A folder with four pictures, one of them further below, and the place of its index.
class Pictures {
 public:
  Pictures() : folder_(fs::temp_directory_path() / ("chiasm_search_" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "pictures/below");
    for (int i = 1; i <= 3; ++i) copy(i, std::to_string(i) + ".png");
    copy(4, "below/4 four.png");
  }
  ~Pictures() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  Pictures(const Pictures&) = delete;
  Pictures& operator=(const Pictures&) = delete;
  void copy(int number, const std::string& name) const { fs::copy_file(bundled_picture(number), pictures() + "/" + name, fs::copy_options::overwrite_existing); }
  std::string pictures() const { return (folder_ / "pictures").string(); }
  std::string index() const { return (folder_ / "a.index").string(); }
  std::string folder() const { return folder_.string(); }
  Answer update(const std::string& more = "") const { return search(pictures() + " --index " + index() + " --json --model " + model + " " + more); }
  Answer ask(const std::string& query) const { return search("--index " + index() + " --json --model " + model + " " + query); }

 private:
  fs::path folder_;
};

void check_update(const Answer& answer, int encoded, int known, int unchanged, int removed, int failed, int pictures) {
  INFO(answer.text);
  REQUIRE(answer.lines.size() == 1);
  const json& line = answer.lines[0];
  CHECK(line["encoded"] == encoded);
  CHECK(line["known"] == known);
  CHECK(line["unchanged"] == unchanged);
  CHECK(line["removed"] == removed);
  CHECK(line["failed"] == failed);
  CHECK(line["pictures"] == pictures);
  CHECK(answer.status == (failed > 0 ? 1 : 0));
}

std::string name_of(const json& line) { return fs::path(line["image"].get<std::string>()).filename().string(); }

}  // namespace

TEST_CASE("search: only what is new or changed is encoded") {
  const Pictures at;
  check_update(at.update(), 4, 0, 0, 0, 0, 4);
  check_update(at.update(), 0, 0, 4, 0, 0, 4);
  // Another time, the same content.
  fs::last_write_time(at.pictures() + "/1.png", fs::last_write_time(at.pictures() + "/1.png") + std::chrono::seconds(5));
  check_update(at.update(), 0, 1, 3, 0, 0, 4);
  check_update(at.update(), 0, 0, 4, 0, 0, 4);
  // Another content, a new picture, one that goes, one under a new name.
  at.copy(5, "1.png");
  fs::last_write_time(at.pictures() + "/1.png", fs::last_write_time(at.pictures() + "/1.png") + std::chrono::seconds(9));
  at.copy(6, "6.png");
  fs::remove(at.pictures() + "/2.png");
  fs::rename(at.pictures() + "/3.png", at.pictures() + "/below/three.png");
  check_update(at.update(), 2, 1, 1, 2, 0, 4);
  // Broken ones are named, the others are indexed.
  write_text(at.pictures() + "/7.png", read_text(bundled_picture(7)).substr(0, 300));
  write_text(at.pictures() + "/8.jpg", "no picture");
  const Answer broken = at.update();
  check_update(broken, 0, 0, 4, 0, 2, 4);
  CHECK(broken.says("7.png"));
  CHECK(broken.says("8.jpg"));
  // One that was good and is broken now leaves the index.
  write_text(at.pictures() + "/6.png", "no more");
  check_update(at.update(), 0, 0, 3, 0, 3, 3);
  // A part of it: the rest stays.
  const Answer part = search(at.pictures() + "/below --index " + at.index() + " --json --model " + model);
  check_update(part, 0, 0, 2, 0, 0, 3);
  fs::remove_all(at.pictures() + "/below");
  fs::remove(at.pictures() + "/6.png");
  fs::remove(at.pictures() + "/7.png");
  fs::remove(at.pictures() + "/8.jpg");
  check_update(at.update(), 0, 0, 1, 2, 0, 1);
  check_update(at.update("--fresh"), 1, 0, 0, 0, 0, 1);
}

TEST_CASE("search: finds what the library's own embeddings say") {
  const Pictures at;
  at.update();
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(model);
  std::vector<std::pair<std::string, chiasm::Tensor>> pictures;
  for (const std::string name : {"1.png", "2.png", "3.png", "below/4 four.png"}) pictures.emplace_back(name, encoder.embed(chiasm::load_image(at.pictures() + "/" + name)));
  const auto check = [&](const Answer& answer, const chiasm::Tensor& query) {
    INFO(answer.text);
    CHECK(answer.status == 0);
    REQUIRE(answer.lines.size() == 4);
    double before = 2;
    for (std::size_t i = 0; i < 4; ++i) {
      const double score = answer.lines[i]["score"];
      CHECK(answer.lines[i]["rank"] == i + 1);
      CHECK(score <= before);
      before = score;
      const auto own = std::find_if(pictures.begin(), pictures.end(), [&](const auto& entry) { return fs::path(entry.first).filename() == name_of(answer.lines[i]); });
      REQUIRE(own != pictures.end());
      double expected = 0;
      for (std::size_t d = 0; d < query.size(); ++d) expected += static_cast<double>(query.data()[d]) * static_cast<double>(own->second.data()[d]);
      CHECK(std::abs(score - expected) < 1e-4);
    }
  };
  check(at.ask("'a red circle'"), encoder.embed(std::string("a red circle")));
  check(at.ask("'a red circle' --approximate"), encoder.embed(std::string("a red circle")));
  check(search("--json --model " + model + " 'a red circle' " + at.pictures()), encoder.embed(std::string("a red circle")));  // without a file
  for (const auto& [name, embedding] : pictures) {
    const Answer answer = at.ask("--picture '" + at.pictures() + "/" + name + "'");
    check(answer, embedding);
    CHECK(name_of(answer.lines[0]) == fs::path(name).filename());
    CHECK(answer.lines[0]["score"].get<double>() > 0.9999);
  }
  CHECK(at.ask("'a red circle' -k 2").lines.size() == 2);
  const Answer words = search("--index " + at.index() + " --model " + model + " 'a red circle' -k 1");
  CHECK(words.lines.empty());
  CHECK(words.says(".png"));

  const std::vector<std::string> labels = {"red", "green", "a blue one"}, templates = {"a photo of a {}", "{} thing"};
  CHECK(search("--json --model " + model + " --classify red,green " + at.pictures()).lines.at(3)["probabilities"].size() == 2);
  const Answer classified = at.ask("--classify 'red,green,a blue one' --template 'a photo of a {}' --template '{} thing'");
  REQUIRE(classified.lines.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    const std::vector<float> expected = encoder.classify(chiasm::load_image(at.pictures() + "/" + pictures[i].first), labels, templates);
    std::size_t best = 0;
    for (std::size_t label = 0; label < 3; ++label) {
      CHECK(std::abs(classified.lines[i]["probabilities"][labels[label]].get<float>() - expected[label]) < 1e-3f);
      if (expected[label] > expected[best]) best = label;
    }
    CHECK(classified.lines[i]["label"] == labels[best]);
  }
}

TEST_CASE("search: a model with several vectors for a picture") {
  const std::string blip2 = test_data("cases/blip2_itm_small/model");
  const Pictures at;
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(blip2);
  REQUIRE(encoder.vectors_per_image() > 1);
  const std::string common = at.pictures() + " --index " + at.index() + " --json --model " + blip2 + " 'a red circle' ";
  const std::vector<std::string> text = {"a red circle"};
  chiasm::Context ctx = encoder.new_context();
  const chiasm::Tensor wanted = encoder.embed(ctx, text);
  for (const std::string way : {"", "--approximate"}) {
    const Answer answer = search(common + way);
    REQUIRE(answer.lines.size() == 4);
    for (const json& line : answer.lines) {
      const chiasm::Tensor seen = encoder.embed(chiasm::load_image(line["image"].get<std::string>()));  // (V, E)
      double best = -2;
      for (std::size_t v = 0; v < seen.rows(); ++v) best = std::max(best, static_cast<double>(ctx.kernels().dot(seen.row(v), wanted.data(), wanted.size())));
      CHECK(std::abs(line["score"].get<double>() - best) < 1e-4);
    }
  }
  const Answer again = search(common + "--rerank 4 -k 4");
  REQUIRE(again.lines.size() == 4);
  double before = 1;
  for (const json& line : again.lines) {
    const double score = line["score"];
    CHECK(std::abs(score - static_cast<double>(encoder.match(chiasm::load_image(line["image"].get<std::string>()), text[0]))) < 1e-4);
    CHECK(score <= before);
    before = score;
  }
}

TEST_CASE("search: how often a caption finds its picture") {
  const Pictures at;
  for (const std::string name : {"1", "2", "3"}) write_text(at.pictures() + "/" + name + ".txt", "the picture of number " + name);
  const Answer answer = search("--json --model " + model + " --recall " + at.pictures());
  REQUIRE(answer.lines.size() == 3);
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(model);
  const std::string names[] = {"1", "2", "3"};
  std::size_t right = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const chiasm::Tensor text = encoder.embed("the picture of number " + names[i]);
    std::size_t best = 0;
    float highest = -2;
    for (std::size_t j = 0; j < 3; ++j) {
      const chiasm::Tensor seen = encoder.embed(chiasm::load_image(at.pictures() + "/" + names[j] + ".png"));
      const float score = encoder.new_context().kernels().dot(seen.data(), text.data(), text.size());
      if (score > highest) highest = score, best = j;
    }
    right += best == i;
  }
  CHECK(answer.lines[0]["right"] == right);
  CHECK(answer.lines[1]["right"] == 3);
  CHECK(search("--json --model " + model + " --recall " + source_dir() + "/examples/data/shapes --first 30").lines.at(2)["captions"] == 30);
}

TEST_CASE("search: an index moves with its pictures") {
  const Pictures at;
  at.update();
  const std::string moved = at.folder() + "_moved";
  fs::remove_all(moved);
  fs::rename(at.folder(), moved);
  const Answer answer = search("--index " + moved + "/a.index --json --model " + model + " circle");
  REQUIRE(answer.lines.size() == 4);
  for (const json& line : answer.lines) CHECK(fs::exists(line["image"].get<std::string>()));
  check_update(search(moved + "/pictures --index " + moved + "/a.index --json --model " + model), 0, 0, 4, 0, 0, 4);
  fs::remove_all(moved);
}

TEST_CASE("search: a damaged graph is made again") {
  const Pictures at;
  at.update();
  const Answer good = at.ask("circle --approximate");
  REQUIRE(good.status == 0);
  REQUIRE(fs::exists(at.index() + ".hnsw"));
  write_text(at.index() + ".hnsw", "nonsense");
  CHECK(at.ask("circle --approximate").text == good.text);
  CHECK(fs::file_size(at.index() + ".hnsw") > 100);
  at.copy(5, "1.png");
  at.copy(9, "9.png");
  const Answer later = at.update("circle --approximate -k 10");
  const Answer exact = at.ask("circle -k 10");
  REQUIRE(later.lines.size() == 5);
  REQUIRE(exact.lines.size() == 5);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(later.lines[i]["image"] == exact.lines[i]["image"]);
    // One dot product at a time adds in another order than a matrix of them.
    CHECK(later.lines[i]["score"].get<double>() == Approx(exact.lines[i]["score"].get<double>()).epsilon(1e-6));
  }
}

TEST_CASE("search: the bundled model finds pictures by what they show") {
  const Answer triangle = search("--json");
  INFO(triangle.text);
  REQUIRE(triangle.lines.size() == 5);
  CHECK(name_of(triangle.lines[0]) == "shapes-01.png");  // the only one with an orange triangle
  const Answer captions = search("--json --recall " + source_dir() + "/examples/data/shapes --first 200");
  INFO(captions.text);
  REQUIRE(captions.lines.size() == 3);
  CHECK(captions.lines[0]["percent"].get<double>() >= 95);
}

TEST_CASE("search: stopped and started again") {
  // A signal somewhere among a thousand pictures, again and again: what was done is not done again, wherever that was.
  const Pictures at;
  const std::string pictures = source_dir() + "/examples/data/easy-vqa/images", arguments = pictures + " --index " + at.index() + " --json --model " + model;
  const auto all = std::distance(fs::directory_iterator(pictures), fs::directory_iterator());
  std::int64_t done = 0;
  for (const char* const seconds : {"0.03", "0.06", "0.1", "0.15", "0.2", "600"}) {
    const Answer answer = search(arguments, std::string("timeout -s INT ") + seconds + " ");
    INFO(seconds << " s: " << answer.text);
    const std::int64_t now = fs::exists(at.index()) ? static_cast<std::int64_t>(chiasm::PictureIndex::load(at.index()).size()) : 0;
    if (answer.lines.empty()) {  // stopped before it began
      CHECK(now == done);
    } else {
      CHECK(answer.lines[0]["encoded"].get<std::int64_t>() + answer.lines[0]["known"].get<std::int64_t>() == now - done);
      CHECK(answer.lines[0]["unchanged"] == done);
      CHECK(answer.lines[0]["cancelled"] == (now < all));
      CHECK(answer.says("stopped after") == (now < all));
    }
    done = now;
  }
  CHECK(done == all);
}

TEST_CASE("search: what it refuses, and what it says then") {
  const Pictures at;
  at.update();
  const auto refused = [&](const std::string& arguments, const std::vector<std::string>& words) {
    const Answer answer = search(arguments);
    INFO(arguments << "\n" << answer.text);
    CHECK(answer.status != 0);
    for (const std::string& word : words) CHECK(answer.says(word));
  };
  refused("--index " + at.index() + " --model " + other_model + " circle", {at.index(), "model", "anew", "--fresh"});
  refused("--index " + at.index() + ".not --model " + model + " circle", {at.index() + ".not", "no such index"});
  refused("/no/such/folder --model " + model, {"/no/such/folder", "no such file"});
  refused(at.pictures() + " one two --model " + model, {"two"});
  refused("--index " + at.index() + " --model " + model + " circle --picture " + bundled_picture(1), {"one of them"});
  refused("--index " + at.index() + " --model " + model + " --classify a,b --template none", {"none", "{}"});
  refused("--index " + at.index() + " --model " + model + " circle --rerank 3", {"not supported"});
  const std::string whole = read_text(at.index());
  write_text(at.index(), whole.substr(0, whole.size() / 2));
  refused("--index " + at.index() + " --model " + model + " circle", {at.index(), "byte"});
  std::string flipped = whole;
  flipped[whole.size() - 100] = static_cast<char>(flipped[whole.size() - 100] ^ 1);
  write_text(at.index(), flipped);
  refused("--index " + at.index() + " --model " + model + " circle", {at.index(), "damaged"});
}
