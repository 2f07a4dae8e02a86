/// chiasm_inspect: what is in a checkpoint, or why it cannot be loaded; and with a dump of the reference, the first stage where a run leaves it.
#include "checkpoint_report.hpp"
#include "options.hpp"
#include "reference_case.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* about =
    "Says what is in a checkpoint: family, sizes, dtypes, tokenizer, pictures, template, memory; or all that keeps it from being loaded.\n"
    "Exit status 0: it loads (with --compare: all stages are met); 1: it does not.";

constexpr const char* compare_help =
    "--compare FILE: a safetensors file with tensors of the reference, named INPUT.STAGE as far as they are there:\n"
    "  input_ids pixel_values image_sizes vision.embeddings vision.layer.N projector image_features lm.hidden.N logits;\n"
    "  of CLIP and SigLIP: pixel_values text.input_ids vision.hidden.N vision.last_hidden_state vision.pooler_output\n"
    "  text.hidden.N text.last_hidden_state text.pooler_output image_embeds text_embeds logits_per_image logits_per_text.\n"
    "lm.hidden.0 are the embeddings, the last one is after the final norm; the reference runs in f32, its attention 'eager'.\n"
    "A case.json beside FILE says what was asked: {\"family\", \"inputs\": [{\"name\", \"prompt\" (with the picture's placeholder, as the\n"
    "model reads it), \"images\": [files beside it], \"texts\" (CLIP)}], \"runs\": []}; or give --prompt, --picture, --text.\n"
    "examples/models/dump_reference.py MODEL --picture FILE --prompt QUESTION --output FOLDER writes both with transformers.";

/// "word          what is to be said, with the lines that follow set in"
void print_entry(std::ostream& out, const std::string& word, const std::string& text, std::size_t indent = 15, std::size_t width = 130) {
  out << word << std::string(word.size() < indent ? indent - word.size() : 1, ' ');
  std::size_t column = std::max(indent, word.size() + 1);
  std::istringstream words(text);
  bool first = true;
  for (std::string one; words >> one; first = false) {
    if (!first && column + 1 + one.size() > width) {
      out << "\n" << std::string(indent, ' ');
      column = indent;
    } else if (!first) {
      out << ' ';
      ++column;
    }
    out << one;
    column += one.size();
  }
  out << "\n";
}

int inspect(const std::string& folder, bool read_weights, bool json) {
  const examples::CheckpointReport report(folder, read_weights);
  if (json) {
    examples::print_json(report.facts);
    return report.loads() ? 0 : 1;
  }
  std::cout << folder << "\n";
  for (const auto& [word, text] : report.summary) print_entry(std::cout, word, text);
  std::size_t fatal = 0;
  for (const auto& finding : report.findings) fatal += finding.fatal;
  if (fatal == 0)
    std::cout << "It loads.\n";
  else
    std::cout << "It cannot be loaded: " << fatal << (fatal == 1 ? " error.\n" : " errors.\n");
  for (const bool errors : {true, false})
    for (const auto& finding : report.findings)
      if (finding.fatal == errors) print_entry(std::cout, errors ? "  error" : "  note", finding.where + ": " + finding.what, 9);
  return fatal == 0 ? 0 : 1;
}

std::string fixed(const std::string& text, std::size_t width) { return text.size() < width ? text + std::string(width - text.size(), ' ') : text; }

/// The case that `expected` belongs to: case.json beside it, or what the options say.
reference::Case case_of(const std::string& model, std::string expected, const std::string& prompt, const std::vector<std::string>& pictures,
                        const std::vector<std::string>& texts) {
  if (fs::is_directory(expected)) expected += "/expected.safetensors";
  const std::string beside = fs::path(expected).parent_path().string(), folder = beside.empty() ? "." : beside;
  const bool asked = !prompt.empty() || !pictures.empty() || !texts.empty();
  reference::Case one;
  if (!asked && fs::exists(folder + "/case.json")) {
    one = reference::open_case(folder);
  } else {
    if (!asked)
      throw chiasm::ArgumentError("no case.json beside " + expected + ": give --prompt and --picture (or --text) as the reference had them");
    if (model.empty()) throw chiasm::ArgumentError("which model? Give its folder");
    std::string name = "input";
    for (const std::string& tensor : reference::read_expected(expected).names())
      for (const std::string_view what : {".input_ids", ".pixel_values", ".logits", ".lm.hidden.0"})
        if (tensor.ends_with(what)) name = tensor.substr(0, tensor.size() - what.size());
    const std::string family = chiasm::Checkpoint::open(model).model_type();
    one.description = {{"family", family}, {"inputs", {{{"name", name}, {"prompt", prompt}, {"images", pictures}, {"texts", texts}}}}};
    one.folder = "";
  }
  one.expected = expected;
  if (!model.empty()) one.model = model;
  return one;
}

