/// precision: what bf16, q8 and q4 cost. The cosine of final hidden states to those in f32, and how often the next token is the same, along each prompt and 16
/// tokens that f32 chose to follow it; of encoders of images and texts, of their embeddings and of the text that is nearest to each picture. A choice of f32 is
/// clear where its score leads by a quarter of the scores' standard deviation.
#include "options.hpp"
#include "precision.hpp"

#include <array>
#include <iomanip>

int main(int count, char** arguments) {
  CLI::App app("Says what weights and arithmetic of fewer bits cost in accuracy, against f32. Without arguments: the bundled models.", "precision");
  std::vector<std::string> folders;
  bool json = false;
  app.add_option("cases", folders, "Folders of cases: a case.json, pictures and a model, as examples/models/dump_reference.py writes them")->check(CLI::ExistingDirectory);
  app.add_flag("--json", json, "Print JSON lines");
  return examples::run(app, count, arguments, [&] {
    std::vector<precision::Subject> subjects;
    if (folders.empty())
      for (const char* const name : {"shapes-llava", "shapes-blip2", "shapes-flamingo", "shapes-clip", "stories260k"}) subjects.push_back(precision::bundled_subject(CHIASM_EXAMPLES_DIR, name));
    for (const std::string& folder : folders) subjects.push_back(precision::subject_of_case(folder));
    const auto print = [&](const std::string& name, const precision::Mode& mode, const precision::Agreement& agreement) {
      if (json) {
        examples::print_json({{"model", name},
                              {"weights", mode.name},
                              {"mean_cosine", agreement.mean_cosine},
                              {"least_cosine", agreement.least_cosine},
                              {"same_tokens", agreement.same},
                              {"tokens", agreement.tokens},
                              {"same_of_clear_tokens", agreement.same_of_clear},
                              {"clear_tokens", agreement.clear_tokens}});
        return;
      }
      const std::string same = std::to_string(agreement.same) + " of " + std::to_string(agreement.tokens), clear = std::to_string(agreement.same_of_clear) + " of " + std::to_string(agreement.clear_tokens);
      std::cout << std::left << std::setw(28) << name << std::setw(20) << mode.name << std::right << std::fixed << std::setprecision(6) << std::setw(11) << agreement.mean_cosine
                << std::setw(14) << agreement.least_cosine << std::setw(17) << same << std::setw(17) << clear << std::endl;
    };
    if (!json) std::cout << std::left << std::setw(28) << "" << std::setw(20) << "weights" << "mean cosine  least cosine  same next token  where f32 is clear\n";
    std::array<precision::Agreement, std::size(precision::modes)> all;
    for (const precision::Subject& subject : subjects) {
      std::vector<std::vector<chiasm::TokenId>> follow;
      const precision::Seen exact = precision::look(subject, precision::exact, follow);
      for (std::size_t i = 0; i < all.size(); ++i) {
        const precision::Mode& mode = precision::modes[i];
        const precision::Agreement agreement = precision::compare(exact, precision::look(subject, mode, follow));
        print(subject.name, mode, agreement);
        all[i].add(agreement);
      }
    }
    for (std::size_t i = 0; i < all.size() && subjects.size() > 1; ++i) print("all", precision::modes[i], all[i]);
    return 0;
  });
}
