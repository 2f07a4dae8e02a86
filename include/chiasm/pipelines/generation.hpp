/// Generation: token after token out of a language model. Greedy, sampling and beam search with the options, defaults and results of
/// `generate` in Hugging Face transformers 5.23; one answer by pulling, or many prompts at once. Text and stop strings are a layer above.
/// Tokens that are easily guessed (a text that is repeated, a smaller model's answer) are read several at a time, arXiv:2211.17192, with the same answer.
#pragma once

#include <chiasm/core/callback.hpp>
#include <chiasm/core/context.hpp>
#include <chiasm/io/constraint.hpp>
#include <chiasm/io/json.hpp>
#include <chiasm/modules/language_model.hpp>
#include <chiasm/nn/sampling.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Pipeline;

/// When a beam search ends: `off` by a heuristic that compares the best running beam with the worst finished one, `on` as soon as
/// num_beams are finished, `never` when no running beam can become better. False, True and "never" in generation_config.json.
enum class EarlyStopping : std::uint8_t { off, on, never };

/// Multiplies the end token's score by factor^n, n tokens after the first `start` ones.
struct ExponentialDecay {
  std::size_t start = 0;
  double factor = 1;
};

/// Guesses at an answer's next tokens by what followed the same words before, in the prompt and in the answer: quotations, text read off a picture, lists,
/// code. It costs next to nothing. https://github.com/apoorvumang/prompt-lookup-decoding
struct PromptLookup {
  std::size_t max_tokens = 8;                 // guessed at a time, as far as a pass can take them (15 with AVX2, but 7 on AMX with Compute::bf16; else 3). 0: none
  std::size_t min_ngram = 2, max_ngram = 16;  // the last so many tokens are searched for, as many as possible
  bool adapt = true;                          // fewer guesses, or none, where they fail or cost more than they bring
  // What is searched before the answer, in place of the prompt's ids: what an encoder has read, a document that the answer will quote. -1 stands for what
  // is no token (a picture). Calls that return text set it, unless it is set.
  std::vector<TokenId> text = {};
};

/// Guesses at an answer's next tokens by asking a smaller model of the same vocabulary: its first tokens, at least, mean the same. A model that knows
/// another text or no pictures guesses worse, and changes nothing else.
struct Draft {
  Draft(const LanguageModel* language_model = nullptr, std::size_t most = 8) : model(language_model), max_tokens(most) {}  // NOLINT: as in `.draft = &lm`
  /// Calls that return text show it the same prompt, with its pictures if it is of the same family.
  Draft(const Pipeline* of, std::size_t most = 8) : pipeline(of), max_tokens(most) {}  // NOLINT

  const LanguageModel* model = nullptr;  // borrowed, as is the pipeline, as long as the answer takes
  const Pipeline* pipeline = nullptr;
  std::size_t max_tokens = 8;  // as PromptLookup's
  bool adapt = true;
  // The prompt as this model takes it, (T, D); null: its ids, without those of pictures.
  std::shared_ptr<const Tensor> prompt = {};
};

/// How to generate. Every field may stay unset: it is then taken from the model's generation_config.json, or else is what
/// defaults() says. Names and meanings are those of generation_config.json.
struct GenerateOptions {
  // Length. The `new` ones count generated tokens, the others include the prompt's positions (with what the cache already holds).
  // Of the same origin, the `new` ones win.
  std::optional<std::size_t> max_new_tokens = {};  // 256 where no length is set at all (transformers: max_length 20)
  std::optional<std::size_t> max_length = {};
  std::optional<std::size_t> min_new_tokens = {};
  std::optional<std::size_t> min_length = {};

  // End. The end token itself is part of the result. An empty list: never stop before the length.
  std::optional<std::vector<TokenId>> eos_token_id = {};
  std::optional<std::vector<std::string>> stop = {};  // for calls that return text: it ends before the first of these strings

  // What the answer may be: one of some choices, a regular expression's match, a JSON document of a schema. This has the last word: where other rules forbid
  // all that it allows, they give way. Calls that return text set it on their tokenizer; the others want Constraint::on.
  std::optional<Constraint> constraint = {};

  // Choice. Without do_sample the most probable token is taken, and temperature, seed and the filters have no effect.
  std::optional<bool> do_sample = {};
  std::optional<std::uint64_t> seed = {};  // 0: the same answer each time
  std::optional<double> temperature = {};
  std::optional<std::size_t> top_k = {};  // 50, as in transformers; 0 is off
  std::optional<double> top_p = {};
  std::optional<double> min_p = {};
  std::optional<double> top_h = {};
  std::optional<double> typical_p = {};
  std::optional<double> epsilon_cutoff = {};
  std::optional<double> eta_cutoff = {};

