#pragma once

#include <chiasm/impl/look_ahead.hpp>
#include <chiasm/pipelines/generation.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

namespace generation {

inline std::string in_words(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}
inline std::string in_words(std::size_t value) { return std::to_string(value); }

template <class T>
void require(bool fine, std::string_view option, const std::optional<T>& have, std::string_view want) {
  if (!fine) throw ArgumentError(std::string(option) + " is " + in_words(*have) + ", must be " + std::string(want));
}

inline bool holds(const std::optional<std::vector<TokenId>>& ids, TokenId id) {
  return ids && std::find(ids->begin(), ids->end(), id) != ids->end();
}

/// One id or a list of them.
inline std::vector<TokenId> ids_from(const Json& value) {
  if (value.is_array()) return value.as_vector<TokenId>();
  return {value.as<TokenId>()};
}

/// Later entries replace earlier ones of the same ids.
inline std::vector<SequenceBias> distinct(std::vector<SequenceBias> biases) {
  std::vector<SequenceBias> kept;
  for (SequenceBias& entry : biases) {
    const auto same = std::find_if(kept.begin(), kept.end(), [&](const SequenceBias& other) { return other.ids == entry.ids; });
    if (same != kept.end())
      same->bias = entry.bias;
    else
      kept.push_back(std::move(entry));
  }
  return kept;
}

inline void check_ids(std::string_view option, std::span<const TokenId> ids, std::size_t vocab_size) {
  if (ids.empty()) throw ArgumentError(std::string(option) + " has an empty list, must be a list of token ids");
  for (const TokenId id : ids)
    if (id < 0 || static_cast<std::size_t>(id) >= vocab_size)
      throw ArgumentError(std::string(option) + " has token id " + std::to_string(id) + ", must be 0.." + std::to_string(vocab_size - 1));
}

inline void check_prompt(const LanguageModel& lm, View embeddings) {
  if (embeddings.shape().rank() != 2 || embeddings.columns() != lm.hidden_size())
    throw ShapeError("generate", embeddings.shape().to_string() + " as embeddings of a prompt, the model's are (T, " +
                                     std::to_string(lm.hidden_size()) + ")");
  if (embeddings.rows() == 0) throw ArgumentError("the prompt is empty, must be at least one position");
}

inline void check_no_text(const GenerateOptions& options) {
  if (options.stop && !options.stop->empty())
    throw ArgumentError("stop is \"" + options.stop->front() + "\", but this call knows no text: stopping_criteria sees the ids");
}

inline void check_draft(const GenerateOptions& options) {
  if (options.draft && options.draft->model == nullptr)
    throw ArgumentError("draft is a pipeline, but this call knows no text: it takes a language model");
}

inline void check_one_beam(const GenerateOptions& options) {
  if (options.num_beams.value_or(1) > 1)
    throw ArgumentError("num_beams is " + std::to_string(*options.num_beams) + ", must be 1 here: beam_search takes more");
}

/// Scores of one step become the next token of a history.
inline TokenId choose(const DecodingRules& rules, std::vector<TokenId>& history, std::span<float> scores, Sampler& sampler, DecodingScratch& scratch) {
  rules(history, scores, scratch);
  const TokenId id = *rules.options().do_sample ? sampler(scores) : argmax(scores);
  history.push_back(id);
  return id;
}

/// Scores of what the mask leaves out become -infinity. Where nothing else is left, its scores are those `before` the other rules.
inline void keep_allowed(std::span<float> scores, std::span<const std::uint64_t> mask, std::span<const float> before) {
  constexpr float out = -std::numeric_limits<float>::infinity();
  const auto is_allowed = [&](std::size_t id) { return id / 64 < mask.size() && (mask[id / 64] >> (id % 64) & 1) != 0; };
  bool alive = false, any = false;
  for (std::size_t begin = 0; begin < scores.size(); begin += 64) {
    const std::size_t end = std::min(begin + 64, scores.size());
    const std::uint64_t word = begin / 64 < mask.size() ? mask[begin / 64] : 0;
    if (word == 0) {
      std::fill(scores.begin() + static_cast<std::ptrdiff_t>(begin), scores.begin() + static_cast<std::ptrdiff_t>(end), out);
      continue;
    }
    for (std::size_t id = begin; id < end; ++id) {
      const bool allowed = (word >> (id % 64) & 1) != 0;
      if (!allowed || std::isnan(scores[id])) scores[id] = out;
      alive = alive || scores[id] > out;
      any = any || allowed;
    }
  }
  if (alive) return;
  if (!any) throw UnsupportedError("no token of the model goes on from here within the constraint");
  for (const bool last_resort : {false, true})
    for (std::size_t id = 0; id < scores.size() && !(last_resort && alive); ++id) {
      if (!is_allowed(id)) continue;
      scores[id] = last_resort ? 0 : std::isnan(before[id]) ? out : before[id];
      alive = alive || (!last_resort && scores[id] > out);
    }
}

// A history grows to its full length without moving, within reason.
inline void reserve(std::vector<TokenId>& history, const DecodingRules& rules) {
  history.reserve(history.size() + std::min<std::size_t>(rules.max_new_tokens(), 65536));
}

}  // namespace generation

