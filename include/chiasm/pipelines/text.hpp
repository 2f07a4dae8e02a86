/// The family of plain language models: Llama, Mistral, Qwen2. Text in, text out.
#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/models/text_model.hpp>
#include <chiasm/pipelines/family.hpp>

namespace chiasm::inline CHIASM_ABI {

class TextFamily final : public Family {
 public:
  TextFamily(const Checkpoint& checkpoint, Tokenizer tokenizer) : name_(checkpoint.model_type()), tokenizer_(std::move(tokenizer)) {
    const Weights w = checkpoint.weights();
    model_ = make_text_model(w, checkpoint.config());
    w.expect_all_used();
  }

  std::string_view name() const noexcept override { return name_; }
  const LanguageModel& language_model() const noexcept override { return *model_; }
  std::string_view image_placeholder() const noexcept override { return {}; }

  PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                         FeatureCache&) const override {
    if (!images.empty()) throw ArgumentError("a picture in a prompt for '" + name_ + "', which takes text alone");
    PreparedPrompt prepared;
    prepared.ids = tokenizer_.encode(text, add_special_tokens);
    prepared.embeddings = model_->embed(ctx, prepared.ids);
    return prepared;
  }

 private:
  std::string name_;
  Tokenizer tokenizer_;
  std::unique_ptr<LanguageModel> model_;
};

}  // namespace chiasm
