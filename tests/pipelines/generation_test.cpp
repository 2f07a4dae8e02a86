#include "support/catch.hpp"
#include "support/hash_lm.hpp"
#include "support/paths.hpp"
#include "support/thrown.hpp"

#include <chiasm/pipelines/generation.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

using namespace chiasm;

namespace {

std::vector<TokenId> run(Context& ctx, const LanguageModel& lm, const std::vector<TokenId>& prompt, GenerateOptions options) {
  Generation generation(ctx, lm, lm.embed(ctx, prompt), std::move(options), prompt);
  std::vector<TokenId> ids;
  while (const auto token = generation.next()) ids.push_back(*token);
  CHECK(std::equal(ids.begin(), ids.end(), generation.ids().begin(), generation.ids().end()));
  CHECK(generation.finish_reason().has_value());
  return ids;
}

}  // namespace

TEST_CASE("generation: greedy and beam searches find what the reference finds") {
  Context one({.threads = 1}), three({.threads = 3});
  std::size_t count = 0;
  for (const Json test : Json::read(test_data("generation/searches.json"))) {
    INFO(test.dump());
    Context& ctx = count % 2 == 0 ? one : three;
    const HashLm lm(test["vocab"].as<std::size_t>(), test["salt"].as<std::uint32_t>(), test["scale"].as_double());
    const auto prompt = test["prompt"].as_vector<TokenId>();
    const GenerateOptions options = GenerateOptions::from(test["options"]);
    const Json results = test["results"];
    if (options.num_beams.value_or(1) == 1) {
      CHECK(run(ctx, lm, prompt, options) == results.at(0)["ids"].as_vector<TokenId>());
    } else {
      const auto found = beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, options);
      REQUIRE(found.size() == results.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        INFO("hypothesis " << i << " score " << found[i].score);
        CHECK(found[i].ids == results.at(i)["ids"].as_vector<TokenId>());
        CHECK(found[i].score == Approx(results.at(i)["score"].as_double()).epsilon(1e-5).margin(1e-5));
      }
    }
    ++count;
  }
  CHECK(count == 360);
}

TEST_CASE("generation: a batch gives each prompt what it gets alone, in one pass per step") {
  Context ctx;
  const HashLm lm(60, 3, 0.5);
  std::vector<std::vector<TokenId>> prompts;
  for (TokenId i = 0; i < 9; ++i) prompts.push_back(std::vector<TokenId>(static_cast<std::size_t>(i + 1), i * 5));
  prompts.push_back(std::vector<TokenId>(1500, 8));  // more than one prefill pass
  prompts.push_back({4});
  std::vector<Tensor> embeddings;
  std::vector<GenerationPrompt> batch;
  for (const auto& prompt : prompts) embeddings.push_back(lm.embed(ctx, prompt));
  for (std::size_t i = 0; i < prompts.size(); ++i) batch.push_back({embeddings[i], prompts[i]});

  for (const bool sample : {false, true}) {
    const GenerateOptions options{.max_new_tokens = 40,
                                  .eos_token_id = std::vector<TokenId>{1, 2, 3},
                                  .do_sample = sample,
                                  .seed = 99,
                                  .temperature = 0.8,
                                  .repetition_penalty = 1.2,
                                  .no_repeat_ngram_size = 3};
    lm.passes = 0;
    const auto together = generate_batch(ctx, lm, batch, options);
    const std::size_t passes = lm.passes;
    REQUIRE(together.size() == prompts.size());
    std::size_t longest = 0;
    bool different_lengths = false;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      CHECK(together[i].ids == run(ctx, lm, prompts[i], options));
      CHECK(together[i].finish_reason == (together[i].ids.back() >= 1 && together[i].ids.back() <= 3 ? FinishReason::eos : FinishReason::length));
      longest = std::max(longest, together[i].ids.size());
      different_lengths = different_lengths || together[i].ids.size() != together[0].ids.size();
    }
    CHECK(different_lengths);
    CHECK(passes == 3 + longest - 1);  // prompts of 45, 1500 and 1 rows take three passes
  }

  SECTION("several sampled answers per prompt") {
    const GenerateOptions options{.max_new_tokens = 12, .do_sample = true, .seed = 5, .num_return_sequences = 3};
    const auto answers = generate_batch(ctx, lm, batch, options);
    REQUIRE(answers.size() == 3 * prompts.size());
    GenerateOptions single = options;
    single.num_return_sequences = 1;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      CHECK(answers[3 * i].ids == run(ctx, lm, prompts[i], single));
      CHECK(answers[3 * i].ids != answers[3 * i + 1].ids);
      CHECK(answers[3 * i + 1].ids != answers[3 * i + 2].ids);
    }
  }
  CHECK(generate_batch(ctx, lm, {}, {}).empty());
}