  // Scores.
  std::optional<double> repetition_penalty = {};  // of all tokens of the prompt and the answer
  std::optional<std::size_t> no_repeat_ngram_size = {};
  std::optional<std::vector<std::vector<TokenId>>> bad_words_ids = {};
  std::optional<std::vector<SequenceBias>> sequence_bias = {};
  std::optional<std::vector<TokenId>> suppress_tokens = {};
  std::optional<std::vector<TokenId>> begin_suppress_tokens = {};
  std::optional<TokenId> forced_bos_token_id = {};  // after a prompt of one id: encoder-decoder models
  std::optional<std::vector<TokenId>> forced_eos_token_id = {};
  std::optional<ExponentialDecay> exponential_decay_length_penalty = {};
  std::optional<bool> remove_invalid_values = {};
  std::optional<bool> renormalize_logits = {};

  // Beams.
  std::optional<std::size_t> num_beams = {};
  std::optional<std::size_t> num_return_sequences = {};
  std::optional<double> length_penalty = {};  // a hypothesis scores sum of log-probabilities / length^length_penalty
  std::optional<EarlyStopping> early_stopping = {};

  // Several tokens a pass. They are checked against what the model itself says there, bit for bit as in passes of one token, and the answer is the one that it
  // gives without, sampled ones included (a draft model draws with the same random numbers). Both may be set; what can be looked up goes first. Batches, beams,
  // and contexts that are observed go without.
  std::optional<PromptLookup> lookup = {};
  std::optional<Draft> draft = {};

  // One's own rules. `logits_processor` edits the scores (log-probabilities in a beam search) after the ones above and before the filters of
  // sampling; `history` is prompt and answer so far. `stopping_criteria` sees the generated tokens and returns true to stop.
  Callback<void(std::span<const TokenId> history, std::span<float> scores)> logits_processor = {};
  Callback<bool(std::span<const TokenId> generated)> stopping_criteria = {};

  /// The fields of a generation_config.json; null and missing ones stay unset. Throws ConfigError (a value of the wrong type),
  /// UnsupportedError (a method that is switched on there and unknown here, such as guidance_scale).
  static GenerateOptions from(const Json& generation_config);
  /// What transformers takes for unset fields, but for the length: 256 new tokens.
  static GenerateOptions defaults();

  /// These options, where unset those of `defaults`. A length that is set here hides both of its kind there: max_length in a
  /// call is not overruled by max_new_tokens in a generation_config.json.
  GenerateOptions or_else(const GenerateOptions& defaults) const;

  /// Throws ArgumentError: option, what it is, what it may be. Unset fields are fine.
  void validate() const;
};

/// `stop`: a stop string, stopping_criteria, or a constraint after which nothing can come.
enum class FinishReason : std::uint8_t { eos, length, stop, cancelled };

/// "eos", "length", "stop", "cancelled".
std::string_view to_string(FinishReason reason) noexcept;

/// What the rules keep between the steps of an answer; any other answer may come next.
struct DecodingScratch : SamplingScratch {
  Constraint::State answer;
  std::vector<std::uint64_t> allowed;
  std::vector<float> before;
};

/// What the options mean for one prompt: which processors in which order, and when to stop.
class DecodingRules {
 public:
  /// `prompt_positions`: rows of the prompt's embeddings and of the cache before them. `prompt_ids`: as many ids of each history are
  /// the prompt's. Throws ArgumentError: options that validate() rejects, that do not fit the vocabulary or this prompt's length; a
  /// constraint without a vocabulary, or whose answers are all longer than max_new_tokens.
  DecodingRules(const GenerateOptions& options, std::size_t vocab_size, std::size_t prompt_positions, std::size_t prompt_ids);

  /// Edits a row of scores, given all tokens before it.
  void operator()(std::span<const TokenId> history, std::span<float> scores, DecodingScratch& scratch) const;

  /// Whether the last token of this history ends it.
  std::optional<FinishReason> finished(std::span<const TokenId> history, DecodingScratch& scratch) const;

  /// The same, but for logits_processor and stopping_criteria: what is asked about guesses is none of the caller's business.
  DecodingRules without_callbacks() const;

  /// With defaults filled in.
  const GenerateOptions& options() const noexcept { return options_; }
  std::size_t max_new_tokens() const noexcept { return max_new_; }
  std::size_t prompt_ids() const noexcept { return prompt_ids_; }

