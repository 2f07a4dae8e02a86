// Several tokens a pass: the answers with guesses looked up, or drafted by another model, are those without, at every step.
#include "support/catch.hpp"
#include "support/hash_lm.hpp"
#include "support/paths.hpp"
#include "support/random_decoder.hpp"

#include "../../examples/reference_case.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/impl/look_ahead.hpp>
#include <chiasm/kernels/dispatch.hpp>

#include <atomic>
#include <filesystem>
#include <set>

namespace {

using namespace chiasm;

PromptLookup always(std::size_t tokens, std::size_t min_ngram = 1) {
  PromptLookup lookup;
  lookup.max_tokens = tokens, lookup.min_ngram = min_ngram, lookup.adapt = false;
  return lookup;
}
Draft always(const LanguageModel* lm, std::size_t tokens = 8) {
  Draft draft(lm, tokens);
  draft.adapt = false;
  return draft;
}

/// The ways to guess, with a name; `good` and `bad` are draft models.
std::vector<std::pair<std::string, GenerateOptions>> ways(const LanguageModel& good, const LanguageModel& bad) {
  std::vector<std::pair<std::string, GenerateOptions>> all(7);
  all[0].first = "lookup", all[0].second.lookup = always(8);
  all[1].first = "lookup of two", all[1].second.lookup = always(2, 3);
  all[2].first = "good draft", all[2].second.draft = always(&good);
  all[3].first = "bad draft", all[3].second.draft = always(&bad, 3);
  all[4].first = "both", all[4].second.lookup = always(4, 2), all[4].second.draft = always(&good, 5);
  all[5].first = "lookup, adapting", all[5].second.lookup = PromptLookup();
  all[6].first = "draft, adapting", all[6].second.draft = &good;
  return all;
}

struct Story {
  std::vector<TokenId> ids;
  std::optional<FinishReason> reason;
  std::vector<std::vector<TokenId>> asked, judged;  // histories that the caller's own rules saw
  GenerationTimes times;
};

Story tell(Context& ctx, const LanguageModel& lm, const std::vector<TokenId>& prompt, GenerateOptions options, bool own_rules = true) {
  Story story;
  if (own_rules) {
    options.logits_processor = [&](std::span<const TokenId> history, std::span<float> scores) {
      story.asked.emplace_back(history.begin(), history.end());
      scores[history.size() % scores.size()] += 1;
    };
    options.stopping_criteria = [&](std::span<const TokenId> generated) {
      story.judged.emplace_back(generated.begin(), generated.end());
      return false;
    };
  }
  Generation generation(ctx, lm, lm.embed(ctx, prompt), options, prompt);
  while (const auto token = generation.next()) story.ids.push_back(*token);
  CHECK(std::equal(story.ids.begin(), story.ids.end(), generation.ids().begin(), generation.ids().end()));
  CHECK(generation.cache().length() == prompt.size() + story.ids.size() - 1);
  story.reason = generation.finish_reason();
  story.times = generation.times();
  return story;
}

bool same_bits(View a, View b) {
  if (a.shape() != b.shape()) return false;
  for (std::size_t t = 0; t < a.rows(); ++t)
    if (std::memcmp(a.row(t), b.row(t), a.columns() * sizeof(float)) != 0) return false;
  return true;
}

/// Contexts of every tier and precision.
std::vector<ContextOptions> tiers() {
  std::vector<ContextOptions> all;
  for (const Isa isa : kernels::available())
    for (const auto& [compute, kv] : {std::pair(Compute::f32, KvKind::automatic), {Compute::bf16, KvKind::automatic}, {Compute::i8, KvKind::q8}}) {
      ContextOptions options;
      options.threads = 2;
      options.isa = name(isa);
      options.compute = compute;
      options.kv = kv;
      all.push_back(options);
    }
  return all;
}
/// A tier in words.
std::string in_words(const Context& ctx) { return std::string(ctx.isa()) + " " + std::string(name(ctx.compute())) + (ctx.kv_kind() == KvKind::q8 ? ", q8 caches" : ""); }

/// Logits of `ids`, read behind `before` positions, `together` of them a pass, and the cache's keys and values.
struct Steps {
  Tensor logits;
  std::vector<Tensor> cache;
};
Steps step(Context& ctx, const LanguageModel& lm, View prompt, std::span<const TokenId> ids, std::size_t together) {
  KvCache cache = lm.new_cache();
  (void)lm.forward(ctx, prompt, cache);
  Steps steps{ctx.empty(Shape{ids.size(), lm.vocab_size()}), {}};
  for (std::size_t t = 0; t < ids.size(); t += together) {
    const std::size_t rows = std::min(together, ids.size() - t);
    const Sequence one{&cache, rows, rows > 1};
    const Tensor logits = lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, ids.subspan(t, rows)), std::span<const Sequence>(&one, 1)));
    for (std::size_t r = 0; r < rows; ++r) std::memcpy(steps.logits.row(t + r), logits.row(r), logits.columns() * sizeof(float));
  }
  for (std::size_t i = 0; i < cache.layers(); ++i) {
    steps.cache.push_back(ctx.empty(Shape{cache.length(), cache[i].key_width()}));
    steps.cache.push_back(ctx.empty(Shape{cache.length(), cache[i].value_width()}));
    cache[i].read(steps.cache[2 * i], steps.cache[2 * i + 1]);
  }
  return steps;
}

