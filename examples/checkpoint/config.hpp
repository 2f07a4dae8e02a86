/// CheckpointConfig: what config.json says that the model is.
#pragma once

#include "folder.hpp"

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/models/text_model.hpp>

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

namespace examples {

class CheckpointConfig : public CheckpointFolder {
 protected:
  using CheckpointFolder::CheckpointFolder;

  bool read_config() {
    checkpoint_ = chiasm::Checkpoint::open(folder_);
    if (!try_to("config.json", [&] { config_ = checkpoint_->config(); })) return false;
    for (const std::string file :
         {"generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "chat_template.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"})
      if (has(file) && !broken_.contains(file) && !try_to(file, [&] { (void)checkpoint_->json(file); })) broken_.insert(file);
    if (!try_to("config.json", [&] { type_ = checkpoint_->model_type(); })) return false;
    facts["model_type"] = type_;
    summary.emplace_back("model", type_);
    if (const chiasm::Json names = config_.find("architectures"); names.is_array() && names.size() > 0 && names.at(0).is_string()) {
      facts["architecture"] = std::string(names.at(0).as_string());
      summary.back().second += " (" + std::string(names.at(0).as_string()) + ")";
    }
    std::vector<std::string> known = {"blip-2", "instructblip", "idefics", "llava", "llava_next", "clip", "siglip", "t5"};
    known.insert(known.end(), std::begin(chiasm::text_model_types), std::end(chiasm::text_model_types));
    known_ = std::find(known.begin(), known.end(), type_) != known.end();
    if (!known_) {
      std::string list;
      for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
      std::string hint;
      if (config_.contains("mm_vision_tower") || type_.starts_with("llava_"))
        hint = ". It looks like LLaVA in its authors' own layout: take the transformers form (llava-hf/...)";
      else if (config_.contains("auto_map"))
        hint = ". It comes with Python code of its own (auto_map), which is not run";
      error("config.json", "model_type '" + type_ + "' is none of those that are supported: " + list + hint);
    }
    if (const chiasm::Json quantized = config_.find("quantization_config"); quantized.is_object()) {
      const chiasm::Json method = quantized.find("quant_method");
      error("config.json", "the weights are quantised (" +
                               (method.is_string() ? std::string(method.as_string()) : std::string("quantization_config")) +
                               "), which is not read: take the original checkpoint in bf16, f16 or f32");
    }
    return true;
  }

  bool is_llava() const { return type_ == "llava" || type_ == "llava_next"; }
  bool is_idefics() const { return type_ == "idefics"; }
  bool is_blip2() const { return type_ == "blip-2" || type_ == "instructblip"; }

  std::string type_;
  bool known_ = false;  // a type that is supported
  std::optional<chiasm::Checkpoint> checkpoint_;
  chiasm::Json config_;
};

}  // namespace examples
