#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/pipelines/blip2.hpp>
#include <chiasm/pipelines/flamingo.hpp>
#include <chiasm/pipelines/idefics.hpp>
#include <chiasm/pipelines/llava.hpp>
#include <chiasm/pipelines/pipeline.hpp>
#include <chiasm/pipelines/text.hpp>
#include <chiasm/pipelines/text_to_text.hpp>

#include <algorithm>
#include <chrono>
#include <mutex>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Constraints on a pipeline's vocabulary: those used last stay, with what they have learnt of it.
class BoundConstraints {
 public:
  Constraint on(const Constraint& constraint, const Tokenizer& tokenizer, bool continues) {
    const std::scoped_lock guard(lock_);
    if (!vocabulary_) vocabulary_ = Constraint::vocabulary(tokenizer);
    const auto known = std::find_if(bound_.begin(), bound_.end(), [&](const Entry& entry) {
      return entry.continues == continues && entry.constraint.source() == constraint.source();
    });
    if (known == bound_.end()) {
      bound_.push_back({constraint.on(vocabulary_, continues), continues});
      if (bound_.size() > most) bound_.erase(bound_.begin());
    } else {
      std::rotate(known, known + 1, bound_.end());
    }
    return bound_.back().constraint;
  }

 private:
  static constexpr std::size_t most = 8;
  struct Entry {
    Constraint constraint;
    bool continues;
  };
  std::mutex lock_;
  std::shared_ptr<const Constraint::Vocabulary> vocabulary_;
  std::vector<Entry> bound_;
};

}  // namespace detail

struct Pipeline::Parts {
  Tokenizer tokenizer;
  std::unique_ptr<const Family> family;
  std::optional<ChatTemplate> chat_template;
  GenerateOptions generation_config;
  std::shared_ptr<ThreadPool> threads;
  Compute compute = Compute::f32;
  KvKind kv = KvKind::automatic;
  std::string isa;
  mutable FeatureCache pictures;  // these two lock themselves
  mutable PrefixCache prefixes;
  mutable detail::BoundConstraints constraints{};  // so does this one
};

/// The text that the model reads, its placeholders and their pictures.
struct Pipeline::Input {
  std::string text;
  std::vector<Family::Medium> media;
  bool add_special_tokens = true;
  bool continues = true;  // the answer goes on where the text stops: a blank between the two belongs to it
};