CHIASM_INLINE GenerateOptions GenerateOptions::from(const Json& config) {
  GenerateOptions options;
  if (!config.is_null() && !config.is_object()) config.fail("is not an object");
  const auto read = [&]<class T>(std::string_view key, std::optional<T>& field) {
    if (const Json value = config.find(key); !value.is_null()) field = value.as<T>();
  };
  const auto read_ids = [&](std::string_view key, std::optional<std::vector<TokenId>>& field) {
    if (const Json value = config.find(key); !value.is_null()) field = generation::ids_from(value);
  };
  read("max_new_tokens", options.max_new_tokens);
  read("max_length", options.max_length);
  read("min_new_tokens", options.min_new_tokens);
  read("min_length", options.min_length);
  read_ids("eos_token_id", options.eos_token_id);
  if (const Json stop = config.find("stop_strings"); stop.is_string())
    options.stop = std::vector<std::string>{stop.as<std::string>()};
  else if (!stop.is_null())
    options.stop = stop.as_vector<std::string>();

  read("do_sample", options.do_sample);
  read("temperature", options.temperature);
  // Files that never sample say 0 there.
  if (options.temperature == 0.0) options.temperature.reset();
  read("top_k", options.top_k);
  read("top_p", options.top_p);
  read("min_p", options.min_p);
  read("top_h", options.top_h);
  read("typical_p", options.typical_p);
  read("epsilon_cutoff", options.epsilon_cutoff);
  read("eta_cutoff", options.eta_cutoff);

  read("repetition_penalty", options.repetition_penalty);
  read("no_repeat_ngram_size", options.no_repeat_ngram_size);
  if (const Json words = config.find("bad_words_ids"); !words.is_null()) {
    if (!words.is_array()) words.fail("is not an array");
    options.bad_words_ids.emplace();
    for (const Json word : words) options.bad_words_ids->push_back(word.as_vector<TokenId>());
  }
  if (const Json biases = config.find("sequence_bias"); !biases.is_null()) {
    if (!biases.is_array()) biases.fail("is not an array");
    options.sequence_bias.emplace();
    for (const Json entry : biases) options.sequence_bias->push_back({entry.at(0).as_vector<TokenId>(), entry.at(1).as_double()});
  }
  read_ids("suppress_tokens", options.suppress_tokens);
  read_ids("begin_suppress_tokens", options.begin_suppress_tokens);
  read("forced_bos_token_id", options.forced_bos_token_id);
  read_ids("forced_eos_token_id", options.forced_eos_token_id);
  if (const Json decay = config.find("exponential_decay_length_penalty"); !decay.is_null())
    options.exponential_decay_length_penalty = ExponentialDecay{decay.at(0).as<std::size_t>(), decay.at(1).as_double()};
  read("remove_invalid_values", options.remove_invalid_values);
  read("renormalize_logits", options.renormalize_logits);

  read("num_beams", options.num_beams);
  read("num_return_sequences", options.num_return_sequences);
  read("length_penalty", options.length_penalty);
  if (const Json early = config.find("early_stopping"); early.is_string()) {
    if (early.as_string() != "never") early.fail("is \"" + std::string(early.as_string()) + "\", must be true, false or \"never\"");
    options.early_stopping = EarlyStopping::never;
  } else if (!early.is_null()) {
    options.early_stopping = early.as_bool() ? EarlyStopping::on : EarlyStopping::off;
  }

  if (const Json guessed = config.find("prompt_lookup_num_tokens"); !guessed.is_null()) {
    options.lookup.emplace().max_tokens = guessed.as<std::size_t>();
    if (const Json longest = config.find("max_matching_ngram_size"); !longest.is_null())
      options.lookup->max_ngram = std::max(options.lookup->min_ngram, longest.as<std::size_t>());
  }

  // Methods that would change the tokens. Their neutral values stand in many published files.
  struct Neutral {
    std::string_view key;
    double value;
  };
  static constexpr std::array<Neutral, 6> numbers{{{"guidance_scale", 1},
                                                   {"encoder_repetition_penalty", 1},
                                                   {"encoder_no_repeat_ngram_size", 0},
                                                   {"diversity_penalty", 0},
                                                   {"penalty_alpha", 0},
                                                   {"num_beam_groups", 1}}};
  const auto unsupported = [&](std::string_view key, const Json& value) {
    throw UnsupportedError(config.file() + ": " + value.pointer() + ": generation with " + std::string(key) + " = " + value.dump());
  };
  for (const Neutral& neutral : numbers)
    if (const Json value = config.find(neutral.key); !value.is_null() && value.as_double() != neutral.value) unsupported(neutral.key, value);
  for (const std::string_view key : {"watermarking_config", "dola_layers", "constraints", "force_words_ids", "max_time"})
    if (const Json value = config.find(key); !value.is_null()) unsupported(key, value);
  if (config.get("token_healing", false)) unsupported("token_healing", config["token_healing"]);
  return options;
}

CHIASM_INLINE GenerateOptions GenerateOptions::defaults() {
  GenerateOptions options;
  options.max_new_tokens = 256;
  options.min_length = 0;
  options.do_sample = false;
  options.seed = 0;
  options.temperature = 1;
  options.top_k = 50;
  options.top_p = 1;
  options.typical_p = 1;
  options.epsilon_cutoff = 0;
  options.eta_cutoff = 0;
  options.repetition_penalty = 1;
  options.no_repeat_ngram_size = 0;
  options.remove_invalid_values = false;
  options.renormalize_logits = false;
  options.num_beams = 1;
  options.num_return_sequences = 1;
  options.length_penalty = 1;
  options.early_stopping = EarlyStopping::off;
  return options;
}

