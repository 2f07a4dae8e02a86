/// Cases of BLIP-2's first stage, which compares pictures with texts.
#pragma once

#include "case.hpp"
#include "dump.hpp"

#include <chiasm/models/blip2_itm.hpp>
#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/pipelines/dual_encoder.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace reference {

using nlohmann::ordered_json;

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

}  // namespace reference
