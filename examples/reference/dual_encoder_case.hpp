/// Cases of CLIP and SigLIP.
#pragma once

#include "case.hpp"
#include "dump.hpp"

#include <chiasm/pipelines/dual_encoder.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace reference {

using nlohmann::ordered_json;

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

}  // namespace reference
