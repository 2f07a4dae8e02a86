// IDEFICS's prompts, and what is kept between calls where text looks at pictures from within the layers. Its numbers are held against the reference in tests/models.
#include "support/catch.hpp"
#include "support/exactly.hpp"
#include "support/near.hpp"
#include "support/paths.hpp"

#include <chiasm/io/image_file.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/pipelines/conversation.hpp>
#include <chiasm/pipelines/idefics.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

using namespace chiasm;
namespace fs = std::filesystem;

namespace {

constexpr TokenId fake = 1158, image_token = 1159, end_of_utterance = 1160;

std::string model() { return test_data("cases/idefics_qknorm_v5/model"); }
Image picture(const std::string& name) { return load_image(test_data("cases/idefics_qknorm_v5/" + name + ".png"), Alpha::drop); }

nlohmann::ordered_json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::ordered_json::parse(file);
}
void write_json(const std::string& path, const nlohmann::ordered_json& json) { std::ofstream(path) << json.dump(); }

/// The case's model with a third token of its own, <end_of_utterance>, as instructed models have it; its config.json still counts two.
class Instructed {
 public:
  Instructed() : path_((fs::temp_directory_path() / "chiasm_idefics_instructed").string()) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    fs::copy(model(), path_, fs::copy_options::recursive);
    nlohmann::ordered_json tokenizer = read_json(model() + "/tokenizer.json");
    nlohmann::ordered_json token = tokenizer["added_tokens"].back();
    token["id"] = end_of_utterance, token["content"] = "<end_of_utterance>", token["special"] = true;
    tokenizer["added_tokens"].push_back(token);
    write_json(path_ + "/tokenizer.json", tokenizer);
    const Weights w = read_safetensors(model() + "/model.safetensors");
    std::vector<Weight> tensors;
    std::vector<Tensor> memory;
    for (const std::string& name : w.names()) {
      const Weight weight = w.get(name);
      if (!name.ends_with("additional_embedding.weight") && !name.ends_with("additional_fc.weight")) {
        tensors.push_back(weight);
        continue;
      }
      const Tensor two = weight.to_f32();
      Tensor& three = memory.emplace_back(Shape{3, two.columns()});
      std::copy(two.data(), two.data() + two.size(), three.data());
      for (std::size_t i = 0; i < two.columns(); ++i) three.row(2)[i] = 0.1f * two.row(0)[i] - 0.2f * two.row(1)[i];
      tensors.emplace_back(name, DType::f32, three.shape(), reinterpret_cast<const std::byte*>(three.data()), nullptr, "memory");
    }
    write_safetensors(path_ + "/model.safetensors", tensors);
  }
  ~Instructed() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Instructed(const Instructed&) = delete;
  Instructed& operator=(const Instructed&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Pipeline forgetful(const std::string& folder) {
  LoadOptions options;
  options.picture_cache_bytes = options.prefix_cache_bytes = 0;
  return load(folder, std::move(options));
}

std::string read(const Pipeline& pipeline, const Prompt& prompt) {
  Context ctx = pipeline.new_context();
  const PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
  return pipeline.tokenizer().decode(prepared.ids, false);
}

}  // namespace

TEST_CASE("pictures stand between tokens that neighbours share") {
  const Pipeline pipeline = load(model());
  const Image a = picture("a"), b = picture("c");
  const std::string f = "<fake_token_around_image>", i = "<image>";
  CHECK(read(pipeline, {"User:", a, "What is it?"}) == "<s> User:" + f + i + f + " What is it?");
  CHECK(read(pipeline, {"User: ", a, "  What is it? "}) == "<s> User:" + f + i + f + " What is it?");
  CHECK(read(pipeline, {a, b, "Which?"}) == "<s>" + f + i + f + i + f + " Which?");
  CHECK(read(pipeline, {"One", a, " ", b}) == "<s> One" + f + i + f + i + f);
  CHECK(read(pipeline, {a}) == "<s>" + f + i + f);
  // Written out already, they stay as they are.
  CHECK(read(pipeline, {"User:" + f, a, f + "What is it?"}) == "<s> User:" + f + i + f + " What is it?");
  CHECK(read(pipeline, {f, a, f, b, f}) == "<s>" + f + i + f + i + f);
  CHECK(read(pipeline, {"<s>User:", a}) == "<s> User:" + f + i + f);

  Context ctx = pipeline.new_context();
  const PreparedPrompt prepared = pipeline.prepare(ctx, {"One", a, b, "two"});
  REQUIRE(prepared.pictures.size() == 2);
  for (const PreparedPrompt::Picture& shown : prepared.pictures) {
    CHECK(prepared.ids[shown.begin] == image_token);
    CHECK(prepared.ids[shown.begin - 1] == fake);
    CHECK(shown.rows == 1);
  }
  CHECK(!(prepared.pictures[0].content == prepared.pictures[1].content));
  CHECK_THROWS_AS(pipeline.prepare(ctx, {"An <image> that is not there"}), ArgumentError);
  CHECK(pipeline.prepare(ctx, {"Nothing to see"}).model == nullptr);
}

