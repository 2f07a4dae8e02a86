/// LookAhead: guesses at an answer's next tokens, what they are worth, and the passes of a language model that check several at once. Part of generation.ipp.
/// Leviathan et al., arXiv:2211.17192; with the target's own choice in place of accepting and rejecting, so that no token changes.
#pragma once

#include <chiasm/kernels/table.hpp>
#include <chiasm/pipelines/generation.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <utility>

namespace chiasm::inline CHIASM_ABI {
namespace generation {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// How often guesses of one kind are right. The last twenty or so count.
class HitRate {
 public:
  explicit HitRate(double expected = 0.5) : right_(2 * expected) {}
  double value() const { return right_ / all_; }
  void count(bool right) {
    right_ = 0.95 * right_ + (right ? 1 : 0);
    all_ = 0.95 * all_ + 1;
  }

 private:
  double right_, all_ = 2;
};

/// Seconds that passes of so many rows take: of the fastest ones, which other load on the machine changes least.
class PassTimes {
 public:
  explicit PassTimes(std::size_t most_rows) : seconds_(most_rows + 1, 0.0) {}

  bool knows(std::size_t rows) const { return seconds_[rows] > 0; }
  void record(std::size_t rows, double seconds) {
    double& known = seconds_[rows];  // grows a little each time: caches become longer
    known = known > 0 ? std::min(seconds, 1.03 * known) : seconds;
  }
  /// Where it is not known: on the line through those that are. To be asked once knows(1).
  double of(std::size_t rows) const {
    if (knows(rows)) return seconds_[rows];
    std::size_t low = rows, high = rows;
    while (low > 1 && !knows(low)) --low;
    while (high < seconds_.size() && !knows(high)) ++high;
    const auto steps = static_cast<double>(rows - low);
    if (high < seconds_.size()) return seconds_[low] + (seconds_[high] - seconds_[low]) * steps / static_cast<double>(high - low);
    const double rise = low > 1 ? (seconds_[low] - seconds_[1]) / static_cast<double>(low - 1) : 0;
    return seconds_[low] + std::max(rise, row * seconds_[1]) * steps;
  }

  /// Guesses that may be tried: what is far beyond the passes so far is not known well enough.
  std::size_t reach() const {
    std::size_t rows = seconds_.size() - 1;
    while (rows > 0 && !knows(rows)) --rows;
    return rows == 0 ? 0 : 2 * rows - 1;
  }

  /// How many of these guesses, of which the first i + 1 are right with probability right[i], give the most tokens a second.
  std::size_t best(std::span<const double> right) {
    if (!knows(1)) return 0;
    std::size_t best = 0;
    double tokens = 1, highest = 1 / of(1);
    for (std::size_t k = 0; k < right.size() && k < reach(); ++k) {
      tokens += right[k];
      if (const double rate = tokens / of(k + 2); rate > highest) {
        highest = rate;
        best = k + 1;
      }
    }
    // A pass that was slow once, for whatever reason, is tried again some time.
    if (best == 0)
      for (std::size_t rows = 2; rows < seconds_.size(); ++rows)
        seconds_[rows] = std::max(0.995 * seconds_[rows], std::min(seconds_[rows], seconds_[1] * (1 + row * static_cast<double>(rows - 1))));
    return best;
  }

 private:
  static constexpr double row = 0.02;  // of a pass, at least: reading the weights is all the time
  std::vector<double> seconds_;
};

/// Where the last tokens of a text stood before.
struct Repetition {
  std::size_t next = 0, length = 0;  // of the token behind it; tokens that are the same
};

/// The longest one of at most `most` tokens, and of these the last. Negative ids are like nothing.
inline Repetition repetition(std::span<const TokenId> text, std::size_t most) {
  Repetition best;
  if (text.empty() || text.back() < 0) return best;
  for (std::size_t end = text.size() - 1; end-- > 0 && best.length < most;) {
    std::size_t length = 0;
    while (length < most && length <= end && text[end - length] == text[text.size() - 1 - length] && text[end - length] >= 0) ++length;
    if (length > best.length) best = {end + 1, length};
  }
  return best;
}

/// A smaller model that answers the same prompt, a few tokens ahead.
class DraftModel {
 public:
  DraftModel(const Draft& draft, const DecodingRules& rules)
      : lm_(draft.model), prompt_(draft.prompt), rules_(rules.without_callbacks()), adapts_(draft.adapt) {
    for (std::size_t i = 0; i < kinds; ++i) rates_[i] = HitRate((static_cast<double>(i) + 0.5) / kinds);
  }