void check_rows(Context& ctx, const LanguageModel& lm, View prompt) {
  std::vector<TokenId> ids(2 * ctx.most_steps() + 3);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>((i * 7919 + 5) % std::min<std::size_t>(lm.vocab_size(), 60));
  const Steps alone = step(ctx, lm, prompt, ids, 1);
  for (std::size_t together = 2; together <= ctx.most_steps(); ++together) {
    INFO(together << " rows a pass");
    const Steps several = step(ctx, lm, prompt, ids, together);
    CHECK(same_bits(several.logits, alone.logits));
    for (std::size_t i = 0; i < alone.cache.size(); ++i) CHECK(same_bits(several.cache[i], alone.cache[i]));
  }
}

/// The committed cases that generate; all of them where the whole collection is there.
std::set<std::string> cases() {
  std::set<std::string> found;
  const auto add = [&](const std::string& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      std::ifstream file(entry.path() / "case.json");
      if (!file) continue;
      const nlohmann::json description = nlohmann::json::parse(file);
      const std::string family = description.at("family");
      const std::filesystem::path model = entry.path() / "model";
      if (!std::filesystem::exists(model / "config.json") && !std::filesystem::exists(model / "flamingo_config.json")) continue;  // tests/io has these
      if (family != "clip" && family != "siglip" && family != "blip2_itm") found.insert(entry.path().string());
    }
  };
  add(test_data("cases"));
  return found;
}

/// Each prompt of a case, by the name of its input.
std::vector<std::pair<std::string, Prompt>> prompts_of(const reference::Case& one, const Pipeline& pipeline) {
  std::vector<std::pair<std::string, Prompt>> prompts;
  const std::string placeholder(pipeline.family().image_placeholder()), family = one.description.at("family");
  for (const reference::ordered_json& input : one.description.at("inputs")) {
    if (input.contains("prompts"))
      for (std::size_t b = 0; b < input.at("prompts").size(); ++b)
        prompts.emplace_back(input.at("name"), reference::prompt_of(one.folder, {{"prompt", input.at("prompts").at(b)}, {"images", input.at("images").at(b)}}, placeholder, family));
    else prompts.emplace_back(input.at("name"), reference::prompt_of(one.folder, input, placeholder, family));
  }
  return prompts;
}

}  // namespace

