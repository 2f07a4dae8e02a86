#include "support/catch.hpp"
#include "support/paths.hpp"

#include <chiasm/io/json.hpp>
#include <chiasm/nn/sampling.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

using namespace chiasm;

namespace {

constexpr float never = -std::numeric_limits<float>::infinity();

void apply(const std::string& name, double value, std::size_t at_least, std::span<const TokenId> history, std::span<float> scores, SamplingScratch& scratch) {
  const auto count = static_cast<std::size_t>(value);
  if (name == "temperature") return apply_temperature(scores, value);
  if (name == "repetition_penalty") return penalise_repetition(scores, history, value, scratch);
  if (name == "no_repeat_ngram_size") return forbid_repeated_ngrams(scores, history, count);
  if (name == "top_k") return keep_top_k(scores, count, at_least, scratch);
  if (name == "top_p") return keep_top_p(scores, value, at_least, scratch);
  if (name == "min_p") return keep_min_p(scores, value, at_least, scratch);
  if (name == "top_h") return keep_top_h(scores, value, scratch);
  if (name == "typical_p") return keep_typical(scores, value, at_least, scratch);
  if (name == "epsilon_cutoff") return keep_epsilon(scores, value, at_least, scratch);
  if (name == "eta_cutoff") return keep_eta(scores, value, at_least, scratch);
  if (name == "log_softmax") return log_softmax(scores);
  FAIL("unknown processor " << name);
}

std::vector<std::size_t> kept(std::span<const float> scores) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (scores[i] > never) indices.push_back(i);
  return indices;
}

// Chi-squared of counts against expected counts, over its degrees of freedom.
double excess(const std::vector<double>& probabilities, const std::map<std::uint32_t, std::size_t>& counts, std::size_t draws) {
  double sum = 0;
  std::size_t categories = 0;
  for (std::size_t i = 0; i < probabilities.size(); ++i) {
    const double expected = probabilities[i] * static_cast<double>(draws);
    const auto found = counts.find(static_cast<std::uint32_t>(i));
    const double have = found == counts.end() ? 0 : static_cast<double>(found->second);
    if (expected == 0) {
      CHECK(have == 0);
      continue;
    }
    sum += (have - expected) * (have - expected) / expected;
    ++categories;
  }
  return sum / static_cast<double>(categories - 1);
}

}  // namespace

TEST_CASE("sampling: every processor gives what the reference gives") {
  SamplingScratch scratch;  // shared, as in use: nothing may be left over from the call before
  for (const Json row : Json::read(test_data("generation/processors.json"))) {
    std::vector<float> before;
    for (const Json score : row["scores"]) before.push_back(score.is_null() ? never : score.as<float>());
    const auto history = row["history"].as_vector<TokenId>();
    for (const Json check : row["checks"]) {
      INFO(check.pointer() << " " << check["name"].as_string() << " " << check["value"].as_double());
      std::vector<float> scores = before;
      apply(check["name"].as<std::string>(), check["value"].as_double(), check["at_least"].as<std::size_t>(), history, scores, scratch);
      const auto indices = kept(scores);
      REQUIRE(indices == check["kept"].as_vector<std::size_t>());
      if (const Json result = check.find("result"); !result.is_null()) {
        const auto want = result.as_vector<float>();
        for (std::size_t i = 0; i < want.size(); ++i) CHECK(scores[indices[i]] == Approx(want[i]).epsilon(1e-5).margin(2e-6));
      } else {
        for (const std::size_t i : indices) CHECK(scores[i] == before[i]);
      }
    }
  }
}

TEST_CASE("sampling: a large row is filtered as by its definition") {
  Sampler random(3);
  std::vector<float> before(50000);
  for (float& score : before) score = static_cast<float>(random.below(1 << 20)) / 65536.0f;  // with equal scores
  std::vector<float> sorted = before;
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  SamplingScratch scratch;
  for (const std::size_t k : {1u, 50u, 1000u, 49999u, 50000u, 60000u}) {
    std::vector<float> scores = before;
    keep_top_k(scores, k, 1, scratch);
    const float lowest = sorted[std::min(k, sorted.size()) - 1];
    CHECK(kept(scores).size() == static_cast<std::size_t>(std::count_if(before.begin(), before.end(), [&](float s) { return s >= lowest; })));
  }
  double total = 0;
  for (const float score : sorted) total += std::exp(static_cast<double>(score));
  for (const double p : {0.01, 0.5, 0.9}) {
    double mass = 0;
    std::size_t count = 0;
    for (; mass < p * total; ++count) mass += std::exp(static_cast<double>(sorted[count]));
    std::vector<float> scores = before;
    keep_top_p(scores, p, 1, scratch);
    const std::size_t have = kept(scores).size();
    CHECK(have >= count - 1);
    CHECK(have <= count + 1);
  }
}

TEST_CASE("sampling: ids outside the row take no part") {
  SamplingScratch scratch;
  std::vector<float> scores{1, 2, 3};
  const std::vector<TokenId> history{-200, 1, 32000, 1};
  penalise_repetition(scores, history, 2, scratch);
  CHECK(scores == std::vector<float>{1, 1, 3});
  forbid_repeated_ngrams(scores, history, 1);
  CHECK(kept(scores) == std::vector<std::size_t>{0, 2});
  suppress_tokens(scores, std::vector<TokenId>{-1, 3, 2});
  CHECK(kept(scores) == std::vector<std::size_t>{0});
  force_tokens(scores, std::vector<TokenId>{7, 1});
  CHECK(kept(scores) == std::vector<std::size_t>{1});
  add_sequence_biases(scores, history, std::vector<SequenceBias>{{{32000, 1, 1}, 4.0}, {{1, 9}, 1.0}, {{5, 5, 5, 5, 5, 1}, 1.0}});
  CHECK(scores[1] == 4);
}

