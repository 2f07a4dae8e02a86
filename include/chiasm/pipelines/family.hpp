/// Family: what a model family brings to a pipeline. One implementation per family, chosen by config.json's model_type.
#pragma once

#include <chiasm/io/image.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/modules/language_model.hpp>
#include <chiasm/pipelines/feature_cache.hpp>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A prompt as the language model takes it.
struct PreparedPrompt {
  struct Picture {
    std::size_t begin = 0, rows = 0;  // the positions that stand for it
    Digest content;                   // FeatureCache's
    bool reused = false;              // its features were known already
  };

  Tensor embeddings;                           // (T, D)
  std::vector<TokenId> ids;                    // (T), with the placeholders' ids where pictures stand
  std::vector<Picture> pictures;               // in order
  std::shared_ptr<const LanguageModel> model;  // bound to this prompt (a decoder that attends to its pictures); null: the family's own
};

class Family {
 public:
  virtual ~Family() = default;

  /// "llava", "llama", ...
  virtual std::string_view name() const noexcept = 0;
  virtual const LanguageModel& language_model() const noexcept = 0;
  /// What stands for a picture in the text of a prompt; empty if the family takes none.
  virtual std::string_view image_placeholder() const noexcept = 0;
  /// `text` with one placeholder per picture, in order. Throws ArgumentError if their numbers differ.
  /// What `features` knows of the pictures is not computed again.
  virtual PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                                 FeatureCache& features) const = 0;

  /// The chat template of checkpoints that come without one; empty: the turns are joined as they are.
  virtual std::string_view default_chat_template() const noexcept { return {}; }
  /// What the family was trained to be asked for a caption, and for a short answer to a question. Empty if it takes no pictures.
  virtual std::string caption_request() const { return {}; }
  virtual std::string answer_request(std::string_view question) const { return std::string(question); }
};

}  // namespace chiasm
