// Pipelines from folder to text: prompts, streaming, stop strings, cancelling, and what is said when something does not fit.
#include "support/catch.hpp"
#include "support/exactly.hpp"
#include "support/paths.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <thread>

namespace {

std::string stories() { return source_dir() + "/examples/models/stories260k"; }
std::string llava_case() { return test_data("cases/llava_mistral"); }

nlohmann::json read(const std::string& path) {
  std::ifstream file(path);
  REQUIRE(file);
  return nlohmann::json::parse(file);
}

/// A copy of a checkpoint folder with one file replaced, removed afterwards.
class ChangedCopy {
 public:
  ChangedCopy(const std::string& from, const std::string& file, const std::string& content)
      : path_(std::filesystem::temp_directory_path() / ("chiasm-" + std::to_string(std::hash<std::thread::id>()(std::this_thread::get_id())) + file)) {
    std::filesystem::remove_all(path_);
    std::filesystem::copy(from, path_, std::filesystem::copy_options::recursive);
    std::filesystem::remove(path_ / file);
    if (!content.empty()) std::ofstream(path_ / file) << content;
  }
  ~ChangedCopy() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("stories260K tells the published story") {
  const nlohmann::json expected = read(stories() + "/expected.json");
  const chiasm::Pipeline lm = chiasm::load(stories());
  for (const auto& run : expected.at("runs")) {
    chiasm::Context ctx = lm.new_context();
    const std::string prompt = run.at("prompt");
    std::string streamed;
    const chiasm::Reply reply = lm.complete(ctx, prompt, exactly(run.at("ids").size()), [&](std::string_view piece) {
      streamed += piece;
      return true;
    });
    CHECK(reply.ids == run.at("ids").get<std::vector<chiasm::TokenId>>());
    CHECK(prompt + reply.text == run.at("text").get<std::string>());
    CHECK(streamed == reply.text);
  }
  const std::string published = expected.at("published_text");
  const std::string story = lm.complete("", {.max_new_tokens = 400});
  CHECK(story.substr(0, published.size()) == published);
}

TEST_CASE("a conversation becomes the reference's prompt") {
  for (const char* const name : {"llava_mistral", "llava_next_llama_v5", "llava15_modern_keys", "llava_qwen2_multilayer"}) {
    const std::string folder = test_data(std::string("cases/") + name);
    const chiasm::Pipeline vlm = chiasm::load(folder + "/model");
    const auto description = read(folder + "/case.json");
    for (const auto& input : description.at("inputs")) {
      std::vector<chiasm::Message> messages;
      for (const auto& message : input.at("messages")) {
        chiasm::Prompt content;
        for (const auto& part : message.at("content")) {
          if (part.at("type") == "image") content << chiasm::Image(8, 8);
          else content << part.at("text").get<std::string>();
        }
        messages.push_back({message.at("role"), content});
      }
      CHECK(vlm.render(messages) == input.at("prompt").get<std::string>());
    }
  }
}

TEST_CASE("an answer ends before a stop string, wherever tokens break it") {
  const chiasm::Pipeline lm = chiasm::load(stories());
  const std::string whole = lm.complete("Once upon a time", exactly(80));
  const std::size_t at = whole.find("park");
  REQUIRE(at != std::string::npos);
  chiasm::GenerateOptions options = exactly(80);
  options.stop = {"never there", "park"};
  std::string streamed;
  chiasm::Context ctx = lm.new_context();
  const chiasm::Reply reply = lm.complete(ctx, "Once upon a time", options, [&](std::string_view piece) {
    streamed += piece;
    return true;
  });
  CHECK(reply.text == whole.substr(0, at));
  CHECK(streamed == reply.text);
  CHECK(reply.finish_reason == chiasm::FinishReason::stop);
  options.num_beams = 3;
  const chiasm::Reply best = lm.complete(ctx, "Once upon a time", options);
  CHECK(best.text.find("park") == std::string::npos);
  REQUIRE_FALSE(best.ids.empty());  // no hypothesis goes on behind the stop string
  CHECK(lm.tokenizer().decode(std::span(best.ids).first(best.ids.size() - 1)).find("park") == std::string::npos);
  options.stop = {""};
  CHECK_THROWS_AS(lm.complete("Once", options), chiasm::ArgumentError);
}

TEST_CASE("a callback ends the answer") {
  const chiasm::Pipeline lm = chiasm::load(stories());
  chiasm::Context ctx = lm.new_context();
  for (const std::size_t beams : {1u, 2u}) {
    std::size_t pieces = 0;
    std::string streamed;
    chiasm::GenerateOptions options = exactly(80);
    options.num_beams = beams;
    options.stop = {"never there"};  // its beginning is held back: it must not turn up in the text afterwards
    const chiasm::Reply reply = lm.complete(ctx, "Once upon a time", options, [&](std::string_view piece) {
      streamed += piece;
      return ++pieces < 5;
    });
    CHECK(pieces == 5);
    if (beams == 1) CHECK(reply.ids.size() < 10);
    CHECK(reply.text == streamed);
    CHECK(reply.finish_reason == chiasm::FinishReason::cancelled);
  }
}

TEST_CASE("cancelling works while a picture is encoded, and while the prompt is read") {
  const chiasm::Pipeline vlm = chiasm::load(llava_case() + "/model");
  for (const std::string_view stage : {"encode image", "prefill"}) {
    chiasm::CancelToken token;
    chiasm::ContextOptions options;
    options.cancel = token;
    std::size_t steps = 0;
    options.on_progress = [&](std::string_view name, std::size_t done, std::size_t total) {
      CHECK(done <= total);
      if (name != stage) return;
      ++steps;
      token.cancel();
    };
    chiasm::Context ctx(options);
    bool cancelled = false;
    try {
      cancelled = vlm.generate(ctx, {chiasm::Image(50, 40), "What is it?"}, exactly(4)).finish_reason == chiasm::FinishReason::cancelled;
    } catch (const chiasm::Cancelled&) {
      cancelled = true;
    }
    INFO(stage);
    CHECK(cancelled);
    CHECK(steps == 1);
  }
}

TEST_CASE("one pipeline serves several threads at once") {
  const chiasm::Pipeline vlm = chiasm::load(llava_case() + "/model");
  const chiasm::Image image(64, 48);
  const std::string expected = vlm.generate({image, "What is it?"}, exactly(12));
  std::vector<std::string> answers(4);
  {
    std::vector<std::jthread> threads;
    for (std::string& answer : answers) threads.emplace_back([&] { answer = vlm.generate({image, "What is it?"}, exactly(12)); });
  }
  for (const std::string& answer : answers) CHECK(answer == expected);
}

TEST_CASE("several prompts at once are answered as alone") {
  const chiasm::Pipeline vlm = chiasm::load(llava_case() + "/model");
  chiasm::Context ctx = vlm.new_context();
  std::vector<chiasm::PreparedPrompt> prepared;
  std::vector<std::vector<chiasm::TokenId>> alone;
  for (const char* const question : {"What is it?", "Is there anything else in the picture, to the left of the large thing?", "Why?"}) {
    const chiasm::Message asked{"user", {chiasm::Image(64, 48), question}};
    prepared.push_back(vlm.prepare(ctx, std::span(&asked, 1)));
    alone.push_back(vlm.generate(ctx, asked.content, exactly(10)).ids);
  }
  std::vector<chiasm::GenerationPrompt> prompts;
  for (const chiasm::PreparedPrompt& one : prepared) prompts.push_back({one.embeddings, one.ids});
  const auto together = chiasm::generate_batch(ctx, vlm.language_model(), prompts, exactly(10));
  REQUIRE(together.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) CHECK(together[i].ids == alone[i]);
}

TEST_CASE("config.json says what ends an answer where there is no generation_config.json") {
  const std::string model = llava_case() + "/model";
  nlohmann::json config = read(model + "/config.json");
  config.erase("eos_token_id");
  config["text_config"]["eos_token_id"] = {7, 9};
  ChangedCopy copy(model, "generation_config.json", "");
  std::ofstream(copy.path() + "/config.json") << config.dump();
  CHECK(chiasm::load(copy.path()).generation_config().eos_token_id == std::vector<chiasm::TokenId>{7, 9});
}

TEST_CASE("pictures and placeholders must agree") {
  const chiasm::Pipeline vlm = chiasm::load(llava_case() + "/model");
  CHECK_THROWS_AS(vlm.complete("an <image> that nobody gave", exactly(1)), chiasm::ArgumentError);
  const chiasm::Pipeline lm = chiasm::load(stories());
  CHECK_THROWS_AS(lm.complete({chiasm::Image(8, 8), "what is it?"}, exactly(1)), chiasm::ArgumentError);
  CHECK_THROWS_AS(lm.complete("Once", {.temperature = -1.0}), chiasm::ArgumentError);
}

TEST_CASE("a checkpoint that cannot be loaded is told apart and named") {
  CHECK_THROWS_AS(chiasm::load("/no/such/folder"), chiasm::FileError);
  CHECK_THROWS_AS(chiasm::load(test_data("cases/siglip/model")), chiasm::UnsupportedError);
  CHECK_THROWS_AS(chiasm::DualEncoder::load(stories()), chiasm::UnsupportedError);
  CHECK_THROWS_AS(chiasm::load(stories(), {.isa = "mmx"}), chiasm::ArgumentError);
  const std::string model = llava_case() + "/model";
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "config.json", R"({"model_type": "fortune_teller"})").path()), chiasm::UnsupportedError);
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "config.json", R"({"model_type": "llava", )").path()), chiasm::FormatError);
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "config.json", "").path()), chiasm::FileError);
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "model.safetensors", "").path()), chiasm::FileError);
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "tokenizer.json", "").path()), chiasm::FileError);
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "preprocessor_config.json", "").path()), chiasm::FileError);
  nlohmann::json config = read(model + "/config.json");
  config["text_config"]["intermediate_size"] = 7;
  try {
    (void)chiasm::load(ChangedCopy(model, "config.json", config.dump()).path());
    FAIL("no exception");
  } catch (const chiasm::WeightError& error) {
    CHECK(error.file.find("model.safetensors") != std::string::npos);
    CHECK(error.tensor == "language_model.model.layers.0.mlp.gate_proj.weight");
    CHECK(error.want.starts_with("(7, "));
  }
  config["text_config"]["num_attention_heads"] = 0;
  CHECK_THROWS_AS(chiasm::load(ChangedCopy(model, "config.json", config.dump()).path()), chiasm::ConfigError);
}