TEST_CASE("generation: each step costs one row, and logits of one row") {
  Context ctx;
  const HashLm lm(30);
  Generation generation(ctx, lm, lm.embed(ctx, std::vector<TokenId>(17, 4)), {.max_new_tokens = 5});
  CHECK(lm.passes == 0);  // nothing happens before the first token is asked for
  REQUIRE(generation.next());
  CHECK(lm.passes == 1);
  CHECK(lm.rows == 17);
  CHECK(lm.logit_rows == 1);
  while (generation.next()) {}
  CHECK(lm.passes == 5);
  CHECK(lm.logit_rows == 5);
  CHECK(generation.ids().size() == 5);
  CHECK(generation.finish_reason() == FinishReason::length);
  CHECK(to_string(*generation.finish_reason()) == "length");
  CHECK(generation.times().prefill_tokens == 17);
  CHECK(generation.times().decode_tokens == 4);
  CHECK(generation.times().prefill_seconds >= 0);
  CHECK(generation.cache().length() == 17 + 4);
  CHECK_FALSE(generation.next());
}

TEST_CASE("generation: a conversation goes on with its cache") {
  Context ctx;
  const HashLm lm(50, 11);
  const std::vector<TokenId> first{5, 6, 7}, second{8, 9};
  const GenerateOptions options{.max_new_tokens = 6, .repetition_penalty = 1.5};
  Generation turn(ctx, lm, lm.embed(ctx, first), options, first);
  while (turn.next()) {}

  std::vector<TokenId> all = first;
  all.insert(all.end(), turn.ids().begin(), turn.ids().end());
  std::vector<TokenId> more{turn.ids().back()};  // the one id that the cache lacks
  more.insert(more.end(), second.begin(), second.end());
  all.insert(all.end(), second.begin(), second.end());
  Generation next(ctx, lm, lm.embed(ctx, more), options, all, std::move(turn.cache()));
  while (next.next()) {}
  CHECK(next.times().prefill_tokens == 3);
  const std::vector<TokenId> want = run(ctx, lm, all, options);
  CHECK(std::equal(want.begin(), want.end(), next.ids().begin(), next.ids().end()));

  // max_length counts what the cache holds.
  Generation short_one(ctx, lm, lm.embed(ctx, more), {.max_length = 30}, all, std::move(next.cache()));
  std::size_t count = 0;
  while (short_one.next()) ++count;
  CHECK(short_one.cache().length() == 29);
}

TEST_CASE("generation: prompts of embeddings alone") {
  Context ctx;
  const HashLm lm(20, 2, 0.1);
  const std::vector<TokenId> prompt{4, 5, 6};
  // The processors know the answer's tokens only.
  std::vector<std::size_t> seen;
  Generation generation(ctx, lm, lm.embed(ctx, prompt),
                        {.max_new_tokens = 8,
                         .no_repeat_ngram_size = 1,
                         .logits_processor = [&](std::span<const TokenId> history, std::span<float>) { seen.push_back(history.size()); }});
  while (generation.next()) {}
  std::vector<TokenId> ids(generation.ids().begin(), generation.ids().end());
  CHECK(seen == std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7});
  std::sort(ids.begin(), ids.end());
  CHECK(std::adjacent_find(ids.begin(), ids.end()) == ids.end());
  const auto beams = beam_search(ctx, lm, lm.embed(ctx, prompt), {}, {.max_new_tokens = 4, .num_beams = 3});
  CHECK(beams.at(0).ids.size() == 4);
}

