/// Where in its pictures an answer came from: attention followed from the answer's tokens back to the patches, through the layers of the language
/// model and of what connects it with the vision tower. Attention rollout, Abnar & Zuidema, arXiv:2005.00928, with attention weighed by the values'
/// lengths, Kobayashi et al., arXiv:2004.10102.
#pragma once

#include <chiasm/pipelines/pipeline.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// How much of an answer came from each patch of a picture.
struct HeatMap {
  std::size_t rows = 0, columns = 0;
  std::vector<float> values;  // (rows, columns), from the top left; their sum is 1, or 0 if the answer took nothing from this picture
  FieldOfView field;          // where the patches lie in the picture

  /// A point of the picture, in shares of its width and height.
  struct Point {
    double x = 0, y = 0;
  };
  /// The middle of the hottest patches: those of at least half the highest value, each by what it has above that.
  Point centre() const noexcept;
  /// The value at a point between the patches' centres, 0 outside the field.
  float at(Point point) const noexcept;
};

/// Follows attention through one answer. Where to begin is a context with watch(); after the call that used it, heat().
class AttentionRollout {
 public:
  AttentionRollout();
  ~AttentionRollout();
  AttentionRollout(AttentionRollout&&) noexcept;
  AttentionRollout& operator=(AttentionRollout&&) noexcept;

  /// For ContextOptions::on_attention. It must not outlive this object.
  void watch(const AttentionWeights& attention);

  /// Tokens [begin, end) of a prompt and its answer.
  struct Tokens {
    std::size_t begin = 0, end = 0;
  };
  /// By picture, in the prompt's order: how much each state of the vision tower (its class token, too) has to do with some tokens.
  using Heat = std::vector<std::vector<float>>;

  /// What each stretch of tokens has to do with the pictures; `pictures` says where each stands in the prompt. Throws ArgumentError: nothing has been
  /// watched, or tokens that have not been.
  std::vector<Heat> heat(std::span<const PreparedPrompt::Picture> pictures, std::span<const Tokens> stretches) const;
  Heat heat(std::span<const PreparedPrompt::Picture> pictures, std::size_t begin, std::size_t end) const {
    const Tokens tokens{begin, end};
    return std::move(heat(pictures, std::span(&tokens, 1)).front());
  }

 private:
  struct Record;
  std::unique_ptr<Record> record_;
};

/// An answer, and a heat map for each picture of the prompt, in order.
struct Explained {
  Reply reply;
  std::vector<HeatMap> pictures;
};

/// Pipeline::generate(), watched: slower, and nothing comes from a cache. A map shows what the answer's tokens took from a picture beyond what the tokens
/// behind the pictures take in the mean. Of LLaVA-NeXT's views, it is the one of the whole picture. Throws what generate() throws, ArgumentError (beam search),
/// UnsupportedError (a family whose pictures are not grids of patches).
Explained explain(const Pipeline& vlm, const Prompt& prompt, const GenerateOptions& options = {}, const OnText& on_text = {}, CancelToken cancel = {});

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/explanation.ipp>
#endif
