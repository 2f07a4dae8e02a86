/// precision: what bf16, q8 and q4 cost. The cosine of final hidden states to those in f32, and how often the next token is the same, along each prompt and 16
/// tokens that f32 chose to follow it; of encoders of images and texts, of their embeddings and of the text that is nearest to each picture.
#include "options.hpp"
#include "precision.hpp"

#include <iomanip>

namespace {

/// A bundled model, asked about the bundled pictures.
precision::Subject bundled_subject(const std::string& name) {
  precision::Subject subject{name, examples::bundled("models/" + name), {}};
  if (name == "stories260k") {
    for (const char* const begin : {"Once upon a time", "One day, a little girl", "Tom had a red ball"}) subject.prompts.push_back(chiasm::Prompt{begin});
    return subject;
  }
  std::vector<chiasm::Image> pictures;
  for (int i = 1; i <= 12; ++i) pictures.push_back(chiasm::load_image(examples::bundled("pictures/shapes-" + std::string(i < 10 ? "0" : "") + std::to_string(i) + ".png")));
  if (name == "shapes-clip") {
    subject.images = std::move(pictures);
    for (const char* const shape : {"circle", "triangle", "square", "star"})
      for (const char* const colour : {"red", "green", "blue", "yellow"}) subject.texts.push_back("a " + std::string(colour) + " " + shape);
    return subject;
  }
  const chiasm::Pipeline vlm = chiasm::load(subject.model);
  subject.turns = true;
  for (const chiasm::Image& picture : pictures) {
    subject.prompts.push_back(vlm.caption_prompt(picture));
    subject.prompts.push_back(vlm.answer_prompt(picture, "How many objects are there?"));
  }
  return subject;
}

}  // namespace

int main(int count, char** arguments) {
  CLI::App app("Says what weights and arithmetic of fewer bits cost in accuracy, against f32. Without arguments: the bundled models.", "precision");
  std::vector<std::string> folders;
  bool json = false;
  app.add_option("cases", folders, "Folders of cases: a case.json, pictures and a model, as examples/models/dump_reference.py writes them")->check(CLI::ExistingDirectory);
  app.add_flag("--json", json, "Print JSON lines");
  return examples::run(app, count, arguments, [&] {
    std::vector<precision::Subject> subjects;
    if (folders.empty())
      for (const char* const name : {"shapes-llava", "shapes-blip2", "shapes-flamingo", "shapes-clip", "stories260k"}) subjects.push_back(bundled_subject(name));
    for (const std::string& folder : folders) subjects.push_back(precision::subject_of_case(folder));
    if (!json) std::cout << std::left << std::setw(28) << "" << std::setw(20) << "weights" << "mean cosine  least cosine  same next token\n";
    for (const precision::Subject& subject : subjects) {
      std::vector<std::vector<chiasm::TokenId>> follow;
      const precision::Seen exact = precision::look(subject, precision::exact, follow);
      for (const precision::Mode& mode : precision::modes) {
        const precision::Agreement agreement = precision::compare(exact, precision::look(subject, mode, follow));
        if (json) {
          examples::print_json({{"model", subject.name},
                                {"weights", mode.name},
                                {"mean_cosine", agreement.mean_cosine},
                                {"least_cosine", agreement.least_cosine},
                                {"same_tokens", agreement.same},
                                {"tokens", agreement.tokens}});
          continue;
        }
        std::cout << std::left << std::setw(28) << subject.name << std::setw(20) << mode.name << std::right << std::fixed << std::setprecision(6) << std::setw(11)
                  << agreement.mean_cosine << std::setw(14) << agreement.least_cosine << std::setw(10) << agreement.same << " of " << agreement.tokens << std::endl;
      }
    }
    return 0;
  });
}
