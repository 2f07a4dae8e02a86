/// few_shot: answers a question about a picture, or captions it, after some solved examples. The examples come from a JSON lines file or a folder; those most
/// similar to the picture can be chosen (RICES). With --evaluate: how many answers of a test set are right with none, some and more of them.
///
/// A line of a JSON lines file is {"image": FILE, "question": TEXT, "answer": TEXT} or {"image": FILE, "caption": TEXT}, files relative to it; a folder holds
/// pictures and captions, cat.jpg and cat.txt. A line of a test set may bring its own examples, "shots": [{"image", "question", "answer"}, ...]; of those the
/// first ones are shown.
#include "options.hpp"
#include "parallel.hpp"
#include "plain.hpp"

#include <chiasm/io/image_file.hpp>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iomanip>
#include <map>

namespace {

/// How the demonstrations of a prompt are chosen.
class Pool {
 public:
  /// `encoder`: a folder, or empty: not by similarity.
  Pool(const std::string& source, const std::string& encoder, std::optional<std::uint64_t> shuffle, const examples::Options& options)
      : all_(chiasm::DemonstrationFile::read(source)), shuffle_(shuffle) {
    if (encoder.empty()) return;
    examples::Progress progress("loading");
    encoder_ = chiasm::DualEncoder::load(encoder, options.loading(progress));
    progress.clear();
    chiasm::Context ctx = encoder_->new_context();
    examples::Progress reading("demonstrations");
    constexpr std::size_t batch = 16;
    for (std::size_t begin = 0; begin < all_.size(); begin += batch) {
      reading(all_[begin].image, begin, all_.size());
      std::vector<chiasm::Image> images;
      for (std::size_t i = begin; i < std::min(begin + batch, all_.size()); ++i) images.push_back(chiasm::load_image(all_[i].image));
      const chiasm::Tensor embeddings = encoder_->embed(ctx, images);
      if (!index_) index_.emplace(embeddings.columns());
      for (std::size_t i = 0; i < images.size(); ++i) index_->put(begin + i, embeddings.view()[i]);
    }
  }

  /// Those for this picture, the best first; never the picture itself.
  std::vector<chiasm::DemonstrationFile> ranked(const std::string& picture, std::size_t n) const {
    std::vector<std::uint64_t> order;
    if (index_) {
      chiasm::Context ctx = encoder_->new_context();
      order = chiasm::select_nearest(ctx, *index_, encoder_->embed(chiasm::load_image(picture)), all_.size());
      std::reverse(order.begin(), order.end());
    } else {
      order = chiasm::select_random(all_.size(), all_.size(), shuffle_.value_or(0));
      if (!shuffle_) std::sort(order.begin(), order.end());
    }
    std::vector<chiasm::DemonstrationFile> chosen;
    std::error_code error;
    for (const std::uint64_t i : order)
      if (chosen.size() < n && !std::filesystem::equivalent(all_[i].image, picture, error)) chosen.push_back(all_[i]);
    return chosen;
  }
  /// Whether the best one belongs at the end of a prompt, next to the question.
  bool nearest_last() const noexcept { return index_.has_value(); }