TEST_CASE("sampling: invalid values, length penalty, empty rows") {
  const float inf = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
  std::vector<float> scores{std::nanf(""), inf, -inf, 5};
  remove_invalid_values(scores);
  CHECK(scores == std::vector<float>{0, largest, -largest, 5});
  std::vector<float> decayed{-2, 3, -inf};
  penalise_length(decayed, std::vector<TokenId>{0, 1, 2, 3}, 1.5, 2);
  CHECK(decayed == std::vector<float>{-2 + 2 * 1.25f, 3 + 3 * 1.25f, -inf});
  SamplingScratch scratch;
  std::vector<float> none;
  keep_top_k(none, 5, 1, scratch);
  keep_top_p(none, 0.5, 1, scratch);
  keep_min_p(none, 0.5, 1, scratch);
  keep_top_h(none, 0.5, scratch);
  keep_typical(none, 0.5, 1, scratch);
  keep_epsilon(none, 0.5, 1, scratch);
  keep_eta(none, 0.5, 1, scratch);
  CHECK(argmax(none) == 0);
  CHECK(Sampler(1)(none) == 0);
  CHECK(argmax(std::vector<float>{1, 4, 2, 4}) == 1);
  CHECK(Sampler(1)(std::vector<float>{-inf, -inf}) == 0);
  CHECK(Sampler(1)(std::vector<float>{0, inf}) == 1);
}

TEST_CASE("sampling: draws follow softmax") {
  std::vector<float> scores{0.5f, -1, 2, never, 1.25f, -3, 2};
  std::vector<double> probabilities;
  double sum = 0;
  for (const float score : scores) sum += std::exp(static_cast<double>(score));
  for (const float score : scores) probabilities.push_back(std::exp(static_cast<double>(score)) / sum);
  constexpr std::size_t draws = 200000;

  SECTION("one seed, many draws") {
    Sampler sampler(12);
    std::map<std::uint32_t, std::size_t> counts;
    for (std::size_t i = 0; i < draws; ++i) ++counts[static_cast<std::uint32_t>(sampler(scores))];
    CHECK(excess(probabilities, counts, draws) < 3.5);  // 5 degrees of freedom: p < 0.004
  }
  SECTION("many seeds and streams, one draw each") {
    std::map<std::uint32_t, std::size_t> by_seed, by_stream;
    for (std::size_t i = 0; i < draws; ++i) {
      ++by_seed[static_cast<std::uint32_t>(Sampler(i)(scores))];
      ++by_stream[static_cast<std::uint32_t>(Sampler(7, i)(scores))];
    }
    CHECK(excess(probabilities, by_seed, draws) < 3.5);
    CHECK(excess(probabilities, by_stream, draws) < 3.5);
  }
  SECTION("without replacement") {
    Sampler sampler(4);
    std::vector<std::uint32_t> indices;
    std::map<std::uint32_t, std::size_t> first, second;
    for (std::size_t i = 0; i < draws; ++i) {
      sampler.draw(scores, 2, indices);
      REQUIRE(indices.size() == 2);
      REQUIRE(indices[0] != indices[1]);
      ++first[indices[0]];
      ++second[indices[1]];
    }
    std::vector<double> then(probabilities.size());
    for (std::size_t a = 0; a < then.size(); ++a)
      for (std::size_t b = 0; b < then.size(); ++b)
        if (a != b) then[b] += probabilities[a] * probabilities[b] / (1 - probabilities[a]);
    CHECK(excess(probabilities, first, draws) < 3.5);
    CHECK(excess(then, second, draws) < 3.5);
    sampler.draw(scores, 7, indices);  // one more than can be drawn
    REQUIRE(indices.size() == 7);
    CHECK(indices[6] == 3);
    sampler.draw(scores, 9, indices);
    CHECK(indices.size() == 7);
  }
}

TEST_CASE("sampling: as many equal scores as a configuration allows do not overflow the sum") {
  const std::vector<float> scores(std::size_t{1} << 24, 0.0f);
  Sampler sampler(3);
  CHECK(sampler(scores) != 0);  // a sum of 2^64 would be 0, and the draw the first score
}

TEST_CASE("sampling: the same seed gives the same draws, on every platform") {
  // The eight draws were computed apart, in Python integers.
  std::vector<float> scores(1000);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>((i * 7919) % 1000) / 250.0f;
  Sampler a(2024), b(2024), c(2025), d(2024, 1);
  std::vector<TokenId> first, again, other, stream;
  for (int i = 0; i < 8; ++i) {
    first.push_back(a(scores));
    again.push_back(b(scores));
    other.push_back(c(scores));
    stream.push_back(d(scores));
  }
  CHECK(first == again);
  CHECK(first != other);
  CHECK(first != stream);
  CHECK(first == std::vector<TokenId>{605, 550, 523, 203, 803, 898, 52, 544});
}