CHIASM_INLINE GenerateOptions GenerateOptions::or_else(const GenerateOptions& defaults) const {
  GenerateOptions merged = *this;
  const auto take = [&](auto GenerateOptions::*field) {
    if (!(merged.*field)) merged.*field = defaults.*field;
  };
  if (!max_new_tokens && !max_length) {
    merged.max_new_tokens = defaults.max_new_tokens;
    merged.max_length = defaults.max_length;
  }
  if (!min_new_tokens && !min_length) {
    merged.min_new_tokens = defaults.min_new_tokens;
    merged.min_length = defaults.min_length;
  }
  take(&GenerateOptions::eos_token_id);
  take(&GenerateOptions::stop);
  take(&GenerateOptions::constraint);
  take(&GenerateOptions::do_sample);
  take(&GenerateOptions::seed);
  take(&GenerateOptions::temperature);
  take(&GenerateOptions::top_k);
  take(&GenerateOptions::top_p);
  take(&GenerateOptions::min_p);
  take(&GenerateOptions::top_h);
  take(&GenerateOptions::typical_p);
  take(&GenerateOptions::epsilon_cutoff);
  take(&GenerateOptions::eta_cutoff);
  take(&GenerateOptions::repetition_penalty);
  take(&GenerateOptions::no_repeat_ngram_size);
  take(&GenerateOptions::bad_words_ids);
  take(&GenerateOptions::sequence_bias);
  take(&GenerateOptions::suppress_tokens);
  take(&GenerateOptions::begin_suppress_tokens);
  take(&GenerateOptions::forced_bos_token_id);
  take(&GenerateOptions::forced_eos_token_id);
  take(&GenerateOptions::exponential_decay_length_penalty);
  take(&GenerateOptions::remove_invalid_values);
  take(&GenerateOptions::renormalize_logits);
  take(&GenerateOptions::num_beams);
  take(&GenerateOptions::num_return_sequences);
  take(&GenerateOptions::length_penalty);
  take(&GenerateOptions::early_stopping);
  take(&GenerateOptions::lookup);
  take(&GenerateOptions::draft);
  take(&GenerateOptions::logits_processor);
  take(&GenerateOptions::stopping_criteria);
  return merged;
}

CHIASM_INLINE void GenerateOptions::validate() const {
  using generation::require;
  const auto within = [](const std::optional<double>& value, double low, double high) { return !value || (*value >= low && *value <= high); };
  const auto positive = [](const std::optional<double>& value) { return !value || (*value > 0 && std::isfinite(*value)); };
  require(max_new_tokens != std::size_t{0}, "max_new_tokens", max_new_tokens, "at least 1");
  require(max_length != std::size_t{0}, "max_length", max_length, "at least 1");
  require(positive(temperature), "temperature", temperature, "above 0 (do_sample = false always takes the most probable token)");
  require(within(top_p, 0, 1), "top_p", top_p, "within 0..1");
  require(within(min_p, 0, 1), "min_p", min_p, "within 0..1");
  require(within(top_h, 0, 1) && top_h != 0.0, "top_h", top_h, "above 0, at most 1");
  require(within(typical_p, 0, 1) && typical_p != 0.0, "typical_p", typical_p, "above 0, at most 1");
  require(within(epsilon_cutoff, 0, 1), "epsilon_cutoff", epsilon_cutoff, "within 0..1");
  require(within(eta_cutoff, 0, 1), "eta_cutoff", eta_cutoff, "within 0..1");
  require(positive(repetition_penalty), "repetition_penalty", repetition_penalty, "above 0");
  require(!length_penalty || std::isfinite(*length_penalty), "length_penalty", length_penalty, "finite");
  // The upper bounds are far beyond use: a generation_config.json must not make a call ask for all memory.
  constexpr std::size_t most = 1024;
  const auto counts = [](const std::optional<std::size_t>& value) { return !value || (*value >= 1 && *value <= most); };
  require(counts(num_beams), "num_beams", num_beams, "within 1..1024");
  require(counts(num_return_sequences), "num_return_sequences", num_return_sequences, "within 1..1024");
  const std::size_t beams = num_beams.value_or(1);
  if (beams > 1)
    require(num_return_sequences.value_or(1) <= beams, "num_return_sequences", num_return_sequences, "at most num_beams, " + std::to_string(beams));
  else
    require(num_return_sequences.value_or(1) == 1 || do_sample.value_or(false), "num_return_sequences", num_return_sequences,
            "1 without do_sample and beams: there is one greedy answer");
  if (lookup && (lookup->min_ngram == 0 || lookup->max_ngram < lookup->min_ngram))
    throw ArgumentError("lookup is for n-grams of " + std::to_string(lookup->min_ngram) + " to " + std::to_string(lookup->max_ngram) +
                        " tokens, must be from 1 on, in this order");
  if (draft && draft->model == nullptr && draft->pipeline == nullptr) throw ArgumentError("draft has no model");
  if (exponential_decay_length_penalty && !(exponential_decay_length_penalty->factor > 0))
    throw ArgumentError("exponential_decay_length_penalty has factor " + generation::in_words(exponential_decay_length_penalty->factor) + ", must be above 0");
}

CHIASM_INLINE std::string_view to_string(FinishReason reason) noexcept {
  constexpr std::array<std::string_view, 4> names{"eos", "length", "stop", "cancelled"};
  return names[static_cast<std::size_t>(reason)];
}

