/// Runs a reference case (tests/golden/cases/*, what models/dump_reference.py writes, any folder of that form): its inputs, its generations, and the
/// tensors on the way. chiasm_inspect and the tests compare them with the reference's, golden_dump writes them down.
#pragma once

#include <chiasm/io/image_file.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/pipelines/dual_encoder.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

namespace reference {

using nlohmann::ordered_json;

/// Tensors by name, as they go into a safetensors file. A name that comes again (one call per picture) is joined along the first dimension.
class Dump {
 public:
  struct Entry {
    std::vector<std::size_t> shape;
    chiasm::DType dtype = chiasm::DType::f32;
    std::string bytes;
  };

  /// Only tensors that `expected` has are kept; its shapes tell where the reference has a batch dimension in front or zero views behind.
  explicit Dump(const chiasm::Weights& expected) {
    for (const std::string& name : expected.names()) {
      const chiasm::Shape shape = expected.get(name).shape();
      shapes_[name].assign(shape.begin(), shape.end());
    }
  }

  bool wants(const std::string& name) const { return shapes_.contains(name); }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  /// Their names as they came first.
  const std::vector<std::string>& order() const { return order_; }

  void add(const std::string& name, chiasm::View tensor) {
    if (!wants(name)) return;
    std::vector<std::size_t> shape(tensor.shape().begin(), tensor.shape().end());
    std::string bytes;
    for (std::size_t i = 0; i < tensor.rows(); ++i) bytes.append(reinterpret_cast<const char*>(tensor.row(i)), tensor.columns() * sizeof(float));
    const std::vector<std::size_t>& want = shapes_.at(name);
    if (want.size() == shape.size() + 1) {
      // The views of one picture, to which the reference adds empty ones where another picture has more.
      if (want[1] > shape[0] && shape[0] > 0) {
        bytes.resize(bytes.size() / shape[0] * want[1], '\0');
        shape[0] = want[1];
      }
      shape.insert(shape.begin(), 1);
    }
    Entry& entry = slot(name);
    if (entry.shape.empty()) entry.shape = shape;
    else if (entry.shape.size() == shape.size() && std::equal(shape.begin() + 1, shape.end(), entry.shape.begin() + 1)) entry.shape[0] += shape[0];
    else return;
    entry.bytes += bytes;
  }
  void add(const std::string& name, std::vector<std::size_t> shape, const std::vector<std::int64_t>& values) {
    if (!wants(name)) return;
    const char* const data = reinterpret_cast<const char*>(values.data());
    slot(name) = {std::move(shape), chiasm::DType::i64, std::string(data, data + values.size() * sizeof(std::int64_t))};
  }

  void write(const std::string& path) const {
    std::vector<chiasm::Weight> tensors;
    for (const auto& [name, entry] : entries_) {
      chiasm::Shape shape;
      for (const std::size_t extent : entry.shape) shape.append(extent);
      tensors.emplace_back(name, entry.dtype, shape, reinterpret_cast<const std::byte*>(entry.bytes.data()), nullptr, path);
    }
    chiasm::write_safetensors(path, tensors);
  }