TEST_CASE("a model loads from memory as from its folder") {
  std::vector<std::pair<std::string, std::string>> contents;
  for (const auto& entry : std::filesystem::directory_iterator(llava_case() + "/model")) {
    std::ifstream file(entry.path(), std::ios::binary);
    contents.emplace_back(entry.path().filename().string(), std::string(std::istreambuf_iterator<char>(file), {}));
  }
  std::vector<std::pair<std::string, std::span<const std::byte>>> files;
  for (const auto& [name, text] : contents) files.emplace_back(name, std::as_bytes(std::span(text)));
  const chiasm::Pipeline in_memory = chiasm::load(chiasm::Checkpoint::from_memory(files));
  const chiasm::Image image(64, 48);
  CHECK(in_memory.generate({image, "What is it?"}, exactly(12)) == chiasm::load(llava_case() + "/model").generate({image, "What is it?"}, exactly(12)));
}

TEST_CASE("load() lays out bf16 weights for the kernels that read them, and answers as with those of the file") {
  const std::string model = llava_case() + "/model";
  const chiasm::Image image(64, 48);
  for (const chiasm::Compute compute : {chiasm::Compute::f32, chiasm::Compute::bf16}) {
    const chiasm::LoadOptions options{.weights = chiasm::WeightKind::bf16, .compute = compute};
    const chiasm::Checkpoint in_rows = chiasm::Checkpoint::open(model, {.weights = chiasm::WeightKind::bf16});
    CHECK(chiasm::load(model, options).generate({image, "What is it?"}, exactly(12)) == chiasm::load(in_rows, options).generate({image, "What is it?"}, exactly(12)));
  }
}

