/// Sampling: from a row of scores to the next token. The functions edit the row in place; -inf means never. Semantics are those of
/// the logits processors of Hugging Face transformers 5.23; papers are named where a method has one.
#pragma once

#include <chiasm/core/token_id.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// Memory that the functions below reuse from call to call. One per thread; its contents mean nothing between calls.
struct SamplingScratch {
  std::vector<std::uint32_t> order;
  std::vector<float> values;
  std::vector<std::uint8_t> marks;
};

/// `bias` is added to the score of the last of `ids` wherever the history ends with the ones before it. A bias of -inf forbids the sequence.
struct SequenceBias {
  std::vector<TokenId> ids;
  double bias = 0;
};

// Ids outside the row (image placeholders, a tokenizer that is larger than the model) take no part anywhere below.

/// Scores of tokens in `history` are divided by `penalty` if positive, multiplied if negative. CTRL, arXiv:1909.05858.
void penalise_repetition(std::span<float> scores, std::span<const TokenId> history, double penalty, SamplingScratch& scratch);
/// Forbids every token that would complete an n-gram of length `size` which `history` already holds.
void forbid_repeated_ngrams(std::span<float> scores, std::span<const TokenId> history, std::size_t size);
/// Adds the bias of every sequence that the next token could complete.
void add_sequence_biases(std::span<float> scores, std::span<const TokenId> history, std::span<const SequenceBias> biases);
/// Forbids these tokens.
void suppress_tokens(std::span<float> scores, std::span<const TokenId> ids);
/// Forbids all but these tokens, which get score 0.
void force_tokens(std::span<float> scores, std::span<const TokenId> ids);
/// NaN becomes 0, +-inf the largest and smallest finite number.
void remove_invalid_values(std::span<float> scores);
/// Adds |score| * (factor^steps - 1) to these (end of sequence) tokens.
void penalise_length(std::span<float> scores, std::span<const TokenId> ids, double factor, std::size_t steps);
/// Scores become log-probabilities.
void log_softmax(std::span<float> scores);

/// Divides the scores by `temperature`.
void apply_temperature(std::span<float> scores, double temperature);
// The filters of sampling: what they do not keep is forbidden. Each keeps at least the `at_least` most probable tokens.

/// Keeps the k highest scores, and those equal to the lowest of them.
void keep_top_k(std::span<float> scores, std::size_t k, std::size_t at_least, SamplingScratch& scratch);
/// Nucleus sampling: keeps the most probable tokens that together reach probability p. arXiv:1904.09751.
void keep_top_p(std::span<float> scores, double p, std::size_t at_least, SamplingScratch& scratch);
/// Keeps tokens with at least `p` times the probability of the most probable one. arXiv:2407.01082.
void keep_min_p(std::span<float> scores, double p, std::size_t at_least, SamplingScratch& scratch);
/// Top-H: of the 100 most probable tokens keeps those whose entropy adds up to at most `h` times the entropy of all. arXiv:2509.02510.
void keep_top_h(std::span<float> scores, double h, SamplingScratch& scratch);
/// Locally typical sampling: keeps the tokens of mass `p` whose surprise is closest to the entropy. arXiv:2202.00666.
void keep_typical(std::span<float> scores, double p, std::size_t at_least, SamplingScratch& scratch);
/// Truncation below an absolute probability, and below one that follows the entropy. arXiv:2210.15191.
void keep_epsilon(std::span<float> scores, double epsilon, std::size_t at_least, SamplingScratch& scratch);
void keep_eta(std::span<float> scores, double epsilon, std::size_t at_least, SamplingScratch& scratch);

/// The highest score; the first of equal ones. 0 for an empty row.
TokenId argmax(std::span<const float> scores) noexcept;

/// Draws from softmax(scores). Same seed and scores: same draws on every platform, because the probabilities are rounded to integers
/// (a grain of 2^-40 of the most probable one, coarser beyond 2^23 scores) before the draw, so that the last bits of exp() do not matter.
class Sampler {
 public:
  /// Streams of one seed are independent of each other.
  explicit Sampler(std::uint64_t seed = 0, std::uint64_t stream = 0) noexcept;

  /// One token. The first of the highest scores where no score is finite.
  TokenId operator()(std::span<const float> scores);
  /// `count` different indices, drawn one after the other without replacement, in the order of the draws. Where fewer have a
  /// probability above zero, the remaining ones follow by score.
  void draw(std::span<const float> scores, std::size_t count, std::vector<std::uint32_t>& indices);

  /// 64 random bits (SplitMix64), and a number below `bound` (which is above 0), without bias.
  std::uint64_t bits() noexcept;
  std::uint64_t below(std::uint64_t bound) noexcept;

 private:
  std::uint64_t weigh(std::span<const float> scores);  // fills weights_, returns their sum

  std::uint64_t state_;
  std::vector<std::uint64_t> weights_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/sampling.ipp>
#endif
