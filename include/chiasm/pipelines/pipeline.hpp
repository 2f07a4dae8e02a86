/// Pipeline: a loaded checkpoint that answers. Prompt in, text out; the tokenizer, the chat template, the image processor and the model
/// are the checkpoint's own.
#pragma once

#include <chiasm/core/weights.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/pipelines/family.hpp>
#include <chiasm/pipelines/generation.hpp>
#include <chiasm/pipelines/prefix_cache.hpp>
#include <chiasm/pipelines/prompt.hpp>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Checkpoint;
struct FlamingoFiles;

struct LoadOptions {
  WeightKind weights = WeightKind::keep;
  std::string mmproj = {};  // as CheckpointOptions::mmproj
  Compute compute = Compute::f32;
  KvKind kv = KvKind::automatic;  // how keys and values are kept
  std::size_t threads = 0;  // 0: CHIASM_THREADS, or else the processors that this process may use
  std::string isa = {};     // as ContextOptions::isa
  // What pictures and beginnings of prompts may hold in memory between calls: a second question about a picture encodes nothing, and a prompt
  // is read from where it differs from the ones before. 0: nothing is kept.
  std::size_t picture_cache_bytes = std::size_t{128} << 20;
  std::size_t prefix_cache_bytes = std::size_t{1} << 30;
  // After each weight file, and after each matrix that is converted, quantised or packed.
  Callback<void(std::string_view name, std::size_t done, std::size_t total)> on_progress = {};
  CancelToken cancel = {};       // ends loading with Cancelled
  std::string packed_cache = {};  // as CheckpointOptions::packed_cache
};

/// An answer and how it came about.
struct Reply {
  std::string text;
  std::vector<TokenId> ids;
  FinishReason finish_reason = FinishReason::length;
  std::size_t prompt_tokens = 0, reused_tokens = 0;      // of which so many had been read before
  std::size_t prompt_pictures = 0, reused_pictures = 0;  // and encoded before
  std::vector<PreparedPrompt::Picture> pictures;         // where they stand in the prompt
  double prepare_seconds = 0;  // pictures encoded, prompt embedded
  GenerationTimes times;       // zero for a beam search
};

/// Called with each piece of text as it comes, never a part of a character; false ends the answer.
using OnText = Callback<bool(std::string_view piece)>;

/// Const and shareable between threads: every call brings, or makes, a Context of its own. What the calls share, pictures that have been encoded
/// and prompts that have been read, changes no answer.
class Pipeline {
 public:
  /// Made by load(), below.
  struct Parts;
  explicit Pipeline(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  /// `prompt` is what the user says: it goes through the checkpoint's chat template (as it is, where there is none). `options` go before
  /// generation_config.json. All calls throw ArgumentError (options, pictures that do not match their placeholders or that the model cannot take),
  /// TemplateError, Cancelled where the context was cancelled before there was an answer to return.
  std::string generate(const Prompt& prompt, const GenerateOptions& options = {}, const OnText& on_text = {}) const;
  Reply generate(Context& ctx, const Prompt& prompt, const GenerateOptions& options = {}, const OnText& on_text = {}) const;

  /// The next turn of a conversation.
  std::string chat(std::span<const Message> messages, const GenerateOptions& options = {}, const OnText& on_text = {}) const;
  Reply chat(Context& ctx, std::span<const Message> messages, const GenerateOptions& options = {}, const OnText& on_text = {}) const;

  /// As above, going on from `prefix` and leaving there what has been read: a conversation that keeps its own, apart from all others. See
  /// Conversation, which does this. An empty prefix begins with what other calls have left.
  Reply chat(Context& ctx, std::span<const Message> messages, Prefix& prefix, const GenerateOptions& options = {}, const OnText& on_text = {}) const;

  /// `prompt` as it stands, no chat template: plain continuation, few-shot prompts, prompts of one's own making.
  std::string complete(const Prompt& prompt, const GenerateOptions& options = {}, const OnText& on_text = {}) const;
  Reply complete(Context& ctx, const Prompt& prompt, const GenerateOptions& options = {}, const OnText& on_text = {}) const;

  /// What the picture shows, and a short answer to a question about it, asked in the words that the family was trained with.
  std::string caption(const Image& image, const GenerateOptions& options = {}, const OnText& on_text = {}) const;
  std::string answer(const Image& image, std::string_view question, const GenerateOptions& options = {}, const OnText& on_text = {}) const;
  Prompt caption_prompt(const Image& image) const;
  Prompt answer_prompt(const Image& image, std::string_view question) const;
  /// A few-shot prompt, for chat(): the demonstrations in order, then the question, or without one the wish for a caption. With a chat template they are
  /// its turns, and questions stand as they are: the demonstrations show what form answers have. Without one, all is in the family's own form.
  std::vector<Message> few_shot_prompt(std::span<const Demonstration> shots, const Image& image, std::string_view question = {}) const;

  /// The steps of the calls above, for one's own loop. The text of a conversation as the model reads it, with a placeholder for each picture:
  std::string render(std::span<const Message> messages) const;
  /// and a prompt's embeddings and ids, as complete() takes it.
  PreparedPrompt prepare(Context& ctx, const Prompt& prompt) const;
  /// As above, for the next turn of a conversation.
  PreparedPrompt prepare(Context& ctx, std::span<const Message> messages) const;

  /// A context on this pipeline's threads, with its precision and kernels.
  Context new_context(CancelToken cancel = {}) const;
  /// The same with progress, observer and cancel token of one's own; `threads` is the pipeline's, as are `isa` and `compute`.
  Context new_context(ContextOptions options) const;

  /// What is kept between calls: to look at its size, or to give it back to the system.
  FeatureCache& pictures() const noexcept;
  PrefixCache& prefixes() const noexcept;

  const Family& family() const noexcept;
  const LanguageModel& language_model() const noexcept { return family().language_model(); }
  const Tokenizer& tokenizer() const noexcept;
  /// generation_config.json's.
  const GenerateOptions& generation_config() const noexcept;

 private:
  struct Input;
  Input verbatim(const Prompt& prompt) const;
  Input conversation(std::span<const Message> messages) const;
  PreparedPrompt prepare(Context& ctx, const Input& input) const;
  PreparedPrompt prepare_draft(Context& ctx, const Input& input, const PreparedPrompt& prompt, Draft& draft) const;
  Reply reply(Context& ctx, const Input& input, const GenerateOptions& options, const OnText& on_text, Prefix* own) const;
  std::shared_ptr<const Parts> parts_;
};

/// A pipeline for the checkpoint at `path`: a folder, whose config.json names the family, or a GGUF file, with its mmproj where the model takes pictures.
/// Throws FileError, FormatError, ConfigError, WeightError, UnsupportedError.
Pipeline load(const std::string& path, LoadOptions options = {});
/// The same for a checkpoint that is open already, or in memory; `options.weights` and `options.on_progress` are then those it was opened with.
Pipeline load(const Checkpoint& checkpoint, LoadOptions options = {});
/// The same for an OpenFlamingo model whose parts lie in several places, see pipelines/flamingo.hpp.
Pipeline load(const FlamingoFiles& files, LoadOptions options = {});

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/pipeline.ipp>
#endif