TEST_CASE("generation: own processors and stopping criteria") {
  Context ctx;
  const HashLm lm(40, 8);
  const std::vector<TokenId> prompt{7};
  const auto only_even = [](std::span<const TokenId>, std::span<float> scores) {
    for (std::size_t i = 1; i < scores.size(); i += 2) scores[i] = -std::numeric_limits<float>::infinity();
  };
  const auto even = [](TokenId id) { return id % 2 == 0; };
  for (const bool sample : {false, true}) {
    const auto ids = run(ctx, lm, prompt, {.max_new_tokens = 30, .do_sample = sample, .logits_processor = only_even});
    CHECK(std::all_of(ids.begin(), ids.end(), even));
    for (const auto& beam : beam_search(ctx, lm, lm.embed(ctx, prompt), prompt,
                                        {.max_new_tokens = 10, .do_sample = sample, .num_beams = 4, .num_return_sequences = 4, .logits_processor = only_even}))
      CHECK(std::all_of(beam.ids.begin(), beam.ids.end(), even));
  }

  const auto ten_or_more = [](std::span<const TokenId> generated) { return generated.back() >= 30 && generated.size() > 2; };
  Generation generation(ctx, lm, lm.embed(ctx, prompt), {.max_new_tokens = 300, .do_sample = true, .stopping_criteria = ten_or_more}, prompt);
  while (generation.next()) {}
  CHECK(generation.finish_reason() == FinishReason::stop);
  CHECK(generation.ids().back() >= 30);
  for (const auto& beam : beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, {.max_new_tokens = 40, .num_beams = 3, .stopping_criteria = ten_or_more}))
    CHECK((beam.ids.size() == 40 || (beam.ids.back() >= 30 && beam.ids.size() > 2)));

  Generation ended(ctx, lm, lm.embed(ctx, prompt));
  CHECK(ended.next());
  ended.finish();
  CHECK_FALSE(ended.next());
  CHECK(ended.finish_reason() == FinishReason::stop);
}

TEST_CASE("generation: sampling follows its seed and the model's distribution") {
  Context ctx;
  const HashLm lm(12, 4, 0.3);
  const std::vector<TokenId> prompt{3, 4};
  GenerateOptions options{.max_new_tokens = 20, .do_sample = true, .seed = 1, .top_k = 0};
  const auto once = run(ctx, lm, prompt, options);
  CHECK(run(ctx, lm, prompt, options) == once);
  options.seed = 2;
  CHECK(run(ctx, lm, prompt, options) != once);

  // First token over many seeds, with temperature and top-k.
  options = {.max_new_tokens = 1, .do_sample = true, .temperature = 0.7, .top_k = 5};
  KvCache cache = lm.new_cache();
  Tensor scores = lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, prompt), cache).slice(1, 1));
  std::vector<float> sorted(scores.values().begin(), scores.values().end());
  std::sort(sorted.rbegin(), sorted.rend());
  double sum = 0;
  for (std::size_t i = 0; i < 5; ++i) sum += std::exp(static_cast<double>(sorted[i]) / 0.7);
  std::map<TokenId, double> counts;
  constexpr int draws = 20000;
  for (int i = 0; i < draws; ++i) {
    options.seed = static_cast<std::uint64_t>(i);
    counts[run(ctx, lm, prompt, options)[0]] += 1;
  }
  CHECK(counts.size() == 5);
  double chi = 0;
  for (const auto& [id, count] : counts) {
    const double expected = draws * std::exp(static_cast<double>(scores.values()[static_cast<std::size_t>(id)]) / 0.7) / sum;
    chi += (count - expected) * (count - expected) / expected;
  }
  CHECK(chi < 18);  // 4 degrees of freedom: p = 0.001

  // Beams that are drawn: same seed, same beams; scores are the hypotheses' own.
  const GenerateOptions beams{.max_new_tokens = 6, .do_sample = true, .seed = 8, .top_k = 0, .num_beams = 3, .num_return_sequences = 3};
  const auto drawn = beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, beams), again = beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, beams);
  REQUIRE(drawn.size() == 3);
  for (std::size_t b = 0; b < drawn.size(); ++b) {
    CHECK(drawn[b].ids == again[b].ids);
    std::vector<TokenId> all = prompt;
    all.insert(all.end(), drawn[b].ids.begin(), drawn[b].ids.end());
    KvCache fresh = lm.new_cache();
    Tensor rows = lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, all), fresh));
    double total = 0;
    for (std::size_t i = 0; i < drawn[b].ids.size(); ++i) {
      const std::span<float> row(rows.row(prompt.size() - 1 + i), lm.vocab_size());
      log_softmax(row);
      total += static_cast<double>(row[static_cast<std::size_t>(drawn[b].ids[i])]);
    }
    CHECK(drawn[b].score == Approx(total / static_cast<double>(drawn[b].ids.size())).epsilon(1e-5));
  }
}