TEST_CASE("speculative: rows of one pass are, bit for bit, what each is in a pass of its own") {
  for (const ContextOptions& options : tiers()) {
    Context ctx(options);
    INFO(in_words(ctx));
    for (const auto& [dtype, kind] : {std::pair(DType::f32, WeightKind::keep), {DType::bf16, WeightKind::keep}, {DType::f16, WeightKind::keep}, {DType::f32, WeightKind::i8}}) {
      INFO("weights " << name(dtype) << (kind == WeightKind::i8 ? " in eight bits" : ""));
      for (const std::size_t group : {1u, 2u, 8u})
        for (const std::size_t window : {0u, 21u}) {
          INFO("queries a key " << group << ", window " << window);
          DecoderConfig c = small_decoder();
          c.num_hidden_layers = 2;
          c.num_attention_heads = 8, c.num_key_value_heads = 8 / group, c.head_dim = 20, c.rope.dim = 20;
          if (window != 0) c.windows = {window, 0};
          if (group == 2) c.rope.type = RopeType::dynamic, c.rope.factor = 2, c.rope.max_position_embeddings = 75;
          Conversion conversion;
          conversion.kind = kind;
          const Decoder lm(random_decoder(c, dtype).converting(std::move(conversion)), c);
          for (const std::size_t prompt : {1u, 58u, 130u}) {
            const std::vector<TokenId> ids(prompt, 17);
            check_rows(ctx, lm, lm.embed(ctx, ids));
          }
        }
    }
  }
}

TEST_CASE("speculative: rows of one pass are what each is alone, in every family") {
  for (const std::string& folder : cases()) {
    INFO(folder);
    const reference::Case one = reference::open_case(folder);
    const Pipeline pipeline = load(one.model);
    for (const auto& [name, prompt] : prompts_of(one, pipeline)) {
      INFO(name);
      Context ctx = pipeline.new_context();
      const PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
      check_rows(ctx, prepared.model ? *prepared.model : pipeline.language_model(), prepared.embeddings);
    }
  }
}

TEST_CASE("speculative: the longest repetition, and of these the last") {
  using generation::repetition;
  const auto found = [](std::vector<TokenId> text, std::size_t most) {
    const generation::Repetition r = repetition(text, most);
    return std::pair(r.next, r.length);
  };
  CHECK(found({}, 5) == std::pair<std::size_t, std::size_t>(0, 0));
  CHECK(found({4}, 5).second == 0);
  CHECK(found({4, 5}, 5).second == 0);
  CHECK(found({7, 7}, 5) == std::pair<std::size_t, std::size_t>(1, 1));
  CHECK(found({1, 2, 3, 9, 2, 3, 8, 1, 2, 3}, 5) == std::pair<std::size_t, std::size_t>(3, 3));
  CHECK(found({1, 2, 3, 9, 2, 3, 8, 1, 2, 3}, 2) == std::pair<std::size_t, std::size_t>(6, 2));
  CHECK(found({5, 5, 5, 5}, 9) == std::pair<std::size_t, std::size_t>(3, 3));
  CHECK(found({1, -1, 2, 6, 1, -1, 2}, 5) == std::pair<std::size_t, std::size_t>(3, 1));  // nothing is like a picture
  CHECK(found({-1, -1, -1}, 5).second == 0);
}