 private:
  std::vector<chiasm::DemonstrationFile> all_;
  std::optional<std::uint64_t> shuffle_;
  std::optional<chiasm::DualEncoder> encoder_;
  std::optional<chiasm::FlatIndex> index_;
};

/// The first `n` in the order of the prompt.
std::vector<chiasm::DemonstrationFile> first(const std::vector<chiasm::DemonstrationFile>& ranked, std::size_t n, bool nearest_last) {
  std::vector<chiasm::DemonstrationFile> chosen(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(std::min(n, ranked.size())));
  if (nearest_last) std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<chiasm::Demonstration> open(const std::vector<chiasm::DemonstrationFile>& files, bool text_only) {
  std::vector<chiasm::Demonstration> shots;
  for (const chiasm::DemonstrationFile& file : files)
    shots.push_back({text_only ? nullptr : std::make_shared<const chiasm::Image>(chiasm::load_image(file.image)), file.question, file.answer});
  return shots;
}

/// Answers are one line; families without an end token for them go on with examples of their own.
chiasm::GenerateOptions one_line(chiasm::GenerateOptions options) {
  if (!options.stop) options.stop = std::vector<std::string>{"\n"};
  return options;
}

struct Test {
  chiasm::DemonstrationFile query;
  std::vector<chiasm::DemonstrationFile> shots;
};

int evaluate(const chiasm::Pipeline& vlm, const examples::Options& options, const std::string& path, const std::vector<std::size_t>& counts, const Pool* pool,
             bool text_only, std::size_t most) {
  std::vector<Test> tests;
  for (const chiasm::Json& line : chiasm::read_json_lines(path)) {
    if (tests.size() == most) break;
    Test test{chiasm::DemonstrationFile::from(line, chiasm::folder_of(path)), {}};
    for (const chiasm::Json shot : line.find("shots")) test.shots.push_back(chiasm::DemonstrationFile::from(shot, chiasm::folder_of(path)));
    if (pool == nullptr && test.shots.size() < *std::max_element(counts.begin(), counts.end()))
      line.fail("has " + std::to_string(test.shots.size()) + " shots, fewer than are asked for, and there is no --demos");
    tests.push_back(std::move(test));
  }
  std::vector<std::atomic<std::size_t>> right(counts.size());
  chiasm::GenerateOptions generation = one_line(options.generation());
  if (!generation.max_new_tokens) generation.max_new_tokens = 16;
  examples::in_parallel(vlm, options, "few_shot", tests.size(), [&](chiasm::Context& ctx, std::size_t i) {
    const Test& test = tests[i];
    const chiasm::Image image = chiasm::load_image(test.query.image);
    const std::size_t deepest = *std::max_element(counts.begin(), counts.end());
    const std::vector<chiasm::DemonstrationFile> ranked = pool != nullptr ? pool->ranked(test.query.image, deepest) : test.shots;
    for (std::size_t c = 0; c < counts.size(); ++c) {
      const std::vector<chiasm::DemonstrationFile> chosen = first(ranked, counts[c], pool != nullptr && pool->nearest_last());
      const chiasm::Reply reply = vlm.chat(ctx, vlm.few_shot_prompt(open(chosen, text_only), image, test.query.question), generation);
      right[c] += examples::plain(reply.text) == examples::plain(test.query.answer);
    }
  });
  for (std::size_t c = 0; c < counts.size(); ++c) {
    const double percent = 100.0 * static_cast<double>(right[c]) / static_cast<double>(std::max<std::size_t>(tests.size(), 1));
    if (options.json) examples::print_json({{"shots", counts[c]}, {"right", right[c].load()}, {"questions", tests.size()}, {"percent", percent}});
    else std::printf("%2zu shots: %zu of %zu right, %.1f %%\n", counts[c], right[c].load(), tests.size(), percent);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  CLI::App app("Answers a question about a picture, or captions it, after some solved examples. Without arguments: how many questions with made-up words the "
               "bundled model answers rightly with none, four and eight of them.", "few_shot");
  examples::Options options(app, examples::bundled("models/shapes-flamingo"));
  options.add_generation(app);
  std::string picture, question, demos, encoder, tests;
  std::vector<std::size_t> counts = {4};
  std::optional<std::uint64_t> shuffle;
  std::size_t most = std::numeric_limits<std::size_t>::max();
  bool text_only = false, show = false;
  app.add_option("picture", picture, "The picture");
  app.add_option("question", question, "The question; without one: a caption");
  auto* const pool_option = app.add_option("-d,--demos", demos, "The examples: a JSON lines file, or a folder of pictures with captions (cat.jpg, cat.txt)")
                                ->check(CLI::ExistingPath);
  auto* const shots_option = app.add_option("--shots", counts, "How many examples; for --evaluate also several numbers, as in 0,4,8")
                                 ->delimiter(',')->allow_extra_args(false)->capture_default_str();
  auto* const by_similarity =
      app.add_option("--rices", encoder, "Take the examples most similar to the picture, by the CLIP model in this folder")
          ->check(CLI::ExistingDirectory)
          ->needs(pool_option);
  app.add_option("--shuffle", shuffle, "Take the examples at random, with this seed, instead of the first ones")->needs(pool_option)->excludes(by_similarity);
  app.add_flag("--text-only", text_only, "Show the examples without their pictures (two of them are what OpenFlamingo's evaluation calls zero shots)");
  app.add_flag("--show", show, "Print the text of the prompt first");
  app.add_option("--evaluate", tests, "Count the right answers to this test set, JSON lines")->check(CLI::ExistingFile);
  app.add_option("--tests", most, "Take only the first so many of the test set");
  return examples::run(app, count, arguments, [&] {
    if (!picture.empty() && !tests.empty()) throw chiasm::ArgumentError("a picture and --evaluate: one of them at a time");
    if (picture.empty() && tests.empty()) {
      tests = examples::bundled("data/shots/shots.jsonl");
      if (shots_option->empty()) counts = {0, 4, 8};
    }
    if (picture.empty() ? counts.empty() : counts.size() != 1) throw chiasm::ArgumentError("--shots: one number, or several with --evaluate");
    std::optional<Pool> pool;
    if (!demos.empty()) pool.emplace(demos, encoder, shuffle, options);
    const chiasm::Pipeline vlm = options.load();
    if (!tests.empty()) return evaluate(vlm, options, tests, counts, pool ? &*pool : nullptr, text_only, most);

    if (!pool && counts[0] > 0) throw chiasm::ArgumentError("no examples: --demos names them, --shots 0 does without");
    const chiasm::Image image = chiasm::load_image(picture);
    std::vector<chiasm::DemonstrationFile> chosen;
    if (pool) chosen = first(pool->ranked(picture, counts[0]), counts[0], pool->nearest_last());
    const std::vector<chiasm::Message> messages = vlm.few_shot_prompt(open(chosen, text_only), image, question);
    if (show && !options.json) std::cout << vlm.render(messages) << std::flush;
    chiasm::Context ctx = vlm.new_context();
    const examples::Interrupt interrupt(ctx.cancel_token());
    const chiasm::Reply reply = vlm.chat(ctx, messages, one_line(options.generation()), [&](std::string_view piece) {
      if (!options.json) std::cout << piece << std::flush;
      return true;
    });
    if (!options.json) {
      std::cout << std::endl;
      return 0;
    }
    nlohmann::ordered_json line = {{"image", picture}, {"question", question}, {"shots", nlohmann::ordered_json::array()}};
    for (const chiasm::DemonstrationFile& file : chosen) line["shots"].push_back(file.image);
    if (show) line["prompt"] = vlm.render(messages);
    line.update(examples::describe(reply));
    examples::print_json(line);
    return 0;
  });
}
