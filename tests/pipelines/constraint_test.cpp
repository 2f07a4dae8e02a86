// Answers held to a constraint: every way of decoding stays within it, and the text that comes back is one of its texts.
#include "support/catch.hpp"
#include "support/json_schema.hpp"
#include "support/paths.hpp"
#include "support/random_decoder.hpp"

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/modules/decoder.hpp>
#include <chiasm/pipelines/generation.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <cmath>
#include <limits>

using namespace chiasm;
using nlohmann::ordered_json;

namespace {

/// A decoder that knows nothing, in the tokenizer's language; `more` rows than that has tokens.
struct Random {
  explicit Random(const std::string& tokens, std::ptrdiff_t more = 0, std::uint64_t seed = 1)
      : tokenizer(Tokenizer::load(tokens)), config(shape(static_cast<std::size_t>(static_cast<std::ptrdiff_t>(tokenizer.size()) + more))),
        lm(random_decoder(config, DType::f32, RandomWeights(seed)), config), vocabulary(Constraint::vocabulary(tokenizer)) {
    for (TokenId id = 0; id < 1200 && eos < 0; ++id)
      if (tokenizer.is_special(id)) eos = id;
    prompt = tokenizer.encode("What is it?", false);
  }
  static DecoderConfig shape(std::size_t vocab) {
    DecoderConfig c = small_decoder();
    c.vocab_size = vocab, c.num_hidden_layers = 1, c.intermediate_size = 48;
    return c;
  }
  GenerateOptions options(const Constraint& constraint, std::size_t tokens) const {
    GenerateOptions o;
    o.max_new_tokens = tokens;
    o.eos_token_id = std::vector<TokenId>{eos};
    o.constraint = constraint.on(vocabulary);
    return o;
  }
  std::vector<TokenId> answer(Context& ctx, const GenerateOptions& o) const {
    Generation generation(ctx, lm, lm.embed(ctx, prompt), o, prompt);
    while (generation.next()) {
    }
    return {generation.ids().begin(), generation.ids().end()};
  }
  std::string text(std::span<const TokenId> ids) const { return tokenizer.decode(ids, true); }

  Tokenizer tokenizer;
  DecoderConfig config;
  Decoder lm;
  std::shared_ptr<const Constraint::Vocabulary> vocabulary;
  TokenId eos = -1;
  std::vector<TokenId> prompt;
};

const std::string sentencepiece = test_data("tokenizer/llama"), byte_level = test_data("tokenizer/qwen2");

}  // namespace

TEST_CASE("1000 random schemas: every document is whole and valid", "[schemas]") {
  const Random models[] = {Random(sentencepiece, 38), Random(byte_level, -3)};
  Context ctx;
  schemas::Generator generator(2026);
  std::size_t held = 0, too_long = 0, cut = 0;
  std::vector<ordered_json> waiting;  // for a batch
  for (std::uint64_t i = 0; held < 1000; ++i) {
    const ordered_json schema = generator();
    INFO(schema.dump());
    const Random& model = models[i % 2];
    const Constraint constraint = Constraint::json_schema(schema.dump());
    GenerateOptions options = model.options(constraint, 256);
    options.do_sample = true;
    options.temperature = 1;
    options.top_k = 0;
    options.seed = i;
    if (options.constraint->shortest() > 256) {  // said before anything is generated
      CHECK_THROWS_AS(model.answer(ctx, options), ArgumentError);
      REQUIRE(++too_long < 50);
      continue;
    }
    std::vector<std::string> texts;
    const auto take = [&](std::span<const TokenId> ids) {
      cut += ids.size() == 256;
      texts.push_back(model.text(ids));
    };
    if (i % 20 == 3) {  // beams, drawn or best
      options.num_beams = 3;
      options.do_sample = i % 40 == 3;
      options.num_return_sequences = 2;
      for (const BeamHypothesis& hypothesis : beam_search(ctx, model.lm, model.lm.embed(ctx, model.prompt), model.prompt, options)) take(hypothesis.ids);
    } else if (i % 20 == 4) {
      options.num_return_sequences = 3;
      const Tensor embeddings = model.lm.embed(ctx, model.prompt);
      const GenerationPrompt prompts[] = {{embeddings, model.prompt}, {embeddings, {}}};
      for (const GeneratedSequence& sequence : generate_batch(ctx, model.lm, prompts, options)) take(sequence.ids);
    } else if (i % 20 == 5) {
      options.do_sample = false;
      take(model.answer(ctx, options));
    } else {
      take(model.answer(ctx, options));
    }
    REQUIRE(!texts.empty());
    const schemas::Validator valid(schema);
    for (const std::string& text : texts) {
      INFO(text);
      const ordered_json document = ordered_json::parse(text, nullptr, false);
      REQUIRE_FALSE(document.is_discarded());
      REQUIRE(valid(document));
      REQUIRE(constraint.matches(text));
    }
    ++held;
  }
  CHECK(held == 1000);
  CHECK(cut > 0);  // some would have gone on: the end was steered to
}

