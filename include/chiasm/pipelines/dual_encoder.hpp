/// DualEncoder: a CLIP or SigLIP checkpoint that compares pictures with texts: embeddings, scores, zero-shot classification.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/io/image.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class DualEncoderModel;

/// Const and shareable between threads.
class DualEncoder {
 public:
  /// Throws FileError, FormatError, ConfigError, WeightError, UnsupportedError (a checkpoint of another family).
  static DualEncoder load(const std::string& folder, LoadOptions options = {});
  /// The same for a checkpoint that is open already, or in memory.
  static DualEncoder load(const Checkpoint& checkpoint, LoadOptions options = {});

  /// Vectors of length 1 in the common space.
  Tensor embed(Context& ctx, std::span<const Image> images) const;             // N images -> (N, E)
  Tensor embed(Context& ctx, std::span<const std::string> texts) const;        // N texts -> (N, E)
  Tensor embed(const Image& image) const;                                      // -> (E)
  Tensor embed(const std::string& text) const;                                 // -> (E)

  /// logit_scale * image . text (+ logit_bias) of every pair.
  Tensor logits(Context& ctx, View image_embeddings, View text_embeddings) const;  // (N, E), (M, E) -> (N, M)

  /// How well each text fits the picture: probabilities over the texts (CLIP), or of each by itself (SigLIP).
  std::vector<float> classify(const Image& image, std::span<const std::string> texts) const;
  /// Zero-shot classification: each label is the mean of its prompts, `{}` in a template standing for the label. CLIP, arXiv:2103.00020, 3.1.4.
  /// Throws ArgumentError: no template, or one without `{}`.
  std::vector<float> classify(const Image& image, std::span<const std::string> labels, std::span<const std::string> templates) const;

  /// Ids as the reference's processor makes them, N texts padded to one length; `used` as TextTower takes it.
  struct Tokens {
    std::vector<TokenId> ids;
    std::size_t length = 0;
    std::vector<std::size_t> used;
  };
  Tokens tokenize(std::span<const std::string> texts) const;

  Context new_context(CancelToken cancel = {}) const;
  const DualEncoderModel& model() const noexcept;
  const Tokenizer& tokenizer() const noexcept;

 private:
  struct Parts;
  explicit DualEncoder(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  Tensor embed_tokens(Context& ctx, const Tokens& tokens) const;
  std::shared_ptr<const Parts> parts_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/dual_encoder.ipp>
#endif
