// few_shot, the program: which demonstrations stand where in the prompt, and how answers are counted.
#include "structure/source_tree.hpp"
#include "support/catch.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <nlohmann/json.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <set>

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const std::string model = source_dir() + "/examples/models/shapes-llava", encoder = test_data("cases/clip_quickgelu/model");

struct Answer {
  int status;
  std::string text;
  std::vector<json> lines;
  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
};

Answer few_shot(const std::string& arguments) {
  const Result result = run(std::string(CHIASM_FEW_SHOT) + " --model " + model + " " + arguments);
  Answer answer{WIFEXITED(result.status) ? WEXITSTATUS(result.status) : -1, result.output, {}};
  for (const std::string& line : lines_of(result.output))
    if (line.starts_with('{')) answer.lines.push_back(json::parse(line));
  return answer;
}

std::string picture(int number) { return source_dir() + "/examples/pictures/shapes-" + (number < 10 ? "0" : "") + std::to_string(number) + ".png"; }

class Folder {
 public:
  Folder() : path_((fs::temp_directory_path() / ("chiasm_few_shot_" + std::to_string(getpid()))).string()) { fs::create_directories(path_); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

TEST_CASE("few_shot: the first, random and nearest demonstrations, in their order") {
  const Folder folder;
  std::string lines;
  for (int i = 1; i <= 8; ++i)
    lines += json({{"image", picture(i)}, {"question", "Which number is picture " + std::to_string(i) + "?"}, {"answer", "number " + std::to_string(i)}}).dump() + "\n";
  write_text(folder / "demos.jsonl", lines);
  const std::string common = "--json --show -n 2 --demos " + folder / "demos.jsonl" + " ";

  const Answer first = few_shot(common + "--shots 3 " + picture(9) + " 'How many?'");
  REQUIRE(first.lines.size() == 1);
  CHECK(first.lines[0]["shots"] == json({picture(1), picture(2), picture(3)}));
  const std::string prompt = first.lines[0]["prompt"];
  std::size_t at = 0;
  for (const std::string part : {"Which number is picture 1?", "number 1", "Which number is picture 2?", "number 2", "Which number is picture 3?", "number 3", "How many?"}) {
    INFO(prompt << ": " << part);
    at = prompt.find(part, at);
    REQUIRE(at != std::string::npos);
  }
  // The same as the library makes of it.
  const chiasm::Pipeline vlm = chiasm::load(model);
  std::vector<chiasm::Demonstration> shots;
  for (int i = 1; i <= 3; ++i)
    shots.push_back({std::make_shared<const chiasm::Image>(chiasm::load_image(picture(i))), "Which number is picture " + std::to_string(i) + "?", "number " + std::to_string(i)});
  CHECK(vlm.render(vlm.few_shot_prompt(shots, chiasm::load_image(picture(9)), "How many?")) == prompt);

  // The picture itself is no demonstration.
  CHECK(few_shot(common + "--shots 3 " + picture(2) + " 'How many?'").lines.at(0)["shots"] == json({picture(1), picture(3), picture(4)}));
  const json random = few_shot(common + "--shots 8 --shuffle 5 " + picture(9) + " 'How many?'").lines.at(0)["shots"];
  CHECK(random == few_shot(common + "--shots 8 --shuffle 5 " + picture(9) + " 'How many?'").lines.at(0)["shots"]);
  CHECK(random != few_shot(common + "--shots 8 --shuffle 6 " + picture(9) + " 'How many?'").lines.at(0)["shots"]);
  CHECK(std::set<std::string>(random.begin(), random.end()).size() == 8);

  // RICES: by the encoder's own similarity, the nearest last.
  const chiasm::DualEncoder clip = chiasm::DualEncoder::load(encoder);
  const chiasm::Tensor query = clip.embed(chiasm::load_image(picture(9)));
  std::vector<std::pair<double, std::string>> scores;
  for (int i = 1; i <= 8; ++i) {
    const chiasm::Tensor one = clip.embed(chiasm::load_image(picture(i)));
    double score = 0;
    for (std::size_t d = 0; d < one.size(); ++d) score += static_cast<double>(one.data()[d]) * static_cast<double>(query.data()[d]);
    scores.emplace_back(score, picture(i));
  }
  std::sort(scores.begin(), scores.end());
  json nearest = json::array();
  for (std::size_t i = 4; i < 8; ++i) nearest.push_back(scores[i].second);
  CHECK(few_shot(common + "--shots 4 --rices " + encoder + " " + picture(9) + " 'How many?'").lines.at(0)["shots"] == nearest);
}

TEST_CASE("few_shot: captions from a folder, and examples without their pictures") {
  const Folder folder;
  for (int i = 1; i <= 2; ++i) {
    fs::copy_file(picture(i), folder / (std::to_string(i) + ".png"));
    write_text(folder / (std::to_string(i) + ".txt"), "Caption " + std::to_string(i) + ".\n");
  }
  const Answer answer = few_shot("--show --shots 2 -n 3 --demos " + folder.path() + " " + picture(3));
  INFO(answer.text);
  CHECK(answer.status == 0);
  CHECK(answer.says("Caption 1."));
  CHECK(answer.text.find("Caption 1.") < answer.text.find("Caption 2."));
  const auto placeholders = [](const std::string& text) {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find("<image>", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  CHECK(placeholders(answer.text) == 3);
  CHECK(placeholders(few_shot("--show --text-only --shots 2 -n 3 --demos " + folder.path() + " " + picture(3)).text) == 1);
}

TEST_CASE("few_shot: a test set") {
  // The bundled model knows the answers without an example.
  const Folder folder;
  const json truth = json::parse(read_text(source_dir() + "/examples/pictures/truth.json"));
  std::string lines;
  int count = 0;
  for (int i = 0; i < 4; ++i) {
    const std::string image = fs::relative(source_dir() + "/examples/pictures/" + truth[static_cast<std::size_t>(i)]["picture"].get<std::string>(), folder.path()).string();
    for (std::size_t q = 0; q < 3; ++q) {
      const json& asked = truth[static_cast<std::size_t>(i)]["questions"][q];
      json line = {{"image", image}, {"question", asked["question"]}, {"answer", asked["answer"]}, {"shots", json::array()}};
      if (q == 0) line["answer"] = "not this";
      line["shots"].push_back({{"image", image}, {"question", "What?"}, {"answer", "that"}});
      lines += line.dump() + "\n";
      ++count;
    }
  }
  write_text(folder / "tests.jsonl", lines);
  const Answer answer = few_shot("--json --evaluate " + folder / "tests.jsonl" + " --shots 0,1");
  INFO(answer.text);
  REQUIRE(answer.lines.size() == 2);
  CHECK(answer.lines[0]["shots"] == 0);
  CHECK(answer.lines[0]["questions"] == count);
  CHECK(answer.lines[0]["right"] == count - 4);
  CHECK(answer.lines[1]["shots"] == 1);
  const Answer some = few_shot("--evaluate " + folder / "tests.jsonl" + " --shots 0 --tests 3");
  CHECK(some.says("0 shots: 2 of 3 right, 66.7 %"));

  const Answer few = few_shot("--evaluate " + folder / "tests.jsonl" + " --shots 0,2");
  CHECK(few.status == 1);
  CHECK(few.says("has 1 shots"));
  CHECK(few_shot("--evaluate " + folder / "tests.jsonl" + " --shots 0,2 --tests 1 --demos " + folder / "tests.jsonl").status == 0);
}

TEST_CASE("few_shot: the bundled model learns made-up words from examples") {
  const Result result = run(std::string(CHIASM_FEW_SHOT) + " --json --tests 60");
  INFO(result.output);
  std::vector<double> percent;
  for (const std::string& line : lines_of(result.output)) percent.push_back(json::parse(line)["percent"]);
  REQUIRE(percent.size() == 3);
  CHECK(percent[0] < 60);
  CHECK(percent[1] > percent[0] + 15);
  CHECK(percent[2] > 85);
}

TEST_CASE("few_shot: what it refuses") {
  const auto refused = [](const std::string& arguments, const std::string& words) {
    const Answer answer = few_shot(arguments);
    INFO(arguments << "\n" << answer.text);
    CHECK(answer.status != 0);
    CHECK(answer.says(words));
  };
  refused(picture(1) + " what --evaluate " + source_dir() + "/examples/data/shots/shots.jsonl", "one of them");
  refused(picture(1) + " what", "--demos");
  refused(picture(1) + " what --shots 1,2 --demos " + source_dir(), "one number");
  refused(picture(1) + " what --demos " + source_dir(), "no demonstrations");
  refused(picture(1) + " what --demos /no/such", "no/such");
}