TEST_CASE("speculative: every option gives the tokens that it gives without guesses") {
  Context ctx({.threads = 1});
  const std::vector<std::vector<TokenId>> prompts{{4, 5, 6, 7, 4, 5}, std::vector<TokenId>(30, 3), {9}, {-1, 2, 3, 100000, 2, 3}};
  std::size_t accepted = 0, count = 0;
  std::vector<GenerateOptions> asked(12);
  asked[1].repetition_penalty = 1.3;
  asked[2].no_repeat_ngram_size = 2;
  asked[3].bad_words_ids = std::vector<std::vector<TokenId>>{{3}, {4, 5}, {1, 2, 3}};
  asked[4].eos_token_id = std::vector<TokenId>{1, 7};
  asked[5].eos_token_id = std::vector<TokenId>{1, 7}, asked[5].min_new_tokens = 11;
  asked[6].do_sample = true, asked[6].seed = 5, asked[6].temperature = 0.4;
  asked[7].do_sample = true, asked[7].seed = 6, asked[7].top_p = 0.6, asked[7].top_k = 4, asked[7].repetition_penalty = 0.7;
  asked[8].forced_eos_token_id = std::vector<TokenId>{2}, asked[8].eos_token_id = std::vector<TokenId>{2};
  asked[9].exponential_decay_length_penalty = ExponentialDecay{5, 1.1}, asked[9].eos_token_id = std::vector<TokenId>{2};
  asked[10].suppress_tokens = std::vector<TokenId>{5, 6}, asked[10].begin_suppress_tokens = std::vector<TokenId>{4};
  asked[11].sequence_bias = std::vector<SequenceBias>{{{3, 4}, 4.0}, {{5}, -2.0}};
  for (const std::size_t vocab : {7u, 23u})
    for (const std::vector<TokenId>& prompt : prompts)
      for (std::size_t o = 0; o < asked.size(); ++o) {
        const HashLm lm(vocab, static_cast<std::uint32_t>(o + vocab), 0.7), bad(vocab + 3, 99);
        GenerateOptions options = asked[o];
        options.max_new_tokens = 41;
        std::vector<TokenId> shown = prompt;
        // Ids that no token has (pictures) are counted by the rules, and looked up by nobody.
        const std::vector<TokenId> embedded(prompt.size(), 2);
        const auto story = [&](const GenerateOptions& with) {
          Story told;
          GenerateOptions own = with;
          own.logits_processor = [&](std::span<const TokenId> history, std::span<float> scores) {
            told.asked.emplace_back(history.begin(), history.end());
            scores[history.size() % scores.size()] += 1;
          };
          own.stopping_criteria = [&](std::span<const TokenId> generated) {
            told.judged.emplace_back(generated.begin(), generated.end());
            return false;
          };
          Generation generation(ctx, lm, lm.embed(ctx, embedded), own, shown);
          while (const auto token = generation.next()) told.ids.push_back(*token);
          CHECK(generation.cache().length() == prompt.size() + told.ids.size() - 1);
          told.reason = generation.finish_reason();
          told.times = generation.times();
          return told;
        };
        const Story plain = story(options);
        for (auto [name, way] : ways(lm, bad)) {
          INFO("vocabulary " << vocab << ", options " << o << ", prompt of " << prompt.size() << ", " << name);
          const Story told = story(way.or_else(options));
          CHECK(told.ids == plain.ids);
          CHECK(told.reason == plain.reason);
          CHECK(told.asked == plain.asked);
          CHECK(told.judged == plain.judged);
          CHECK(told.times.decode_tokens == plain.times.decode_tokens);
          CHECK(told.times.decode_passes + told.times.accepted_tokens >= told.times.decode_tokens);
          CHECK(told.times.accepted_tokens <= told.times.proposed_tokens);
          accepted += told.times.accepted_tokens;
          ++count;
        }
      }
  CHECK(accepted > 4 * count);
}

TEST_CASE("speculative: between any two tokens, all is as without guesses") {
  Context ctx({.threads = 1});
  const HashLm lm(9, 4), bad(9, 77);
  const std::vector<TokenId> prompt{4, 5, 6, 4, 5};
  GenerateOptions options;
  options.max_new_tokens = 30;
  const std::vector<TokenId> whole = tell(ctx, lm, prompt, options, false).ids;
  REQUIRE(whole.size() == 30);
  for (const auto& [name, way] : ways(lm, bad)) {
    INFO(name);
    const GenerateOptions guessing = way.or_else(options);
    for (std::size_t stop = 1; stop < whole.size(); ++stop) {
      // The cache is asked for, and the answer goes on; or ends there, and another one takes over.
      Generation generation(ctx, lm, lm.embed(ctx, prompt), guessing, prompt);
      for (std::size_t i = 0; i < stop; ++i) REQUIRE(generation.next() == whole[i]);
      CHECK(generation.ids().size() == stop);
      CHECK(generation.cache().length() == prompt.size() + stop - 1);
      if (stop % 3 == 0) {
        for (std::size_t i = stop; i < whole.size(); ++i) REQUIRE(generation.next() == whole[i]);
        CHECK_FALSE(generation.next());
        CHECK(generation.finish_reason() == FinishReason::length);
        continue;
      }
      if (stop % 3 == 1) generation.finish();
      const std::vector<TokenId> so_far(generation.history().begin(), generation.history().end());
      GenerateOptions rest = guessing;
      rest.max_new_tokens = whole.size() - stop;
      Generation other(ctx, lm, lm.embed(ctx, std::span<const TokenId>(&so_far.back(), 1)), rest, so_far, std::move(generation.cache()));
      for (std::size_t i = stop; i < whole.size(); ++i) REQUIRE(other.next() == whole[i]);
    }
    Generation moved = Generation(ctx, lm, lm.embed(ctx, prompt), guessing, prompt);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      CHECK(moved.next() == whole[i]);
      Generation back = std::move(moved);
      moved = std::move(back);
    }
  }
}

