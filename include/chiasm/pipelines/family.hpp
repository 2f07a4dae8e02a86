/// Family: what a model family brings to a pipeline. One implementation per family, chosen by config.json's model_type.
#pragma once

#include <chiasm/io/image_processor.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/modules/language_model.hpp>
#include <chiasm/pipelines/feature_cache.hpp>
#include <chiasm/pipelines/prompt.hpp>

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
  // Of an encoder-decoder: what its encoder has read, placeholders included; `pictures` then counts positions here. `ids` are the decoder's, and the
  // answer does not go on where this stops.
  std::vector<TokenId> encoder_ids;
};

/// How the states of a vision tower lie in a picture: class tokens, then patches row by row.
struct PatchGrid {
  std::size_t rows = 0, columns = 0, class_tokens = 0;
  FieldOfView field;
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

  /// A picture, or the frames of a video.
  using Medium = std::vector<std::shared_ptr<const Image>>;
  /// The same with videos among the pictures. Throws ArgumentError for a family that takes none.
  virtual PreparedPrompt prepare_media(Context& ctx, std::string_view text, std::span<const Medium> media, bool add_special_tokens, FeatureCache& features) const {
    std::vector<std::shared_ptr<const Image>> images;
    for (const Medium& medium : media) {
      if (medium.size() != 1) throw ArgumentError("a video in a prompt for '" + std::string(name()) + "', which takes pictures alone");
      images.push_back(medium.front());
    }
    return prepare(ctx, text, images, add_special_tokens, features);
  }

  /// A prompt as one text, with a placeholder for each picture. Families whose training put something between the parts do so here.
  virtual std::string as_text(const Prompt& prompt) const {
    std::string text;
    for (const Prompt::Part& part : prompt.parts()) text += part.image() == nullptr ? std::string_view(part.text()) : image_placeholder();
    return text;
  }

  /// Tokens that end an answer, whatever generation_config.json says, and tokens that no answer has unless bad_words_ids says otherwise.
  virtual std::vector<TokenId> end_tokens() const { return {}; }
  virtual std::vector<TokenId> banned_tokens() const { return {}; }

  /// Of the view of the whole picture; no rows: its states do not lie in a grid.
  virtual PatchGrid patch_grid(const Image&) const { return {}; }

  /// The chat template of checkpoints that come without one; empty: the turns are joined as they are.
  virtual std::string_view default_chat_template() const noexcept { return {}; }
  /// What the family was trained to be asked for a caption, and for a short answer to a question. Empty if it takes no pictures.
  virtual std::string caption_request() const { return {}; }
  virtual std::string answer_request(std::string_view question) const { return std::string(question); }
  /// What stands behind a demonstration's picture in a few-shot prompt: the request, the answer, and what ends it; no question: a caption. Where there is
  /// a chat template, the checkpoint's or the family's, this is not asked for: demonstrations are turns then.
  virtual std::string demonstration(std::string_view question, std::string_view answer) const {
    return (question.empty() ? caption_request() : answer_request(question)) + " " + std::string(answer) + "\n";
  }
};

}  // namespace chiasm