CHIASM_INLINE DecodingRules::DecodingRules(const GenerateOptions& options, std::size_t vocab_size, std::size_t prompt_positions, std::size_t prompt_ids)
    : options_(options.or_else(GenerateOptions::defaults())), prompt_ids_(prompt_ids) {
  GenerateOptions& o = options_;
  o.validate();
  if (o.max_new_tokens) {
    max_new_ = *o.max_new_tokens;
  } else {
    if (*o.max_length <= prompt_positions)
      throw ArgumentError("max_length is " + std::to_string(*o.max_length) + ", must be more than the prompt's " + std::to_string(prompt_positions) +
                          " positions (max_new_tokens counts without the prompt)");
    max_new_ = *o.max_length - prompt_positions;
  }
  if (o.min_new_tokens)
    min_new_ = *o.min_new_tokens;
  else if (o.min_length.value_or(0) > prompt_positions)
    min_new_ = *o.min_length - prompt_positions;

  if (o.bad_words_ids)
    for (const std::vector<TokenId>& word : *o.bad_words_ids) {
      generation::check_ids("bad_words_ids", word, vocab_size);
      const bool is_eos = word.size() == 1 && generation::holds(o.eos_token_id, word[0]);
      if (!is_eos) bad_words_.push_back({word, -std::numeric_limits<double>::infinity()});
    }
  bad_words_ = generation::distinct(std::move(bad_words_));
  if (o.sequence_bias) {
    for (const SequenceBias& entry : *o.sequence_bias) generation::check_ids("sequence_bias", entry.ids, vocab_size);
    o.sequence_bias = generation::distinct(std::move(*o.sequence_bias));
  }
  if (o.forced_bos_token_id) generation::check_ids("forced_bos_token_id", std::span<const TokenId>(&*o.forced_bos_token_id, 1), vocab_size);
  if (o.forced_eos_token_id) generation::check_ids("forced_eos_token_id", *o.forced_eos_token_id, vocab_size);
  if (o.constraint) {
    if (!o.constraint->has_vocabulary())
      throw ArgumentError("constraint has no vocabulary, but this call knows no text: Constraint::on sets it on a tokenizer's");
    if (const std::size_t shortest = o.constraint->shortest(); shortest > max_new_)
      throw ArgumentError("max_new_tokens is " + std::to_string(max_new_) + ", must be at least " + std::to_string(shortest) + " for this constraint");
  }
}

CHIASM_INLINE void DecodingRules::operator()(std::span<const TokenId> history, std::span<float> scores, DecodingScratch& scratch) const {
  const GenerateOptions& o = options_;
  if (o.constraint) scratch.before.assign(scores.begin(), scores.end());
  const std::size_t generated = history.size() - prompt_ids_;
  // The order is the reference's, and matters: a forced token, for one, revives what was forbidden before it.
  if (o.sequence_bias) add_sequence_biases(scores, history, *o.sequence_bias);
  if (*o.repetition_penalty != 1) penalise_repetition(scores, history, *o.repetition_penalty, scratch);
  if (*o.no_repeat_ngram_size > 0) forbid_repeated_ngrams(scores, history, *o.no_repeat_ngram_size);
  add_sequence_biases(scores, history, bad_words_);
  if (o.eos_token_id && generated < min_new_) suppress_tokens(scores, *o.eos_token_id);
  if (o.forced_bos_token_id && history.size() == 1) force_tokens(scores, std::span<const TokenId>(&*o.forced_bos_token_id, 1));
  if (o.forced_eos_token_id && generated + 1 == max_new_) force_tokens(scores, *o.forced_eos_token_id);
  if (*o.remove_invalid_values) remove_invalid_values(scores);
  if (o.exponential_decay_length_penalty && o.eos_token_id && generated > o.exponential_decay_length_penalty->start)
    penalise_length(scores, *o.eos_token_id, o.exponential_decay_length_penalty->factor, generated - o.exponential_decay_length_penalty->start);
  if (o.suppress_tokens) suppress_tokens(scores, *o.suppress_tokens);
  // The first token may be the forced one: then the beginning is behind it.
  const std::size_t beginning = prompt_ids_ <= 1 && o.forced_bos_token_id ? 1 : 0;
  if (o.begin_suppress_tokens && generated == beginning) suppress_tokens(scores, *o.begin_suppress_tokens);
  if (o.logits_processor) o.logits_processor(history, scores);
  if (o.constraint) {
    const std::span<const TokenId> ends = o.eos_token_id ? std::span<const TokenId>(*o.eos_token_id) : std::span<const TokenId>();
    o.constraint->allowed(scratch.answer, history.subspan(prompt_ids_), ends, max_new_ - generated, scratch.allowed);
    generation::keep_allowed(scores, scratch.allowed, scratch.before);
  }

  if (*o.do_sample) {
    // Beams need a token beside the end tokens to go on with.
    const std::size_t at_least = *o.num_beams == 1 ? 1 : o.eos_token_id ? o.eos_token_id->size() + 1 : 2;
    if (*o.temperature != 1) apply_temperature(scores, *o.temperature);
    if (o.top_h) keep_top_h(scores, *o.top_h, scratch);
    if (*o.top_k > 0) keep_top_k(scores, *o.top_k, at_least, scratch);
    if (*o.top_p < 1) keep_top_p(scores, *o.top_p, at_least, scratch);
    if (o.min_p) keep_min_p(scores, *o.min_p, at_least, scratch);
    if (*o.typical_p < 1) keep_typical(scores, *o.typical_p, at_least, scratch);
    if (*o.epsilon_cutoff > 0 && *o.epsilon_cutoff < 1) keep_epsilon(scores, *o.epsilon_cutoff, at_least, scratch);
    if (*o.eta_cutoff > 0 && *o.eta_cutoff < 1) keep_eta(scores, *o.eta_cutoff, at_least, scratch);
  }
  if (*o.renormalize_logits) log_softmax(scores);
}