namespace detail {

/// Lets text through up to a stop string, and keeps back what might be the beginning of one.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
    for (const std::string& stop : stops_)
      if (stop.empty()) throw ArgumentError("stop: an empty string");
  }

  /// The part of `piece`, and of what was kept back, that is safe to show.
  std::string push(std::string_view piece) {
    held_ += piece;
    std::size_t cut = std::string::npos;
    for (const std::string& stop : stops_) cut = std::min(cut, held_.find(stop));
    if (cut != std::string::npos) {
      found_ = true;
      held_.resize(cut);
      return std::exchange(held_, {});
    }
    std::size_t keep = 0;
    for (const std::string& stop : stops_)
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
        if (held_.ends_with(std::string_view(stop).substr(0, n))) {
          keep = n;
          break;
        }
    std::string safe = held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return safe;
  }
  std::string flush() { return std::exchange(held_, {}); }
  bool found() const noexcept { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

/// Throws ArgumentError unless the first tokens of both mean the same, by a sample of them: what draft models of one series have in common, padding and
/// additions aside.
inline void expect_shared_tokens(const Tokenizer& own, const Tokenizer& draft) {
  const std::size_t common = std::min(own.size(), draft.size()), step = common / 256 + 1;
  for (std::size_t i = 0; i < common; i += step)
    if (const auto id = static_cast<TokenId>(i); own.token(id) != draft.token(id))
      throw ArgumentError("draft has another vocabulary: token " + std::to_string(id) + " is " + quoted(draft.token(id)) + " there, " + quoted(own.token(id)) + " here");
}

/// What the language model has read as tokens, -1 where a picture stands.
inline std::vector<TokenId> words_of(const PreparedPrompt& prompt) {
  std::vector<TokenId> words = prompt.encoder_ids.empty() ? prompt.ids : prompt.encoder_ids;
  for (const PreparedPrompt::Picture& picture : prompt.pictures)
    for (std::size_t i = picture.begin; i < std::min(picture.begin + picture.rows, words.size()); ++i) words[i] = -1;
  return words;
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace detail

CHIASM_INLINE Pipeline::Input Pipeline::verbatim(const Prompt& prompt) const {
  Input input;
  input.text = family().as_text(prompt);
  for (const Prompt::Part& part : prompt.parts())
    if (part.image() != nullptr) input.media.emplace_back(part.frames().begin(), part.frames().end());
  return input;
}

CHIASM_INLINE Pipeline::Input Pipeline::conversation(std::span<const Message> messages) const {
  Input input;
  if (!parts_->chat_template) {
    for (const Message& message : messages) {
      Input turn = verbatim(message.content);
      input.text += turn.text;
      input.media.insert(input.media.end(), turn.media.begin(), turn.media.end());
    }
    return input;
  }
  std::vector<ChatMessage> conversation;
  for (const Message& message : messages) {
    ChatMessage turn{message.role, {}};
    for (const Prompt::Part& part : message.content.parts()) {
      turn.parts.push_back(part.image() != nullptr ? ChatMessage::Part{"image", ""} : ChatMessage::Part{"text", part.text()});
      if (part.image() != nullptr) input.media.emplace_back(part.frames().begin(), part.frames().end());
    }
    conversation.push_back(std::move(turn));
  }
  const std::string media = std::string(family().image_placeholder()) + "\n";
  const Tokenizer& tokens = parts_->tokenizer;
  const auto special = [&](std::optional<TokenId> id) { return id ? TemplateValue(tokens.token(*id)) : TemplateValue(); };
  TemplateValue variables = TemplateValue::dict({{"messages", make_messages(conversation, parts_->chat_template->content_form(), media)},
                                                 {"add_generation_prompt", true},
                                                 {"tools", nullptr},
                                                 {"documents", nullptr}});
  // A token that the tokenizer does not have stays undefined, as in the reference.
  for (const auto& [name, id] : {std::pair("bos_token", tokens.bos()), std::pair("eos_token", tokens.eos()), std::pair("pad_token", tokens.pad()),
                                 std::pair("unk_token", tokens.unk())})
    if (id) variables.set(name, special(id));
  input.text = parts_->chat_template->render(variables);
  // Templates that write the first token themselves would otherwise get it twice.
  input.continues = false;
  const std::string_view bos = tokens.bos() ? tokens.token(*tokens.bos()) : std::string_view();
  input.add_special_tokens = bos.empty() || !input.text.starts_with(bos);
  return input;
}

CHIASM_INLINE PreparedPrompt Pipeline::prepare(Context& ctx, const Input& input) const {
  return family().prepare_media(ctx, input.text, input.media, input.add_special_tokens, parts_->pictures);
}

CHIASM_INLINE PreparedPrompt Pipeline::prepare_draft(Context& ctx, const Input& input, const PreparedPrompt& prompt, Draft& draft) const {
  PreparedPrompt drafted;
  if (draft.pipeline != nullptr) {
    const Pipeline& other = *std::exchange(draft.pipeline, nullptr);
    detail::expect_shared_tokens(parts_->tokenizer, other.parts_->tokenizer);
    draft.model = &other.language_model();
    if (other.family().name() == family().name()) {
      drafted = other.prepare(ctx, input);
      if (drafted.model) draft.model = drafted.model.get();
      draft.prompt = std::make_shared<const Tensor>(std::move(drafted.embeddings));
    }
  }
  if (draft.prompt == nullptr) {
    std::vector<TokenId> words = detail::words_of(prompt);
    std::erase_if(words, [&](TokenId id) { return id < 0 || static_cast<std::size_t>(id) >= draft.model->vocab_size(); });
    draft.prompt = std::make_shared<const Tensor>(words.empty() ? Tensor() : draft.model->embed(ctx, words));
  }
  return drafted;
}

CHIASM_INLINE Reply Pipeline::reply(Context& ctx, const Input& input, const GenerateOptions& wishes, const OnText& on_text, Prefix* own) const {
  const auto start = std::chrono::steady_clock::now();
  GenerateOptions options = wishes.or_else(parts_->generation_config);
  options.validate();
  const std::vector<std::string> ends = options.stop.value_or(std::vector<std::string>());
  detail::StopStrings stops(ends);
  options.stop.reset();
  PreparedPrompt prepared = prepare(ctx, input);
  const LanguageModel& lm = prepared.model ? *prepared.model : language_model();

  const bool encoded = !prepared.encoder_ids.empty(), continues = input.continues && !encoded && !prepared.ids.empty();
  if (options.constraint)  // A blank at the answer's beginning is text where the answer goes on behind other text, see below.
    options.constraint = parts_->constraints.on(*options.constraint, parts_->tokenizer, continues && !parts_->tokenizer.is_special(prepared.ids.back()));

  Reply reply;
  reply.prompt_tokens = encoded ? prepared.encoder_ids.size() : prepared.ids.size();
  reply.prompt_pictures = prepared.pictures.size();
  for (const PreparedPrompt::Picture& picture : prepared.pictures) reply.reused_pictures += picture.reused;
  reply.pictures = prepared.pictures;
  reply.prepare_seconds = detail::seconds_since(start);
  TokenStream stream(parts_->tokenizer, true);
  if (continues) (void)stream.push(prepared.ids.back());
  bool wanted = true;
  const auto show = [&](std::string_view piece) {
    if (piece.empty()) return;
    reply.text += piece;
    if (on_text && wanted) wanted = on_text(piece);
  };

  if (options.num_beams.value_or(1) > 1) {
    options.num_return_sequences = 1;
    if (!ends.empty())  // a hypothesis is finished where its text has a stop string, as in the reference
      options.stopping_criteria = [&, own = options.stopping_criteria](std::span<const TokenId> generated) {
        if (own && own(generated)) return true;
        const std::string text = parts_->tokenizer.decode(generated, true);
        return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) { return text.find(end) != std::string::npos; });
      };
    const std::vector<BeamHypothesis> best = beam_search(ctx, lm, prepared.embeddings, prepared.ids, options);
    if (!best.empty()) reply.ids = best.front().ids;
    const auto& eos = options.eos_token_id;
    const bool ended = !reply.ids.empty() && eos && std::find(eos->begin(), eos->end(), reply.ids.back()) != eos->end();
    Constraint::State state;
    const bool complete = options.constraint && options.constraint->complete(state, reply.ids, eos ? std::span<const TokenId>(*eos) : std::span<const TokenId>(), 1);
    for (const TokenId token : std::span(reply.ids).first(reply.ids.size() - ended))
      if (const std::optional<std::string> piece = stream.push(token); piece && wanted && !stops.found()) show(stops.push(*piece));
    if (wanted && !stops.found()) show(stops.push(stream.flush()));
    if (wanted && !stops.found()) show(stops.flush());
    reply.finish_reason = stops.found() ? FinishReason::stop : !wanted ? FinishReason::cancelled : ended ? FinishReason::eos
                          : complete ? FinishReason::stop : FinishReason::length;
    return reply;
  }

  PreparedPrompt drafted;  // keeps the draft model, where it is bound to the prompt
  if (ctx.watched()) {
    options.lookup.reset();
    options.draft.reset();
  }
  if (options.lookup && options.lookup->text.empty()) options.lookup->text = detail::words_of(prepared);
  if (options.draft) drafted = prepare_draft(ctx, input, prepared, *options.draft);

  Prefix prefix = own != nullptr && !own->ids.empty() ? std::exchange(*own, {}) : parts_->prefixes.take(ctx, lm, prepared);
  reply.reused_tokens = ctx.watched() ? 0 : prefix.shared(ctx, lm, prepared);
  prefix.truncate(reply.reused_tokens);
  if (reply.reused_tokens > 0) {
    const View fresh = prepared.embeddings.slice(reply.reused_tokens, prepared.ids.size() - reply.reused_tokens);
    Tensor rows = ctx.empty(fresh.shape());
    std::memcpy(rows.data(), fresh.data(), rows.bytes());
    prepared.embeddings = std::move(rows);
  }
  Generation generation(ctx, lm, std::move(prepared.embeddings), std::move(options), std::move(prepared.ids), std::move(prefix.cache));
  /// Whatever happens, what has been read stays known, as far as it may serve another prompt.
  struct Keep {
    ~Keep() {
      try {
        prefix.cache = std::move(generation.cache());
        if (prefix.cache.length() > lm.stable_length()) return;
        const std::span<const TokenId> read = generation.history().first(prefix.cache.length());
        prefix.ids.assign(read.begin(), read.end());
        prefix.truncate(read.size());
        if (own != nullptr) *own = std::move(prefix);
        else store.put(std::move(prefix));
      } catch (...) {  // no memory to remember it: it will be read again
      }
    }
    const LanguageModel& lm;
    Generation& generation;
    Prefix& prefix;
    PrefixCache& store;
    Prefix* own;
  };
  prefix.pictures = std::move(prepared.pictures);
  prefix.compute = ctx.compute();
  prefix.isa = ctx.isa();
  const Keep keep{lm, generation, prefix, parts_->prefixes, own};
  while (const std::optional<TokenId> token = generation.next()) {
    if (generation.finish_reason() == FinishReason::eos) break;  // the end is no part of the text: BLIP-2's with OPT is a new line
    if (const std::optional<std::string> piece = stream.push(*token)) show(stops.push(*piece));
    if (stops.found()) generation.finish(FinishReason::stop);
    if (!wanted) generation.finish(FinishReason::cancelled);
  }
  if (wanted && !stops.found()) show(stops.push(stream.flush()));
  if (wanted && !stops.found()) show(stops.flush());
  reply.ids.assign(generation.ids().begin(), generation.ids().end());
  reply.finish_reason = stops.found() ? FinishReason::stop : generation.finish_reason().value_or(FinishReason::length);
  reply.times = generation.times();
  return reply;
}