  /// Guesses at what follows `history`, at most `most`, and the kind of each: how sure the model is.
  void guess(Context& ctx, std::span<const TokenId> history, const Sampler& sampler, std::size_t most, const PassTimes& passes, std::vector<TokenId>& guesses,
             std::vector<double>& right) {
    guesses.clear();
    right.clear();
    kinds_of_.clear();
    seconds_ = 0;
    if (refused_ || (adapts_ && pause_ > 0)) {
      pause_ -= pause_ > 0;
      return;
    }
    try {
      run(ctx, history, sampler, most, passes, guesses, right);
    } catch (const Cancelled&) {
      throw;
    } catch (const Error&) {  // a token that it does not know, a position that it does not have: it only was to help
      refused_ = true;
      guesses.clear();
      right.clear();
    }
  }

  void count(std::size_t guess, bool right) { rates_[kinds_of_[guess]].count(right); }

  /// What became of the guesses: `accepted` tokens of a pass of `rows` rows. A draft that costs more than it brings rests for a while.
  void settle(std::size_t accepted, std::size_t rows, const PassTimes& passes) {
    if (!passes.knows(1)) return;
    const double gain = static_cast<double>(accepted) * passes.of(1) - seconds_ - (passes.of(rows) - passes.of(1));
    balance_ = 0.8 * balance_ + gain;
    if (balance_ >= 0) {
      rest_ = 8;
      return;
    }
    balance_ = 0;
    pause_ = rest_;
    rest_ = std::min<std::size_t>(2 * rest_, 256);
  }

 private:
  static constexpr std::size_t kinds = 8;

  void run(Context& ctx, std::span<const TokenId> history, const Sampler& sampler, std::size_t most, const PassTimes& passes, std::vector<TokenId>& guesses,
           std::vector<double>& right) {
    if (cache_.layers() == 0) read_prompt(ctx, history.first(rules_.prompt_ids()));
    const std::span<const TokenId> answer = history.subspan(rules_.prompt_ids());
    const Stopwatch watch;
    // What was guessed wrong is taken back. At least the last token is read again: its scores are wanted.
    const auto differ = std::mismatch(read_.begin(), read_.end(), answer.begin(), answer.end() - 1).first;
    read_.erase(differ, read_.end());
    cache_.truncate(prompt_length_ + read_.size());
    history_.assign(history.begin(), history.end());
    sampler_ = sampler;
    double chance = 1;
    while (guesses.size() < most) {
      const Stopwatch step;
      const std::span<const TokenId> unread = std::span<const TokenId>(history_).subspan(rules_.prompt_ids() + read_.size());
      const std::size_t count = unread.size();
      const Sequence rows{&cache_, count, count <= ctx.most_steps()};
      const Tensor hidden = lm_->forward(ctx, lm_->embed(ctx, unread), std::span<const Sequence>(&rows, 1));
      read_.insert(read_.end(), unread.begin(), unread.end());
      Tensor logits = lm_->logits(ctx, hidden.slice(count - 1, 1));
      const std::span<float> scores = logits.values();
      rules_(history_, scores, scratch_);
      const TokenId id = *rules_.options().do_sample ? sampler_(scores) : argmax(scores);
      ctx.kernels().softmax(scores.data(), scores.data(), scores.size());
      const double sure = std::min(static_cast<double>(scores[static_cast<std::size_t>(id)]), 0.999);
      const auto kind = static_cast<std::size_t>((sure > 0 ? sure : 0) * kinds);
      chance *= rates_[kind].value();
      guesses.push_back(id);
      right.push_back(chance);
      kinds_of_.push_back(kind);
      history_.push_back(id);
      if (count == 1) step_seconds_ = step_seconds_ > 0 ? std::min(step.seconds(), 1.03 * step_seconds_) : step.seconds();
      // One more is worth its time as long as it saves more than that.
      const std::size_t n = guesses.size();
      if (adapts_ && n < most && passes.knows(1) && chance * passes.of(1) < step_seconds_ + passes.of(n + 2) - passes.of(n + 1)) break;
    }
    seconds_ = watch.seconds();
  }

  void read_prompt(Context& ctx, std::span<const TokenId> ids) {
    cache_ = lm_->new_cache();
    if (prompt_ != nullptr) {
      if (prompt_->size() > 0) (void)lm_->forward(ctx, *prompt_, cache_);
    } else {
      std::vector<TokenId> known;
      for (const TokenId id : ids)
        if (id >= 0 && static_cast<std::size_t>(id) < lm_->vocab_size()) known.push_back(id);
      if (!known.empty()) (void)lm_->forward(ctx, lm_->embed(ctx, known), cache_);
    }
    prompt_length_ = cache_.length();
  }

