/// Cases that generate, of every family with one picture or several before or in the text: LLaVA, BLIP-2, IDEFICS, language models.
#pragma once

#include "case.hpp"
#include "dump.hpp"

#include <chiasm/pipelines/blip2.hpp>
#include <chiasm/pipelines/idefics.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace reference {

using nlohmann::ordered_json;

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

}  // namespace reference
