/// The language model of a checkpoint or of its `text_config`, by model_type.
#pragma once

#include <chiasm/models/llama.hpp>
#include <chiasm/models/mistral.hpp>
#include <chiasm/models/qwen2.hpp>

#include <memory>

namespace chiasm::inline CHIASM_ABI {

/// Whether make_text_model() knows this family.
inline bool is_text_model(std::string_view model_type) { return model_type == "llama" || model_type == "mistral" || model_type == "qwen2"; }

/// Throws UnsupportedError for a family that is not there, ConfigError, WeightError.
inline std::unique_ptr<LanguageModel> make_text_model(const Weights& w, const Json& config) {
  const std::string type = config.get<std::string>("model_type", "llama");
  if (type == "llama") return std::make_unique<Llama>(w, LlamaConfig::from(config));
  if (type == "mistral") return std::make_unique<Mistral>(w, MistralConfig::from(config));
  if (type == "qwen2") return std::make_unique<Qwen2>(w, Qwen2Config::from(config));
  throw UnsupportedError("language model '" + type + "' (" + config.file() + "), expected llama, mistral or qwen2");
}

}  // namespace chiasm