CHIASM_INLINE Reply Pipeline::generate(Context& ctx, const Prompt& prompt, const GenerateOptions& options, const OnText& on_text) const {
  const Message user{"user", prompt};
  return reply(ctx, conversation(std::span<const Message>(&user, 1)), options, on_text, nullptr);
}
CHIASM_INLINE Reply Pipeline::chat(Context& ctx, std::span<const Message> messages, const GenerateOptions& options, const OnText& on_text) const {
  return reply(ctx, conversation(messages), options, on_text, nullptr);
}
CHIASM_INLINE Reply Pipeline::chat(Context& ctx, std::span<const Message> messages, Prefix& prefix, const GenerateOptions& options,
                                   const OnText& on_text) const {
  return reply(ctx, conversation(messages), options, on_text, &prefix);
}
CHIASM_INLINE Reply Pipeline::complete(Context& ctx, const Prompt& prompt, const GenerateOptions& options, const OnText& on_text) const {
  return reply(ctx, verbatim(prompt), options, on_text, nullptr);
}
CHIASM_INLINE std::string Pipeline::generate(const Prompt& prompt, const GenerateOptions& options, const OnText& on_text) const {
  Context ctx = new_context();
  return generate(ctx, prompt, options, on_text).text;
}
CHIASM_INLINE std::string Pipeline::chat(std::span<const Message> messages, const GenerateOptions& options, const OnText& on_text) const {
  Context ctx = new_context();
  return chat(ctx, messages, options, on_text).text;
}
CHIASM_INLINE std::string Pipeline::complete(const Prompt& prompt, const GenerateOptions& options, const OnText& on_text) const {
  Context ctx = new_context();
  return complete(ctx, prompt, options, on_text).text;
}
CHIASM_INLINE std::string Pipeline::caption(const Image& image, const GenerateOptions& options, const OnText& on_text) const {
  return generate(caption_prompt(image), options, on_text);
}
CHIASM_INLINE std::string Pipeline::answer(const Image& image, std::string_view question, const GenerateOptions& options, const OnText& on_text) const {
  return generate(answer_prompt(image, question), options, on_text);
}
CHIASM_INLINE Prompt Pipeline::caption_prompt(const Image& image) const { return Prompt{image, family().caption_request()}; }
CHIASM_INLINE Prompt Pipeline::answer_prompt(const Image& image, std::string_view question) const {
  return Prompt{image, family().answer_request(question)};
}
CHIASM_INLINE std::vector<Message> Pipeline::few_shot_prompt(std::span<const Demonstration> shots, const Image& image, std::string_view question) const {
  const auto request = [&](std::string_view asked) {
    if (asked.empty()) return family().caption_request();
    return parts_->chat_template ? std::string(asked) : family().answer_request(asked);
  };
  std::vector<Message> messages;
  for (const Demonstration& shot : shots) {
    Prompt shown;
    if (shot.image != nullptr) shown << shot.image;
    if (parts_->chat_template) {
      messages.push_back({"user", shown << request(shot.question)});
      messages.push_back({"assistant", shot.answer});
    } else {
      messages.push_back({"user", shown << family().demonstration(shot.question, shot.answer)});
    }
  }
  messages.push_back({"user", Prompt{image, request(question)}});
  return messages;
}
CHIASM_INLINE std::string Pipeline::render(std::span<const Message> messages) const { return conversation(messages).text; }
CHIASM_INLINE PreparedPrompt Pipeline::prepare(Context& ctx, const Prompt& prompt) const {
  return prepare(ctx, verbatim(prompt));
}