TEST_CASE("no answer has a picture's tokens, and an instructed one ends with its utterance") {
  const Pipeline base = load(model());
  REQUIRE(base.generation_config().bad_words_ids);
  CHECK(*base.generation_config().bad_words_ids == std::vector<std::vector<TokenId>>{{image_token}, {fake}});
  CHECK(*base.generation_config().eos_token_id == std::vector<TokenId>{2});

  const Instructed instructed;
  const Pipeline chat = load(instructed.path());
  CHECK(chat.language_model().vocab_size() == 1161);  // as many as the file has, whatever config.json counts
  CHECK(*chat.generation_config().eos_token_id == std::vector<TokenId>{2, end_of_utterance});
  const Message talk[] = {{"user", {picture("a"), "What is it?"}}, {"assistant", "A cat."}, {"user", {"And this? ", picture("c")}}};
  CHECK(chat.render(talk) == "User:<image>What is it?<end_of_utterance>\nAssistant: A cat.<end_of_utterance>\nUser: And this?<image><end_of_utterance>\nAssistant:");
  CHECK(chat.family().as_text({"One.", "Two.", picture("a"), "Three.<end_of_utterance>", "Four."}) ==
        "One.<end_of_utterance>Two.<image>Three.<end_of_utterance>Four.");
  CHECK(base.family().as_text({"One.", "Two.", picture("a"), "Three."}) == "One.Two.<image>Three.");
}

TEST_CASE("IDEFICS: prompts that begin alike are read from where they differ") {
  const Pipeline keeping = load(model()), fresh = forgetful(model());
  const Image a = picture("a"), b = picture("c");
  const Prompt prompts[] = {{"User:", a, "What is it?"}, {"User:", a, "What is it? And who?"}, {"User:", b, "What is it?"}, {"User:", a, "What is it?", b, "And that?"},
                            {"User: What is it?"}, {"User:", a, b, "What is it?"}};
  std::vector<std::size_t> reused, pictures;
  for (const Prompt& prompt : prompts) {
    Context ctx = keeping.new_context(), other = fresh.new_context();
    const Reply have = keeping.complete(ctx, prompt, exactly(8)), want = fresh.complete(other, prompt, exactly(8));
    CHECK(have.ids == want.ids);
    CHECK(want.reused_tokens == 0);
    CHECK(want.reused_pictures == 0);
    reused.push_back(have.reused_tokens);
    pictures.push_back(have.reused_pictures);
  }
  Context ctx = keeping.new_context();
  const auto stands_at = [&](const Prompt& prompt, std::size_t n) { return keeping.prepare(ctx, prompt).pictures.at(n).begin; };
  CHECK(reused[0] == 0);
  CHECK(reused[1] > stands_at(prompts[1], 0) + 2);
  CHECK(reused[2] == stands_at(prompts[2], 0));  // up to another picture
  CHECK(reused[3] > stands_at(prompts[3], 0) + 2);
  CHECK(reused[5] == stands_at(prompts[5], 1));
  CHECK(pictures == std::vector<std::size_t>{0, 1, 0, 2, 0, 2});
}

TEST_CASE("IDEFICS: a conversation goes on where it was, pictures included") {
  const Instructed instructed;
  const Pipeline keeping = load(instructed.path()), fresh = forgetful(instructed.path());
  Conversation talk(keeping);
  const Prompt turns[] = {{picture("a"), "What is it?"}, {"And the colour?"}, {picture("c"), "And this?"}, {"Which of them?"}};
  std::vector<Message> said;
  std::size_t before = 0;  // tokens of the prompt before
  for (const Prompt& turn : turns) {
    said.push_back({"user", turn});
    Context ctx = keeping.new_context(), other = fresh.new_context();
    const Reply have = talk.ask(ctx, turn, exactly(6)), want = fresh.chat(other, said, exactly(6));
    CHECK(have.ids == want.ids);
    CHECK(have.reused_tokens + 1 >= before);  // what the model made up may be written otherwise
    before = have.prompt_tokens;
    said.push_back({"assistant", have.text});
  }
  const std::string file = (fs::temp_directory_path() / "chiasm_idefics_talk.safetensors").string();
  talk.save(file);
  Conversation restored = Conversation::restore(load(instructed.path()), file);
  fs::remove(file);
  said.push_back({"user", {"And now?"}});
  Context ctx = keeping.new_context(), other = fresh.new_context();
  const Reply have = restored.ask(ctx, {"And now?"}, exactly(6));
  CHECK(have.ids == fresh.chat(other, said, exactly(6)).ids);
  CHECK(have.reused_tokens + 1 >= before);
}

