#pragma once

#include <chiasm/nn/sampling.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace chiasm::inline CHIASM_ABI {

namespace sampling {

inline constexpr float never = -std::numeric_limits<float>::infinity();

inline bool inside(TokenId id, std::size_t size) noexcept { return id >= 0 && static_cast<std::size_t>(id) < size; }

inline float maximum(std::span<const float> scores) noexcept {
  float highest = never;
  for (const float score : scores) highest = score > highest ? score : highest;
  return highest;
}

/// The k-th highest score, 1 <= k <= size. A heap of the k highest: one comparison for nearly every score of a large vocabulary.
inline float kth_highest(std::span<const float> scores, std::size_t k, std::vector<float>& heap) {
  const auto lowest_on_top = [](float a, float b) { return a > b; };
  heap.assign(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(k));
  std::make_heap(heap.begin(), heap.end(), lowest_on_top);
  for (const float score : scores.subspan(k))
    if (score > heap.front()) {
      std::pop_heap(heap.begin(), heap.end(), lowest_on_top);
      heap.back() = score;
      std::push_heap(heap.begin(), heap.end(), lowest_on_top);
    }
  return heap.front();
}

/// Sum of exp(score - highest): the denominator of softmax.
inline double partition(std::span<const float> scores, float highest) {
  double sum = 0;
  for (const float score : scores)
    if (score > never) sum += static_cast<double>(std::exp(score - highest));
  return sum;
}

/// Entropy of softmax(scores) in nats.
inline double entropy(std::span<const float> scores, float highest, double sum) {
  double weighted = 0;
  for (const float score : scores)
    if (score > never) weighted += static_cast<double>(std::exp(score - highest)) * static_cast<double>(score - highest);
  return std::log(sum) - weighted / sum;
}

/// Forbids tokens less probable than `least`, but none of the `at_least` highest.
inline void keep_probable(std::span<float> scores, double least, float highest, double sum, std::size_t at_least, SamplingScratch& scratch) {
  const float safe = kth_highest(scores, std::min(std::max<std::size_t>(at_least, 1), scores.size()), scratch.values);
  for (float& score : scores)
    if (score < safe && static_cast<double>(std::exp(score - highest)) / sum < least) score = never;
}

}  // namespace sampling

CHIASM_INLINE void penalise_repetition(std::span<float> scores, std::span<const TokenId> history, double penalty, SamplingScratch& scratch) {
  const auto factor = static_cast<float>(penalty);
  scratch.marks.resize(std::max(scratch.marks.size(), scores.size()), 0);
  for (const TokenId id : history) {
    if (!sampling::inside(id, scores.size())) continue;
    const auto i = static_cast<std::size_t>(id);
    if (scratch.marks[i]) continue;
    scratch.marks[i] = 1;
    scores[i] = scores[i] < 0 ? scores[i] * factor : scores[i] / factor;
  }
  for (const TokenId id : history)
    if (sampling::inside(id, scores.size())) scratch.marks[static_cast<std::size_t>(id)] = 0;
}

CHIASM_INLINE void forbid_repeated_ngrams(std::span<float> scores, std::span<const TokenId> history, std::size_t size) {
  if (size == 0 || history.size() < size) return;
  const auto prefix = history.last(size - 1);
  for (std::size_t i = 0; i + size <= history.size(); ++i) {
    const TokenId last = history[i + size - 1];
    if (sampling::inside(last, scores.size()) && std::equal(prefix.begin(), prefix.end(), history.begin() + static_cast<std::ptrdiff_t>(i)))
      scores[static_cast<std::size_t>(last)] = sampling::never;
  }
}

CHIASM_INLINE void add_sequence_biases(std::span<float> scores, std::span<const TokenId> history, std::span<const SequenceBias> biases) {
  for (const SequenceBias& sequence : biases) {
    if (sequence.ids.empty() || sequence.ids.size() - 1 > history.size() || !sampling::inside(sequence.ids.back(), scores.size())) continue;
    if (std::equal(sequence.ids.begin(), sequence.ids.end() - 1, history.end() - static_cast<std::ptrdiff_t>(sequence.ids.size() - 1)))
      scores[static_cast<std::size_t>(sequence.ids.back())] += static_cast<float>(sequence.bias);
  }
}