int compare(const reference::Case& one, const reference::Tolerances& tolerances, bool json) {
  const reference::Result result = reference::run_case(one);
  const std::vector<reference::Stage> stages = reference::compare(one, result, tolerances);
  const reference::Stage* first = nullptr;
  std::size_t met = 0, reached = 0;
  ordered_json lines = ordered_json::array();
  for (const reference::Stage& stage : stages) {
    const bool there = stage.note != "not reached";
    reached += there;
    met += stage.ok;
    if (!stage.ok && there && first == nullptr) first = &stage;
    lines.push_back({{"stage", stage.name},
                     {"shape", stage.shape},
                     {"difference", stage.difference ? ordered_json(*stage.difference) : ordered_json()},
                     {"state", !there     ? "not reached"
                               : stage.ok ? "ok"
                                          : "deviates"},
                     {"note", stage.note}});
  }
  const bool fine = first == nullptr && result.failed.empty() && reached > 0;
  if (json) {
    examples::print_json({{"model", one.model},
                          {"expected", one.expected},
                          {"tolerance", tolerances.relative},
                          {"ok", fine},
                          {"first_deviation", first ? ordered_json(first->name) : ordered_json()},
                          {"failed", result.failed},
                          {"stages", lines}});
    return fine ? 0 : 1;
  }
  std::size_t width = 5, shape_width = 5;
  for (const reference::Stage& stage : stages) width = std::max(width, stage.name.size()), shape_width = std::max(shape_width, stage.shape.size());
  std::cout << fixed("stage", width) << "  " << fixed("shape", shape_width) << "  max |difference| / max\n";
  for (const reference::Stage& stage : stages) {
    char number[40] = "-";
    if (stage.difference) std::snprintf(number, sizeof number, "%.2g", *stage.difference);
    const bool there = stage.note != "not reached";
    std::cout << fixed(stage.name, width) << "  " << fixed(stage.shape, shape_width) << "  " << fixed(number, 9)
              << (!there     ? "not reached"
                  : stage.ok ? "ok"
                             : "DEVIATES");
    if (there && !stage.note.empty()) std::cout << ": " << stage.note;
    std::cout << "\n";
  }
  for (const auto& [input, what] : result.failed) std::cout << "input '" << input << "' failed: " << what << "\n";
  if (reached == 0)
    std::cout << "No stage of " << one.expected << " has a name that this run knows; see --help.\n";
  else if (first != nullptr)
    std::cout << "The first stage that deviates is " << first->name << ".\n";
  else if (fine)
    std::cout << "All " << met << " stages are met.\n";
  return fine ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  CLI::App app(about, "chiasm_inspect");
  app.set_version_flag("--version", CHIASM_VERSION);
  app.footer(compare_help);
  std::string folder, expected, prompt;
  std::vector<std::string> pictures, texts;
  std::optional<double> tolerance;
  bool json = false, values = false;
  app.add_option("model", folder, "Folder of a checkpoint, or of a reference case, or a GGUF file");
  app.add_flag("--values", values, "Read all weights, and look for values that are infinite or no numbers");
  app.add_option("--compare", expected, "Tensors of the reference (see below), or the folder of a reference case: where does a run leave it?");
  app.add_option("--tolerance", tolerance, "Greatest difference, in parts of a tensor's largest value (0.0001, pixels 0.00001 absolute)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--prompt", prompt, "With --compare, no case.json: the prompt as the model reads it, with the picture's placeholder");
  app.add_option("--picture", pictures, "With --compare, no case.json: a picture of the prompt (may be given several times)");
  app.add_option("--text", texts, "With --compare, no case.json: a text for CLIP or SigLIP (may be given several times)");
  app.add_flag("--json", json, "Print one line of JSON");
  return examples::run(app, count, arguments, [&] {
    if (folder.empty() && expected.empty()) throw CLI::RequiredError("model");
    const bool is_case = !folder.empty() && fs::exists(folder + "/case.json") && !fs::exists(folder + "/config.json");
    if (expected.empty()) return inspect(is_case ? reference::open_case(folder).model : folder, values, json);
    reference::Tolerances tolerances;
    if (tolerance) tolerances = {*tolerance, {}};
    return compare(case_of(is_case ? reference::open_case(folder).model : folder, expected, prompt, pictures, texts), tolerances, json);
  });
}
