/// evaluate: how many questions about a set of pictures a model answers rightly, per kind of question, and how many captions are right.
///
/// A data set is a folder with images/<id>.png, questions.json, a list of [question, answer, image id, kind] (the form of easy-VQA, which has no
/// kinds), and maybe captions.json, a list by image id of {"objects": [{"shape", "colour", "size", "side"}, ...], "caption"}.
/// A reply is right if it equals the answer, both without white space around, in lower case and without a final full stop. A caption names
/// an object by the words "a SIZE COLOUR SHAPE at the SIDE"; it is right if its objects are the picture's, none missing, none invented.
#include "options.hpp"
#include "parallel.hpp"
#include "plain.hpp"

#include <chiasm/io/image_file.hpp>

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>

namespace {

using examples::plain;

struct Question {
  std::string text, answer, kind;
};

struct Picture {
  std::size_t id = 0;
  std::vector<Question> questions;
  nlohmann::json caption;  // null: none known
};

struct Score {
  std::size_t right = 0, all = 0;
  void operator()(bool ok) { right += ok, ++all; }
};

/// The objects of a caption as {size, colour, shape, side}, sorted; a piece that names none is an empty one.
std::vector<std::vector<std::string>> named_objects(std::string caption) {
  caption = plain(std::move(caption));
  for (std::size_t at; (at = caption.find(" and ")) != std::string::npos;) caption.replace(at, 5, ", ");
  std::vector<std::vector<std::string>> objects;
  for (std::size_t begin = 0; begin <= caption.size();) {
    const std::size_t end = std::min(caption.find(", ", begin), caption.size());
    std::istringstream piece(caption.substr(begin, end - begin));
    std::vector<std::string> words;
    for (std::string word; piece >> word;) words.push_back(word);
    const bool names = words.size() == 8 && (words[0] == "a" || words[0] == "an") && words[4] == "at" && words[5] == "the";
    objects.push_back(names ? std::vector<std::string>{words[1], words[2], words[3], words[6] + " " + words[7]} : std::vector<std::string>());
    begin = end + 2;
  }
  std::sort(objects.begin(), objects.end());
  return objects;
}

std::vector<std::vector<std::string>> true_objects(const nlohmann::json& caption) {
  std::vector<std::vector<std::string>> objects;
  for (const auto& object : caption.at("objects")) objects.push_back({object.at("size"), object.at("colour"), object.at("shape"), object.at("side")});
  std::sort(objects.begin(), objects.end());
  return objects;
}

nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw chiasm::FileError(path, "cannot be read");
  try {
    return nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception& error) {
    throw chiasm::FormatError(path, 0, error.what());
  }
}

std::vector<Picture> read_data(const std::string& folder, std::size_t most) {
  std::map<std::size_t, Picture> pictures;
  try {
    for (const auto& entry : read_json(folder + "/questions.json")) {
      Picture& picture = pictures[entry.at(2)];
      picture.id = entry.at(2);
      picture.questions.push_back({entry.at(0), entry.at(1), entry.size() > 3 ? entry.at(3).get<std::string>() : std::string("all")});
    }
    if (std::ifstream(folder + "/captions.json")) {
      const nlohmann::json captions = read_json(folder + "/captions.json");
      for (auto& [id, picture] : pictures) picture.caption = captions.at(id);
    }
  } catch (const nlohmann::json::exception& error) {
    throw chiasm::FormatError(folder + "/questions.json", 0, error.what());
  }
  std::vector<Picture> list;
  for (auto& [id, picture] : pictures)
    if (list.size() < most) list.push_back(std::move(picture));
  return list;
}

}  // namespace

