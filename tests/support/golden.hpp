/// Runs a reference case (tests/golden/cases/*, or any folder of that form): its inputs, its generations, and the tensors on the way.
/// golden_dump writes them down, the tests compare them.
#pragma once

#include <chiasm/io/image_file.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/pipelines/dual_encoder.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <map>

namespace golden {

using nlohmann::ordered_json;

/// Tensors by name, as they go into a safetensors file. A name that comes again (one call per picture) is joined along the first dimension.
class Dump {
 public:
  struct Entry {
    std::vector<std::size_t> shape;
    std::string dtype = "F32";
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
    Entry& entry = entries_[name];
    if (entry.shape.empty()) entry.shape = shape;
    else if (entry.shape.size() == shape.size() && std::equal(shape.begin() + 1, shape.end(), entry.shape.begin() + 1)) entry.shape[0] += shape[0];
    else return;
    entry.bytes += bytes;
  }
  void add(const std::string& name, std::vector<std::size_t> shape, const std::vector<std::int64_t>& values) {
    if (!wants(name)) return;
    const char* const data = reinterpret_cast<const char*>(values.data());
    entries_[name] = {std::move(shape), "I64", std::string(data, data + values.size() * sizeof(std::int64_t))};
  }

  void write(const std::string& path) const {
    ordered_json header = ordered_json::object();
    std::size_t offset = 0;
    for (const auto& [name, entry] : entries_) {
      header[name] = {{"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {offset, offset + entry.bytes.size()}}};
      offset += entry.bytes.size();
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::ofstream file(path, std::ios::binary);
    const auto size = static_cast<std::uint64_t>(text.size());
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file << text;
    for (const auto& [name, entry] : entries_) file << entry.bytes;
    if (!file.flush()) throw chiasm::FileError(path, "cannot be written");
  }

 private:
  std::map<std::string, std::vector<std::size_t>> shapes_;
  std::map<std::string, Entry> entries_;
};

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
  const std::string decoded = folder + "/" + (file.ends_with(".jpg") ? file.substr(0, file.size() - 4) : file) + ".decoded.png";
  // Most references handed the processor the file with its alpha, and present transformers lays that on white.
  const bool converted = family == "siglip" || family == "idefics" || family == "kosmos2" || family == "paligemma" || family == "qwen2_vl";
  return chiasm::load_image(std::filesystem::exists(decoded) ? decoded : folder + "/" + file, converted ? chiasm::Alpha::drop : chiasm::Alpha::white);
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
inline ordered_json run_pipeline(const std::string& folder, const ordered_json& description, Dump& dump) {
  const chiasm::Pipeline pipeline = chiasm::load(folder + "/" + description.value("model", "model"));
  const chiasm::LanguageModel& lm = pipeline.language_model();
  ordered_json runs = ordered_json::array();
  std::map<std::string, std::string> failed;
  for (const ordered_json& input : description.at("inputs")) {
    const std::string name = input.at("name");
    try {
      const chiasm::Prompt prompt = prompt_of(folder, input, std::string(pipeline.family().image_placeholder()), description.at("family"));
      chiasm::ContextOptions observing;
      observing.on_tensor = [&](std::string_view what, chiasm::View tensor) { dump.add(name + "." + std::string(what), tensor); };
      chiasm::Context ctx(observing);
      const chiasm::PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
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
  for (const ordered_json& run : description.at("runs")) {
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
inline void run_dual_encoder(const std::string& folder, const ordered_json& description, Dump& dump) {
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(folder + "/" + description.value("model", "model"));
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
  ordered_json runs;
};
inline Result run_case(const std::string& folder) {
  std::ifstream file(folder + "/case.json");
  if (!file) throw chiasm::FileError(folder + "/case.json", "cannot be read");
  const ordered_json description = ordered_json::parse(file);
  Result result{Dump(chiasm::read_safetensors(folder + "/expected.safetensors")), ordered_json::array()};
  const std::string family = description.at("family");
  if (family == "clip" || family == "siglip") run_dual_encoder(folder, description, result.tensors);
  else result.runs = run_pipeline(folder, description, result.tensors);
  return result;
}

}  // namespace golden
