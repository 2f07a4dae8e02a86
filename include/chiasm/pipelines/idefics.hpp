/// The IDEFICS family: prompts in which pictures and text take turns, and preprocessing. arXiv:2306.16527.
#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/models/idefics.hpp>
#include <chiasm/pipelines/family.hpp>
#include <chiasm/pipelines/tower_processor.hpp>

#include <string>

namespace chiasm::inline CHIASM_ABI {

class IdeficsFamily final : public Family {
 public:
  IdeficsFamily(const Checkpoint& checkpoint, Tokenizer tokenizer)
      : model_(checkpoint.weights(), checkpoint.config()),
        tokenizer_(std::move(tokenizer)),
        processor_(checkpoint, "IdeficsImageProcessor", model_.config().vision.image_size),
        image_(needed(checkpoint, "<image>")),
        fake_(needed(checkpoint, "<fake_token_around_image>")),
        end_of_utterance_(known("<end_of_utterance>")) {
    if (tokenizer_.bos()) bos_ = tokenizer_.token(*tokenizer_.bos());
  }

  std::string_view name() const noexcept override { return "idefics"; }
  const LanguageModel& language_model() const noexcept override { return model_.language_model(); }
  std::string_view image_placeholder() const noexcept override { return image_.text; }
  const Idefics& model() const noexcept { return model_; }
  const ImageProcessor& processor() const noexcept { return processor_.processor(); }

  /// What text sees of one picture.
  Tensor encode(Context& ctx, const Image& image) const {  // -> (1, L, Dv)
    return model_.image_features(ctx, processor_(ctx, image).pixel_values);
  }

  /// Blanks at the ends of texts go, and where one text follows another, an instructed model reads that an utterance has ended: as the reference's
  /// processor puts a prompt together.
  std::string as_text(const Prompt& prompt) const override {
    std::string joined;
    bool after_text = false;
    for (const Prompt::Part& part : prompt.parts()) {
      if (part.image() != nullptr) {
        joined += image_.text;
      } else {
        const std::string_view words = stripped(part.text());
        const std::string& end = end_of_utterance_.text;
        if (after_text && !end.empty() && !joined.ends_with(end) && !words.starts_with(end)) joined += end;
        joined += words;
      }
      after_text = part.image() == nullptr;
    }
    return joined;
  }

  PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                         FeatureCache& cache) const override {
    std::string read = with_fake_tokens(text);
    if (add_special_tokens && !std::string_view(read).starts_with(bos_)) read.insert(0, bos_);
    PreparedPrompt prepared;
    prepared.ids = tokenizer_.encode(read, false);
    for (std::size_t t = 0; t < prepared.ids.size(); ++t)
      if (prepared.ids[t] == image_.id) prepared.pictures.push_back({t, 1, {}, false});
    if (prepared.pictures.size() != images.size())
      throw ArgumentError("the prompt has " + std::to_string(prepared.pictures.size()) + " '" + image_.text + "' for " + std::to_string(images.size()) + " pictures");
    prepared.embeddings = language_model().embed(ctx, prepared.ids);  // (T, D)
    if (images.empty()) return prepared;

    Tensor features;  // (N, L, Dv)
    for (std::size_t n = 0; n < images.size(); ++n) {
      ctx.check_cancelled();
      const Features one = cache.get(ctx, *images[n], [&] { return encode(ctx, *images[n]); });
      if (features.empty()) features = ctx.empty(Shape{images.size(), one.rows->rows(), one.rows->columns()});
      std::memcpy(features.row(n * one.rows->rows()), one.rows->data(), one.rows->bytes());
      prepared.pictures[n].content = one.content;
      prepared.pictures[n].reused = one.reused;
    }
    prepared.model = model_.bind(ctx, features, prepared.ids, image_.id, tokenizer_.eos());
    return prepared;
  }

  PatchGrid patch_grid(const Image& image) const override {
    const std::size_t side = model_.config().vision.grid();
    return {side, side, 1, processor().field_of_view(image)};
  }

  /// Instructed models have a token that ends an utterance.
  std::string_view default_chat_template() const noexcept override {
    if (!instructed()) return {};
    return "{% for message in messages %}{% if message['role'] == 'user' %}User:{% elif message['role'] == 'assistant' %}Assistant:{% endif %}"
           "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{% if loop.first and message['role'] != 'system' %} {% endif %}"
           "{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";
  }
  // Instructed models have seen LLaVA's requests in training; the others go on where a text stops.
  std::string caption_request() const override { return instructed() ? "Provide a one-sentence caption for the provided image." : "This is an image of"; }
  std::string answer_request(std::string_view question) const override {
    return instructed() ? std::string(question) + "\nAnswer the question using a single word or phrase." : "Question: " + std::string(question) + " Answer:";
  }

  std::vector<TokenId> end_tokens() const override { return instructed() ? std::vector<TokenId>{end_of_utterance_.id} : std::vector<TokenId>(); }
  std::vector<TokenId> banned_tokens() const override { return {image_.id, fake_.id}; }

 private:
  struct Token {
    std::string text;
    TokenId id = -1;
  };
  Token known(const std::string& text) const {
    const std::optional<TokenId> id = tokenizer_.id(text);
    return id && static_cast<std::size_t>(*id) < language_model().vocab_size() ? Token{text, *id} : Token();
  }
  Token needed(const Checkpoint& checkpoint, const std::string& text) const {
    Token token = known(text);
    if (token.text.empty())
      throw ConfigError(checkpoint.path("tokenizer.json"), "", "has no token '" + text + "' with an embedding, as the prompts of IDEFICS want it");
    return token;
  }
  bool instructed() const noexcept { return !end_of_utterance_.text.empty(); }

  static std::string_view stripped(std::string_view text) {
    const std::size_t first = text.find_first_not_of(' ');
    return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(' ') + 1 - first);
  }

  /// Each picture stands between two tokens that it may share with the pictures beside it. Where the text has them, it stays as it is; elsewhere they are put in,
  /// and blanks around the picture go.
  std::string with_fake_tokens(std::string_view text) const {
    std::string result;
    for (std::size_t at = 0; (at = text.find(image_.text)) != std::string_view::npos;) {
      std::string_view before = text.substr(0, at);
      text.remove_prefix(at + image_.text.size());
      if (!before.ends_with(fake_.text)) {
        before = before.substr(0, before.find_last_not_of(' ') + 1);
        const bool shared = before.empty() && result.ends_with(fake_.text);
        result.append(before).append(shared ? std::string() : fake_.text);
      } else {
        result.append(before);
      }
      result.append(image_.text);
      if (text.starts_with(fake_.text)) continue;
      result.append(fake_.text);
      text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    }
    return result.append(text);
  }

  Idefics model_;
  Tokenizer tokenizer_;
  TowerProcessor processor_;
  Token image_, fake_, end_of_utterance_;
  std::string bos_;
};

}  // namespace chiasm