TEST_CASE("generation: options that leave fewer hypotheses than asked for") {
  Context ctx;
  const HashLm lm(30, 14);
  const std::vector<TokenId> prompt{7, 8};
  const auto forced = beam_search(ctx, lm, lm.embed(ctx, prompt), prompt,
                                  {.max_new_tokens = 1, .forced_eos_token_id = std::vector<TokenId>{6}, .num_beams = 4, .num_return_sequences = 4});
  REQUIRE(forced.size() == 1);
  CHECK(forced[0].ids == std::vector<TokenId>{6});
  CHECK(forced[0].score == 0);
  // Nothing is allowed, or everything is NaN: an answer all the same, and an end.
  for (const float score : {-std::numeric_limits<float>::infinity(), std::nanf("")})
    for (const bool sample : {false, true}) {
      const GenerateOptions options{.max_new_tokens = 4, .do_sample = sample, .num_beams = 3, .logits_processor = [&](std::span<const TokenId>, std::span<float> scores) {
                                      std::fill(scores.begin(), scores.end(), score);
                                    }};
      CHECK(beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, options).size() == 1);
      GenerateOptions single = options;
      single.num_beams = 1;
      CHECK(run(ctx, lm, prompt, single).size() == 4);
    }
}

TEST_CASE("generation: cancelled between two layers") {
  CancelToken token;
  Context ctx({.cancel = token});
  HashLm lm(40, 5);
  const std::vector<TokenId> prompt{1, 2, 3, 4};
  const auto whole = run(ctx, lm, prompt, {.max_new_tokens = 9});

  Generation generation(ctx, lm, lm.embed(ctx, prompt), {.max_new_tokens = 9}, prompt);
  for (int i = 0; i < 3; ++i) generation.next();
  lm.cancel_between_layers = true;
  CHECK_FALSE(generation.next());
  CHECK(generation.finish_reason() == FinishReason::cancelled);
  CHECK(to_string(*generation.finish_reason()) == "cancelled");
  CHECK(std::equal(generation.ids().begin(), generation.ids().end(), whole.begin(), whole.begin() + 3));
  // The cache is whole: the answer can be taken up again.
  for (std::size_t layer = 0; layer < 2; ++layer) CHECK(generation.cache()[layer].length() == 4 + 2);
  lm.cancel_between_layers = false;
  token.reset();
  const std::vector<TokenId> last{whole[2]};
  Generation rest(ctx, lm, lm.embed(ctx, last), {.max_new_tokens = 6}, {}, std::move(generation.cache()));
  while (rest.next()) {}
  CHECK(std::equal(rest.ids().begin(), rest.ids().end(), whole.begin() + 3, whole.end()));

  // In the prompt, a batch and a beam search.
  token.cancel();
  Generation never_begun(ctx, lm, lm.embed(ctx, prompt));
  CHECK_FALSE(never_begun.next());
  CHECK(never_begun.cache().length() == 0);
  CHECK_THROWS_AS(beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, {.num_beams = 2}), Cancelled);
  const Tensor embeddings = lm.embed(ctx, prompt);
  const GenerationPrompt one{embeddings, prompt};
  CHECK(generate_batch(ctx, lm, {&one, 1}).at(0).finish_reason == FinishReason::cancelled);
  token.reset();
  int steps = 0;
  const auto partial = generate_batch(ctx, lm, {&one, 1}, {.max_new_tokens = 9, .stopping_criteria = [&](std::span<const TokenId>) {
                                                              if (++steps == 4) token.cancel();
                                                              return false;
                                                            }});
  CHECK(partial.at(0).finish_reason == FinishReason::cancelled);
  CHECK(partial.at(0).ids == std::vector<TokenId>(whole.begin(), whole.begin() + 4));
}