CHIASM_INLINE void suppress_tokens(std::span<float> scores, std::span<const TokenId> ids) {
  for (const TokenId id : ids)
    if (sampling::inside(id, scores.size())) scores[static_cast<std::size_t>(id)] = sampling::never;
}

CHIASM_INLINE void force_tokens(std::span<float> scores, std::span<const TokenId> ids) {
  std::fill(scores.begin(), scores.end(), sampling::never);
  for (const TokenId id : ids)
    if (sampling::inside(id, scores.size())) scores[static_cast<std::size_t>(id)] = 0;
}

CHIASM_INLINE void remove_invalid_values(std::span<float> scores) {
  constexpr float largest = std::numeric_limits<float>::max();
  for (float& score : scores) score = std::isnan(score) ? 0 : std::clamp(score, -largest, largest);
}

CHIASM_INLINE void penalise_length(std::span<float> scores, std::span<const TokenId> ids, double factor, std::size_t steps) {
  const auto share = static_cast<float>(std::pow(factor, static_cast<double>(steps)) - 1);
  for (const TokenId id : ids)
    if (sampling::inside(id, scores.size()) && std::isfinite(scores[static_cast<std::size_t>(id)]))
      scores[static_cast<std::size_t>(id)] += std::abs(scores[static_cast<std::size_t>(id)]) * share;
}

CHIASM_INLINE void log_softmax(std::span<float> scores) {
  const float highest = sampling::maximum(scores);
  const auto log_sum = static_cast<float>(std::log(sampling::partition(scores, highest)));
  for (float& score : scores) score = score - highest - log_sum;
}

CHIASM_INLINE void apply_temperature(std::span<float> scores, double temperature) {
  const auto divisor = static_cast<float>(temperature);
  for (float& score : scores) score /= divisor;
}

CHIASM_INLINE void keep_top_k(std::span<float> scores, std::size_t k, std::size_t at_least, SamplingScratch& scratch) {
  k = std::max({k, at_least, std::size_t{1}});
  if (k >= scores.size()) return;
  const float lowest = sampling::kth_highest(scores, k, scratch.values);
  for (float& score : scores)
    if (score < lowest) score = sampling::never;
}

CHIASM_INLINE void keep_top_p(std::span<float> scores, double p, std::size_t at_least, SamplingScratch& scratch) {
  const float highest = sampling::maximum(scores);
  if (!std::isfinite(highest)) return;
  at_least = std::max<std::size_t>(at_least, 1);
  // No full sort: the tokens are counted in steps of 1/8 nat below the highest, and only the step in which the mass is reached is sorted.
  constexpr std::size_t steps = 256;
  const auto step_of = [highest](float score) { return static_cast<std::size_t>(std::min((highest - score) * 8, static_cast<float>(steps - 1))); };
  std::array<double, steps> mass{};
  std::array<std::size_t, steps> count{};
  double total = 0;
  for (const float score : scores) {
    if (!(score > sampling::never)) continue;
    const std::size_t step = step_of(score);
    const auto weight = static_cast<double>(std::exp(score - highest));
    mass[step] += weight;
    total += weight;
    ++count[step];
  }
  const double target = p * total;
  double above = 0;
  std::size_t kept = 0, last = 0;
  for (; last + 1 < steps && (kept + count[last] < at_least || above + mass[last] < target); ++last) {
    above += mass[last];
    kept += count[last];
  }
  std::vector<std::uint32_t>& order = scratch.order;
  order.clear();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!(scores[i] > sampling::never)) continue;
    const std::size_t step = step_of(scores[i]);
    if (step == last) order.push_back(static_cast<std::uint32_t>(i));
    if (step > last) scores[i] = sampling::never;
  }
  // Of equal scores the later index comes first, as it does at the end of a stable ascending sort.
  std::sort(order.begin(), order.end(), [scores](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a > b; });
  for (const std::uint32_t i : order) {
    if (kept >= at_least && above >= target) {
      scores[i] = sampling::never;
    } else {
      above += static_cast<double>(std::exp(scores[i] - highest));
      ++kept;
    }
  }
}