TEST_CASE("weights converted while loading give the same tokens where they must") {
  // The case's weights are f16: f32 holds them exactly.
  const std::string model = llava_case() + "/model";
  const chiasm::Image image(64, 48);
  const std::string expected = chiasm::load(model).generate({image, "What is it?"}, exactly(12));
  CHECK(chiasm::load(model, {.weights = chiasm::WeightKind::f32}).generate({image, "What is it?"}, exactly(12)) == expected);
  CHECK_FALSE(chiasm::load(model, {.weights = chiasm::WeightKind::bf16, .compute = chiasm::Compute::bf16}).generate({image, "What is it?"}, exactly(12)).empty());
  CHECK_FALSE(chiasm::load(model, {.weights = chiasm::WeightKind::i8, .compute = chiasm::Compute::i8}).generate({image, "What is it?"}, exactly(12)).empty());
}

TEST_CASE("zero-shot classification is a distribution over labels, and its mean prompts are the reference's embeddings") {
  const std::string folder = test_data("cases/clip_quickgelu");
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(folder + "/model");
  const chiasm::Image image = chiasm::load_image(folder + "/a.png");
  const std::vector<std::string> labels = {"cat", "dog", "red bicycle"}, templates = {"a photo of a {}", "a drawing of a {}"};
  const std::vector<float> p = encoder.classify(image, labels, templates);
  REQUIRE(p.size() == 3);
  CHECK(p[0] + p[1] + p[2] == Approx(1).epsilon(1e-5));
  // One template is plain scoring of the filled-in texts.
  const std::vector<std::string> one = {"a photo of a {}"}, filled = {"a photo of a cat", "a photo of a dog", "a photo of a red bicycle"};
  const std::vector<float> by_template = encoder.classify(image, labels, one), by_text = encoder.classify(image, filled);
  for (std::size_t i = 0; i < 3; ++i) CHECK(by_template[i] == Approx(by_text[i]).epsilon(1e-4));
  const std::vector<std::string> none = {"a photo"};
  CHECK_THROWS_AS(encoder.classify(image, labels, none), chiasm::ArgumentError);
}