CHIASM_INLINE PreparedPrompt Pipeline::prepare(Context& ctx, std::span<const Message> messages) const {
  return prepare(ctx, conversation(messages));
}

CHIASM_INLINE Context Pipeline::new_context(CancelToken cancel) const {
  ContextOptions options;
  options.cancel = std::move(cancel);
  return new_context(std::move(options));
}
CHIASM_INLINE Context Pipeline::new_context(ContextOptions options) const {
  options.isa = parts_->isa;
  options.compute = parts_->compute;
  if (options.kv == KvKind::automatic) options.kv = parts_->kv;
  return Context(parts_->threads, std::move(options));
}
CHIASM_INLINE FeatureCache& Pipeline::pictures() const noexcept { return parts_->pictures; }
CHIASM_INLINE PrefixCache& Pipeline::prefixes() const noexcept { return parts_->prefixes; }
CHIASM_INLINE const Family& Pipeline::family() const noexcept { return *parts_->family; }
CHIASM_INLINE const Tokenizer& Pipeline::tokenizer() const noexcept { return parts_->tokenizer; }
CHIASM_INLINE const GenerateOptions& Pipeline::generation_config() const noexcept { return parts_->generation_config; }

namespace detail {

inline CheckpointOptions reading(LoadOptions& options) {
  CheckpointOptions reading;
  reading.weights = options.weights;
  reading.bf16_panels = reads_bf16_panels(options.compute, options.isa);
  reading.mmproj = options.mmproj;
  reading.on_progress = std::move(options.on_progress);
  reading.cancel = options.cancel;
  reading.packed_cache = options.packed_cache;
  if (options.threads != 0) reading.threads = std::make_shared<ThreadPool>(options.threads);
  return reading;
}

/// Threads for a pipeline. Throws ArgumentError for a tier that is not there.
inline std::shared_ptr<ThreadPool> threads_of(const LoadOptions& options) {
  auto threads = std::make_shared<ThreadPool>(options.threads);
  ContextOptions tier;
  tier.isa = options.isa;
  (void)Context(threads, std::move(tier));
  return threads;
}

/// Answers end at the end of a chunk; all else is the language model's generation_config.json.
inline Pipeline load_flamingo(const FlamingoParts& parts, LoadOptions options) {
  auto threads = threads_of(options);
  const Json generation = parts.language_model.generation_config();
  GenerateOptions generation_config = generation.is_null() ? GenerateOptions() : GenerateOptions::from(generation);
  generation_config.eos_token_id = std::vector<TokenId>{*parts.tokenizer.id(parts.files.eoc_token)};
  auto family = std::make_unique<FlamingoFamily>(parts);
  for (const Checkpoint* const part : {&parts.language_model, &parts.vision}) part->keep_converted();
  return Pipeline(std::shared_ptr<const Pipeline::Parts>(new Pipeline::Parts{
      parts.tokenizer, std::move(family), std::nullopt, std::move(generation_config), std::move(threads), options.compute,
      options.kv, std::move(options.isa), FeatureCache(options.picture_cache_bytes), PrefixCache(options.prefix_cache_bytes)}));
}

}  // namespace detail

