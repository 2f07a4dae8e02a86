/// Runs a reference case (tests/golden/cases/*, what models/dump_reference.py writes, any folder of that form): its inputs, its generations, and the
/// tensors on the way. chiasm_inspect and the tests compare them with the reference's, golden_dump writes them down.
#pragma once

#include <chiasm/io/image_file.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/models/blip2_itm.hpp>
#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/pipelines/blip2.hpp>
#include <chiasm/pipelines/dual_encoder.hpp>
#include <chiasm/pipelines/flamingo.hpp>
#include <chiasm/pipelines/idefics.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
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
      // The views of one picture, to which the reference adds empty ones where another picture has more. Or one of several pictures in a row of them.
      if (want[0] == 1) {
        if (Entry& row = slot(name); !row.shape.empty()) {
          row.shape[1] += shape[0];
          row.bytes += bytes;
          return;
        }
      } else if (want[1] > shape[0] && shape[0] > 0) {
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

/// The tensors of a case's expected.safetensors. OpenFlamingo's pictures have six dimensions, of which the library knows five: the first two become one.
inline chiasm::Weights read_expected(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  auto bytes = std::make_shared<std::string>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  std::uint64_t length = 0;
  if (bytes->size() < sizeof length) return chiasm::read_safetensors(path);
  std::memcpy(&length, bytes->data(), sizeof length);
  if (length > bytes->size() - sizeof length) return chiasm::read_safetensors(path);
  ordered_json header = ordered_json::parse(bytes->substr(sizeof length, length), nullptr, false);
  if (!header.is_object()) return chiasm::read_safetensors(path);
  for (auto& [name, tensor] : header.items()) {
    if (!tensor.is_object() || !tensor.contains("shape") || tensor["shape"].size() != 6) continue;
    tensor["shape"][1] = tensor["shape"][0].get<std::uint64_t>() * tensor["shape"][1].get<std::uint64_t>();
    tensor["shape"].erase(0);
  }
  const std::string folded = header.dump();
  bytes->replace(sizeof length, length, folded);
  length = folded.size();
  std::memcpy(bytes->data(), &length, sizeof length);
  return chiasm::read_safetensors(std::as_bytes(std::span(bytes->data(), bytes->size())), path, bytes);
}

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
  const bool converted = family == "siglip" || family == "open_flamingo" || family == "idefics" || family == "kosmos2" || family == "paligemma" || family == "qwen2_vl";
  return chiasm::load_image(std::filesystem::exists(decoded) ? decoded : original.string(), converted ? chiasm::Alpha::drop : chiasm::Alpha::white);
}

/// The case's prompt, with its pictures where the placeholder stands.
inline chiasm::Prompt prompt_of(const std::string& folder, const ordered_json& input, const std::string& placeholder, const std::string& family) {
  chiasm::Prompt prompt;
  if (input.contains("prompt_parts")) {
    for (const ordered_json& part : input.at("prompt_parts")) {
      if (part.is_string()) prompt << part.get<std::string>();
      else prompt << picture(folder, part.at("image").get<std::string>(), family);
    }
    return prompt;
  }
  std::string text = input.at("prompt");
  if (family == "blip2" || family == "blip-2" || family == "instructblip") {  // their prompts are the text alone, and the picture stands before it
    for (const std::string& file : input.value("images", std::vector<std::string>())) prompt << picture(folder, file, family);
    return prompt << text;
  }
  for (const std::string& file : input.value("images", std::vector<std::string>())) {
    const std::size_t at = text.find(placeholder);
    if (placeholder.empty() || at == std::string::npos) throw chiasm::ArgumentError("more pictures than placeholders in the prompt");
    prompt << text.substr(0, at) << picture(folder, file, family);
    text.erase(0, at + placeholder.size());
  }
  prompt << text;
  return prompt;
}

