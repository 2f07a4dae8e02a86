/// DualEncoder: a CLIP, SigLIP or BLIP-2 (image-text retrieval) checkpoint that compares pictures with texts: embeddings, scores, zero-shot
/// classification, matching.
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

  /// Vectors of length 1 in the common space. An image of BLIP-2 has several, V = vectors_per_image(), of which the nearest to a text counts.
  Tensor embed(Context& ctx, std::span<const Image> images) const;             // N images -> (N, E), BLIP-2: (N, V, E)
  Tensor embed(Context& ctx, std::span<const std::string> texts) const;        // N texts -> (N, E)
  Tensor embed(const Image& image) const;                                      // -> (E), BLIP-2: (V, E)
  Tensor embed(const std::string& text) const;                                 // -> (E)
  std::size_t vectors_per_image() const noexcept;

  /// logit_scale * image . text (+ logit_bias) of every pair; BLIP-2: the cosine.
  Tensor logits(Context& ctx, View image_embeddings, View text_embeddings) const;  // (N, E), (M, E) -> (N, M)

  /// Probabilities that picture and text belong together, each by itself, by a look at both at once: slower than logits(), and surer, to sort the
  /// best finds of a search again. BLIP-2 alone has this; others throw UnsupportedError.
  std::vector<float> match(Context& ctx, const Image& image, std::span<const std::string> texts) const;
  std::vector<float> match(const Image& image, std::span<const std::string> texts) const;
  float match(const Image& image, const std::string& text) const;
  /// Whether match() is there.
  bool matches() const noexcept;

  /// How well each text fits the picture: probabilities over the texts (CLIP, BLIP-2), or of each by itself (SigLIP).
  std::vector<float> classify(const Image& image, std::span<const std::string> texts) const;
  /// Zero-shot classification: each label is the mean of its prompts, `{}` in a template standing for the label. CLIP, arXiv:2103.00020, 3.1.4.
  /// Throws ArgumentError: no template, or one without `{}`.
  std::vector<float> classify(const Image& image, std::span<const std::string> labels, std::span<const std::string> templates) const;
  /// Its two steps, for many pictures: the labels' vectors, and the probabilities of the labels for pictures that are embedded already.
  Tensor embed_labels(Context& ctx, std::span<const std::string> labels, std::span<const std::string> templates) const;  // N labels -> (N, E)
  Tensor probabilities(Context& ctx, View image_embeddings, View label_embeddings) const;                               // (M, E), (N, E) -> (M, N)

  /// Ids as the reference's processor makes them, N texts padded to one length; `used` as TextTower takes it.
  struct Tokens {
    std::vector<TokenId> ids;
    std::size_t length = 0;
    std::vector<std::size_t> used;
  };
  Tokens tokenize(std::span<const std::string> texts) const;
  /// Pictures as the vision tower takes them. Throws ArgumentError: none, or of several sizes after preprocessing.
  Tensor pixels(Context& ctx, std::span<const Image> images) const;            // N images -> (N, 3, H, W)

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