 private:
  GenerateOptions options_;
  std::vector<SequenceBias> bad_words_;
  std::size_t prompt_ids_, max_new_, min_new_ = 0;
};

/// Tokens that a Generation has seen and the time they took.
struct GenerationTimes {
  std::size_t prefill_tokens = 0, decode_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
  // Passes that gave the decoded tokens, tokens that were guessed in them, and how many of these turned out right.
  std::size_t decode_passes = 0, proposed_tokens = 0, accepted_tokens = 0;
};

/// One answer, token by token, by greedy search or sampling:
///
///     Generation answer{ctx, lm, std::move(prompt_embeddings), {.max_new_tokens = 64}, prompt_ids};
///     while (auto token = answer.next()) ...
///
/// The context and the model must outlive it.
class Generation {
 public:
  /// `prompt_embeddings` (T, D), T > 0. `prompt_ids` is what repetition_penalty and the like count as the prompt; it may be empty, and
  /// shorter or longer than T. A conversation goes on with the cache of the Generation before, in which the last id of its answer
  /// is still missing: the new embeddings then begin with that one. Throws ShapeError, ArgumentError (also for num_beams > 1: see beam_search,
  /// and for stop strings: text is a layer above).
  Generation(Context& ctx, const LanguageModel& lm, Tensor prompt_embeddings, GenerateOptions options = {}, std::vector<TokenId> prompt_ids = {},
             KvCache cache = {});
  ~Generation();
  Generation(Generation&& other) noexcept;
  Generation& operator=(Generation&& other) noexcept;

  /// The next token, or none at the end: see finish_reason(). The first call reads the whole prompt. After any exception the cache and
  /// the ids are as before the call. A cancelled token ends the generation without an exception.
  std::optional<TokenId> next();

  /// The prompt's ids and what has been generated so far, and the latter alone.
  std::span<const TokenId> history() const noexcept { return history_; }
  std::span<const TokenId> ids() const noexcept { return std::span<const TokenId>(history_).subspan(rules_.prompt_ids()); }
  std::optional<FinishReason> finish_reason() const noexcept { return finish_reason_; }
  /// Ends it from outside, if it has not ended: no more tokens.
  void finish(FinishReason reason = FinishReason::stop) noexcept {
    if (!finish_reason_) finish_reason_ = reason;
  }

  /// Keys and values of the prompt and of all ids but the last: move it out to go on.
  KvCache& cache() noexcept;
  const GenerationTimes& times() const noexcept { return times_; }

 private:
  Context* ctx_;
  const LanguageModel* lm_;
  Tensor prompt_;
  KvCache cache_;
  DecodingRules rules_;
  std::vector<TokenId> history_;
  Sampler sampler_;
  DecodingScratch scratch_;
  std::optional<FinishReason> finish_reason_;
  GenerationTimes times_;
  struct Ahead;
  std::unique_ptr<Ahead> ahead_;  // null: a token a pass
};

/// One prompt of a batch; borrowed.
struct GenerationPrompt {
  View embeddings;                     // (T, D)
  std::span<const TokenId> ids = {};  // as Generation's prompt_ids
};

struct GeneratedSequence {
  std::vector<TokenId> ids;
  FinishReason finish_reason = FinishReason::length;
};

/// Many prompts, each answered with the tokens that it gets alone; all share each pass through the weights, and finished ones drop out. (Compute::bf16 and
/// i8 round the rows of a larger pass in other ways: where two tokens are nearly equal, a batch may then choose the other one.)
/// With do_sample, each prompt gets num_return_sequences answers, one after the other in the result. When cancelled, what there is
/// is returned. Throws as Generation.
std::vector<GeneratedSequence> generate_batch(Context& ctx, const LanguageModel& lm, std::span<const GenerationPrompt> prompts,
                                              const GenerateOptions& options = {});

struct BeamHypothesis {
  std::vector<TokenId> ids;  // generated ones, the end token included
  float score = 0;           // sum of log-probabilities / length^length_penalty
};

/// The num_return_sequences best of num_beams hypotheses, best first; all beams share each pass through the weights. With do_sample, continuations
/// are drawn instead of taken in order. Fewer come back only where the options forbid so much that fewer exist. Throws ShapeError, ArgumentError,
/// Cancelled.
std::vector<BeamHypothesis> beam_search(Context& ctx, const LanguageModel& lm, View prompt_embeddings, std::span<const TokenId> prompt_ids,
                                        const GenerateOptions& options);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/generation.ipp>
#endif