int main(int count, char** arguments) {
  CLI::App app("Measures a model on pictures with known answers. Without arguments: the bundled model on its held-out pictures.", "evaluate");
  examples::Options options(app, examples::bundled("models/shapes-llava"));
  options.add_style(app);
  std::string data = examples::bundled("data/shapes");
  std::size_t most = std::numeric_limits<std::size_t>::max();
  bool long_form = false;
  app.add_option("data", data, "Folder of the data set")->capture_default_str()->check(CLI::ExistingDirectory);
  app.add_option("--pictures", most, "Take only the first so many pictures");
  app.add_flag("--plain", long_form, "Ask the questions alone, without the request for a short answer");
  return examples::run(app, count, arguments, [&] {
    const std::vector<Picture> pictures = read_data(data, most);
    const chiasm::Pipeline vlm = options.load();
    std::map<std::string, Score> kinds;
    Score named, with_size, identical;
    std::mutex mutex;
    examples::in_parallel(vlm, options, "evaluate", pictures.size(), [&](chiasm::Context& ctx, std::size_t i) {
      const Picture& picture = pictures[i];
      const chiasm::Image image = chiasm::load_image(data + "/images/" + std::to_string(picture.id) + ".png");
      std::vector<chiasm::PreparedPrompt> prepared;
      std::vector<chiasm::GenerationPrompt> prompts;
      for (const Question& question : picture.questions) {
        const chiasm::Message asked{"user", long_form ? chiasm::Prompt{image, question.text} : vlm.answer_prompt(image, question.text)};
        prepared.push_back(vlm.prepare(ctx, std::span(&asked, 1)));
      }
      for (const chiasm::PreparedPrompt& one : prepared) prompts.push_back({one.embeddings, one.ids});
      chiasm::GenerateOptions short_answer = vlm.generation_config();
      short_answer.max_new_tokens = 8;
      // All questions about a picture at once; where a model is bound to one prompt, one by one.
      std::vector<chiasm::GeneratedSequence> answers;
      if (prepared.empty() || prepared[0].model == nullptr) answers = chiasm::generate_batch(ctx, vlm.language_model(), prompts, short_answer);
      else
        for (std::size_t q = 0; q < prepared.size(); ++q)
          answers.push_back(chiasm::generate_batch(ctx, *prepared[q].model, std::span(&prompts[q], 1), short_answer).at(0));
      std::string caption;
      if (!picture.caption.is_null()) caption = vlm.generate(ctx, vlm.caption_prompt(image), {.max_new_tokens = 128}).text;

      const std::lock_guard lock(mutex);
      for (std::size_t q = 0; q < answers.size(); ++q)
        kinds[picture.questions[q].kind](plain(vlm.tokenizer().decode(answers[q].ids, true)) == plain(picture.questions[q].answer));
      if (!picture.caption.is_null()) {
        auto found = named_objects(caption), truth = true_objects(picture.caption);
        with_size(found == truth);
        const auto drop_size = [](auto& objects) {
          for (auto& object : objects)
            if (!object.empty()) object.erase(object.begin());
          std::sort(objects.begin(), objects.end());
        };
        drop_size(found);
        drop_size(truth);
        named(found == truth);
        identical(plain(caption) == plain(picture.caption.at("caption")));
      }
    });

    // Relational kinds are those of Sort-of-CLEVR, arXiv:1706.01427: they ask how objects lie to each other.
    const std::vector<std::string> relational = {"closest", "farthest", "same", "beside", "above", "larger"};
    Score groups[2], all;
    for (const auto& [kind, score] : kinds) {
      Score& group = groups[std::find(relational.begin(), relational.end(), kind) != relational.end()];
      group.right += score.right, group.all += score.all;
      all.right += score.right, all.all += score.all;
    }
    std::vector<std::pair<std::string, Score>> table(kinds.begin(), kinds.end());
    if (kinds.size() > 1) {
      table.emplace_back("non-relational", groups[0]);
      table.emplace_back("relational", groups[1]);
      table.emplace_back("all questions", all);
    }
    if (named.all != 0) {
      table.emplace_back("captions: shape, colour, side", named);
      table.emplace_back("captions: also size", with_size);
      table.emplace_back("captions: word for word", identical);
    }
    for (const auto& [name, score] : table) {
      const double share = score.all == 0 ? 0.0 : static_cast<double>(score.right) / static_cast<double>(score.all);
      if (options.json) {
        examples::print_json({{"kind", name}, {"right", score.right}, {"asked", score.all}, {"share", share}});
        continue;
      }
      std::cout << std::left << std::setw(32) << name << std::right << std::fixed << std::setprecision(2) << std::setw(7) << 100 * share << " % of "
                << score.all << "\n";
    }
    return 0;
  });
}