TEST_CASE("speculative: cancelled or interrupted by an exception, it goes on as without guesses") {
  const HashLm lm(9, 4), bad(9, 77);
  const std::vector<TokenId> prompt{4, 5, 6, 4, 5};
  GenerateOptions options;
  options.max_new_tokens = 30;
  Context plain({.threads = 1});
  const std::vector<TokenId> whole = tell(plain, lm, prompt, options, false).ids;
  for (const auto& [name, way] : ways(lm, bad)) {
    INFO(name);
    for (std::size_t stop = 1; stop < 30; ++stop) {
      Context ctx({.threads = 1});
      Generation cancelled(ctx, lm, lm.embed(ctx, prompt), way.or_else(options), prompt);
      for (std::size_t i = 0; i < stop; ++i) REQUIRE(cancelled.next() == whole[i]);
      ctx.cancel_token().cancel();
      CHECK_FALSE(cancelled.next());
      CHECK(cancelled.finish_reason() == FinishReason::cancelled);
      CHECK(cancelled.ids().size() == stop);
      CHECK(cancelled.cache().length() == prompt.size() + stop - 1);

      Context calm({.threads = 1});
      GenerateOptions throwing = way.or_else(options);
      bool thrown = false;
      throwing.logits_processor = [&](std::span<const TokenId> history, std::span<float> scores) {
        if (history.size() != prompt.size() + stop || std::exchange(thrown, true)) return;
        scores[0] = 1e9f;  // half done
        throw std::runtime_error("own");
      };
      Generation generation(calm, lm, lm.embed(calm, prompt), throwing, prompt);
      for (std::size_t i = 0; i < stop; ++i) REQUIRE(generation.next() == whole[i]);
      CHECK_THROWS_AS(generation.next(), std::runtime_error);
      for (std::size_t i = stop; i < whole.size(); ++i) REQUIRE(generation.next() == whole[i]);
    }
    // Cancelled within a pass, of the model or of the draft.
    Context ctx({.threads = 1});
    HashLm cancelling(9, 4);
    Generation generation(ctx, cancelling, lm.embed(ctx, prompt), way.or_else(options), prompt);
    for (std::size_t i = 0; i < 7; ++i) REQUIRE(generation.next() == whole[i]);
    (void)generation.cache();
    cancelling.cancel_between_layers = true;
    CHECK_FALSE(generation.next());
    CHECK(generation.finish_reason() == FinishReason::cancelled);
    CHECK(generation.cache().length() == prompt.size() + 6);
    for (std::size_t layer = 0; layer < 2; ++layer) CHECK(generation.cache()[layer].length() == prompt.size() + 6);
  }
}

TEST_CASE("speculative: as many guesses as the passes' times make worth it") {
  const std::vector<double> sure(7, 1.0), unlikely(7, 0.01);
  generation::PassTimes flat(8);
  CHECK(flat.best(sure) == 0);  // nothing is known
  flat.record(1, 1e-3);
  CHECK(flat.best(sure) == 1);  // no more than twice the rows so far
  flat.record(2, 1.1e-3);
  CHECK(flat.best(sure) == 3);
  CHECK(flat.best(unlikely) == 0);

  generation::PassTimes steep(8);
  steep.record(1, 1e-3);
  steep.record(2, 2.5e-3);
  int passes = 0;
  while (passes < 1000 && steep.best(sure) == 0) ++passes;
  CHECK(passes > 20);  // then it is tried again
  CHECK(passes < 100);
}