/// The tokens of one of a case's generations.
inline std::vector<chiasm::TokenId> tokens_of(const chiasm::Pipeline& pipeline, const chiasm::Prompt& prompt, const ordered_json& run, Dump& dump) {
  chiasm::Context ctx;
  const chiasm::PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
  const chiasm::LanguageModel& lm = prepared.model ? *prepared.model : pipeline.language_model();
  chiasm::GenerateOptions options = options_of(run.at("generate"), pipeline.generation_config());
  if (options.num_beams.value_or(1) > 1) return chiasm::beam_search(ctx, lm, prepared.embeddings, prepared.ids, options).at(0).ids;
  const std::string steps = run.at("input").get<std::string>() + ".greedy.step_logits";
  if (run.at("name") == "greedy" && dump.wants(steps))
    options.logits_processor = [&](std::span<const chiasm::TokenId>, std::span<float> row) {
      dump.add(steps, chiasm::View(row.data(), chiasm::Shape{1, row.size()}));
    };
  std::vector<chiasm::TokenId> ids;
  chiasm::Generation generation(ctx, lm, prepared.embeddings.clone(), options, prepared.ids);
  while (const auto token = generation.next()) ids.push_back(*token);
  return ids;
}

/// What IDEFICS's reference calls a tensor. Its hidden states are the first layer's input and then what layers give; here they are what layers get, which a
/// gated block before them has changed.
inline std::string idefics_name(std::string_view what, const chiasm::IdeficsFamily& family) {
  constexpr std::string_view layer = "lm.layer.", hidden = "lm.hidden.", gated = "lm.xattn.";
  if (what.starts_with(gated)) return std::string(what.substr(3));
  const std::size_t last = family.model().llama().sizes().num_hidden_layers;
  const auto number = [&](std::string_view prefix) { return std::stoul(std::string(what.substr(prefix.size()))); };
  if (what.starts_with(layer) && number(layer) + 1 < last) return std::string(hidden) + std::to_string(number(layer) + 1);
  if (what.starts_with(hidden) && number(hidden) != 0 && number(hidden) != last) return {};
  return std::string(what);
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
      const auto* const gated = dynamic_cast<const chiasm::IdeficsFamily*>(&pipeline.family());
      chiasm::ContextOptions observing;
      // The reference counts an encoder-decoder's encoder to the language model.
      observing.on_tensor = [&](std::string_view what, chiasm::View tensor) {
        const char* const part = what.starts_with("encoder_hidden.") ? ".lm." : ".";
        dump.add(name + part + (gated == nullptr ? std::string(what) : idefics_name(what, *gated)), tensor);
      };
      chiasm::Context ctx(observing);
      const chiasm::PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
      const chiasm::LanguageModel& lm = prepared.model ? *prepared.model : pipeline.language_model();
      const std::vector<chiasm::TokenId>& read = prepared.encoder_ids.empty() ? prepared.ids : prepared.encoder_ids;
      const std::vector<std::int64_t> ids(read.begin(), read.end());
      dump.add(name + ".input_ids", {1, ids.size()}, ids);
      dump.add(name + ".attention_mask", {1, ids.size()}, std::vector<std::int64_t>(ids.size(), 1));
      if (const auto* const blip2 = dynamic_cast<const chiasm::Blip2Family*>(&pipeline.family())) {
        const std::vector<chiasm::TokenId> instruction = blip2->instruction(input.at("prompt").get<std::string>());
        dump.add(name + ".qformer_input_ids", {1, instruction.size()}, {instruction.begin(), instruction.end()});
        dump.add(name + ".qformer_attention_mask", {1, instruction.size()}, std::vector<std::int64_t>(instruction.size(), 1));
      }
      if (const auto* const bound = dynamic_cast<const chiasm::GatedDecoder*>(&lm)) {
        std::vector<std::int64_t> mask;  // which position sees which picture
        for (const chiasm::MediaRun& run : bound->runs())
          for (std::size_t t = 0; t < run.rows; ++t)
            for (std::size_t n = 0; n < prepared.pictures.size(); ++n) mask.push_back(n >= run.first && n < run.first + run.count);
        dump.add(name + ".image_attention_mask", {1, ids.size(), prepared.pictures.size()}, mask);
      }
      std::vector<std::int64_t> sizes;
      for (const auto& part : prompt.parts())
        if (part.image()) sizes.insert(sizes.end(), {part.image()->height(), part.image()->width()});
      if (!sizes.empty()) dump.add(name + ".image_sizes", {sizes.size() / 2, 2}, sizes);
      chiasm::KvCache cache = lm.new_cache();
      chiasm::Tensor hidden;
      {
        // Encoder-decoders: the ids that the reference's decoder was given, for more of it to be seen than its first position.
        const auto given = description.value("forward_decoder_input_ids", std::vector<chiasm::TokenId>());
        const chiasm::Tensor decoder_inputs = given.empty() ? chiasm::Tensor() : lm.embed(ctx, given);
        const chiasm::Context::Scope scope(ctx, "lm");
        hidden = lm.forward(ctx, given.empty() ? prepared.embeddings : decoder_inputs, cache);
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
      const chiasm::Prompt prompt = prompt_of(folder, *input, std::string(pipeline.family().image_placeholder()), description.at("family"));
      const std::vector<chiasm::TokenId> ids = tokens_of(pipeline, prompt, run, dump);
      result["output_ids"] = ids;
      result["text"] = pipeline.tokenizer().decode(ids, true);
    } catch (const chiasm::Error& error) {
      result["error"] = error.what();
    }
    runs.push_back(result);
  }
  return runs;
}