CHIASM_INLINE void keep_min_p(std::span<float> scores, double p, std::size_t at_least, SamplingScratch& scratch) {
  if (scores.empty()) return;
  const float safe = sampling::kth_highest(scores, std::min(std::max<std::size_t>(at_least, 1), scores.size()), scratch.values);
  const float highest = sampling::maximum(scores), least = static_cast<float>(p);
  for (float& score : scores)
    if (score < safe && std::exp(score - highest) < least) score = sampling::never;
}

CHIASM_INLINE void keep_top_h(std::span<float> scores, double h, SamplingScratch& scratch) {
  if (scores.empty()) return;
  const std::size_t count = std::min<std::size_t>(scores.size(), 100);
  std::vector<std::uint32_t>& order = scratch.order;
  order.resize(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [scores](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  std::vector<float>& top = scratch.values;
  top.resize(count);
  for (std::size_t i = 0; i < count; ++i) top[i] = scores[order[i]];
  const double sum = sampling::partition(top, top[0]);
  const double limit = sampling::entropy(top, top[0], sum) * h;
  double seen = 0;
  std::size_t kept = 0;
  for (; kept < count && top[kept] > sampling::never; ++kept) {
    const double probability = static_cast<double>(std::exp(top[kept] - top[0])) / sum;
    if (probability > 0) seen -= probability * std::log(probability);
    if (kept > 0 && h < 1 && seen > limit) break;
  }
  kept = std::max<std::size_t>(kept, 1);
  for (std::size_t i = kept; i < order.size(); ++i) scores[order[i]] = sampling::never;
}

CHIASM_INLINE void keep_typical(std::span<float> scores, double p, std::size_t at_least, SamplingScratch& scratch) {
  const float highest = sampling::maximum(scores);
  const double sum = sampling::partition(scores, highest), log_sum = std::log(sum);
  const double expected = sampling::entropy(scores, highest, sum);
  std::vector<std::uint32_t>& order = scratch.order;
  std::vector<float>& distance = scratch.values;  // of a token's surprise from the expected one
  order.clear();
  distance.resize(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!(scores[i] > sampling::never)) continue;
    order.push_back(static_cast<std::uint32_t>(i));
    distance[i] = static_cast<float>(std::abs(log_sum - static_cast<double>(scores[i] - highest) - expected));
  }
  if (order.empty()) return;
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return distance[a] != distance[b] ? distance[a] < distance[b] : a < b; });
  std::size_t last = 0;
  for (double mass = 0; last < order.size(); ++last) {
    mass += static_cast<double>(std::exp(scores[order[last]] - highest)) / sum;
    if (mass >= p) break;
  }
  const float limit = distance[order[std::min(last, order.size() - 1)]];
  for (std::size_t i = std::max<std::size_t>(at_least, 1); i < order.size(); ++i)
    if (distance[order[i]] > limit) scores[order[i]] = sampling::never;
}

CHIASM_INLINE void keep_epsilon(std::span<float> scores, double epsilon, std::size_t at_least, SamplingScratch& scratch) {
  if (scores.empty()) return;
  const float highest = sampling::maximum(scores);
  sampling::keep_probable(scores, epsilon, highest, sampling::partition(scores, highest), at_least, scratch);
}

CHIASM_INLINE void keep_eta(std::span<float> scores, double epsilon, std::size_t at_least, SamplingScratch& scratch) {
  if (scores.empty()) return;
  const float highest = sampling::maximum(scores);
  const double sum = sampling::partition(scores, highest);
  const double eta = std::min(epsilon, std::sqrt(epsilon) * std::exp(-sampling::entropy(scores, highest, sum)));
  sampling::keep_probable(scores, eta, highest, sum, at_least, scratch);
}

