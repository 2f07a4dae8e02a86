/// GGUF models in the words of transformers: what llama.cpp's metadata and tensors are called in a checkpoint of Hugging Face. Names and layouts of
/// llama.cpp's converters, its legacy scripts for LLaVA among them.
#pragma once

#include <chiasm/io/gguf.hpp>
#include <chiasm/io/json.hpp>

#include <optional>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A text model of the architectures llama (Llama, Vicuna, Mistral), qwen2, gptneox or mpt, and what makes a LLaVA of it.
struct GgufModel {
  Gguf text;
  std::vector<Gguf> shards = {};       // the files behind the first one, of a model that gguf-split has cut up
  std::optional<Gguf> mmproj = {};     // LLaVA 1.5 or 1.6: vision tower and projector, architecture clip

  /// config.json as transformers would have it: a sliding window counts, which llama.cpp passes over in the architecture llama. Throws ConfigError that
  /// names the metadata's key, UnsupportedError: other architectures, and what changes their mathematics (experts, scales, parts of a head that turn).
  Json config() const;
  /// preprocessor_config.json; null without an mmproj. LLaVA 1.5 pads its pictures to a square, as it was trained and as llama.cpp does; 1.6 lays them
  /// out in tiles as transformers does. Throws ConfigError, UnsupportedError.
  Json preprocessor_config() const;
  /// The tensors by transformers' names, rows of queries and keys in its order: a copy, made when they are taken. Throws UnsupportedError, WeightError.
  ///
  /// Of a tower all blocks run that are in the file, and the projector has an exact GELU, as in transformers: llama.cpp leaves out one block more and
  /// approximates.
  Weights weights(WeightKind kind = WeightKind::keep) const;

  /// Whether the mmproj's projector ends in the text model's width.
  static bool fit(const Gguf& text, const Gguf& mmproj);
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/gguf_model.ipp>
#endif
