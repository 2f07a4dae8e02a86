/// The language model of a checkpoint or of its `text_config`, by model_type.
#pragma once

#include <chiasm/models/gpt_neox.hpp>
#include <chiasm/models/llama.hpp>
#include <chiasm/models/mistral.hpp>
#include <chiasm/models/mpt.hpp>
#include <chiasm/models/opt.hpp>
#include <chiasm/models/qwen2.hpp>

#include <memory>
#include <optional>

namespace chiasm::inline CHIASM_ABI {

/// The families that make_text_model() knows.
inline constexpr std::string_view text_model_types[] = {"gpt_neox", "llama", "mistral", "mosaic_gpt", "mpt", "opt", "qwen2"};

inline bool is_text_model(std::string_view model_type) {
  for (const std::string_view type : text_model_types)
    if (type == model_type) return true;
  return false;
}

/// With a `vocab_size`, that is how many embeddings there are, whatever the configuration says: OpenFlamingo resizes them.
/// Throws UnsupportedError for a family that is not there, ConfigError, WeightError.
inline std::unique_ptr<DecoderStack> make_text_model(const Weights& w, const Json& config, std::optional<std::size_t> vocab_size = {}) {
  const std::string type = config.get<std::string>("model_type", "llama");
  const auto resized = [&](auto c) {
    if (vocab_size) c.vocab_size = *vocab_size;
    return c;
  };
  if (type == "gpt_neox") return std::make_unique<GptNeox>(w, resized(GptNeoxConfig::from(config)));
  if (type == "llama") return std::make_unique<Llama>(w, resized(LlamaConfig::from(config)));
  if (type == "mistral") return std::make_unique<Mistral>(w, resized(MistralConfig::from(config)));
  if (type == "mpt" || type == "mosaic_gpt") return std::make_unique<Mpt>(w, resized(MptConfig::from(config)));
  if (type == "opt") return std::make_unique<Opt>(w, resized(OptConfig::from(config)));
  if (type == "qwen2") return std::make_unique<Qwen2>(w, resized(Qwen2Config::from(config)));
  std::string known;
  for (const std::string_view one : text_model_types) known += (known.empty() ? "" : ", ") + std::string(one);
  throw UnsupportedError("language model '" + type + "' (" + config.file() + "), expected one of " + known);
}

}  // namespace chiasm