CHIASM_INLINE DecodingRules DecodingRules::without_callbacks() const {
  DecodingRules rules = *this;
  rules.options_.logits_processor = {};
  rules.options_.stopping_criteria = {};
  return rules;
}

CHIASM_INLINE std::optional<FinishReason> DecodingRules::finished(std::span<const TokenId> history, DecodingScratch& scratch) const {
  if (generation::holds(options_.eos_token_id, history.back())) return FinishReason::eos;
  if (options_.stopping_criteria && options_.stopping_criteria(history.subspan(prompt_ids_))) return FinishReason::stop;
  if (options_.constraint) {
    const std::span<const TokenId> ends = options_.eos_token_id ? std::span<const TokenId>(*options_.eos_token_id) : std::span<const TokenId>();
    if (options_.constraint->complete(scratch.answer, history.subspan(prompt_ids_), ends, max_new_ - (history.size() - prompt_ids_))) return FinishReason::stop;
  }
  if (history.size() - prompt_ids_ >= max_new_) return FinishReason::length;
  return std::nullopt;
}

struct Generation::Ahead : generation::LookAhead {
  using LookAhead::LookAhead;
};

CHIASM_INLINE Generation::Generation(Context& ctx, const LanguageModel& lm, Tensor prompt_embeddings, GenerateOptions options, std::vector<TokenId> prompt_ids,
                                     KvCache cache)
    : ctx_(&ctx),
      lm_(&lm),
      prompt_(std::move(prompt_embeddings)),
      cache_(cache.layers() == 0 ? lm.new_cache() : std::move(cache)),
      rules_(options, lm.vocab_size(), cache_.length() + prompt_.rows(), prompt_ids.size()),
      history_(std::move(prompt_ids)),
      sampler_(*rules_.options().seed) {
  generation::check_prompt(lm, prompt_);
  generation::check_no_text(rules_.options());
  generation::check_one_beam(rules_.options());
  generation::check_draft(rules_.options());
  if (*rules_.options().num_return_sequences > 1)
    throw ArgumentError("num_return_sequences is " + std::to_string(*rules_.options().num_return_sequences) + ", must be 1 here: generate_batch gives more");
  generation::reserve(history_, rules_);
  const GenerateOptions& o = rules_.options();
  if (!ctx.watched() && ctx.most_steps() > 1 && ((o.lookup && o.lookup->max_tokens > 0) || (o.draft && o.draft->max_tokens > 0)))
    ahead_ = std::make_unique<Ahead>(ctx, lm, rules_);
}
CHIASM_INLINE Generation::~Generation() = default;
CHIASM_INLINE Generation::Generation(Generation&& other) noexcept = default;
CHIASM_INLINE Generation& Generation::operator=(Generation&& other) noexcept = default;

CHIASM_INLINE KvCache& Generation::cache() noexcept {
  if (ahead_) ahead_->forget(cache_);
  return cache_;
}

CHIASM_INLINE std::optional<TokenId> Generation::next() {
  if (finish_reason_) return std::nullopt;
  const generation::Stopwatch watch;
  const std::size_t kept = cache_.length(), known = history_.size();
  const bool prefill = !prompt_.empty();
  const auto go_back = [&] {
    if (ahead_) ahead_->forget(cache_);
    cache_.truncate(kept);
    history_.resize(known);
  };
  bool passes = true;
  try {
    ctx_->check_cancelled();
    Tensor row;  // (1, V)
    std::span<float> scores;
    if (prefill) {
      const Tensor hidden = lm_->forward(*ctx_, prompt_, cache_);  // (T, D)
      row = lm_->logits(*ctx_, hidden.slice(hidden.rows() - 1, 1));
      scores = row.values();
    } else if (ahead_) {
      passes = !ahead_->holds_scores();
      scores = ahead_->scores(*ctx_, rules_, history_, sampler_, cache_, times_);
    } else {
      const Tensor embedding = lm_->embed(*ctx_, std::span<const TokenId>(&history_.back(), 1));
      row = lm_->logits(*ctx_, lm_->forward(*ctx_, embedding, cache_));
      scores = row.values();
    }
    ctx_->observe("step_logits", known - rules_.prompt_ids(), row);
    generation::choose(rules_, history_, scores, sampler_, scratch_);
    finish_reason_ = rules_.finished(history_, scratch_);
  } catch (const Cancelled&) {
    go_back();
    finish_reason_ = FinishReason::cancelled;
    return std::nullopt;
  } catch (...) {
    go_back();
    throw;
  }
  if (ahead_) ahead_->chosen(rules_, history_, cache_, times_);
  if (prefill) {
    times_.prefill_tokens = prompt_.rows();
    times_.prefill_seconds = watch.seconds();
    prompt_ = Tensor();
  } else {
    ++times_.decode_tokens;
    times_.decode_passes += passes;
    times_.decode_seconds += watch.seconds();
  }
  return history_.back();
}

