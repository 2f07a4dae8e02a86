/// CheckpointWiring: whether the tensors are those that config.json asks for.
#pragma once

#include "description.hpp"

#include <chiasm/core/weights.hpp>
#include <chiasm/models/blip2_itm.hpp>
#include <chiasm/models/siglip.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace examples {

class CheckpointWiring : public CheckpointDescription {
 protected:
  using CheckpointDescription::CheckpointDescription;

  /// Builds the model on what the headers say: every tensor that config.json asks for, with its shape, and none left over.
  void wire() {
    if (!known_) return;
    const chiasm::Weights files(tensors_, folder_);
    std::vector<chiasm::WeightError> wrong;
    const chiasm::Weights w = files.noting(wrong);
    (void)try_to("config.json", [&] {
      if (is_llava()) {
        const chiasm::Llava model(w, config_);
        describe(model);
      } else if (is_idefics()) {
        const chiasm::Idefics model(w, config_);
        describe(model);
      } else if (is_retrieval()) {
        const chiasm::Blip2Itm model(w, config_);
        describe(model.config());
      } else if (is_blip2()) {
        const chiasm::Blip2 model(w, config_);
        describe(model.config());
        const auto* const t5 = dynamic_cast<const chiasm::T5*>(model.encoder_decoder());
        t5 != nullptr ? describe(*t5) : describe(model.language_model());
      } else if (chiasm::is_text_model(type_)) {
        const std::unique_ptr<chiasm::LanguageModel> model = chiasm::make_text_model(w, config_);
        w.expect_all_used();
        describe(*model);
      } else if (type_ == "t5") {
        const chiasm::T5 model(w, chiasm::T5Config::from(config_));
        w.expect_all_used();
        describe(model);
      } else if (type_ == "clip") {
        const chiasm::Clip model(w, config_);
        describe(model.vision_model().config(), "clip_vision_model");
        describe(model.text_model().config());
      } else {
        const chiasm::Siglip model(w, config_);
        describe(model.vision_model().config(), "siglip_vision_model");
        describe(model.text_model().config());
      }
    });
    report(wrong);
    count_parameters(files);
  }

  /// Tensors that lie in a shard that is not there are said with the shard; the others one by one, alike ones in one line.
  void report(const std::vector<chiasm::WeightError>& wrong) {
    if (tensors_.empty()) return;
    struct Group {
      std::string first, file, have, want;
      std::size_t count = 0;
    };
    std::vector<std::pair<std::string, Group>> groups;
    std::map<std::string, std::size_t> place;
    const std::set<std::string> names = lost_names();
    std::size_t lost = 0;
    ordered_json list = ordered_json::array();
    for (const chiasm::WeightError& one : wrong) {
      if (one.have == "missing" && names.contains(one.tensor)) {
        ++lost;
        continue;
      }
      list.push_back({{"tensor", one.tensor}, {"file", one.file}, {"have", one.have}, {"want", one.want}});
      std::string pattern = one.tensor;  // "model.layers.0.x" and "model.layers.1.x" are alike
      for (std::size_t at = 0; (at = pattern.find_first_of("0123456789", at)) != std::string::npos; ++at) {
        std::size_t end = at;
        while (end < pattern.size() && pattern[end] >= '0' && pattern[end] <= '9') ++end;
        const bool number = (at == 0 || pattern[at - 1] == '.') && (end == pattern.size() || pattern[end] == '.');
        if (number)
          pattern.replace(at, end - at, "N");
        else
          at = end - 1;
      }
      const auto [known, fresh] = place.try_emplace(pattern + "|" + one.have + "|" + one.want, groups.size());
      if (fresh) groups.push_back({pattern, {one.tensor, one.file, one.have, one.want, 0}});
      ++groups[known->second].second.count;
    }
    facts["wrong_tensors"] = list;
    for (const auto& [pattern, group] : groups) {
      const std::string which =
          group.count == 1 ? "'" + group.first + "'" : std::to_string(group.count) + " tensors '" + pattern + "', such as '" + group.first + "',";
      const std::string is = group.count == 1 ? " is " : " are ";
      const std::string file = std::filesystem::path(group.file).filename().string();
      if (group.have == "missing")
        error("weights", which + is + "missing; config.json asks for " + (group.want == "a tensor" ? "it" : group.want));
      else if (group.have.starts_with("not used"))
        error(file, which + is + group.have + ": the model that config.json describes has no place for " + (group.count == 1 ? "it" : "them"));
      else
        error(file, which + is + group.have + ", config.json asks for " + group.want);
    }
    if (lost > 0) note("weights", std::to_string(lost) + " tensors of the model lie in shards that are missing or damaged");
  }

  void count_parameters(const chiasm::Weights& files) {
    std::uint64_t total = 0;
    std::map<std::string, std::uint64_t> parts;
    std::vector<chiasm::WeightError> ignored;
    const chiasm::Weights named = normalise(files).noting(ignored);
    for (const std::string& name : named.names()) {
      const chiasm::Weight weight = named.get(name);
      if (weight.dtype() >= chiasm::DType::i8) continue;  // buffers
      std::string part = name.starts_with("model.") ? name.substr(6) : name;
      part.resize(std::min(part.find('.'), part.size()));
      parts[part] += weight.shape().size();
      total += weight.shape().size();
    }
    if (total == 0) return;
    facts["parameters"] = total;
    facts["parts"] = ordered_json::object();
    std::string words;
    for (const auto& [part, count] : parts) {
      facts["parts"][part] = count;
      words += (words.empty() ? "" : ", ") + part + " " + count_text(count);
    }
    summary.emplace_back("parameters", count_text(total) + ": " + words);
  }

 private:
  chiasm::Weights normalise(const chiasm::Weights& w) const { return is_llava() ? chiasm::Llava::normalise(w) : is_blip2() ? chiasm::Blip2::normalise(w) : is_idefics() ? chiasm::Idefics::normalise(w) : w; }
  /// The names in lost_ as the model calls them.
  std::set<std::string> lost_names() const {
    std::vector<chiasm::Weight> tensors;
    for (const std::string& name : lost_) tensors.emplace_back(name, chiasm::DType::f32, chiasm::Shape{0}, nullptr, nullptr, folder_);
    chiasm::Weights lost(std::move(tensors), folder_);
    const std::vector<std::string> names = normalise(lost).names();
    return {names.begin(), names.end()};
  }
};

}  // namespace examples