CHIASM_INLINE TokenId argmax(std::span<const float> scores) noexcept {
  std::size_t best = 0;
  for (std::size_t i = 1; i < scores.size(); ++i)
    if (scores[i] > scores[best]) best = i;
  return static_cast<TokenId>(best);
}

CHIASM_INLINE Sampler::Sampler(std::uint64_t seed, std::uint64_t stream) noexcept : state_(seed) {
  // Consecutive seeds and streams start at unrelated places of the generator's sequence.
  state_ = bits() ^ (stream * 0xD1B54A32D192ED03u);
  state_ = bits();
}

CHIASM_INLINE std::uint64_t Sampler::bits() noexcept {
  std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

namespace sampling {

/// The high and the low half of a product of 128 bits.
inline std::array<std::uint64_t, 2> multiply(std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t a1 = a >> 32, a0 = a & 0xFFFFFFFFu, b1 = b >> 32, b0 = b & 0xFFFFFFFFu;
  const std::uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xFFFFFFFFu);
  return {a1 * b1 + (middle >> 32) + (other >> 32), a * b};
}

}  // namespace sampling

CHIASM_INLINE std::uint64_t Sampler::below(std::uint64_t bound) noexcept {
  // Of bits() as a fraction of `bound`: scores that are nearly the same then give the same draws nearly always, whatever their sum. Lemire, arXiv:1805.10941.
  const std::uint64_t surplus = (0 - bound) % bound;  // 2^64 mod bound: so many low halves would come once too often
  for (;;)
    if (const auto [high, low] = sampling::multiply(bits(), bound); low >= surplus) return high;
}

CHIASM_INLINE std::uint64_t Sampler::weigh(std::span<const float> scores) {
  // 2^40, and less beyond 2^23 scores (wide beams over large vocabularies), so that the sum fits into 63 bits.
  const double grain = std::ldexp(1.0, 40 - static_cast<int>(std::bit_width(scores.size() >> 23)));
  const double highest = static_cast<double>(sampling::maximum(scores));
  weights_.resize(scores.size());
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double below_highest = static_cast<double>(scores[i]) - highest;
    weights_[i] = below_highest > -29 ? static_cast<std::uint64_t>(std::exp(below_highest) * grain + 0.5) : 0;  // exp(-29) < 2^-41
    sum += weights_[i];
  }
  return sum;
}

CHIASM_INLINE TokenId Sampler::operator()(std::span<const float> scores) {
  const std::uint64_t sum = weigh(scores);
  if (sum == 0) return argmax(scores);
  std::uint64_t rest = below(sum);
  std::size_t i = 0;
  while (rest >= weights_[i]) rest -= weights_[i++];
  return static_cast<TokenId>(i);
}

CHIASM_INLINE void Sampler::draw(std::span<const float> scores, std::size_t count, std::vector<std::uint32_t>& indices) {
  std::uint64_t sum = weigh(scores);
  indices.clear();
  while (indices.size() < count && sum > 0) {
    std::uint64_t rest = below(sum);
    std::size_t i = 0;
    while (rest >= weights_[i]) rest -= weights_[i++];
    sum -= weights_[i];
    weights_[i] = 0;
    indices.push_back(static_cast<std::uint32_t>(i));
  }
  if (indices.size() >= count) return;
  // Few tokens are left after strict filters, and so are calls that come here: a plain sort of the rest.
  std::vector<std::uint32_t> rest;
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (std::find(indices.begin(), indices.end(), static_cast<std::uint32_t>(i)) == indices.end()) rest.push_back(static_cast<std::uint32_t>(i));
  const std::size_t more = std::min(count - indices.size(), rest.size());
  std::partial_sort(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(more), rest.end(),
                    [scores](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  indices.insert(indices.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(more));
}

}  // namespace chiasm