TEST_CASE("speculative: what is guessed right saves passes, and what is not costs none") {
  Context ctx({.threads = 1});
  HashLm lm(9, 4), bad(9, 77);
  const std::vector<TokenId> prompt{4, 5, 6, 4, 5};
  GenerateOptions options;
  options.max_new_tokens = 120;
  options.draft = always(&lm, 3);
  const Story drafted = tell(ctx, lm, prompt, options, false);
  CHECK(drafted.times.decode_tokens == 119);
  const std::size_t rows = std::min<std::size_t>(4, ctx.most_steps());
  CHECK(drafted.times.decode_passes == (119 + rows - 1) / rows);
  CHECK(drafted.times.accepted_tokens == drafted.times.proposed_tokens);

  // A pass takes the same time whatever it reads: guesses pay, a model as slow as the one that it helps does not.
  lm.pass_time = bad.pass_time = std::chrono::milliseconds(1);
  options.draft.reset();
  options.lookup.emplace();
  // Times are measured: where other load on the machine made passes look slow, another answer tells.
  bool saved = false, rested = false;
  for (int i = 0; i < 20 && !saved; ++i) {
    const Story looked_up = tell(ctx, lm, prompt, options, false);
    CHECK(looked_up.ids == drafted.ids);
    saved = looked_up.times.accepted_tokens > 0 && looked_up.times.decode_passes < 100;
  }
  CHECK(saved);
  options.lookup.reset();
  options.draft = &bad;
  for (int i = 0; i < 20 && !rested; ++i) {
    bad.passes = 0;
    CHECK(tell(ctx, lm, prompt, options, false).ids == drafted.ids);
    rested = bad.passes < 60;
  }
  CHECK(rested);
  options.draft = Draft();
  CHECK_THROWS_AS(tell(ctx, lm, prompt, options, false), ArgumentError);
  options.draft.reset();
  options.lookup = always(8, 0);
  CHECK_THROWS_AS(tell(ctx, lm, prompt, options, false), ArgumentError);
  options.lookup = PromptLookup();
  options.lookup->max_tokens = 0;
  CHECK(tell(ctx, lm, prompt, options, false).times.proposed_tokens == 0);
}

TEST_CASE("speculative: a draft that fails, and positions behind the model's last one, change nothing") {
  Context ctx({.threads = 1});
  DecoderConfig c = small_decoder();
  const Decoder lm(random_decoder(c), c);
  c.vocab_size = 12;
  const Decoder narrow(random_decoder(c), c);  // knows no token above 11
  const std::vector<TokenId> prompt{4, 5, 60, 4, 5};
  GenerateOptions options;
  options.max_new_tokens = 40;
  const std::vector<TokenId> whole = tell(ctx, lm, prompt, options, false).ids;
  options.draft = always(&narrow);
  CHECK(tell(ctx, lm, prompt, options, false).ids == whole);

  // OPT has a table of positions: the last answers just fit.
  const std::string folder = test_data("cases/opt_350m_style/model");
  const Pipeline opt = load(folder);
  const std::size_t positions = static_cast<const DecoderStack&>(opt.language_model()).sizes().context_length;
  Context other = opt.new_context();
  std::vector<TokenId> long_prompt(positions - 12, 9);
  for (std::size_t i = 0; i < long_prompt.size(); ++i) long_prompt[i] = static_cast<TokenId>(9 + i % 5);
  GenerateOptions to_the_end;
  to_the_end.max_new_tokens = 500;
  const auto last = [&](const GenerateOptions& with) {
    Generation generation(other, opt.language_model(), opt.language_model().embed(other, long_prompt), with, long_prompt);
    std::vector<TokenId> ids;
    try {
      while (const auto token = generation.next()) ids.push_back(*token);
    } catch (const ArgumentError&) {
      ids.push_back(-1);
    }
    return ids;
  };
  const std::vector<TokenId> plain = last(to_the_end);
  CHECK(plain.size() == 14);
  CHECK(plain.back() == -1);
  to_the_end.lookup = always(8);
  CHECK(last(to_the_end) == plain);
  to_the_end.lookup.reset();
  to_the_end.draft = always(&opt.language_model());
  CHECK(last(to_the_end) == plain);
}