TEST_CASE("a constrained answer is what a processor that forbids by hand gives") {
  const Random model(byte_level);
  Context ctx;
  const std::vector<std::string> choices{"red", "green", "a red ball", "blue", "black"};
  GenerateOptions by_hand;
  by_hand.max_new_tokens = 20;
  by_hand.eos_token_id = std::vector<TokenId>{model.eos};
  by_hand.logits_processor = [&](std::span<const TokenId> history, std::span<float> scores) {
    const std::string so_far = model.text(history.subspan(model.prompt.size()));
    for (std::size_t id = 0; id < scores.size(); ++id) {
      const auto token = static_cast<TokenId>(id);
      const std::string then = so_far + (model.tokenizer.is_special(token) ? "" : model.tokenizer.bytes(token));
      const bool fits = std::any_of(choices.begin(), choices.end(), [&](const std::string& choice) {
        return token == model.eos ? choice == so_far : then.size() > so_far.size() && choice.starts_with(then);
      });
      if (!fits) scores[id] = -std::numeric_limits<float>::infinity();
    }
  };
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    GenerateOptions options = model.options(Constraint::choices(choices), 20);
    by_hand.do_sample = options.do_sample = seed > 0;
    by_hand.seed = options.seed = seed;
    std::vector<TokenId> want = model.answer(ctx, by_hand);
    if (want.back() == model.eos) want.pop_back();
    std::vector<TokenId> have = model.answer(ctx, options);
    if (have.back() == model.eos) have.pop_back();
    CHECK(have == want);
    CHECK(std::find(choices.begin(), choices.end(), model.text(have)) != choices.end());
  }
}

TEST_CASE("beams and batches stay within a constraint, however few texts it has") {
  const Random model(sentencepiece);
  Context ctx;
  for (const std::vector<std::string>& choices : std::vector<std::vector<std::string>>{{"yes"}, {"yes", "no"}, {"red", "red wine", "green", "blue"}}) {
    GenerateOptions options = model.options(Constraint::choices(choices), 12);
    const Tensor embeddings = model.lm.embed(ctx, model.prompt);
    const auto among = [&](const std::string& text) { return std::find(choices.begin(), choices.end(), text) != choices.end(); };
    const GenerationPrompt prompts[] = {{embeddings, model.prompt}, {embeddings, model.prompt}};
    const auto batch = generate_batch(ctx, model.lm, prompts, options);
    for (const GeneratedSequence& sequence : batch) {
      CHECK(sequence.ids == model.answer(ctx, options));
      CHECK(among(model.text(sequence.ids)));
      CHECK(sequence.finish_reason != FinishReason::length);
    }
    for (const std::size_t beams : {2u, 5u, 9u})
      for (const bool sampled : {false, true})
        for (const EarlyStopping early : {EarlyStopping::off, EarlyStopping::on, EarlyStopping::never}) {
          options.num_beams = beams;
          options.do_sample = sampled;
          options.early_stopping = early;
          const auto best = beam_search(ctx, model.lm, embeddings, model.prompt, options);
          REQUIRE(best.size() == 1);
          INFO(beams << " beams: " << model.text(best[0].ids));
          CHECK(among(model.text(best[0].ids)));
        }
  }
}