CHIASM_INLINE std::vector<GeneratedSequence> generate_batch(Context& ctx, const LanguageModel& lm, std::span<const GenerationPrompt> prompts,
                                                            const GenerateOptions& options) {
  struct Running {
    const DecodingRules* rules;
    std::size_t result;  // where in the results it goes
    std::vector<TokenId> history;
    Sampler sampler;
    KvCache cache;
  };
  std::vector<DecodingRules> rules;
  rules.reserve(prompts.size());
  for (const GenerationPrompt& prompt : prompts) {
    generation::check_prompt(lm, prompt.embeddings);
    rules.emplace_back(options, lm.vocab_size(), prompt.embeddings.rows(), prompt.ids.size());
  }
  if (prompts.empty()) return {};
  generation::check_no_text(rules[0].options());
  generation::check_one_beam(rules[0].options());
  const std::size_t answers = *rules[0].options().num_return_sequences;

  std::vector<GeneratedSequence> results(prompts.size() * answers);
  for (GeneratedSequence& result : results) result.finish_reason = FinishReason::cancelled;
  std::vector<Running> running;
  running.reserve(results.size());
  std::vector<Sequence> batch;
  DecodingScratch scratch;
  const auto store = [&](const Running& sequence) {
    results[sequence.result].ids.assign(sequence.history.begin() + static_cast<std::ptrdiff_t>(sequence.rules->prompt_ids()), sequence.history.end());
  };
  const auto step = [&](Running& sequence, std::span<float> scores) {  // true while it goes on
    generation::choose(*sequence.rules, sequence.history, scores, sequence.sampler, scratch);
    const std::optional<FinishReason> reason = sequence.rules->finished(sequence.history, scratch);
    if (!reason) return true;
    store(sequence);
    results[sequence.result].finish_reason = *reason;
    return false;
  };

  try {
    // Prompts share passes until a pass has rows enough to be bound by arithmetic; more would only take memory.
    constexpr std::size_t rows_per_pass = 1024;
    std::vector<KvCache> caches;
    for (std::size_t begin = 0, end = 0; begin < prompts.size(); begin = end) {
      std::size_t rows = 0;
      for (; end < prompts.size() && (end == begin || rows + prompts[end].embeddings.rows() <= rows_per_pass); ++end) rows += prompts[end].embeddings.rows();
      ctx.check_cancelled();
      Tensor x = ctx.empty(Shape{rows, lm.hidden_size()});  // (sum of T, D)
      caches.clear();
      caches.reserve(end - begin);
      batch.clear();
      std::size_t row = 0;
      for (std::size_t p = begin; p < end; ++p) {
        const View embeddings = prompts[p].embeddings;
        for (std::size_t t = 0; t < embeddings.rows(); ++t) std::copy_n(embeddings.row(t), embeddings.columns(), x.row(row++));
        batch.push_back({&caches.emplace_back(lm.new_cache()), embeddings.rows()});
      }
      const Tensor hidden = lm.forward(ctx, x, batch);
      Tensor last = ctx.empty(Shape{end - begin, lm.hidden_size()});
      row = 0;
      for (std::size_t i = 0; i < batch.size(); ++i) {
        row += batch[i].rows;
        std::copy_n(hidden.row(row - 1), hidden.columns(), last.row(i));
      }
      const Tensor logits = lm.logits(ctx, last);  // (prompts, V)
      Tensor scores = ctx.empty(Shape{logits.columns()});
      for (std::size_t p = begin; p < end; ++p)
        for (std::size_t a = 0; a < answers; ++a) {
          Running& sequence = running.emplace_back(
              Running{&rules[p], p * answers + a, {prompts[p].ids.begin(), prompts[p].ids.end()}, Sampler(*rules[p].options().seed, a), {}});
          generation::reserve(sequence.history, rules[p]);
          std::copy_n(logits.row(p - begin), logits.columns(), scores.data());
          if (!step(sequence, scores.values()))
            running.pop_back();
          else if (a + 1 < answers)
            sequence.cache.copy_tail(ctx, caches[p - begin], 0);
          else
            sequence.cache = std::move(caches[p - begin]);
        }
    }

    std::vector<TokenId> tokens;
    while (!running.empty()) {
      ctx.check_cancelled();
      tokens.clear();
      batch.clear();
      for (Running& sequence : running) {
        tokens.push_back(sequence.history.back());
        batch.push_back({&sequence.cache, 1});
      }
      Tensor logits = lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, tokens), batch));  // (running, V)
      std::size_t left = 0;
      for (std::size_t i = 0; i < running.size(); ++i)
        if (step(running[i], std::span<float>(logits.row(i), logits.columns()))) {
          if (left != i) std::swap(running[left], running[i]);  // no empty ones, should a callback throw
          ++left;
        }
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(left), running.end());
    }
  } catch (const Cancelled&) {
    for (const Running& sequence : running) store(sequence);
  }
  return results;
}

namespace generation {

// A score that nothing real reaches: "not there (yet)". Sums with it lose the other summand's digits, in the reference too.
inline constexpr float beyond = -1e9f;

struct Beam {
  std::vector<TokenId> history;  // prompt ids and generated ones
  float score = 0;
  std::size_t slot = 0;  // whose cache holds its keys and values
};

struct Continuation {
  float score = 0;
  std::size_t beam = 0;
  TokenId token = 0;
  bool stops = false;
};

struct Hypothesis {
  std::vector<TokenId> ids;
  float score = beyond;
  bool finished = false;
};

/// Caches of the beams. A beam that goes on keeps its cache; further children of it take over the cache of a beam that died, from the
/// first position where the two differ.
class BeamCaches {
 public:
  BeamCaches(KvCache prompt, std::size_t count) : caches_(count), ids_(count), prompt_length_(prompt.length()) { caches_[0] = std::move(prompt); }

  KvCache& operator[](std::size_t slot) { return caches_[slot]; }

