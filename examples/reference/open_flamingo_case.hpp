/// Cases of OpenFlamingo: batches of prompts.
#pragma once

#include "pipeline_case.hpp"

#include <chiasm/pipelines/flamingo.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace reference {

using nlohmann::ordered_json;

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

}  // namespace reference