  const LanguageModel* lm_;
  std::shared_ptr<const Tensor> prompt_;
  DecodingRules rules_;
  DecodingScratch scratch_;
  Sampler sampler_;
  KvCache cache_;
  std::size_t prompt_length_ = 0;
  std::vector<TokenId> read_, history_;  // the answer's tokens that the cache holds; the answer with its guesses
  std::array<HitRate, kinds> rates_;
  std::vector<std::size_t> kinds_of_;  // of the guesses
  double step_seconds_ = 0, seconds_ = 0, balance_ = 0;
  std::size_t pause_ = 0, rest_ = 8;
  bool adapts_ = true, refused_ = false;
};

/// Gives a Generation the scores of its steps, one row after the other, out of passes that read the last token and guesses at what follows it. The rows up to
/// the first wrong guess are what passes of one row give; then the cache is cut there.
class LookAhead {
 public:
  LookAhead(const Context& ctx, const LanguageModel& lm, const DecodingRules& rules)
      : passes_(ctx.most_steps()), lm_(&lm), vocab_(lm.vocab_size()), most_rows_(ctx.most_steps()) {
    const GenerateOptions& o = rules.options();
    if (o.lookup) lookup_ = *o.lookup;
    else lookup_.max_tokens = 0;
    if (o.draft && o.draft->max_tokens > 0) {
      draft_.emplace(*o.draft, rules);
      most_drafted_ = o.draft->max_tokens;
    }
    for (std::size_t i = 0; i < rates_.size(); ++i) rates_[i] = HitRate(i < 2 ? 0.4 : i < 4 ? 0.6 : 0.75);
  }

  /// Whether the next step's scores are there.
  bool holds_scores() const noexcept { return row_ < rows_; }

  /// The scores of the token behind `history`, whose last one `cache` lacks (without the rows that are held). Throws what the model throws; the cache
  /// then is as before.
  std::span<float> scores(Context& ctx, const DecodingRules& rules, std::span<const TokenId> history, const Sampler& sampler, KvCache& cache,
                          GenerationTimes& times) {
    if (!holds_scores()) {
      guess(ctx, rules, history, sampler);
      pass(ctx, history.back(), cache);
      times.proposed_tokens += rows_ - 1;
    }
    return {logits_.row(row_), logits_.columns()};
  }

  /// What was chosen from them. To be called for the first token too, which comes from elsewhere.
  void chosen(const DecodingRules& rules, std::span<const TokenId> history, KvCache& cache, GenerationTimes& times) {
    const TokenId id = history.back();
    if (lookup_.max_tokens > 0) {
      if (text_.empty()) begin_text(history.first(rules.prompt_ids()));
      text_.push_back(valid(id));
    }
    if (idle_guess_ >= 0) rate_of_lookup().count(idle_guess_ == id);  // guesses that were not worth a row teach, too
    idle_guess_ = -1;
    if (!holds_scores()) return;
    const bool guessed = row_ + 1 < rows_, right = guessed && guesses_[row_] == id;
    if (guessed) {
      if (drafted_) draft_->count(row_, right);
      else rate_of_lookup().count(right);
    }
    times.accepted_tokens += right;
    ++row_;
    if (right) return;
    if (drafted_) draft_->settle(row_ - 1, rows_, passes_);
    forget(cache);
  }

  /// The cache becomes what it is without rows that no token has been chosen from.
  void forget(KvCache& cache) noexcept {
    if (rows_ > 0) cache.truncate(begin_ + row_);
    rows_ = row_ = 0;
  }

 private:
  TokenId valid(TokenId id) const { return id >= 0 && static_cast<std::size_t>(id) < vocab_ ? id : -1; }
  HitRate& rate_of_lookup() { return rates_[std::min(repeated_, rates_.size() - 1)]; }

  void begin_text(std::span<const TokenId> prompt) {
    if (lookup_.text.empty()) lookup_.text.assign(prompt.begin(), prompt.end());
    text_ = std::move(lookup_.text);
    text_.reserve(text_.size() + 256);
    for (TokenId& id : text_) id = valid(id);
  }

