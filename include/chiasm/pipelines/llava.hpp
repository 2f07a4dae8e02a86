/// The LLaVA family: prompts, preprocessing and placeholders of LLaVA 1.5 and LLaVA-NeXT. arXiv:2310.03744.
#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/models/llava.hpp>
#include <chiasm/pipelines/family.hpp>
#include <chiasm/pipelines/tower_processor.hpp>

namespace chiasm::inline CHIASM_ABI {

class LlavaFamily final : public Family {
 public:
  LlavaFamily(const Checkpoint& checkpoint, Tokenizer tokenizer)
      : model_(checkpoint.weights(), checkpoint.config()),
        tokenizer_(std::move(tokenizer)),
        processor_(checkpoint, model_.config().anyres ? "LlavaNextImageProcessor" : "LlavaImageProcessor", model_.config().vision.image_size) {
    placeholder_ = tokenizer_.token(model_.config().image_token_index);
    if (placeholder_.empty())
      checkpoint.config().fail("image token " + std::to_string(model_.config().image_token_index) + " is not in the tokenizer (" +
                               std::to_string(tokenizer_.size()) + " tokens)");
  }

  std::string_view name() const noexcept override { return model_.config().anyres ? "llava_next" : "llava"; }
  const LanguageModel& language_model() const noexcept override { return model_.language_model(); }
  std::string_view image_placeholder() const noexcept override { return placeholder_; }
  const Llava& model() const noexcept { return model_; }
  const ImageProcessor& processor() const noexcept { return processor_.processor(); }

  /// The rows that stand for one picture.
  Tensor encode(Context& ctx, const Image& image) const {  // -> (n, D)
    const ImageInputs inputs = processor_(ctx, image);
    const auto extent = [](int value) { return static_cast<std::size_t>(value); };
    const ImageTiling tiling{extent(inputs.original_height), extent(inputs.original_width), extent(inputs.grid_rows), extent(inputs.grid_columns)};
    return model_.image_features(ctx, inputs.pixel_values, tiling);  // of (views, 3, H, W)
  }

  PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                         FeatureCache& cache) const override {
    const TokenId image_token = model_.config().image_token_index;
    const std::vector<TokenId> ids = tokenizer_.encode(text, add_special_tokens);
    std::size_t placeholders = 0;
    for (const TokenId id : ids) placeholders += id == image_token;
    if (placeholders != images.size())
      throw ArgumentError("the prompt has " + std::to_string(placeholders) + " '" + placeholder_ + "' for " + std::to_string(images.size()) + " pictures");

    std::vector<Features> features;
    for (const auto& image : images) {
      ctx.check_cancelled();
      features.push_back(cache.get(ctx, *image, [&] { return encode(ctx, *image); }));  // (n, D)
    }
    // Each placeholder becomes as many as its picture has rows; the rows then take their places.
    PreparedPrompt prepared;
    std::size_t next = 0;
    for (const TokenId id : ids) {
      if (id == image_token) {
        const Features& picture = features[next++];
        prepared.pictures.push_back({prepared.ids.size(), picture.rows->rows(), picture.content, picture.reused});
      }
      prepared.ids.insert(prepared.ids.end(), id == image_token ? prepared.pictures.back().rows : 1, id);
    }
    // A placeholder's own embedding is never used; some checkpoints have none.
    std::vector<TokenId> words = prepared.ids;
    for (TokenId& id : words) id = id == image_token ? 0 : id;
    prepared.embeddings = language_model().embed(ctx, words);  // (T, D)
    for (std::size_t i = 0; i < features.size(); ++i)
      std::memcpy(prepared.embeddings.row(prepared.pictures[i].begin), features[i].rows->data(), features[i].rows->bytes());
    return prepared;
  }

  PatchGrid patch_grid(const Image& image) const override {
    const std::size_t side = model_.config().vision.grid();
    const bool full = model_.config().vision.class_token && model_.config().vision_feature_select_strategy == FeatureStrategy::full;
    return {side, side, full ? std::size_t{1} : std::size_t{0}, processor().field_of_view(image)};
  }

  std::string_view default_chat_template() const noexcept override {
    return "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
           "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
           "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
           "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}";
  }
  // The requests of LLaVA-1.5's own evaluation on captions and short answers.
  std::string caption_request() const override { return "Provide a one-sentence caption for the provided image."; }
  std::string answer_request(std::string_view question) const override {
    return std::string(question) + "\nAnswer the question using a single word or phrase.";
  }

 private:
  Llava model_;
  Tokenizer tokenizer_;
  TowerProcessor processor_;
  std::string placeholder_;
};

}  // namespace chiasm