CHIASM_INLINE Pipeline load(const std::string& path, LoadOptions options) {
  CheckpointOptions reading = detail::reading(options);
  return load(Checkpoint::open(path, std::move(reading)), std::move(options));
}

CHIASM_INLINE Pipeline load(const FlamingoFiles& files, LoadOptions options) {
  const CheckpointOptions reading = detail::reading(options);
  return detail::load_flamingo(FlamingoParts::open(files, reading), std::move(options));
}

CHIASM_INLINE Pipeline load(const Checkpoint& checkpoint, LoadOptions options) {
  if (checkpoint.has("flamingo_config.json")) return detail::load_flamingo(FlamingoParts::open(checkpoint), std::move(options));
  const std::string type = checkpoint.model_type();
  // What is cheap first: a tier that is not there, a broken tokenizer are said before gigabytes are read.
  auto threads = detail::threads_of(options);
  Tokenizer tokenizer = Tokenizer::load(checkpoint);
  // A GGUF text model's vocabulary may know of no pictures.
  if (const std::string image = "<image>"; checkpoint.gguf() != nullptr && checkpoint.gguf()->mmproj && !tokenizer.id(image))
    tokenizer = tokenizer.with_special_tokens(std::span(&image, 1));
  const Json generation = checkpoint.generation_config();
  GenerateOptions generation_config = generation.is_null() ? GenerateOptions() : GenerateOptions::from(generation);
  // Checkpoints without a generation_config.json say in config.json what ends an answer, GGUF files in their vocabulary.
  if (generation.is_null() && checkpoint.gguf() == nullptr) {
    const Json config = checkpoint.config(), outer = config.find("eos_token_id"), inner = config.find("text_config").find("eos_token_id");
    if (const Json& eos = outer.is_null() ? inner : outer; !eos.is_null())
      generation_config.eos_token_id = eos.is_array() ? eos.as_vector<TokenId>() : std::vector<TokenId>{eos.as<TokenId>()};
  }
  if (!generation_config.eos_token_id && !tokenizer.ends().empty()) generation_config.eos_token_id = tokenizer.ends();
  std::optional<ChatTemplate> chat_template = ChatTemplate::find(checkpoint);

  std::unique_ptr<const Family> family;
  if (type == "llava" || type == "llava_next") {
    family = std::make_unique<LlavaFamily>(checkpoint, tokenizer);
  } else if (type == "blip-2" || type == "instructblip") {
    family = std::make_unique<Blip2Family>(checkpoint, tokenizer);
  } else if (type == "idefics") {
    family = std::make_unique<IdeficsFamily>(checkpoint, tokenizer);
  } else if (is_text_model(type)) {
    family = std::make_unique<TextFamily>(checkpoint, tokenizer);
  } else if (type == "t5") {
    family = std::make_unique<TextToTextFamily>(checkpoint, tokenizer);
  } else if (type == "clip" || type == "siglip") {
    throw UnsupportedError("text from a '" + type + "' checkpoint (" + checkpoint.name() + "): it has none to give, see chiasm::DualEncoder");
  } else {
    std::string known = "llava, llava_next, blip-2, instructblip, idefics, t5";
    for (const std::string_view one : text_model_types) known += ", " + std::string(one);
    throw UnsupportedError("model_type '" + type + "' (" + checkpoint.path("config.json") + "), expected one of " + known);
  }
  checkpoint.keep_converted();
  for (const TokenId end : family->end_tokens()) {
    if (!generation_config.eos_token_id) generation_config.eos_token_id.emplace();
    std::vector<TokenId>& ends = *generation_config.eos_token_id;
    if (std::find(ends.begin(), ends.end(), end) == ends.end()) ends.push_back(end);
  }
  for (const TokenId banned : family->banned_tokens()) {
    if (!generation_config.bad_words_ids) generation_config.bad_words_ids.emplace();
    std::vector<std::vector<TokenId>>& words = *generation_config.bad_words_ids;
    if (std::find(words.begin(), words.end(), std::vector<TokenId>{banned}) == words.end()) words.push_back({banned});
  }
  if (!chat_template && !family->default_chat_template().empty()) chat_template.emplace(family->default_chat_template());

  return Pipeline(std::shared_ptr<const Pipeline::Parts>(new Pipeline::Parts{
      std::move(tokenizer), std::move(family), std::move(chat_template), std::move(generation_config), std::move(threads), options.compute,
      options.kv, std::move(options.isa), FeatureCache(options.picture_cache_bytes), PrefixCache(options.prefix_cache_bytes)}));
}

}  // namespace chiasm