 private:
  Entry& slot(const std::string& name) {
    const auto [entry, fresh] = entries_.try_emplace(name);
    if (fresh) order_.push_back(name);
    return entry->second;
  }
  std::map<std::string, std::vector<std::size_t>> shapes_;
  std::map<std::string, Entry> entries_;
  std::vector<std::string> order_;
};

/// What to run, and what ought to come out.
struct Case {
  std::string folder;        // of the pictures
  std::string model;         // the checkpoint
  std::string expected;      // a safetensors file
  ordered_json description;  // case.json: family, inputs, runs
};

/// The case in a folder. Throws FileError, FormatError.
inline Case open_case(const std::string& folder) {
  std::ifstream file(folder + "/case.json");
  if (!file) throw chiasm::FileError(folder + "/case.json", "cannot be read");
  Case one{folder, {}, folder + "/expected.safetensors", {}};
  try {
    one.description = ordered_json::parse(file);
    one.model = (std::filesystem::path(folder) / one.description.value("model", "model")).string();
  } catch (const nlohmann::json::exception& error) {
    throw chiasm::FormatError(folder + "/case.json", 0, error.what());
  }
  return one;
}

inline chiasm::GenerateOptions options_of(const ordered_json& generate, const chiasm::GenerateOptions& config) {
  ordered_json known = generate;
  known.erase("eos_token_id");
  chiasm::GenerateOptions options = chiasm::GenerateOptions::from(chiasm::Json::parse(known.dump(), "case.json"));
  const ordered_json eos = generate.value("eos_token_id", ordered_json());
  if (eos.is_null()) options.eos_token_id = std::vector<chiasm::TokenId>();
  else if (eos.is_array()) options.eos_token_id = eos.get<std::vector<chiasm::TokenId>>();
  else if (eos.is_number_integer()) options.eos_token_id = {eos.get<chiasm::TokenId>()};
  else options.eos_token_id = config.eos_token_id;
  options.do_sample = false;
  return options;
}

/// A picture of a case, as its reference saw it.
inline chiasm::Image picture(const std::string& folder, const std::string& file, const std::string& family) {
  // The reference's own decoding of a JPEG lies beside it: the comparison is about the model.
  const std::filesystem::path original = std::filesystem::path(folder) / file;
  const std::string decoded = (file.ends_with(".jpg") ? original.string().substr(0, original.string().size() - 4) : original.string()) + ".decoded.png";
  // Most references handed the processor the file with its alpha, and present transformers lays that on white.
  const bool converted = family == "siglip" || family == "idefics" || family == "kosmos2" || family == "paligemma" || family == "qwen2_vl";
  return chiasm::load_image(std::filesystem::exists(decoded) ? decoded : original.string(), converted ? chiasm::Alpha::drop : chiasm::Alpha::white);
}

/// The case's prompt, with its pictures where the placeholder stands.
inline chiasm::Prompt prompt_of(const std::string& folder, const ordered_json& input, const std::string& placeholder, const std::string& family) {
  chiasm::Prompt prompt;
  std::string text = input.at("prompt");
  for (const std::string& file : input.value("images", std::vector<std::string>())) {
    const std::size_t at = text.find(placeholder);
    if (placeholder.empty() || at == std::string::npos) throw chiasm::ArgumentError("more pictures than placeholders in the prompt");
    prompt << text.substr(0, at) << picture(folder, file, family);
    text.erase(0, at + placeholder.size());
  }
  prompt << text;
  return prompt;
}

/// Cases that generate: a prompt, its intermediate tensors, its runs.
inline ordered_json run_pipeline(const Case& one, Dump& dump, std::map<std::string, std::string>& failed) {
  const std::string& folder = one.folder;
  const ordered_json& description = one.description;
  const chiasm::Pipeline pipeline = chiasm::load(one.model);
  ordered_json runs = ordered_json::array();
  for (const ordered_json& input : description.at("inputs")) {
    const std::string name = input.at("name");
    try {
      const chiasm::Prompt prompt = prompt_of(folder, input, std::string(pipeline.family().image_placeholder()), description.at("family"));
      chiasm::ContextOptions observing;
      observing.on_tensor = [&](std::string_view what, chiasm::View tensor) { dump.add(name + "." + std::string(what), tensor); };
      chiasm::Context ctx(observing);
      const chiasm::PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
      const chiasm::LanguageModel& lm = prepared.model ? *prepared.model : pipeline.language_model();
      const std::vector<std::int64_t> ids(prepared.ids.begin(), prepared.ids.end());
      dump.add(name + ".input_ids", {1, ids.size()}, ids);
      dump.add(name + ".attention_mask", {1, ids.size()}, std::vector<std::int64_t>(ids.size(), 1));
      std::vector<std::int64_t> sizes;
      for (const auto& part : prompt.parts())
        if (part.image()) sizes.insert(sizes.end(), {part.image()->height(), part.image()->width()});
      if (!sizes.empty()) dump.add(name + ".image_sizes", {sizes.size() / 2, 2}, sizes);
      chiasm::KvCache cache = lm.new_cache();
      chiasm::Tensor hidden;
      {
        const chiasm::Context::Scope scope(ctx, "lm");
        hidden = lm.forward(ctx, prepared.embeddings, cache);
      }
      const chiasm::Tensor logits = lm.logits(ctx, hidden);
      dump.add(name + ".logits", logits);
      for (std::size_t k = 1; k <= logits.rows(); ++k) {
        const std::string last = name + ".logits_last" + std::to_string(k);
        if (dump.wants(last)) dump.add(last, logits.slice(logits.rows() - k, k));
      }
    } catch (const chiasm::Error& error) {
      failed[name] = error.what();
    }
  }
  for (const ordered_json& run : description.value("runs", ordered_json::array())) {
    ordered_json result = {{"name", run.at("name")}, {"input", run.at("input")}};
    try {
      const std::string name = run.at("input");
      if (failed.contains(name)) throw chiasm::ArgumentError(failed[name]);
      const ordered_json* input = nullptr;
      for (const ordered_json& candidate : description.at("inputs"))
        if (candidate.at("name") == name) input = &candidate;
      if (input == nullptr) throw chiasm::ArgumentError("no input '" + name + "'");
      chiasm::Context ctx;
      const chiasm::PreparedPrompt prepared = pipeline.prepare(ctx, prompt_of(folder, *input, std::string(pipeline.family().image_placeholder()), description.at("family")));
      const chiasm::LanguageModel& lm = prepared.model ? *prepared.model : pipeline.language_model();
      const chiasm::GenerateOptions options = options_of(run.at("generate"), pipeline.generation_config());
      std::vector<chiasm::TokenId> ids;
      if (options.num_beams.value_or(1) > 1) {
        ids = chiasm::beam_search(ctx, lm, prepared.embeddings, prepared.ids, options).at(0).ids;
      } else {
        const bool steps = run.at("name") == "greedy" && dump.wants(name + ".greedy.step_logits");
        chiasm::GenerateOptions watched = options;
        if (steps)
          watched.logits_processor = [&](std::span<const chiasm::TokenId>, std::span<float> row) {
            dump.add(name + ".greedy.step_logits", chiasm::View(row.data(), chiasm::Shape{1, row.size()}));
          };
        chiasm::Generation generation(ctx, lm, prepared.embeddings.clone(), watched, prepared.ids);
        while (const auto token = generation.next()) ids.push_back(*token);
      }
      result["output_ids"] = ids;
      result["text"] = pipeline.tokenizer().decode(ids, true);
    } catch (const chiasm::Error& error) {
      result["error"] = error.what();
    }
    runs.push_back(result);
  }
  return runs;
}

/// Cases of CLIP and SigLIP: towers, embeddings, scores.
inline void run_dual_encoder(const Case& one, Dump& dump) {
  const std::string& folder = one.folder;
  const ordered_json& description = one.description;
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(one.model);
  for (const ordered_json& input : description.at("inputs")) {
    chiasm::ContextOptions observing;
    // The vision tower names its blocks as LLaVA's reference does; these cases count hidden states.
    observing.on_tensor = [&](std::string_view what, chiasm::View tensor) {
      std::string name(what);
      if (name == "vision.embeddings") name = "vision.hidden.0";
      else if (name.starts_with("vision.layer.")) name = "vision.hidden." + std::to_string(std::stoul(name.substr(13)) + 1);
      dump.add(name, tensor);
    };
    chiasm::Context ctx(observing);
    std::vector<chiasm::Image> images;
    for (const std::string& file : input.at("images").get<std::vector<std::string>>()) images.push_back(picture(folder, file, description.at("family")));
    const std::vector<std::string> texts = input.at("texts");
    const chiasm::DualEncoder::Tokens tokens = encoder.tokenize(texts);
    const std::string name = input.at("name");
    dump.add(name + ".input_ids", {texts.size(), tokens.length}, {tokens.ids.begin(), tokens.ids.end()});
    std::vector<std::int64_t> mask;
    for (std::size_t n = 0; n < tokens.used.size(); ++n)
      for (std::size_t t = 0; t < tokens.length; ++t) mask.push_back(t < tokens.used[n]);
    if (!mask.empty()) dump.add(name + ".attention_mask", {texts.size(), tokens.length}, mask);
    const chiasm::Tensor seen = encoder.embed(ctx, images), read = encoder.embed(ctx, texts);
    const chiasm::Tensor scores = encoder.logits(ctx, seen, read);
    dump.add("logits_per_image", scores);
    chiasm::Tensor by_text(chiasm::Shape{scores.columns(), scores.rows()});
    for (std::size_t i = 0; i < scores.rows(); ++i)
      for (std::size_t j = 0; j < scores.columns(); ++j) by_text.row(j)[i] = scores.row(i)[j];
    dump.add("logits_per_text", by_text);
  }
}

/// A case's tensors and runs, as this library computes them. Throws what reading the case or loading its model throws.
struct Result {
  Dump tensors;
  ordered_json runs = ordered_json::array();
  std::map<std::string, std::string> failed = {};  // inputs that ended in an error, and which
};
inline Result run_case(const Case& one) {
  Result result{Dump(chiasm::read_safetensors(one.expected))};
  const std::string family = one.description.at("family");
  if (family == "clip" || family == "siglip") run_dual_encoder(one, result.tensors);
  else result.runs = run_pipeline(one, result.tensors, result.failed);
  return result;
}
inline Result run_case(const std::string& folder) { return run_case(open_case(folder)); }

/// One tensor of a case, or one of its generations, held against the reference.
struct Stage {
  std::string name, shape;
  std::optional<double> difference;  // max |have - want| / max |want|; of ids, how many differ; none: nothing to subtract
  bool ok = false;
  std::string note;
};

struct Tolerances {
  double relative = 1e-4;                     // to the largest value of the tensor
  std::optional<double> pixels_abs = 1e-5;  // of pixel_values; none: relative as everything
};

inline Stage compare_tensor(const std::string& name, const Dump::Entry& have, const chiasm::Weight& want, const Tolerances& tolerances) {
  Stage stage{name, want.shape().to_string(), {}, false, {}};
  if (std::vector<std::size_t>(want.shape().begin(), want.shape().end()) != have.shape) {
    chiasm::Shape shape;
    for (const std::size_t extent : have.shape) shape.append(extent);
    stage.note = "has shape " + shape.to_string();
    return stage;
  }
  const chiasm::Tensor reference = want.to_f32();
  const auto value = [&](std::size_t i) {
    const auto read = [&](auto number) {
      std::memcpy(&number, have.bytes.data() + i * sizeof number, sizeof number);
      return static_cast<double>(number);
    };
    return have.dtype == chiasm::DType::i64 ? read(std::int64_t{}) : read(float{});
  };
  std::size_t different = 0, first = 0, at = 0;
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double wanted = static_cast<double>(reference.data()[i]);
    double difference = std::abs(value(i) - wanted);
    if (std::isnan(value(i)) && std::isnan(wanted)) difference = 0;
    if (!std::isnan(wanted)) largest = std::max(largest, std::abs(wanted));
    if (difference != 0 && different++ == 0) first = i;
    if (difference > worst || std::isnan(difference)) worst = std::isnan(difference) ? INFINITY : difference, at = i;
  }
  if (have.dtype == chiasm::DType::i64) {
    stage.difference = static_cast<double>(different);
    stage.ok = different == 0;
    if (!stage.ok) stage.note = std::to_string(different) + " differ, the first at " + std::to_string(first);
    return stage;
  }
  stage.difference = largest > 0 ? worst / largest : worst;
  const bool pixels = tolerances.pixels_abs && name.find("pixel_values") != std::string::npos;
  stage.ok = worst <= (pixels ? *tolerances.pixels_abs : tolerances.relative * largest);
  if (!stage.ok) {
    const auto number = [](double x) {
      char text[40];
      std::snprintf(text, sizeof text, "%.6g", x);
      return std::string(text);
    };
    stage.note = "largest at element " + std::to_string(at) + ": " + number(value(at)) + ", expected " + number(static_cast<double>(reference.data()[at]));
  }
  return stage;
}

