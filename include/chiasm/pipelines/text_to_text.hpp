/// The family of plain encoder-decoders: T5, Flan-T5. Text in, text out: the answer is a text of its own, not the prompt's continuation.
#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/models/t5.hpp>
#include <chiasm/pipelines/family.hpp>

namespace chiasm::inline CHIASM_ABI {

class TextToTextFamily final : public Family {
 public:
  TextToTextFamily(const Checkpoint& checkpoint, Tokenizer tokenizer) : TextToTextFamily(checkpoint, checkpoint.weights(), std::move(tokenizer)) {}

  std::string_view name() const noexcept override { return name_; }
  /// The decoder by itself; prepare() binds it to a prompt.
  const LanguageModel& language_model() const noexcept override { return model_.decoder(); }
  std::string_view image_placeholder() const noexcept override { return {}; }
  const T5& model() const noexcept { return model_; }

  PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                         FeatureCache&) const override {
    if (!images.empty()) throw ArgumentError("a picture in a prompt for '" + name_ + "', which takes text alone");
    PreparedPrompt prepared;
    prepared.encoder_ids = tokenizer_.encode(text, add_special_tokens);
    if (prepared.encoder_ids.empty()) throw ArgumentError("the prompt is empty, must be at least one token");
    prepared.model = model_.bind(ctx, model_.embed(ctx, prepared.encoder_ids));
    prepared.ids = {decoder_start_};
    prepared.embeddings = prepared.model->embed(ctx, prepared.ids);
    return prepared;
  }

 private:
  TextToTextFamily(const Checkpoint& checkpoint, const Weights& w, Tokenizer tokenizer)
      : name_(checkpoint.model_type()),
        tokenizer_(std::move(tokenizer)),
        model_(w, T5Config::from(checkpoint.config())),
        decoder_start_(decoder_start_token(checkpoint.generation_config(), checkpoint.config(), model_.vocab_size())) {
    w.expect_all_used();
  }

  std::string name_;
  Tokenizer tokenizer_;
  T5 model_;
  TokenId decoder_start_;
};

}  // namespace chiasm