  void guess(Context& ctx, const DecodingRules& rules, std::span<const TokenId> history, const Sampler& sampler) {
    guesses_.clear();
    drafted_ = false;
    // No guess at a token that cannot be in the answer: the one that this pass gives anyway may be the last.
    const std::size_t left = rules.max_new_tokens() - (history.size() - rules.prompt_ids()) - 1, most = std::min(left, most_rows_ - 1);
    if (refused_ || most == 0) return;
    // A pass of one row now and then tells what guesses save.
    const bool draft_adapts = rules.options().draft && rules.options().draft->adapt;
    if ((lookup_.adapt || draft_adapts) && guessing_passes_ > 64) return;
    if (lookup_.max_tokens > 0) {
      look_up(std::min(most, lookup_.max_tokens));
      if (!guesses_.empty()) {
        const double one = rate_of_lookup().value();
        right_.assign(guesses_.size(), one);
        for (std::size_t i = 1; i < right_.size(); ++i) right_[i] = right_[i - 1] * one;
        const std::size_t worth = lookup_.adapt ? passes_.best(right_) : guesses_.size();
        if (worth == 0) idle_guess_ = guesses_.front();
        guesses_.resize(worth);
      }
    }
    if (guesses_.empty() && draft_ && (passes_.knows(1) || !draft_adapts)) {
      draft_->guess(ctx, history, sampler, std::min({most, most_drafted_, draft_adapts ? passes_.reach() : most}), passes_, guesses_, right_);
      drafted_ = !guesses_.empty();
      for (std::size_t i = 0; i < guesses_.size(); ++i)
        if (valid(guesses_[i]) < 0) guesses_.resize(i), right_.resize(i);
      if (draft_adapts) guesses_.resize(passes_.best(right_));
      if (drafted_ && guesses_.empty()) draft_->settle(0, 1, passes_);
      drafted_ = !guesses_.empty();
    }
    // Nothing follows an end.
    const auto& ends = rules.options().eos_token_id;
    for (std::size_t i = 0; ends && i < guesses_.size(); ++i)
      if (std::find(ends->begin(), ends->end(), guesses_[i]) != ends->end()) guesses_.resize(i + 1);
  }

  void look_up(std::size_t most) {
    const Repetition found = repetition(text_, lookup_.max_ngram);
    repeated_ = found.length;
    if (found.length < lookup_.min_ngram) return;
    // A repetition that reaches the text's end goes on into the guesses themselves.
    for (std::size_t at = found.next; guesses_.size() < most; ++at) {
      const TokenId id = at < text_.size() ? text_[at] : guesses_[at - text_.size()];
      if (id < 0) return;
      guesses_.push_back(id);
    }
  }

  void pass(Context& ctx, TokenId last, KvCache& cache) {
    begin_ = cache.length();
    const auto run = [&] {
      read_.assign(1, last);
      read_.insert(read_.end(), guesses_.begin(), guesses_.end());
      const Stopwatch watch;
      const Sequence rows{&cache, read_.size(), read_.size() > 1};
      logits_ = lm_->logits(ctx, lm_->forward(ctx, lm_->embed(ctx, read_), std::span<const Sequence>(&rows, 1)));  // (1 + guesses, V)
      passes_.record(read_.size(), watch.seconds());
      guessing_passes_ = guesses_.empty() ? 0 : guessing_passes_ + 1;
    };
    try {
      run();
    } catch (const Cancelled&) {
      cache.truncate(begin_);
      throw;
    } catch (const Error&) {
      cache.truncate(begin_);
      if (guesses_.empty()) throw;
      refused_ = true;  // positions behind the model's last one, which the answer may never reach
      guesses_.clear();
      run();
    }
    rows_ = read_.size();
    row_ = 0;
  }

  PromptLookup lookup_;
  std::vector<TokenId> text_;  // what is searched: prompt and answer
  std::array<HitRate, 17> rates_;  // by the length of the repetition
  std::size_t repeated_ = 0, guessing_passes_ = 0;  // the latter in a row
  TokenId idle_guess_ = -1;
  std::optional<DraftModel> draft_;
  std::size_t most_drafted_ = 0;
  bool drafted_ = false, refused_ = false;

  std::vector<TokenId> guesses_, read_;
  std::vector<double> right_;
  PassTimes passes_;
  Tensor logits_;                                // (rows, V)
  std::size_t begin_ = 0, row_ = 0, rows_ = 0;  // positions before the pass; the next row to choose from, and the end of rows
  const LanguageModel* lm_;
  std::size_t vocab_, most_rows_;
};

}  // namespace generation
}  // namespace chiasm