TEST_CASE("generation: an exception out of a callback leaves things as they were") {
  Context ctx;
  const HashLm lm(40, 5);
  const std::vector<TokenId> prompt{1, 2, 3, 4};
  const auto whole = run(ctx, lm, prompt, {.max_new_tokens = 6});
  int calls = 0;
  Generation generation(ctx, lm, lm.embed(ctx, prompt), {.max_new_tokens = 6, .logits_processor = [&](std::span<const TokenId>, std::span<float>) {
                                                           if (++calls % 2 == 1) throw std::runtime_error("mine");
                                                         }});
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK_THROWS_AS(generation.next(), std::runtime_error);
    CHECK(generation.next() == whole[i]);
  }
  CHECK_FALSE(generation.next());
}

TEST_CASE("generation: options out of generation_config.json") {
  const auto from = [](const char* text) { return GenerateOptions::from(Json::parse(text, "generation_config.json")); };
  const GenerateOptions qwen = from(R"({"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
      "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.45.0", "max_length": null})");
  CHECK(*qwen.do_sample);
  CHECK(*qwen.eos_token_id == std::vector<TokenId>{151645, 151643});
  CHECK(*qwen.temperature == 0.7);
  CHECK(*qwen.top_k == 20);
  CHECK_FALSE(qwen.max_length);
  CHECK(*from(R"({"eos_token_id": 2})").eos_token_id == std::vector<TokenId>{2});
  CHECK_FALSE(from(R"({"eos_token_id": null})").eos_token_id);
  CHECK(*from(R"({"early_stopping": "never"})").early_stopping == EarlyStopping::never);
  CHECK(*from(R"({"early_stopping": true})").early_stopping == EarlyStopping::on);
  CHECK(*from(R"({"stop_strings": "###"})").stop == std::vector<std::string>{"###"});
  CHECK(*from(R"({"stop_strings": ["a", "b"]})").stop == std::vector<std::string>{"a", "b"});
  CHECK(from(R"({"exponential_decay_length_penalty": [5, 1.01]})").exponential_decay_length_penalty->start == 5);
  CHECK(from(R"({"guidance_scale": 1.0, "diversity_penalty": 0.0, "num_beam_groups": 1, "penalty_alpha": null})").temperature == std::nullopt);
  CHECK(GenerateOptions::from(Json()).max_new_tokens == std::nullopt);

  CHECK_THROWS_AS(from(R"({"guidance_scale": 1.5})"), UnsupportedError);
  CHECK_THROWS_AS(from(R"({"penalty_alpha": 0.6, "top_k": 4})"), UnsupportedError);
  for (const char* bad : {R"({"temperature": "hot"})", R"({"max_new_tokens": -1})", R"({"early_stopping": "often"})", R"({"bad_words_ids": [1]})", R"({"eos_token_id": "</s>"})",
                          R"({"eos_token_id": 99999999999})", R"({"sequence_bias": [[[1]]]})", R"([1])", R"({"stop_strings": 5})"})
    CHECK_THROWS_AS(from(bad), ConfigError);

  const GenerateOptions merged = GenerateOptions{.max_length = 100, .temperature = 0.2}.or_else(qwen).or_else({.max_new_tokens = 7, .min_length = 3, .top_p = 0.1});
  CHECK(*merged.max_length == 100);
  CHECK_FALSE(merged.max_new_tokens);  // hidden by the caller's own length
  CHECK(*merged.min_length == 3);
  CHECK(*merged.temperature == 0.2);
  CHECK(*merged.top_p == 0.8);
}

TEST_CASE("generation: defaults, and lengths of the same origin") {
  Context ctx;
  const HashLm lm(40, 5);
  const std::vector<TokenId> prompt{1, 2, 3, 4};
  CHECK(run(ctx, lm, prompt, {}).size() == 256);
  CHECK(run(ctx, lm, prompt, {.max_length = 14}).size() == 10);
  CHECK(run(ctx, lm, prompt, {.max_new_tokens = 3, .max_length = 14}).size() == 3);
  CHECK(run(ctx, lm, prompt, {.max_new_tokens = 1}).size() == 1);
}

TEST_CASE("generation: what makes no sense is said") {
  Context ctx;
  const HashLm lm(40, 5);
  const std::vector<TokenId> prompt{1, 2, 3, 4};
  const auto complaint = [&](GenerateOptions options) {
    return message_of<ArgumentError>([&] { Generation(ctx, lm, lm.embed(ctx, prompt), std::move(options), prompt); });
  };
  CHECK(complaint({.max_new_tokens = 0}) == "max_new_tokens is 0, must be at least 1");
  CHECK(complaint({.max_length = 4}) == "max_length is 4, must be more than the prompt's 4 positions (max_new_tokens counts without the prompt)");
  CHECK(complaint({.temperature = 0}).find("temperature is 0, must be above 0") == 0);
  CHECK(complaint({.top_p = 1.5}) == "top_p is 1.5, must be within 0..1");
  CHECK(complaint({.min_p = -0.1}) == "min_p is -0.1, must be within 0..1");
  CHECK(complaint({.typical_p = 0}).find("typical_p") == 0);
  CHECK(complaint({.repetition_penalty = 0}).find("repetition_penalty") == 0);
  CHECK(complaint({.bad_words_ids = {{{7}, {40}}}}) == "bad_words_ids has token id 40, must be 0..39");
  CHECK(complaint({.bad_words_ids = {{{7}, {}}}}).find("bad_words_ids has an empty list") == 0);
  CHECK(complaint({.forced_bos_token_id = -1}).find("forced_bos_token_id has token id -1") == 0);
  CHECK(complaint({.num_beams = 0}).find("num_beams is 0") == 0);
  CHECK(complaint({.num_beams = std::size_t{1} << 60}).find("num_beams is 1152921504606846976, must be within 1..1024") == 0);
  CHECK(complaint({.do_sample = true, .num_return_sequences = std::size_t{1} << 60}).find("num_return_sequences is ") == 0);
  CHECK(complaint({.num_beams = 4}).find("num_beams is 4, must be 1 here") == 0);
  CHECK(complaint({.num_return_sequences = 2}).find("num_return_sequences is 2") == 0);
  CHECK(complaint({.do_sample = true, .num_return_sequences = 2}).find("num_return_sequences is 2") == 0);
  CHECK(complaint({.stop = {{"###"}}}).find("stop is \"###\"") == 0);
  const auto beams = [&](GenerateOptions options) { return message_of<ArgumentError>([&] { beam_search(ctx, lm, lm.embed(ctx, prompt), prompt, options); }); };
  CHECK(beams({}).find("num_beams is 1, must be at least 2") == 0);
  CHECK(beams({.num_beams = 2, .num_return_sequences = 3}) == "num_return_sequences is 3, must be at most num_beams, 2");
  CHECK_THROWS_AS(Generation(ctx, lm, Tensor(Shape{4, 2})), ShapeError);
  CHECK_THROWS_AS(Generation(ctx, lm, Tensor(Shape{3})), ShapeError);
  CHECK_THROWS_AS(Generation(ctx, lm, Tensor(Shape{0, 3})), ArgumentError);
  CHECK_THROWS_AS(Generation(ctx, lm, Tensor()), ShapeError);
}

TEST_CASE("generation: raw logits of each step are observable") {
  std::vector<std::string> names;
  Context ctx({.on_tensor = [&](std::string_view name, View tensor) {
    names.emplace_back(name);
    CHECK(tensor.columns() == 40);
  }});
  const HashLm lm(40, 5);
  run(ctx, lm, {1, 2}, {.max_new_tokens = 3});
  CHECK(names == std::vector<std::string>{"step_logits.0", "step_logits.1", "step_logits.2"});
}

TEST_CASE("a generation_config.json that never samples may say temperature 0") {
  const auto options = chiasm::GenerateOptions::from(chiasm::Json::parse(R"({"do_sample": false, "temperature": 0, "top_p": 1.0})"));
  CHECK_FALSE(options.temperature.has_value());
  CHECK_NOTHROW(options.validate());
}