TEST_CASE("IDEFICS: many answers to a prompt share each pass") {
  const Pipeline pipeline = load(model());
  Context ctx = pipeline.new_context();
  const PreparedPrompt prepared = pipeline.prepare(ctx, {"User:", picture("a"), picture("c"), "What is it?"});
  REQUIRE(prepared.model != nullptr);
  const GenerationPrompt prompt{prepared.embeddings, prepared.ids}, two[] = {prompt, prompt};
  Generation alone(ctx, *prepared.model, prepared.embeddings.clone(), exactly(8), prepared.ids);
  while (alone.next()) {
  }
  for (const GeneratedSequence& answer : generate_batch(ctx, *prepared.model, two, exactly(8))) CHECK(answer.ids == std::vector<TokenId>(alone.ids().begin(), alone.ids().end()));
}

TEST_CASE("IDEFICS: configurations in one row are those with parts") {
  const nlohmann::ordered_json nested = read_json(model() + "/config.json");
  nlohmann::ordered_json flat = nested;
  for (const auto& [key, value] : nested.at("vision_config").items())
    if (key != "model_type") flat["vision_" + key] = value;
  for (const auto& [key, value] : nested.at("perceiver_config").items())
    if (key != "use_resampler" && key != "model_type") flat[key] = value;
  flat.erase("vision_config");
  flat.erase("perceiver_config");
  const auto from = [](const nlohmann::ordered_json& json) { return IdeficsConfig::from(Json::parse(json.dump(), "config.json")); };
  const IdeficsConfig a = from(nested), b = from(flat);
  for (const IdeficsConfig* c : {&a, &b}) {
    CHECK(c->vision.hidden_size == 40);
    CHECK(c->vision.patch_size == 8);
    CHECK(c->vision.num_hidden_layers == 3);
    CHECK(c->perceiver.latents == 7);
    CHECK(c->perceiver.head_dim == 20);
    CHECK(c->perceiver.qk_norm);
    CHECK(c->use_resampler);
    CHECK(c->qk_layer_norms);
    CHECK(c->additional_vocab_size == 2);
  }
  nlohmann::ordered_json wrong = nested;
  wrong["cross_layer_interval"] = 2;  // of three layers
  CHECK_THROWS_AS(from(wrong), ConfigError);
  wrong["cross_layer_interval"] = 0;
  CHECK_THROWS_AS(from(wrong), ConfigError);
  wrong = nested;
  wrong["vision_config"]["num_attention_heads"] = 7;
  CHECK_THROWS_AS(from(wrong), ConfigError);
  // The class's defaults, which files leave out.
  const IdeficsConfig bare = from({{"model_type", "idefics"}});
  CHECK(bare.vision.hidden_size == 768);
  CHECK(bare.vision.intermediate_size == 5120);
  CHECK(bare.vision.num_hidden_layers == 32);
  CHECK(bare.perceiver.head_dim == 96);
  CHECK(!bare.use_resampler);
  CHECK(bare.cross_layer_interval == 1);
}

TEST_CASE("IDEFICS: tokens of its own have rows of their own") {
  const Pipeline pipeline = load(model());
  Context ctx;
  const LanguageModel& lm = pipeline.language_model();
  const TokenId ids[] = {5, image_token, 6, fake}, beyond[] = {1160}, negative[] = {-1};
  const Tensor x = lm.embed(ctx, ids);
  const Weights w = read_safetensors(model() + "/model.safetensors");
  const Tensor additional = w.get("model.embed_tokens.additional_embedding.weight").to_f32(), words = w.get("model.embed_tokens.weight").to_f32();
  CHECK(largest_difference(x.slice(0, 1), words.slice(5, 1)) == 0);
  CHECK(largest_difference(x.slice(1, 1), additional.slice(1, 1)) == 0);
  CHECK(largest_difference(x.slice(3, 1), additional.slice(0, 1)) == 0);
  CHECK_THROWS_AS(lm.embed(ctx, beyond), ArgumentError);
  CHECK_THROWS_AS(lm.embed(ctx, negative), ArgumentError);
}