TEST_CASE("a constraint has the last word, and max_new_tokens cuts nothing") {
  const Random model(byte_level);
  Context ctx;
  const auto text = [&](const GenerateOptions& options) { return model.text(model.answer(ctx, options)); };
  const Constraint digits = Constraint::regex("[0-9]{4}"), list = Constraint::regex("\\[(red|green|blue)(, (red|green|blue))*\\]");
  {
    GenerateOptions options = model.options(digits, 30);
    options.min_new_tokens = 20;
    options.no_repeat_ngram_size = 1;
    options.repetition_penalty = 5;
    options.suppress_tokens = std::vector<TokenId>();
    for (TokenId id = 0; id < 1000; ++id) options.suppress_tokens->push_back(id);
    CHECK(digits.matches(text(options)));
    options.logits_processor = [](std::span<const TokenId>, std::span<float> scores) { std::fill(scores.begin(), scores.end(), std::numeric_limits<float>::quiet_NaN()); };
    CHECK(digits.matches(text(options)));
    options.forced_eos_token_id = std::vector<TokenId>{model.eos};
    CHECK(digits.matches(text(options)));
  }
  for (std::size_t budget = list.on(model.vocabulary).shortest(); budget < 40; ++budget)
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      GenerateOptions options = model.options(list, budget);
      options.do_sample = seed > 0;
      options.top_k = seed == 1 ? 1 : 0;
      options.top_p = seed == 2 ? 0.5 : 1;
      options.seed = seed;
      INFO(text(options));
      CHECK(list.matches(text(options)));
      // Nor where no end token exists.
      options.eos_token_id = std::vector<TokenId>();
      CHECK(list.matches(text(options)));
      options.constraint = Constraint::regex("(ab)*").on(model.vocabulary);
      CHECK(options.constraint->matches(text(options)));
    }
  CHECK_THROWS_AS(text(model.options(list, 2)), ArgumentError);
  GenerateOptions unbound = model.options(list, 20);
  unbound.constraint = list;
  CHECK_THROWS_AS(text(unbound), ArgumentError);
}

TEST_CASE("a pipeline's text is one of the constraint's texts") {
  const std::vector<std::string> colors{"red", "green", " blue", "light green"};
  const Constraint color = Constraint::choices(colors), sentence = Constraint::regex("[A-Z][a-z]*( [a-z]+){0,3}\\."),
                   record = Constraint::json_schema(std::string_view(R"({"type": "object", "properties": {"color": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 0, "maximum": 20}}, "required": ["color", "n"]})"));
  for (const char* folder : {"cases/llama_generation/model", "cases/qwen2/model", "cases/llava_mistral/model"}) {
    const Pipeline lm = load(test_data(folder));
    for (const Constraint& constraint : {color, sentence, record})
      for (std::uint64_t seed = 0; seed < 8; ++seed)
        for (const char* prompt : {"", "The", "It is ", "a\n"}) {
          if (lm.tokenizer().encode(prompt).empty()) continue;
          GenerateOptions options;
          options.max_new_tokens = 64;
          options.constraint = constraint;
          options.do_sample = seed > 1;
          options.seed = seed;
          if (seed == 1) options.num_beams = 4;
          INFO(folder << " \"" << prompt << "\" " << seed);
          Context ctx = lm.new_context();
          std::string streamed;
          const Reply reply = seed % 4 == 3 ? lm.generate(ctx, prompt, options, [&](std::string_view piece) { return streamed += piece, true; })
                                            : lm.complete(ctx, prompt, options, [&](std::string_view piece) { return streamed += piece, true; });
          INFO("'" << reply.text << "' " << to_string(reply.finish_reason));
          CHECK(constraint.matches(reply.text));
          CHECK(streamed == reply.text);
          CHECK((reply.finish_reason == FinishReason::eos || reply.finish_reason == FinishReason::stop));
        }
  }
  const Pipeline lm = load(test_data("cases/llama_generation/model"));
  GenerateOptions options;
  options.max_new_tokens = 3;
  options.constraint = record;
  CHECK_THROWS_AS(lm.complete("x", options), ArgumentError);
}