TEST_CASE("speculative: the reference's tokens, in every family, with every option") {
  for (const std::string& folder : cases()) {
    INFO(folder);
    const reference::Case one = reference::open_case(folder);
    const Pipeline pipeline = load(one.model);
    const auto prompts = prompts_of(one, pipeline);
    for (const reference::ordered_json& run : one.description.at("runs")) {
      GenerateOptions options = reference::options_of(run.at("generate"), pipeline.generation_config());
      if (options.num_beams.value_or(1) > 1) continue;
      INFO(run.dump());
      std::vector<std::vector<TokenId>> wanted;
      if (const auto& ids = run.at("output_ids"); !ids.empty() && ids.at(0).is_array()) wanted = ids.get<std::vector<std::vector<TokenId>>>();
      else wanted = {ids.get<std::vector<TokenId>>()};
      std::size_t at = 0;
      for (const auto& [name, prompt] : prompts) {
        if (name != run.at("input")) continue;
        for (const char* const way : {"lookup", "draft", "both"}) {
          INFO(way);
          GenerateOptions guessing = options;
          if (*way != 'd') guessing.lookup = always(8);
          if (*way != 'l') guessing.draft = Draft(&pipeline, *way == 'b' ? 3 : 8), guessing.draft->adapt = false;
          Context ctx = pipeline.new_context();
          const Reply reply = pipeline.complete(ctx, prompt, guessing);
          CHECK(reply.ids == wanted.at(at));
          if (*way == 'd' && reply.ids.size() > 2) CHECK(reply.times.accepted_tokens + 2 * reply.times.decode_passes >= reply.times.decode_tokens);
          if (*way == 'd' && reply.ids.size() > 9) CHECK(reply.times.accepted_tokens > 2);
        }
        ++at;
      }
    }
  }
}

TEST_CASE("speculative: long answers in every tier") {
  for (const char* const name : {"llava_qwen2_multilayer", "blip2_flan_t5_small", "blip2_opt_small", "of_mpt7b", "idefics_qknorm_v5", "mistral_swa", "t5_relu_tied", "gpt_neox_parallel_v5"}) {
    INFO(name);
    const reference::Case one = reference::open_case(test_data(std::string("cases/") + name));
    const Pipeline pipeline = load(one.model);
    const Prompt prompt = prompts_of(one, pipeline).front().second;
    for (ContextOptions tier : tiers()) {
      Context ctx(tier);
      INFO(in_words(ctx));
      for (const bool sample : {false, true}) {
        GenerateOptions options;
        options.max_new_tokens = 48;
        options.eos_token_id = std::vector<TokenId>();
        options.do_sample = sample;
        options.temperature = 0.5;
        options.seed = 3;
        const auto complete = [&] {
          pipeline.prefixes().clear();  // in bf16 a prompt that has been read in part gives other last bits
          return pipeline.complete(ctx, prompt, options);
        };
        const Reply plain = complete();
        REQUIRE(plain.ids.size() == 48);
        options.lookup = always(8, 2);
        CHECK(complete().ids == plain.ids);
        options.lookup.reset();
        options.draft = Draft(&pipeline);
        options.draft->adapt = false;
        const Reply drafted = complete();
        CHECK(drafted.ids == plain.ids);
        CHECK(drafted.text == plain.text);
        CHECK(drafted.times.accepted_tokens > 20);  // sampled ones too: the same model draws the same tokens
      }
    }
  }
}