  /// `beams` carry the slot of their parent, which holds the parent's generated ids; they get slots of their own.
  void follow(Context& ctx, std::vector<Beam>& beams, std::size_t prompt_ids) {
    taken_.assign(caches_.size(), 0);
    homeless_.clear();
    for (Beam& beam : beams) {
      if (taken_[beam.slot])
        homeless_.push_back(&beam);
      else
        ids_[beam.slot].assign(beam.history.begin() + static_cast<std::ptrdiff_t>(prompt_ids), beam.history.end() - 1);
      taken_[beam.slot] = 1;
    }
    std::size_t slot = 0;
    for (Beam* beam : homeless_) {
      while (taken_[slot]) ++slot;
      taken_[slot] = 1;
      std::vector<TokenId>&have = ids_[slot], &want = ids_[beam->slot];
      const auto differ = std::mismatch(have.begin(), have.end(), want.begin(), want.end()).first;
      const std::size_t equal = std::min(caches_[slot].length(), prompt_length_ + static_cast<std::size_t>(differ - have.begin()));
      caches_[slot].copy_tail(ctx, caches_[beam->slot], equal);
      have = want;
      beam->slot = slot;
    }
  }

 private:
  std::vector<KvCache> caches_;
  std::vector<std::vector<TokenId>> ids_;  // generated ids that each cache holds
  std::vector<char> taken_;
  std::vector<Beam*> homeless_;
  std::size_t prompt_length_;
};

/// Orders continuations by score, then by place: the first is the best.
inline bool better(const Continuation& a, const Continuation& b) noexcept {
  if (a.score != b.score) return a.score > b.score;
  return a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
}

/// The `count` best continuations of one beam join `best`, which stays a heap with the worst on top.
inline void collect(std::span<const float> scores, std::size_t beam, float base, std::size_t count, std::vector<Continuation>& best) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const Continuation candidate{scores[i] + base, beam, static_cast<TokenId>(i), false};
    if (std::isnan(candidate.score)) continue;
    if (best.size() < count) {
      best.push_back(candidate);
      std::push_heap(best.begin(), best.end(), better);
    } else if (better(candidate, best.front())) {
      std::pop_heap(best.begin(), best.end(), better);
      best.back() = candidate;
      std::push_heap(best.begin(), best.end(), better);
    }
  }
}

}  // namespace generation