/// Cases of OpenFlamingo, whose inputs are batches of prompts. They are read one by one here; in the reference they stand side by side, the shorter ones
/// behind padding and with black pictures. What the reference makes of padding means nothing, and is taken from it as it is.
inline ordered_json run_flamingo(const Case& one, Dump& dump, std::map<std::string, std::string>& failed) {
  const ordered_json& description = one.description;
  const chiasm::Pipeline pipeline = chiasm::load(one.model);
  const auto* const family = dynamic_cast<const chiasm::FlamingoFamily*>(&pipeline.family());
  if (family == nullptr) throw chiasm::UnsupportedError("a case of OpenFlamingo whose model is another one");
  const chiasm::Weights expected = read_expected(one.expected);
  const auto prompt = [&](const ordered_json& input, std::size_t b) {
    const ordered_json single = {{"prompt", input.at("prompts").at(b)}, {"images", input.at("images").at(b)}};
    return prompt_of(one.folder, single, std::string(family->image_placeholder()), "open_flamingo");
  };
  for (const ordered_json& input : description.at("inputs")) {
    const std::string name = input.at("name");
    try {
      const std::size_t prompts = input.at("prompts").size();
      std::size_t most = 0, length = 0;  // pictures, tokens
      for (const ordered_json& images : input.at("images")) most = std::max(most, images.size());
      struct Rows {
        std::size_t width = 0;
        std::vector<std::vector<float>> of;  // each prompt's
      };
      std::map<std::string, Rows> media, text;
      std::vector<std::vector<chiasm::TokenId>> ids;
      for (std::size_t b = 0; b < prompts; ++b) {
        const auto collect = [&](std::map<std::string, Rows>& to, const std::string& what, chiasm::View tensor) {
          Rows& rows = to[what];
          rows.width = tensor.columns();
          rows.of.resize(prompts);
          for (std::size_t t = 0; t < tensor.rows(); ++t) rows.of[b].insert(rows.of[b].end(), tensor.row(t), tensor.row(t) + tensor.columns());
        };
        chiasm::ContextOptions observing;
        observing.on_tensor = [&](std::string_view what, chiasm::View tensor) {
          const chiasm::GatedLayers layers = family->model().gated_layers();
          if (what.starts_with("lm.xattn.")) collect(text, "xattn." + std::to_string(layers.first + layers.interval * std::stoul(std::string(what.substr(9)))), tensor);
          else collect(what.starts_with("lm.") ? text : media, std::string(what), tensor);
        };
        chiasm::Context ctx(observing);
        const chiasm::PreparedPrompt prepared = pipeline.prepare(ctx, prompt(input, b));
        const std::size_t side = family->model().config().vision.image_size;
        for (std::size_t i = input.at("images").at(b).size(); i < most; ++i) {
          const chiasm::Tensor black(chiasm::Shape{1, 1, 3, side, side});
          collect(media, "vision_x", black);
          family->model().media(ctx, black);
        }
        const chiasm::LanguageModel& lm = prepared.model ? *prepared.model : pipeline.language_model();
        chiasm::KvCache cache = lm.new_cache();
        chiasm::Tensor hidden;
        {
          const chiasm::Context::Scope scope(ctx, "lm");
          hidden = lm.forward(ctx, prepared.embeddings, cache);
        }
        collect(text, "logits", lm.logits(ctx, hidden));
        ids.push_back(prepared.ids);
        length = std::max(length, prepared.ids.size());
      }
      const auto add = [&](const std::string& what, const std::vector<float>& values) {
        chiasm::Shape shape = expected.get(what).shape();
        if (shape.size() != values.size()) shape = chiasm::Shape{values.size()};  // to be found wrong
        dump.add(what, chiasm::View(values.data(), shape));
      };
      for (const auto& [what, rows] : media) {
        if (!dump.wants(name + "." + what)) continue;
        std::vector<float> all;
        for (const std::vector<float>& prompt_rows : rows.of) all.insert(all.end(), prompt_rows.begin(), prompt_rows.end());
        add(name + "." + what, all);
      }
      for (const auto& [what, rows] : text) {
        if (!dump.wants(name + "." + what)) continue;
        const chiasm::Tensor reference = expected.get(name + "." + what).to_f32();
        std::vector<float> all;
        for (std::size_t b = 0; b < prompts; ++b) {
          const std::size_t padding = (length - ids[b].size()) * rows.width, begin = b * length * rows.width;
          if (begin + padding <= reference.size()) all.insert(all.end(), reference.data() + begin, reference.data() + begin + padding);
          all.insert(all.end(), rows.of[b].begin(), rows.of[b].end());
        }
        add(name + "." + what, all);
      }
      std::vector<std::int64_t> all, mask;
      for (const std::vector<chiasm::TokenId>& row : ids) {
        all.insert(all.end(), length - row.size(), pipeline.tokenizer().pad().value_or(-1));
        all.insert(all.end(), row.begin(), row.end());
        mask.insert(mask.end(), length - row.size(), 0);
        mask.insert(mask.end(), row.size(), 1);
      }
      dump.add(name + ".input_ids", {prompts, length}, all);
      dump.add(name + ".attention_mask", {prompts, length}, mask);
    } catch (const chiasm::Error& error) {
      failed[name] = error.what();
    }
  }
  ordered_json runs = ordered_json::array();
  for (const ordered_json& run : description.value("runs", ordered_json::array())) {
    ordered_json result = {{"name", run.at("name")}, {"input", run.at("input")}};
    try {
      if (const auto why = failed.find(run.at("input").get<std::string>()); why != failed.end()) throw chiasm::ArgumentError(why->second);
      const ordered_json* input = nullptr;
      for (const ordered_json& candidate : description.at("inputs"))
        if (candidate.at("name") == run.at("input")) input = &candidate;
      if (input == nullptr) throw chiasm::ArgumentError("no input '" + run.at("input").get<std::string>() + "'");
      ordered_json ids = ordered_json::array(), texts = ordered_json::array();
      for (std::size_t b = 0; b < input->at("prompts").size(); ++b) {
        const std::vector<chiasm::TokenId> answer = tokens_of(pipeline, prompt(*input, b), run, dump);
        ids.push_back(answer);
        texts.push_back(pipeline.tokenizer().decode(answer, true));
      }
      const bool batch = ids.size() > 1;
      result["output_ids"] = batch ? ids : ids.at(0);
      result["text"] = batch ? texts : texts.at(0);
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

/// Cases of BLIP-2's image-text retrieval: one picture and texts, looked at together and apart.
inline void run_retrieval(const Case& one, Dump& dump) {
  const ordered_json& description = one.description;
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(one.model);
  const auto* const model = dynamic_cast<const chiasm::Blip2Itm*>(&encoder.model());
  if (model == nullptr) throw chiasm::UnsupportedError("a retrieval case whose model is not BLIP-2");
  for (const ordered_json& input : description.at("inputs")) {
    const std::string name = input.at("name");
    const std::vector<std::string> texts = input.at("texts");
    const chiasm::Image image = picture(one.folder, input.at("images").at(0), description.at("family"));
    const chiasm::DualEncoder::Tokens tokens = encoder.tokenize(texts);
    // The reference's ids begin with the picture's where the model has a token for it; its model cuts them off again.
    const std::optional<chiasm::TokenId> image_token = model->config().image_token_index;
    const std::size_t first = image_token ? model->config().qformer.num_query_tokens : 0, length = first + tokens.length;
    std::vector<std::int64_t> ids, mask;
    for (std::size_t n = 0; n < texts.size(); ++n) {
      ids.insert(ids.end(), first, image_token.value_or(0));
      ids.insert(ids.end(), tokens.ids.begin() + static_cast<std::ptrdiff_t>(n * tokens.length), tokens.ids.begin() + static_cast<std::ptrdiff_t>((n + 1) * tokens.length));
      for (std::size_t t = 0; t < length; ++t) mask.push_back(t < first + tokens.used[n]);
    }
    dump.add(name + ".input_ids", {texts.size(), length}, ids);
    dump.add(name + ".attention_mask", {texts.size(), length}, mask);
    chiasm::ContextOptions observing;
    observing.on_tensor = [&](std::string_view what, chiasm::View tensor) {
      // The reference saw the picture once for each text.
      for (std::size_t n = 0; n < (what == "vision.last_hidden_state" ? texts.size() : 1); ++n) dump.add(name + "." + std::string(what), tensor);
    };
    chiasm::Context together(observing);
    const chiasm::Tensor pixels = encoder.pixels(together, std::span(&image, 1));
    const chiasm::Tensor logits = model->match(together, pixels, chiasm::TextBatch{tokens.ids, tokens.length, tokens.used});
    dump.add(name + ".logits_per_image", logits);
    const std::vector<float> matched = encoder.match(image, texts);
    chiasm::Tensor probabilities(chiasm::Shape{texts.size(), 2});
    for (std::size_t n = 0; n < texts.size(); ++n) probabilities.row(n)[0] = 1 - matched[n], probabilities.row(n)[1] = matched[n];
    dump.add(name + ".probs", probabilities);

    observing.on_tensor = [&](std::string_view what, chiasm::View tensor) {
      dump.add(what == "vision.qformer.last_hidden_state" ? "itc.qformer_image.last_hidden_state" : "itc." + std::string(what), tensor);
    };
    chiasm::Context apart(observing);
    const chiasm::Tensor seen = encoder.embed(apart, std::span(&image, 1)), read = encoder.embed(apart, texts);
    dump.add("itc.logits_per_image", encoder.logits(apart, seen, read));
  }
}

/// A case's tensors and runs, as this library computes them. Throws what reading the case or loading its model throws.
struct Result {
  Dump tensors;
  ordered_json runs = ordered_json::array();
  std::map<std::string, std::string> failed = {};  // inputs that ended in an error, and which
};
inline Result run_case(const Case& one) {
  Result result{Dump(read_expected(one.expected))};
  const std::string family = one.description.at("family");
  if (family == "clip" || family == "siglip") run_dual_encoder(one, result.tensors);
  else if (family == "blip2_itm") run_retrieval(one, result.tensors);
  else if (family == "open_flamingo") result.runs = run_flamingo(one, result.tensors, result.failed);
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
  const chiasm::Weights expected = read_expected(one.expected);
  std::vector<Stage> stages;
  for (const std::string& name : result.tensors.order())
    stages.push_back(compare_tensor(name, result.tensors.entries().at(name), expected.get(name), tolerances));
  const ordered_json runs = one.description.value("runs", ordered_json::array());
  for (std::size_t i = 0; i < runs.size() && i < result.runs.size(); ++i) {
    const auto output_ids = [](const ordered_json& run) {  // of a batch: one answer after the other
      std::vector<chiasm::TokenId> all;
      const ordered_json flat = run.value("output_ids", ordered_json::array()).flatten();
      for (const auto& [key, id] : flat.items())
        if (id.is_number_integer()) all.push_back(id.get<chiasm::TokenId>());
      return all;
    };
    const std::vector<chiasm::TokenId> want = output_ids(runs[i]), have = output_ids(result.runs[i]);
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
