// Text-to-text pipelines: the answer is a text of its own, and no prompt leaves anything to another one.
#include "support/catch.hpp"
#include "support/exactly.hpp"
#include "support/paths.hpp"

#include <chiasm/chiasm.hpp>

#include <filesystem>
#include <fstream>

namespace {

std::string folder() { return test_data("cases/t5_relu_tied/model"); }
const std::string question = "The small red bicycle near the old castle shows a strange picture, and the teacher explains why the";

}  // namespace

TEST_CASE("an encoder-decoder's answer is a text of its own") {
  const chiasm::Pipeline t5 = chiasm::load(folder());
  CHECK(t5.family().name() == "t5");
  CHECK(t5.family().image_placeholder().empty());
  for (const char* const prompt : {"Describe the picture.", question.c_str(), "the"}) {
    chiasm::Context ctx = t5.new_context();
    std::string streamed;
    const chiasm::Reply reply = t5.complete(ctx, prompt, exactly(12), [&](std::string_view piece) {
      streamed += piece;
      return true;
    });
    CHECK(reply.ids.size() == 12);
    // Without the blank that its first word begins with, as the reference decodes it.
    CHECK(reply.text == t5.tokenizer().decode(reply.ids, true));
    CHECK(reply.text.front() != ' ');
    CHECK(streamed == reply.text);
    CHECK(reply.prompt_tokens == t5.tokenizer().encode(prompt).size());
    CHECK(reply.reused_tokens == 0);
    CHECK(reply.times.prefill_tokens == 1);
    CHECK(t5.generate(ctx, prompt, exactly(12)).ids == reply.ids);
  }
  CHECK(t5.prefixes().bytes() == 0);
}

TEST_CASE("lengths count the decoder's tokens") {
  const chiasm::Pipeline t5 = chiasm::load(folder());
  chiasm::Context ctx = t5.new_context();
  chiasm::GenerateOptions options;
  options.max_length = 6;
  options.eos_token_id = std::vector<chiasm::TokenId>();
  CHECK(t5.complete(ctx, question, options).ids.size() == 5);
  options.num_beams = 3;
  CHECK(t5.complete(ctx, question, options).ids.size() == 5);
  options.forced_bos_token_id = 42;
  CHECK(t5.complete(ctx, question, options).ids.front() == 42);
  options.num_beams = 1;
  CHECK(t5.complete(ctx, question, options).ids.front() == 42);
}

TEST_CASE("answers of an encoder-decoder can be held to a form") {
  const chiasm::Pipeline t5 = chiasm::load(folder());
  chiasm::GenerateOptions options = exactly(24);
  options.constraint = chiasm::Constraint::choices({"two dogs", "a red bicycle"});
  const std::string answer = t5.complete(question, options);
  CHECK((answer == "two dogs" || answer == "a red bicycle"));
  options.num_beams = 3;
  const std::string best = t5.complete(question, options);
  CHECK((best == "two dogs" || best == "a red bicycle"));
}

TEST_CASE("a conversation with an encoder-decoder keeps no state but its words") {
  const chiasm::Pipeline t5 = chiasm::load(folder());
  chiasm::Context ctx = t5.new_context();
  chiasm::Conversation talk(t5);
  const chiasm::Reply first = talk.ask(ctx, "Describe the picture. ", exactly(6)), second = talk.ask(ctx, question, exactly(6));
  CHECK(second.reused_tokens == 0);
  CHECK(second.ids == t5.complete(ctx, "Describe the picture. " + first.text + question, exactly(6)).ids);
  const std::string path = (std::filesystem::temp_directory_path() / "chiasm-text-to-text.talk").string();
  talk.save(path);
  chiasm::Conversation again = chiasm::Conversation::restore(t5, path);
  std::filesystem::remove(path);
  CHECK(again.ask(ctx, "the", exactly(6)).ids == talk.ask(ctx, "the", exactly(6)).ids);
  CHECK(t5.prefixes().bytes() == 0);
}

TEST_CASE("what does not fit a text-to-text pipeline is refused") {
  const chiasm::Pipeline t5 = chiasm::load(folder());
  chiasm::Context ctx = t5.new_context();
  CHECK_THROWS_AS(t5.complete(chiasm::Prompt{chiasm::Image(8, 8), "What is this?"}), chiasm::ArgumentError);
  chiasm::FeatureCache features(0);
  CHECK_THROWS_AS(t5.family().prepare(ctx, "", {}, false, features), chiasm::ArgumentError);
  ctx.cancel_token().cancel();
  CHECK_THROWS_AS(t5.complete(ctx, question), chiasm::Cancelled);
}

TEST_CASE("the decoder's start token is the generation configuration's, or else the model's") {
  const auto json = [](const std::string& text) { return chiasm::Json::parse(text, "config.json"); };
  const chiasm::Json none;
  CHECK(chiasm::decoder_start_token(json(R"({"decoder_start_token_id": 3, "bos_token_id": 4})"), json(R"({"decoder_start_token_id": 5})"), 10) == 3);
  CHECK(chiasm::decoder_start_token(json(R"({"bos_token_id": 4})"), json(R"({"decoder_start_token_id": 5})"), 10) == 4);
  CHECK(chiasm::decoder_start_token(none, json(R"({"decoder_start_token_id": 0, "bos_token_id": 4})"), 10) == 0);
  CHECK(chiasm::decoder_start_token(json("{}"), json(R"({"decoder_start_token_id": null, "bos_token_id": 7})"), 10) == 7);
  CHECK_THROWS_AS(chiasm::decoder_start_token(json("{}"), json("{}"), 10), chiasm::ConfigError);
  CHECK_THROWS_AS(chiasm::decoder_start_token(none, json(R"({"decoder_start_token_id": 10})"), 10), chiasm::ConfigError);
  CHECK_THROWS_AS(chiasm::decoder_start_token(none, json(R"({"decoder_start_token_id": -1})"), 10), chiasm::ConfigError);
  CHECK_THROWS_AS(chiasm::decoder_start_token(none, json(R"({"decoder_start_token_id": [0, 0]})"), 10), chiasm::ConfigError);
}
