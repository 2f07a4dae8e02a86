/// The BLIP-2 family: prompts and preprocessing of BLIP-2 (arXiv:2301.12597) and InstructBLIP (2305.06500).
#pragma once

#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/models/blip2.hpp>
#include <chiasm/nn/concat.hpp>
#include <chiasm/pipelines/family.hpp>
#include <chiasm/pipelines/tower_processor.hpp>

#include <optional>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

class Blip2Family final : public Family {
 public:
  Blip2Family(const Checkpoint& checkpoint, Tokenizer tokenizer)
      : model_(checkpoint.weights(), checkpoint.config()),
        tokenizer_(std::move(tokenizer)),
        processor_(checkpoint, "BlipImageProcessor", model_.config().vision.image_size) {
    chats_ = ChatTemplate::find(checkpoint).has_value();
    if (model_.config().instruct) qformer_tokenizer_ = Tokenizer::load(checkpoint.subfolder("qformer_tokenizer"));
    // Older files have no token for pictures: the placeholder is then a mark in the text, which the tokenizer never sees.
    if (model_.config().image_token_index) placeholder_ = tokenizer_.token(*model_.config().image_token_index);
    if (placeholder_.empty()) placeholder_ = "<image>";
    if (model_.encoder_decoder() != nullptr)
      decoder_start_ = decoder_start_token(checkpoint.generation_config(), checkpoint.config().find("text_config"), language_model().vocab_size());
  }

  std::string_view name() const noexcept override { return model_.config().instruct ? "instructblip" : "blip-2"; }
  const LanguageModel& language_model() const noexcept override { return model_.language_model(); }
  std::string_view image_placeholder() const noexcept override { return placeholder_; }
  const Blip2& model() const noexcept { return model_; }
  const ImageProcessor& processor() const noexcept { return processor_.processor(); }

  /// What the vision tower sees in a picture.
  Tensor see(Context& ctx, const Image& image) const {  // -> (1, T, Dv)
    return model_.see(ctx, processor_(ctx, image).pixel_values);
  }

  /// A prompt's text as InstructBLIP's queries read it; what is too long loses its end. Empty for BLIP-2.
  std::vector<TokenId> instruction(std::string_view text) const {
    if (!qformer_tokenizer_) return {};
    std::vector<TokenId> ids = qformer_tokenizer_->encode(text);
    const std::size_t longest = model_.config().qformer.max_position_embeddings;
    if (ids.size() > longest) {
      const TokenId last = ids.back();  // [SEP]
      ids.resize(longest);
      ids.back() = last;
    }
    return ids;
  }

  /// The picture stands before the text and its first special token, as in training: also where a chat template says nothing of it, which is no error.
  /// It stands elsewhere where the text has its placeholder there.
  PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                         FeatureCache& cache) const override {
    if (images.size() > 1)
      throw ArgumentError(std::to_string(images.size()) + " pictures in a prompt for '" + std::string(name()) + "', which takes one: solved examples go without theirs");
    std::size_t placeholders = 0;
    for (std::size_t at = 0; (at = text.find(placeholder_, at)) != std::string_view::npos; at += placeholder_.size()) ++placeholders;
    if (placeholders > images.size())
      throw ArgumentError("the prompt has " + std::to_string(placeholders) + " '" + placeholder_ + "' for " + std::to_string(images.size()) + " pictures");

    PreparedPrompt prompt;
    if (images.empty()) {
      prompt.ids = tokenizer_.encode(text, add_special_tokens);
      prompt.embeddings = embed(ctx, prompt.ids);
      return bound(ctx, std::move(prompt));
    }
    const std::size_t place = placeholders == 0 ? 0 : text.find(placeholder_);
    std::string words(text);
    if (placeholders > 0) words.erase(place, placeholder_.size());
    prompt.ids = tokenizer_.encode(place == 0 ? words : text, add_special_tokens);
    std::size_t begin = 0;
    if (place != 0) {
      while (begin < prompt.ids.size() && prompt.ids[begin] != image_token()) ++begin;
      if (begin == prompt.ids.size())
        throw ArgumentError("a picture behind text, for a checkpoint without a token for pictures: it must stand first");
      prompt.ids.erase(prompt.ids.begin() + static_cast<std::ptrdiff_t>(begin));
    }
    const Features picture = features(ctx, *images[0], words, cache);  // (Q, D)
    const Tensor embedded = embed(ctx, prompt.ids);                    // (T, D)
    prompt.embeddings = concat(ctx, {embedded.slice(0, begin), *picture.rows, embedded.slice(begin, prompt.ids.size() - begin)});
    prompt.ids.insert(prompt.ids.begin() + static_cast<std::ptrdiff_t>(begin), picture.rows->rows(), image_token());
    prompt.pictures.push_back({begin, picture.rows->rows(), picture.content, picture.reused});
    return bound(ctx, std::move(prompt));
  }

  PatchGrid patch_grid(const Image& image) const override {
    const std::size_t side = model_.config().vision.grid();
    return {side, side, 1, processor().field_of_view(image)};
  }

  // The requests of the papers' own evaluation. None of their models chats: one that does has been taught as LLaVA is.
  std::string caption_request() const override {
    if (chats_) return "Provide a one-sentence caption for the provided image.";
    return model_.config().instruct ? "A short image description:" : "a photo of";
  }
  std::string answer_request(std::string_view question) const override {
    if (chats_) return std::string(question) + "\nAnswer the question using a single word or phrase.";
    const bool brief = model_.config().instruct || model_.encoder_decoder() != nullptr;
    return "Question: " + std::string(question) + (brief ? " Short answer:" : " Answer:");
  }

 private:
  /// An id of no word where the checkpoint has none for pictures.
  TokenId image_token() const noexcept { return model_.config().image_token_index.value_or(-1); }

  /// What stands for a picture before these words. InstructBLIP's depend on the words: there it is what the tower sees that is kept.
  Features features(Context& ctx, const Image& image, std::string_view words, FeatureCache& cache) const {  // (Q, D)
    if (!model_.config().instruct) return cache.get(ctx, image, [&] { return model_.image_features(ctx, see(ctx, image)); });
    Features picture = cache.get(ctx, image, [&] { return see(ctx, image); });
    const std::vector<TokenId> ids = instruction(words);
    picture.rows = std::make_shared<const Tensor>(model_.image_features(ctx, *picture.rows, ids));
    picture.content = (ContentHash<>({picture.content.low, picture.content.high}) << std::as_bytes(std::span(ids))).digest();
    return picture;
  }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const {  // (T) -> (T, D)
    return model_.encoder_decoder() != nullptr ? model_.encoder_decoder()->embed(ctx, ids) : language_model().embed(ctx, ids);
  }

  /// A decoder reads a prompt as it is. An encoder-decoder's encoder does, and its decoder begins with a token of its own.
  PreparedPrompt bound(Context& ctx, PreparedPrompt prompt) const {
    if (model_.encoder_decoder() == nullptr) return prompt;
    if (prompt.ids.empty()) throw ArgumentError("the prompt is empty, must be at least one token");
    prompt.model = model_.encoder_decoder()->bind(ctx, prompt.embeddings);
    prompt.encoder_ids = std::exchange(prompt.ids, {decoder_start_});
    prompt.embeddings = prompt.model->embed(ctx, prompt.ids);
    return prompt;
  }

  Blip2 model_;
  Tokenizer tokenizer_;
  std::optional<Tokenizer> qformer_tokenizer_;
  TowerProcessor processor_;
  std::string placeholder_;
  TokenId decoder_start_ = 0;
  bool chats_ = false;
};

}  // namespace chiasm