CHIASM_INLINE std::vector<BeamHypothesis> beam_search(Context& ctx, const LanguageModel& lm, View prompt_embeddings, std::span<const TokenId> prompt_ids,
                                                      const GenerateOptions& given) {
  using generation::Beam;
  using generation::beyond;
  using generation::Continuation;
  using generation::Hypothesis;
  generation::check_prompt(lm, prompt_embeddings);
  const DecodingRules rules(given, lm.vocab_size(), prompt_embeddings.rows(), prompt_ids.size());
  const GenerateOptions& options = rules.options();
  generation::check_no_text(options);
  const std::size_t num_beams = *options.num_beams, vocab = lm.vocab_size();
  if (num_beams < 2) throw ArgumentError("num_beams is " + std::to_string(num_beams) + ", must be at least 2 for a beam search");
  const double length_penalty = *options.length_penalty;
  const EarlyStopping early_stopping = *options.early_stopping;
  const auto length_factor = [&](std::size_t length) { return static_cast<float>(std::pow(static_cast<double>(length), length_penalty)); };
  // So many that num_beams can go on even if each beam's best continuations are all end tokens.
  const std::size_t end_tokens = options.eos_token_id ? options.eos_token_id->size() : 0;
  const std::size_t count = std::max<std::size_t>(2, 1 + end_tokens) * num_beams;
  Sampler sampler(*options.seed);

  KvCache prompt_cache = lm.new_cache();
  Tensor logits;  // (beams, V); a single row after the prompt
  {
    const Tensor hidden = lm.forward(ctx, prompt_embeddings, prompt_cache);
    logits = lm.logits(ctx, hidden.slice(hidden.rows() - 1, 1));
  }
  generation::BeamCaches caches(std::move(prompt_cache), num_beams);

  // All beams begin as the prompt; scores make sure that the first one's continuations are the ones taken.
  std::vector<Beam> beams(num_beams), next_beams(num_beams);
  for (std::size_t b = 0; b < num_beams; ++b) {
    beams[b].history.assign(prompt_ids.begin(), prompt_ids.end());
    beams[b].score = b == 0 ? 0 : beyond;
  }
  std::vector<Hypothesis> finished(num_beams), merged;
  std::vector<DecodingScratch> scratch(num_beams);
  std::vector<std::vector<Continuation>> best_of(num_beams);
  std::vector<Continuation> continuations;
  std::vector<std::uint32_t> drawn;
  std::vector<std::size_t> order;
  std::vector<TokenId> tokens;
  std::vector<Sequence> batch;
  bool improvable = true;  // by the early stopping heuristic; once not, never again

  for (std::size_t length = 1;; ++length) {  // tokens that a hypothesis has after this turn
    const auto score_rows = [&](std::size_t begin, std::size_t end) {
      for (std::size_t b = begin; b < end; ++b) {
        const std::span<float> scores(logits.row(b), vocab);
        log_softmax(scores);
        rules(beams[b].history, scores, scratch[b]);
      }
    };
    // A processor of the user's own sees one row after the other, on the calling thread.
    if (options.logits_processor)
      score_rows(0, logits.rows());
    else
      ctx.parallel(logits.rows(), 1, score_rows);
    const auto scores_of = [&](std::size_t b) { return std::span<const float>(logits.row(logits.rows() == 1 ? 0 : b), vocab); };

    continuations.clear();
    if (*options.do_sample) {
      Tensor all = ctx.empty(Shape{beams.size(), vocab});
      for (std::size_t b = 0; b < beams.size(); ++b)
        std::transform(scores_of(b).begin(), scores_of(b).end(), all.row(b), [&](float score) { return score + beams[b].score; });
      sampler.draw(all.values(), count, drawn);
      for (const std::uint32_t index : drawn)
        continuations.push_back({all.data()[index], index / vocab, static_cast<TokenId>(index % vocab), false});
    } else {
      ctx.parallel(beams.size(), 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t b = begin; b < end; ++b) {
          best_of[b].clear();
          generation::collect(scores_of(b), b, beams[b].score, count, best_of[b]);
        }
      });
      for (std::size_t b = 0; b < beams.size(); ++b) continuations.insert(continuations.end(), best_of[b].begin(), best_of[b].end());
      std::sort(continuations.begin(), continuations.end(), generation::better);
      if (continuations.size() > count) continuations.resize(count);
    }
    if (options.constraint) std::erase_if(continuations, [](const Continuation& c) { return c.score == -std::numeric_limits<float>::infinity(); });
    if (continuations.empty()) break;  // every score is NaN

    bool all_stop = true;
    for (Continuation& continuation : continuations) {
      std::vector<TokenId>& history = beams[continuation.beam].history;
      history.push_back(continuation.token);
      continuation.stops = rules.finished(history, scratch[continuation.beam]).has_value();
      history.pop_back();
      all_stop = all_stop && continuation.stops;
    }

    // The finished hypotheses, and the continuations among the first num_beams that stop, compete for num_beams places.
    const bool full = std::all_of(finished.begin(), finished.end(), [](const Hypothesis& h) { return h.finished; });
    merged.clear();
    for (Hypothesis& hypothesis : finished) merged.push_back(std::move(hypothesis));
    for (std::size_t i = 0; i < continuations.size(); ++i) {
      Hypothesis& hypothesis = merged.emplace_back();
      hypothesis.finished = continuations[i].stops && i < num_beams;
      hypothesis.score = continuations[i].score / length_factor(length);
      if (full && early_stopping == EarlyStopping::on) hypothesis.score += beyond;
      if (!improvable) hypothesis.score += beyond;
      if (!hypothesis.finished) hypothesis.score += beyond;
    }
    const auto by_score = [](std::vector<std::size_t>& indices, std::size_t size, auto&& score) {
      indices.resize(size);
      for (std::size_t i = 0; i < size; ++i) indices[i] = i;
      std::stable_sort(indices.begin(), indices.end(), [&](std::size_t a, std::size_t b) { return score(a) > score(b); });
    };
    by_score(order, merged.size(), [&](std::size_t i) { return merged[i].score; });
    for (std::size_t i = 0; i < num_beams; ++i) {
      finished[i] = std::move(merged[order[i]]);
      if (order[i] < num_beams || !finished[i].finished) continue;
      const Continuation& continuation = continuations[order[i] - num_beams];
      const std::vector<TokenId>& history = beams[continuation.beam].history;
      finished[i].ids.assign(history.begin() + static_cast<std::ptrdiff_t>(prompt_ids.size()), history.end());
      finished[i].ids.push_back(continuation.token);
    }

    // The best that do not stop go on.
    const auto running_score = [&](std::size_t i) { return continuations[i].stops ? continuations[i].score + beyond : continuations[i].score; };
    by_score(order, continuations.size(), running_score);
    // Beyond its end a constraint has nothing to go on with.
    if (options.constraint && !all_stop) std::erase_if(order, [&](std::size_t i) { return continuations[i].stops; });
    next_beams.resize(std::min(num_beams, order.size()));
    for (std::size_t b = 0; b < next_beams.size(); ++b) {
      const Continuation& continuation = continuations[order[b]];
      const Beam& parent = beams[continuation.beam];
      next_beams[b].history.assign(parent.history.begin(), parent.history.end());
      next_beams[b].history.push_back(continuation.token);
      next_beams[b].score = running_score(order[b]);
      next_beams[b].slot = parent.slot;
    }
    std::swap(beams, next_beams);

    const std::size_t hoped_for = early_stopping == EarlyStopping::never && length_penalty > 0 ? rules.max_new_tokens() : length;
    const float best_possible = beams[0].score / length_factor(hoped_for), worst = finished.back().score;
    improvable = improvable && std::any_of(finished.begin(), finished.end(), [&](const Hypothesis& h) { return best_possible > (h.finished ? worst : beyond); });
    const bool complete = early_stopping == EarlyStopping::on && std::all_of(finished.begin(), finished.end(), [](const Hypothesis& h) { return h.finished; });
    if (!improvable || complete || all_stop) break;

    ctx.check_cancelled();
    caches.follow(ctx, beams, prompt_ids.size());
    tokens.clear();
    batch.clear();
    for (const Beam& beam : beams) {
      tokens.push_back(beam.history.back());
      batch.push_back({&caches[beam.slot], 1});
    }
    logits = lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, tokens), batch));  // (beams, V)
  }

  std::vector<BeamHypothesis> results;
  for (Hypothesis& hypothesis : finished)
    if (hypothesis.finished && results.size() < *options.num_return_sequences) results.push_back({std::move(hypothesis.ids), hypothesis.score});
  if (results.empty()) {
    const std::vector<TokenId>& history = beams[0].history;
    results.push_back({{history.begin() + static_cast<std::ptrdiff_t>(prompt_ids.size()), history.end()}, beams[0].score});
  }
  return results;
}

}  // namespace chiasm