/// All that `expected` holds, in the order in which this library came to it; what it did not come to is last.
inline std::vector<Stage> compare(const Case& one, const Result& result, const Tolerances& tolerances) {
  const chiasm::Weights expected = chiasm::read_safetensors(one.expected);
  std::vector<Stage> stages;
  for (const std::string& name : result.tensors.order())
    stages.push_back(compare_tensor(name, result.tensors.entries().at(name), expected.get(name), tolerances));
  const ordered_json runs = one.description.value("runs", ordered_json::array());
  for (std::size_t i = 0; i < runs.size() && i < result.runs.size(); ++i) {
    const std::vector<chiasm::TokenId> want = runs[i].value("output_ids", std::vector<chiasm::TokenId>()),
                                       have = result.runs[i].value("output_ids", std::vector<chiasm::TokenId>());
    Stage stage{runs[i].value("input", std::string()) + "." + runs[i].value("name", std::string()), std::to_string(want.size()) + " tokens", {}, want == have, {}};
    if (result.runs[i].contains("error")) {
      stage.ok = false;
      stage.note = result.runs[i].at("error").get<std::string>();
    } else if (!stage.ok) {
      const std::size_t at = static_cast<std::size_t>(std::mismatch(want.begin(), want.end(), have.begin(), have.end()).first - want.begin());
      const auto token = [&](const std::vector<chiasm::TokenId>& ids) { return at < ids.size() ? std::to_string(ids[at]) : std::string("the end"); };
      stage.note = "token " + std::to_string(at) + " is " + token(have) + ", expected " + token(want);
    }
    stages.push_back(stage);
  }
  for (const std::string& name : expected.names())
    if (!result.tensors.entries().contains(name)) stages.push_back({name, expected.get(name).shape().to_string(), {}, false, "not reached"});
  return stages;
}

}  // namespace reference
