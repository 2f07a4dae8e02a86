#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/image_file.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include "support/catch.hpp"
#include "support/exactly.hpp"
#include "support/paths.hpp"

using namespace chiasm;

TEST_CASE("a GGUF pair answers, however it is named") {
  const std::string folder = test_data("cases/gguf_llava16/model"), text = folder + "/tiny.gguf", mmproj = folder + "/mmproj-tiny.gguf";
  const Image picture = load_image(test_data("cases/gguf_llava16/a.png"));
  const Prompt question{picture, "Describe the picture."};
  const std::string answer = load(text).generate(question, exactly(6));
  CHECK(load(folder).generate(question, exactly(6)) == answer);
  CHECK(load(text, {.mmproj = mmproj}).generate(question, exactly(6)) == answer);
  CHECK(load(text, {.weights = WeightKind::f32}).generate(question, exactly(6)) == answer);
  CHECK(load(text).family().name() == "llava_next");

  // Without its tower it is a text model.
  const FileMap file = FileMap::open(text);
  const Pipeline blind = load(Checkpoint::from_memory({{"tiny.gguf", file.bytes()}}));
  CHECK(blind.family().name() == "mistral");
  CHECK_FALSE(blind.complete("The castle", exactly(6)).empty());
  CHECK_THROWS_AS(blind.generate(question), ArgumentError);
}

TEST_CASE("a picture has a place in a vocabulary without a token for it") {
  const Pipeline vlm = load(test_data("cases/gguf_llava15/model"));
  const auto vocabulary = static_cast<TokenId>(vlm.language_model().vocab_size());
  CHECK(vlm.family().image_placeholder() == "<image>");
  CHECK(vlm.tokenizer().id("<image>") == vocabulary);
  // Its id is among those that a penalty looks at.
  GenerateOptions options = exactly(4);
  options.repetition_penalty = 1.3f;
  options.no_repeat_ngram_size = 2;
  const Image picture = load_image(test_data("cases/gguf_llava15/a.png"));
  CHECK_FALSE(vlm.generate({picture, "What is it?"}, options).empty());
  options.num_beams = 2;
  CHECK_FALSE(vlm.generate({picture, "What is it?"}, options).empty());
}
