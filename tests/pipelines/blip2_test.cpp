// BLIP-2 and InstructBLIP as pipelines: where the picture stands, what is kept between calls and what that may not change, old checkpoints, retrieval.
#include "support/catch.hpp"
#include "support/exactly.hpp"
#include "support/paths.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <functional>

namespace {

namespace fs = std::filesystem;

std::string folder_of(const std::string& name) { return test_data("cases/" + name); }
std::string model_of(const std::string& name) { return folder_of(name) + "/model"; }

nlohmann::json read(const fs::path& path) {
  std::ifstream file(path);
  REQUIRE(file);
  return nlohmann::json::parse(file);
}
void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

/// A checkpoint folder of one's own, changed by `change`.
class ChangedModel {
 public:
  ChangedModel(const std::string& name, const std::function<void(const fs::path&)>& change) : path_(fs::temp_directory_path() / ("chiasm-blip2-" + name)) {
    fs::remove_all(path_);
    fs::copy(model_of(name), path_, fs::copy_options::recursive);
    change(path_);
  }
  ~ChangedModel() { fs::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

/// As checkpoints were before transformers had a token for pictures.
void make_old(const fs::path& folder) {
  nlohmann::json config = read(folder / "config.json"), tokenizer = read(folder / "tokenizer.json"), words = nlohmann::json::array();
  config.erase("image_token_index");
  for (const auto& token : tokenizer.at("added_tokens"))
    if (token.at("content") != "<image>") words.push_back(token);
  tokenizer["added_tokens"] = words;
  write(folder / "config.json", config.dump());
  write(folder / "tokenizer.json", tokenizer.dump());
  fs::remove(folder / "processor_config.json");
}

/// The tensors under LAVIS's names, in the dict of a training run, with what else LAVIS has there.
void make_lavis(const fs::path& folder) {
  const std::string path = (folder / "model.safetensors").string();
  const std::string model_type = read(folder / "config.json").at("text_config").value("model_type", "opt");
  const std::string lm = model_type == "t5" ? "t5" : model_type == "opt" ? "opt" : "llm";
  std::vector<chiasm::Weight> renamed;
  {
    const chiasm::Weights file = chiasm::read_safetensors(path);
    const auto add = [&](const std::string& name, const chiasm::Weight& w) { renamed.emplace_back("model." + name, w.dtype(), w.shape(), w.data(), w.owner(), path); };
    const auto zeros = [&](const std::string& name, const chiasm::Shape& shape) {
      const auto values = std::make_shared<std::vector<float>>(shape.size());
      add(name, chiasm::Weight(name, chiasm::DType::f32, shape, reinterpret_cast<const std::byte*>(values->data()), values, path));
    };
    for (const std::string& name : file.names()) {
      const chiasm::Weight w = file.stored(name);
      std::string theirs = name;
      for (const auto& [ours, other] : {std::pair<std::string, std::string>{"vision_model.embeddings.class_embedding", "visual_encoder.cls_token"},
                                        {"vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"},
                                        {"vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."},
                                        {"vision_model.encoder.layers.", "visual_encoder.blocks."},
                                        {"vision_model.post_layernorm.", "ln_vision."},
                                        {"qformer.embeddings.layernorm.", "Qformer.bert.embeddings.LayerNorm."},
                                        {"qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm."},
                                        {"embeddings.", "Qformer.bert.embeddings."},
                                        {"qformer.", "Qformer.bert."},
                                        {"vision_projection.", "vision_proj."},
                                        {"text_projection.", "text_proj."},
                                        {"language_projection.", lm + "_proj."},
                                        {"language_model.", lm + "_model."}})
        if (theirs.starts_with(ours)) {
          theirs.replace(0, ours.size(), other);
          break;
        }
      const auto replace = [&](const std::string& ours, const std::string& other) {
        if (const std::size_t at = theirs.find(ours); at != std::string::npos && !name.starts_with("language_model.")) theirs.replace(at, ours.size(), other);
      };
      replace(".layer_norm1.", ".norm1."), replace(".layer_norm2.", ".norm2."), replace(".self_attn.projection.", ".attn.proj.");
      replace(".self_attn.", ".attn."), replace("attention.attention.", "attention.self.");
      if (!theirs.ends_with(".qkv.bias")) {
        add(theirs, w);
        continue;
      }
      const std::size_t width = w.shape()[0] / 3;
      const std::string attention = theirs.substr(0, theirs.size() - std::string("qkv.bias").size());
      add(attention + "q_bias", w.slice(0, width));
      add(attention + "v_bias", w.slice(2 * width, width));
    }
    zeros("temp", {});
    zeros("Qformer.cls.predictions.bias", {31});
    zeros("Qformer.bert.embeddings.position_ids", {1, 9});
    zeros("visual_encoder.blocks.39.norm1.weight", {8});
    chiasm::write_safetensors(path + ".new", renamed);
  }
  fs::rename(path + ".new", path);
}

/// As the reference saw it: what is transparent is laid on white.
chiasm::Image picture(const std::string& name) { return chiasm::load_image(folder_of(name) + "/a.png", chiasm::Alpha::white); }

/// What the reference answers to the first input of a case.
struct Expected {
  std::string prompt, text;
  std::vector<chiasm::TokenId> ids;
};
Expected expected(const std::string& name) {
  const nlohmann::json description = read(folder_of(name) + "/case.json");
  for (const auto& run : description.at("runs"))
    if (run.at("name") == "greedy") return {description.at("inputs").at(0).at("prompt"), run.at("text"), run.at("output_ids")};
  return {};
}

const char* const speaking[] = {"blip2_opt_small", "blip2_flan_t5_small", "instructblip_llama_small"};

}  // namespace

TEST_CASE("BLIP-2 answers as the reference, from new files and from old ones") {
  for (const char* const name : speaking) {
    INFO(name);
    const Expected want = expected(name);
    const ChangedModel old(name, make_old);
    for (const std::string& path : {model_of(name), old.path()}) {
      const chiasm::Pipeline vlm = chiasm::load(path);
      chiasm::Context ctx = vlm.new_context();
      CHECK(vlm.complete(ctx, {picture(name), want.prompt}, exactly(want.ids.size())).ids == want.ids);
      chiasm::GenerateOptions penalised = exactly(6);  // ids that no vocabulary has do no harm
      penalised.repetition_penalty = 1.3;
      penalised.no_repeat_ngram_size = 2;
      CHECK(vlm.complete(ctx, {picture(name), want.prompt}, penalised).ids.size() == 6);
    }
  }
}

TEST_CASE("BLIP-2 answers as the reference from files with LAVIS's names") {
  for (const char* const name : speaking) {
    INFO(name);
    const Expected want = expected(name);
    const ChangedModel lavis(name, make_lavis);
    const chiasm::Pipeline vlm = chiasm::load(lavis.path());
    chiasm::Context ctx = vlm.new_context();
    CHECK(vlm.complete(ctx, {picture(name), want.prompt}, exactly(want.ids.size())).ids == want.ids);
  }
  const ChangedModel lavis("blip2_itm_small", make_lavis);
  const chiasm::DualEncoder ours = chiasm::DualEncoder::load(model_of("blip2_itm_small")), theirs = chiasm::DualEncoder::load(lavis.path());
  const chiasm::Image image = picture("blip2_itm_small");
  const chiasm::Tensor want = ours.embed(image), have = theirs.embed(image);
  REQUIRE(have.shape() == want.shape());
  for (std::size_t i = 0; i < want.size(); ++i) REQUIRE(have.data()[i] == want.data()[i]);
}

TEST_CASE("BLIP-2's vision tower and Q-Former can be used alone") {
  const std::string name = "blip2_opt_small";
  const chiasm::Checkpoint checkpoint = chiasm::Checkpoint::open(model_of(name));
  const chiasm::Weights w = chiasm::QFormer::normalise(checkpoint.weights());
  const chiasm::Vit see(w / "vision_model", chiasm::VitConfig::from(checkpoint.config()["vision_config"]));
  const chiasm::QFormer query(w / "qformer", chiasm::QFormerConfig::from(checkpoint.config()));
  const chiasm::ImageProcessor pixels = chiasm::ImageProcessor::from_json(checkpoint.preprocessor_config());
  chiasm::Context ctx;
  const chiasm::Tensor seen = see.post_layernorm(ctx, see(ctx, pixels(picture(name)).pixel_values));  // (1, 10, 40)
  const chiasm::Tensor read = query(ctx, seen);                                                       // (1, 7, 36)
  const chiasm::Tensor want = chiasm::read_safetensors(folder_of(name) + "/expected.safetensors").get("vqa.qformer.last_hidden_state").to_f32();
  REQUIRE(read.shape() == want.shape());
  for (std::size_t i = 0; i < want.size(); ++i) REQUIRE(read.data()[i] == Approx(want.data()[i]).margin(2e-5));
}

TEST_CASE("BLIP-2: what is known of a picture and of a prompt's beginning changes no answer") {
  for (const char* const name : speaking) {
    INFO(name);
    const chiasm::Pipeline keeps = chiasm::load(model_of(name)), forgets = chiasm::load(model_of(name), {.picture_cache_bytes = 0, .prefix_cache_bytes = 0});
    const bool instruct = keeps.family().name() == "instructblip", t5 = std::string(name).find("t5") != std::string::npos;
    chiasm::Context ctx = keeps.new_context();
    const chiasm::Image first = picture(name), second(50, 40);
    const std::string asked[] = {"Question: how many objects are there? Answer:", "Question: how many children are there? Answer:"};
    const auto ask = [&](const chiasm::Image& image, const std::string& question) {
      const chiasm::Reply reply = keeps.complete(ctx, {image, question}, exactly(8)), fresh = forgets.complete(ctx, {image, question}, exactly(8));
      CHECK(reply.ids == fresh.ids);
      CHECK(fresh.reused_pictures == 0);
      CHECK(fresh.reused_tokens == 0);
      return reply;
    };
    const chiasm::Reply once = ask(first, asked[0]);
    CHECK((once.prompt_pictures == 1 && once.reused_pictures == 0 && once.reused_tokens == 0));
    const chiasm::Reply again = ask(first, asked[0]);
    CHECK(again.reused_pictures == 1);
    CHECK(again.reused_tokens == (t5 ? 0 : again.prompt_tokens - 1));
    const chiasm::Reply other = ask(first, asked[1]);
    CHECK(other.reused_pictures == 1);
    // What stands for a picture is another for another instruction, though its ids are the same.
    if (instruct || t5) CHECK(other.reused_tokens == 0);
    else CHECK(other.reused_tokens > 7);
    CHECK(ask(second, asked[0]).reused_pictures == 0);
    CHECK(ask(second, asked[0]).reused_pictures == 1);
    CHECK(ask(first, asked[0]).ids == once.ids);
  }
}

TEST_CASE("BLIP-2's picture stands before the text's first token; a prompt may place it elsewhere") {
  const chiasm::Pipeline vlm = chiasm::load(model_of("blip2_opt_small"));
  chiasm::Context ctx = vlm.new_context();
  const chiasm::Image image = picture("blip2_opt_small");
  const chiasm::PreparedPrompt leading = vlm.prepare(ctx, chiasm::Prompt{image, "a photo of"}), inside = vlm.prepare(ctx, chiasm::Prompt{"a photo", image, "of"}),
                               none = vlm.prepare(ctx, chiasm::Prompt{"a photo of"});
  const chiasm::TokenId token = vlm.tokenizer().id("<image>").value();
  REQUIRE(leading.pictures.size() == 1);
  CHECK((leading.pictures[0].begin == 0 && leading.pictures[0].rows == 7));
  CHECK(leading.ids[6] == token);
  CHECK(leading.ids[7] == 2);  // </s>, with which OPT's texts begin
  CHECK(std::vector<chiasm::TokenId>(leading.ids.begin() + 7, leading.ids.end()) == none.ids);
  CHECK(none.pictures.empty());
  CHECK(inside.ids[0] == 2);
  CHECK(inside.pictures[0].begin > 1);
  CHECK(inside.ids[inside.pictures[0].begin] == token);
  CHECK(inside.ids[inside.pictures[0].begin - 1] != token);
  for (std::size_t i = 0; i < 7; ++i)  // the same rows wherever they stand
    for (std::size_t d = 0; d < leading.embeddings.columns(); ++d)
      REQUIRE(inside.embeddings.row(inside.pictures[0].begin + i)[d] == leading.embeddings.row(i)[d]);

  CHECK_THROWS_AS(vlm.prepare(ctx, chiasm::Prompt{image, image, "Compare."}), chiasm::ArgumentError);
  CHECK_THROWS_AS(vlm.complete("an <image> that nobody gave", exactly(1)), chiasm::ArgumentError);
  const ChangedModel old("blip2_opt_small", make_old);
  const chiasm::Pipeline before = chiasm::load(old.path());
  CHECK_THROWS_AS(before.complete({"a photo", image, "of"}, exactly(1)), chiasm::ArgumentError);  // it has no token that could be found in the text
  CHECK(before.complete("a photo of", exactly(3)) == vlm.complete("a photo of", exactly(3)));
}

TEST_CASE("BLIP-2 is asked in its papers' words, or in those of a chat template") {
  const chiasm::Pipeline opt = chiasm::load(model_of("blip2_opt_small")), t5 = chiasm::load(model_of("blip2_flan_t5_small")),
                         instruct = chiasm::load(model_of("instructblip_llama_small"));
  const chiasm::Image image(8, 8);
  const auto asked = [&](const chiasm::Pipeline& vlm, const chiasm::Prompt& prompt) {
    const chiasm::Message message{"user", prompt};
    return vlm.render(std::span(&message, 1));
  };
  CHECK(asked(opt, opt.caption_prompt(image)) == "<image>a photo of");
  CHECK(asked(opt, opt.answer_prompt(image, "Who is it?")) == "<image>Question: Who is it? Answer:");
  CHECK(asked(t5, t5.answer_prompt(image, "Who is it?")) == "<image>Question: Who is it? Short answer:");
  CHECK(asked(instruct, instruct.caption_prompt(image)) == "<image>A short image description:");
  CHECK(asked(instruct, instruct.answer_prompt(image, "Who is it?")) == "<image>Question: Who is it? Short answer:");

  const ChangedModel chat("blip2_opt_small", [](const fs::path& folder) {
    write(folder / "chat_template.jinja",
          "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
          "{% endfor %} {% endfor %}ASSISTANT:");
  });
  const chiasm::Pipeline turns = chiasm::load(chat.path());
  CHECK(asked(turns, {image, "Who is it?"}) == "USER: <image>\nWho is it? ASSISTANT:");
  chiasm::Context ctx = turns.new_context();
  const chiasm::Message message{"user", {image, "Who is it?"}};
  const chiasm::PreparedPrompt prepared = turns.prepare(ctx, std::span(&message, 1));
  CHECK(prepared.pictures[0].begin > 1);
  CHECK_FALSE(turns.answer(image, "Who is it?", exactly(4)).empty());

  // A template may say nothing of pictures, as the processor puts them before all text anyway.
  const ChangedModel silent("blip2_opt_small", [](const fs::path& folder) {
    write(folder / "chat_template.jinja",
          "{% for message in messages %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}{% endfor %} A:");
  });
  const chiasm::Pipeline words = chiasm::load(silent.path());
  CHECK(asked(words, {image, "Who is it?"}) == "Who is it? A:");
  CHECK(asked(words, words.answer_prompt(image, "Who?")) == "Who?\nAnswer the question using a single word or phrase. A:");
  CHECK(words.generate({image, "Who is it?"}, exactly(6)) == opt.complete({image, "Who is it? A:"}, exactly(6)));
  CHECK(words.generate({"Who ", image, "is it?"}, exactly(6)) == opt.complete({image, "Who is it? A:"}, exactly(6)));
}

TEST_CASE("where BLIP-2 looked is a map of the picture") {
  for (const char* const name : speaking) {
    INFO(name);
    const chiasm::Pipeline vlm = chiasm::load(model_of(name));
    const Expected want = expected(name);
    const chiasm::Explained explained = chiasm::explain(vlm, {picture(name), want.prompt}, exactly(want.ids.size()));
    CHECK(explained.reply.ids == want.ids);
    REQUIRE(explained.pictures.size() == 1);
    const std::size_t side = std::string(name).find("t5") != std::string::npos ? 5 : 3;
    CHECK((explained.pictures[0].rows == side && explained.pictures[0].columns == side));
    float sum = 0;
    for (const float value : explained.pictures[0].values) sum += value;
    CHECK(sum == Approx(1).margin(1e-4));
  }
}

TEST_CASE("an end token that is text elsewhere is no part of an answer") {
  // Released BLIP-2 with OPT ends at a new line.
  const Expected want = expected("blip2_opt_small");
  const chiasm::Pipeline vlm = chiasm::load(model_of("blip2_opt_small"));
  chiasm::Context ctx = vlm.new_context();
  chiasm::GenerateOptions options = exactly(want.ids.size());
  for (const std::size_t beams : {1u, 2u}) {
    options.num_beams = beams;
    options.eos_token_id = std::vector<chiasm::TokenId>();
    const std::vector<chiasm::TokenId> ids = vlm.complete(ctx, {picture("blip2_opt_small"), want.prompt}, options).ids;
    options.eos_token_id = {ids[4]};
    std::string streamed;
    const chiasm::Reply reply = vlm.complete(ctx, {picture("blip2_opt_small"), want.prompt}, options, [&](std::string_view piece) {
      streamed += piece;
      return true;
    });
    REQUIRE(reply.finish_reason == chiasm::FinishReason::eos);
    CHECK(reply.ids.back() == ids[4]);
    CHECK(reply.text == vlm.tokenizer().decode(std::span(reply.ids).first(reply.ids.size() - 1), true));
    CHECK(streamed == reply.text);
  }
}

TEST_CASE("InstructBLIP's queries read the instruction, cut to what they can hold") {
  const chiasm::Pipeline vlm = chiasm::load(model_of("instructblip_llama_small"));
  const auto& family = dynamic_cast<const chiasm::Blip2Family&>(vlm.family());
  const std::vector<chiasm::TokenId> shorter = family.instruction("Describe the picture in detail.");
  CHECK(shorter.front() == 2);
  CHECK(shorter.back() == 3);
  std::string text;
  for (int i = 0; i < 40; ++i) text += "the castle ";
  const std::vector<chiasm::TokenId> longest = family.instruction(text);
  CHECK(longest.size() == 40);
  CHECK(longest.back() == 3);
  CHECK_FALSE(vlm.complete({chiasm::Image(30, 20), text}, exactly(3)).empty());
  CHECK_THROWS_AS(chiasm::load(ChangedModel("instructblip_llama_small", [](const fs::path& folder) { fs::remove_all(folder / "qformer_tokenizer"); }).path()), chiasm::FileError);
}

TEST_CASE("InstructBLIP loads from memory, with its second tokenizer") {
  std::vector<std::pair<std::string, std::string>> contents;
  const fs::path folder = model_of("instructblip_llama_small");
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    contents.emplace_back(fs::relative(entry.path(), folder).generic_string(), std::string(std::istreambuf_iterator<char>(file), {}));
  }
  std::vector<std::pair<std::string, std::span<const std::byte>>> files;
  for (const auto& [name, text] : contents) files.emplace_back(name, std::as_bytes(std::span(text)));
  const Expected want = expected("instructblip_llama_small");
  const chiasm::Pipeline vlm = chiasm::load(chiasm::Checkpoint::from_memory(files));
  chiasm::Context ctx = vlm.new_context();
  CHECK(vlm.complete(ctx, {picture("instructblip_llama_small"), want.prompt}, exactly(want.ids.size())).ids == want.ids);
}

TEST_CASE("BLIP-2 compares pictures with texts: by vectors, and by a look at both") {
  const std::string name = "blip2_itm_small";
  const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(model_of(name));
  const std::vector<std::string> texts = {"the red bicycle", "naïve café in winter", "two cats near the old bridge"};
  const chiasm::Image images[] = {picture(name), chiasm::Image(33, 44)};
  CHECK(encoder.vectors_per_image() == 4);
  chiasm::Context ctx = encoder.new_context();
  const chiasm::Tensor seen = encoder.embed(ctx, images), read = encoder.embed(ctx, texts);
  CHECK(seen.shape() == (chiasm::Shape{2, 4, 20}));
  CHECK(read.shape() == (chiasm::Shape{3, 20}));
  CHECK(encoder.embed(images[0]).shape() == (chiasm::Shape{4, 20}));
  CHECK(encoder.embed(texts[0]).shape() == (chiasm::Shape{20}));

  const chiasm::Tensor logits = encoder.logits(ctx, seen, read);
  CHECK(logits.shape() == (chiasm::Shape{2, 3}));
  for (std::size_t n = 0; n < 2; ++n)
    for (std::size_t m = 0; m < 3; ++m) {
      double best = -2;
      for (std::size_t v = 0; v < 4; ++v) {
        double cosine = 0;
        for (std::size_t d = 0; d < 20; ++d) cosine += static_cast<double>(seen.row(4 * n + v)[d]) * static_cast<double>(read.row(m)[d]);
        best = std::max(best, cosine);
      }
      CHECK(logits.row(n)[m] == Approx(best).margin(1e-5));
    }
  CHECK_THROWS_AS(encoder.logits(ctx, seen.view().reshape(chiasm::Shape{8, 20}).slice(0, 3), read), chiasm::ShapeError);

  // A text's score does not depend on its company.
  CHECK(encoder.matches());
  const std::vector<float> all = encoder.match(images[0], texts);
  const chiasm::Weights reference = chiasm::read_safetensors(folder_of(name) + "/expected.safetensors");
  const chiasm::Tensor probabilities = reference.get("itm.probs").to_f32();
  for (std::size_t m = 0; m < 3; ++m) {
    CHECK(all[m] == Approx(probabilities.row(m)[1]).margin(1e-5));
    CHECK(encoder.match(images[0], texts[m]) == Approx(all[m]).margin(1e-5));
  }
  const std::vector<float> p = encoder.classify(images[0], texts);
  CHECK(p[0] + p[1] + p[2] == Approx(1).margin(1e-5));
  CHECK_THROWS_AS(chiasm::DualEncoder::load(test_data("cases/siglip/model")).match(images[0], texts), chiasm::UnsupportedError);
}

TEST_CASE("BLIP-2's two stages are told apart") {
  try {
    (void)chiasm::load(model_of("blip2_itm_small"));
    FAIL("no exception");
  } catch (const chiasm::UnsupportedError& error) {
    CHECK(std::string(error.what()).find("DualEncoder") != std::string::npos);
  }
  CHECK_THROWS_AS(chiasm::DualEncoder::load(model_of("blip2_opt_small")), chiasm::UnsupportedError);
}