TEST_CASE("speculative: texts, stop strings, constraints, callbacks") {
  const Pipeline lm = load(source_dir() + "/examples/models/stories260k");
  GenerateOptions lookup, draft, both;
  lookup.lookup = always(8);
  draft.draft = Draft(&lm), draft.draft->adapt = false;
  both.lookup = PromptLookup(), both.draft = Draft(&lm, 4);
  const auto same = [&](GenerateOptions options, const std::string& text, std::size_t pieces = 1000) {
    const auto told = [&](const GenerateOptions& with) {
      Context ctx = lm.new_context();
      std::vector<std::string> streamed;
      const Reply reply = lm.complete(ctx, text, with, [&](std::string_view piece) {
        streamed.emplace_back(piece);
        return streamed.size() < pieces;
      });
      return std::tuple(reply.text, reply.ids, reply.finish_reason, streamed, lm.prefixes().bytes() > 0);
    };
    const auto plain = told(options);
    for (const GenerateOptions* way : {&lookup, &draft, &both}) CHECK(told(way->or_else(options)) == plain);
    return std::get<0>(plain);
  };
  GenerateOptions options;
  options.max_new_tokens = 150;
  const std::string story = same(options, "Once upon a time");
  CHECK(story.size() > 100);
  same(options, "Once upon a time", 7);
  options.stop = {"park", "never there"};
  CHECK(story.find("park") != std::string::npos);
  same(options, "Once upon a time");
  options.stop.reset();
  options.repetition_penalty = 1.2;
  same(options, "Tom and Lily and Tom and Lily and Tom");
  options.repetition_penalty.reset();
  options.constraint = Constraint::regex("( [a-z]{2,6}){12}\\.");
  options.max_new_tokens = 60;
  same(options, "Tom said");
  options.constraint = Constraint::choices({" a cat and a dog", " a cat and a cow", " the sun"});
  same(options, "There was");
  options.constraint = Constraint::json_schema(R"({"type":"object","properties":{"name":{"type":"string","maxLength":12},"names":{"type":"array","items":{"enum":["Tom","Lily"]},"minItems":3,"maxItems":5}},"required":["name","names"]})");
  same(options, "Once upon a time ");
  options.do_sample = true;
  options.seed = 11;
  same(options, "Once upon a time ");
  options.constraint.reset();
  same(options, "Once upon a time ");

  // The next call begins where this one has read to, and no guess is left behind.
  Context ctx = lm.new_context();
  lm.prefixes().clear();
  const Reply first = lm.complete(ctx, "Once upon a time", both);
  const Reply again = lm.complete(ctx, "Once upon a time" + first.text + " Then", both);
  lm.prefixes().clear();
  const Reply anew = lm.complete(ctx, "Once upon a time" + first.text + " Then", GenerateOptions());
  CHECK(again.reused_tokens > first.ids.size());
  CHECK(again.text == anew.text);

  // Beams and batches go without, observed contexts too.
  both.num_beams = 2;
  both.max_new_tokens = 12;
  CHECK_NOTHROW(lm.complete(ctx, "Once", both));
  both.num_beams = 1;
  ContextOptions observing;
  std::size_t most_rows = 0;
  observing.on_tensor = [&](std::string_view name, View tensor) {
    if (name == "step_logits.3") most_rows = tensor.rows();
  };
  Context observed = lm.new_context(std::move(observing));
  CHECK(lm.complete(observed, "Once", both).times.proposed_tokens == 0);
  CHECK(most_rows == 1);
}

TEST_CASE("speculative: progress tells of no prompt where steps are taken") {
  const Pipeline lm = load(source_dir() + "/examples/models/stories260k");
  GenerateOptions options;
  options.max_new_tokens = 60;
  options.lookup = always(8);
  ContextOptions watching;
  std::size_t told = 0;
  watching.on_progress = [&](std::string_view stage, std::size_t, std::size_t) { told += stage == "prefill"; };
  Context ctx = lm.new_context(std::move(watching));
  const Reply reply = lm.complete(ctx, "Tom and Lily and Tom and Lily and Tom", options);
  CHECK(reply.times.proposed_tokens > 0);
  CHECK(told == static_cast<const DecoderStack&>(lm.language_model()).sizes().num_hidden_layers);
}

TEST_CASE("speculative: a draft of another family or vocabulary") {
  const Pipeline stories = load(source_dir() + "/examples/models/stories260k");
  const reference::Case one = reference::open_case(test_data("cases/llava_mistral"));
  const Pipeline llava = load(one.model), text = load(test_data("cases/mistral_swa/model"));
  const Prompt prompt = prompts_of(one, llava).front().second;
  Context ctx = llava.new_context();
  GenerateOptions options;
  options.max_new_tokens = 30;
  options.eos_token_id = std::vector<TokenId>();
  const Reply plain = llava.complete(ctx, prompt, options);
  options.draft = &stories;
  try {
    llava.complete(ctx, prompt, options);
    FAIL("a draft of another vocabulary was taken");
  } catch (const ArgumentError& error) {
    CHECK(std::string(error.what()).find("draft has another vocabulary: token ") != std::string::npos);
  }
  options.draft = always(&text.language_model());  // by ids, without the pictures
  CHECK(llava.complete(ctx, prompt, options).ids == plain.ids);
  options.draft = always(&llava.language_model());
  CHECK(llava.complete(ctx, prompt, options).ids == plain.ids);
  Context other;
  CHECK_THROWS_AS(Generation(other, text.language_model(), text.language_model().embed(other, std::vector<TokenId>{5}), GenerateOptions{.draft = &text}), ArgumentError);
}
