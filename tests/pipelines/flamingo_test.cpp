// OpenFlamingo around the parity tests: where its parts may lie, prompts with pictures in turns, what is kept between calls, frames.
#include <chiasm/pipelines/flamingo.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

using namespace chiasm;

namespace {

const std::string mpt = test_data("cases/of_mpt7b/model"), opt = test_data("cases/of_opt_lnpost/model");

Image picture(int seed, int width = 60, int height = 47) {
  Image image(width, height);
  for (std::size_t i = 0; i < image.pixels().size(); ++i) image.pixels()[i] = static_cast<std::uint8_t>((i * 37 + static_cast<std::size_t>(seed) * 101 + i * i % 251) % 256);
  return image;
}
Prompt shots(int first = 1, int second = 2) { return {picture(first), "Output:two dogs.<|endofchunk|>", picture(second), "Output:"}; }

std::vector<float> logits(const Pipeline& pipeline, const Prompt& prompt) {
  Context ctx = pipeline.new_context();
  const PreparedPrompt prepared = pipeline.prepare(ctx, prompt);
  const LanguageModel& lm = prepared.model ? *prepared.model : pipeline.language_model();
  KvCache cache = lm.new_cache();
  const Tensor all = lm.logits(ctx, lm.forward(ctx, prepared.embeddings, cache));
  return {all.values().begin(), all.values().end()};
}

const FlamingoFamily& family(const Pipeline& pipeline) { return dynamic_cast<const FlamingoFamily&>(pipeline.family()); }

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// A copy of a checkpoint folder, to be changed.
struct Copy {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "chiasm_flamingo_test";
  explicit Copy(const std::string& of) {
    std::filesystem::remove_all(path);
    std::filesystem::copy(of, path, std::filesystem::copy_options::recursive);
  }
  ~Copy() { std::filesystem::remove_all(path); }
  void replace(const std::string& file, const std::string& what, const std::string& with) const {
    std::string text = read_file(path / file);
    const std::size_t at = text.find(what);
    REQUIRE(at != std::string::npos);
    std::ofstream(path / file, std::ios::binary) << text.replace(at, what.size(), with);
  }
  Pipeline load() const { return chiasm::load(path.string()); }
};

}  // namespace

TEST_CASE("OpenFlamingo from one folder, from parts in several places, from memory") {
  const Pipeline folder = load(mpt);
  CHECK(folder.family().name() == "open_flamingo");
  const std::vector<float> expected = logits(folder, shots());
  const TokenId end = folder.tokenizer().id("<|endofchunk|>").value();
  CHECK(folder.generation_config().eos_token_id == std::vector<TokenId>{end});

  // The language model's own tokenizer lacks the two tokens and that of padding: they are appended in the order of training.
  const Pipeline parts = load(FlamingoFiles{.checkpoint = mpt + "/checkpoint.pt", .language_model = mpt + "/lm", .vision = mpt + "/vision"});
  CHECK(parts.tokenizer().id("<image>") == folder.tokenizer().id("<image>"));
  CHECK(parts.tokenizer().id("<|endofchunk|>") == end);
  CHECK(parts.tokenizer().id("<PAD>") == folder.tokenizer().id("<PAD>"));
  CHECK(parts.tokenizer().is_special(end));
  CHECK(parts.tokenizer().size() == folder.tokenizer().size());
  CHECK(logits(parts, shots()) == expected);

  std::vector<std::pair<std::string, std::string>> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(mpt))
    if (entry.is_regular_file()) contents.emplace_back(std::filesystem::relative(entry.path(), mpt).generic_string(), read_file(entry.path()));
  std::vector<std::pair<std::string, std::span<const std::byte>>> files;
  for (const auto& [name, content] : contents) files.emplace_back(name, std::as_bytes(std::span(content.data(), content.size())));
  CHECK(logits(load(Checkpoint::from_memory(std::move(files))), shots()) == expected);
}

TEST_CASE("prompts of the Flamingo family") {
  const Pipeline flamingo = load(mpt);
  const auto image = std::make_shared<const Image>(picture(1));
  const std::vector<Demonstration> captions = {{image, "", "Two cats."}}, answers = {{image, "How many?", "two"}, {nullptr, "Where?", "here"}};
  CHECK(flamingo.render(flamingo.few_shot_prompt(captions, *image)) == "<image>Output:Two cats.<|endofchunk|>\n<image>Output:");
  CHECK(flamingo.render(flamingo.few_shot_prompt(answers, *image, "What?")) ==
        "<image>Question:How many? Short answer:two<|endofchunk|>Question:Where? Short answer:here<|endofchunk|><image>Question:What? Short answer:");
  Context ctx = flamingo.new_context();
  CHECK_THROWS_AS(flamingo.prepare(ctx, Prompt{picture(1), "and <image>"}), ArgumentError);
  CHECK_THROWS_AS(flamingo.prepare(ctx, Prompt{"an <image> that is not there"}), ArgumentError);
  const GenerateOptions few{.max_new_tokens = 4};
  CHECK(flamingo.caption(*image, few) == flamingo.complete(Prompt{*image, "Output:"}, few));
  CHECK(flamingo.answer(*image, "How many?", few) == flamingo.complete(Prompt{*image, "Question:How many? Short answer:"}, few));
  // Without a picture: the blocks' feed-forward parts act, and that is all.
  CHECK_FALSE(flamingo.prepare(ctx, Prompt{"Hello"}).model);
  CHECK(flamingo.complete("Hello", {.max_new_tokens = 4}) == flamingo.complete("Hello", {.max_new_tokens = 4}));
}

TEST_CASE("the order of pictures counts, and where they stand") {
  const Pipeline flamingo = load(mpt);
  CHECK(logits(flamingo, shots(1, 2)) != logits(flamingo, shots(2, 1)));
  // Text before the second picture does not know of it.
  const std::vector<float> a = logits(flamingo, shots(1, 2)), b = logits(flamingo, shots(1, 3));
  Context ctx = flamingo.new_context();
  const PreparedPrompt prepared = flamingo.prepare(ctx, shots());
  REQUIRE(prepared.pictures.size() == 2);
  const std::size_t before = prepared.pictures[1].begin * flamingo.language_model().vocab_size();
  CHECK(std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(before), b.begin()));
  CHECK(a != b);
}

TEST_CASE("what Flamingo keeps between calls changes no answer") {
  const Prompt first = shots(1, 2), other = shots(1, 3);
  for (const std::string& folder : {mpt, opt}) {
    INFO(folder);
    const Pipeline flamingo = load(folder);
    Context ctx = flamingo.new_context();
    const GenerateOptions options{.max_new_tokens = 6, .eos_token_id = std::vector<TokenId>()};
    const Reply fresh = flamingo.complete(ctx, first, options), again = flamingo.complete(ctx, first, options), changed = flamingo.complete(ctx, other, options);
    CHECK(again.ids == fresh.ids);
    CHECK(fresh.prompt_pictures == 2);
    CHECK(again.reused_pictures == 2);
    CHECK(changed.reused_pictures == 1);
    // The beginning up to the second picture is the same. Where all pictures are seen, those rows that stand before the first one look at every one of them,
    // and no beginning stays what it was: OPT's prompts begin with such a row.
    CHECK(again.reused_tokens == (folder == mpt ? fresh.prompt_tokens - 1 : 0));
    CHECK((changed.reused_tokens > 0) == (folder == mpt));
    CHECK(changed.ids == load(folder).complete(ctx, other, options).ids);
  }
}

TEST_CASE("a medium of several frames") {
  const Pipeline flamingo = load(mpt);
  const FlamingoFamily& its = family(flamingo);
  const auto a = std::make_shared<const Image>(picture(1)), b = std::make_shared<const Image>(picture(2));
  using Medium = Family::Medium;
  Context ctx = flamingo.new_context();
  const Tensor one = its.encode(ctx, Medium{a}), both = its.encode(ctx, Medium{a, b}), turned = its.encode(ctx, Medium{b, a});
  CHECK(both.shape() == one.shape());
  double worst = 0, apart = 0;
  for (std::size_t i = 0; i < both.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(both.data()[i] - turned.data()[i])));  // frames have no order without frame_embs
    apart = std::max(apart, std::abs(static_cast<double>(both.data()[i] - one.data()[i])));
  }
  CHECK(worst < 1e-4);
  CHECK(apart > 1e-3);

  const Prompt video{Prompt::Part(Medium{a, b}), "Output:", a, "Output:"}, other{Prompt::Part(Medium{a, a}), "Output:", a, "Output:"}, picture_alone{a, "Output:", a, "Output:"};
  CHECK(video.parts()[0].frames().size() == 2);
  CHECK(video.parts()[1].frames().empty());
  CHECK(video.parts()[2].frames().size() == 1);
  CHECK(flamingo.render(std::vector<Message>{{"user", video}}) == "<image>Output:<image>Output:");
  const PreparedPrompt prepared = flamingo.prepare(ctx, video);
  CHECK(prepared.pictures.size() == 2);
  CHECK_FALSE(prepared.pictures[0].content == flamingo.prepare(ctx, other).pictures[0].content);
  CHECK(logits(flamingo, video) != logits(flamingo, other));
  CHECK(logits(flamingo, video) != logits(flamingo, picture_alone));
  CHECK(logits(flamingo, Prompt{Prompt::Part(Medium{a}), "Output:", a, "Output:"}) == logits(flamingo, picture_alone));
  CHECK_THROWS_AS(Prompt::Part(Medium{}), ArgumentError);
  CHECK_THROWS_AS(its.encode(ctx, Medium{}), ArgumentError);
  const Pipeline llava = load(test_data("cases/llava15_modern_keys/model"));
  CHECK_THROWS_AS(llava.generate(Prompt{Prompt::Part(Medium{a, b}), "What happens?"}), ArgumentError);
}

TEST_CASE("layouts of checkpoints") {
  const FlamingoParts parts = FlamingoParts::open(Checkpoint::open(mpt));
  const Weights plain = read_torch_pickle(mpt + "/checkpoint.pt"), base = parts.language_model.weights();
  const Json config = parts.language_model.config();
  const auto answer = [&](const Weights& checkpoint, std::size_t every = 0) {
    const ClipVision vision = ClipVision::open(parts.vision);  // a fresh tree: its tensors are to be used once more
    const OpenFlamingo model(checkpoint, base, config, vision.weights, {vision.config, false, true, every, 1081});
    CHECK(model.gated_layers().interval == 4);
    Context ctx;
    const std::vector<TokenId> ids{1081, 5, 6};
    Tensor pixels(Shape{1, 1, 3, 42, 42});
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels.data()[i] = std::sin(static_cast<float>(i));
    const auto lm = model.bind(ctx, model.media(ctx, pixels), ids);
    KvCache cache = lm->new_cache();
    const Tensor all = lm->logits(ctx, lm->forward(ctx, lm->embed(ctx, ids), cache));
    return std::vector<float>(all.values().begin(), all.values().end());
  };
  const std::vector<float> expected = answer(plain);
  CHECK(answer(plain, 4) == expected);
  CHECK_THROWS_AS(answer(plain, 2), WeightError);
  const auto layout = [&](auto rename) { return plain.renamed([&](std::string_view name) { return rename(std::string(name)); }); };
  CHECK(answer(layout([](const std::string& name) { return "model_state_dict.module." + name; })) == expected);
  const auto listed = layout([](std::string name) {
    const std::string inside = "transformer.blocks.3.gated_cross_attn_layer.";
    const std::size_t at = name.find(inside);
    return at == std::string::npos ? name : name.replace(at, inside.size(), "gated_cross_attn_layers.3.");
  });
  CHECK(answer(listed) == expected);
  // Both at once: what is in the layers counts.
  CHECK(answer(plain.merged(listed.renamed([](std::string_view name) { return name.find("gated") == std::string_view::npos ? std::string() : std::string(name); }))) == expected);
  // A layer of the language model in the checkpoint counts before the base model's.
  const Weight norm = base.get("transformer.blocks.2.norm_1.weight");
  std::vector<float> doubled(norm.shape().size());
  const Tensor values = norm.to_f32();
  for (std::size_t i = 0; i < doubled.size(); ++i) doubled[i] = 2 * values.data()[i];
  const Weight other("lang_encoder.transformer.blocks.2.decoder_layer.norm_1.weight", DType::f32, norm.shape(), reinterpret_cast<const std::byte*>(doubled.data()), nullptr, "");
  const std::vector<float> changed = answer(plain.with(other));
  CHECK(changed != expected);
  CHECK(answer(plain.with("lang_encoder.old_decoder_blocks.2.norm_1.weight", other)) == changed);
  CHECK_THROWS_AS(answer(layout([](const std::string& name) { return name.find("gated") == std::string::npos ? name : std::string(); })), WeightError);
  CHECK_THROWS_AS(answer(plain.with("lang_encoder.something", other)), WeightError);
}

TEST_CASE("a folder of OpenFlamingo that does not fit together") {
  const auto message = [](const Copy& copy) {
    try {
      (void)copy.load();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("ok");
  };
  {
    const Copy copy(mpt);
    copy.replace("flamingo_config.json", "\"media_token_id\": 1081", "\"media_token_id\": 7");
    CHECK_THROWS_AS(copy.load(), ConfigError);
    CHECK(message(copy).find("is 7, '<image>' in the tokenizer is 1081") != std::string::npos);
  }
  {
    const Copy copy(mpt);
    copy.replace("flamingo_config.json", "\"lm\": \"lm\"", "\"lm\": \"elsewhere\"");
    CHECK_THROWS_AS(copy.load(), FileError);
  }
  {
    const Copy copy(mpt);
    std::filesystem::remove(copy.path / "checkpoint.pt");
    CHECK_THROWS_AS(copy.load(), FileError);
  }
  {
    const Copy copy(mpt);
    std::filesystem::resize_file(copy.path / "checkpoint.pt", 300'000);
    CHECK_THROWS_AS(copy.load(), FormatError);
  }
  {
    const Copy copy(mpt);
    copy.replace("vision/open_clip_config.json", "\"patch_size\"", "\"ls_init_value\": 0.1, \"patch_size\"");
    CHECK_THROWS_AS(copy.load(), UnsupportedError);
  }
  {
    const Copy copy(mpt);
    copy.replace("vision/open_clip_config.json", "\"width\": 16", "\"width\": 24");
    CHECK_THROWS_AS(copy.load(), WeightError);
  }
  {
    const Copy copy(mpt);
    copy.replace("flamingo_config.json", "\"<image>\"", "\"<picture>\"");
    copy.replace("flamingo_config.json", "\"media_token_id\": 1081,", "");
    CHECK(message(copy).find("embeddings, expected one for '<picture>', which is token 1083") != std::string::npos);
  }
}

TEST_CASE("open_clip crops like torchvision") {
  ImageProcessorConfig config = ClipVision::transform_from(Json::parse("{}"), 42);
  CHECK(config.do_center_crop);
  const ImageProcessor open_clip(config);
  config.crop_rounds = false;
  const ImageProcessor transformers(config);
  // 45 - 42 leaves out 3: from the second pixel on, not from the first; 1 and 5 are even already.
  const auto first = [](const ImageProcessor& processor, int width) { return processor.field_of_view(Image(width, 42)).left * width; };
  CHECK(first(open_clip, 45) == Approx(2));
  CHECK(first(transformers, 45) == Approx(1));
  CHECK(first(open_clip, 43) == Approx(0));
  CHECK(first(open_clip, 47) == Approx(2));
  CHECK(first(open_clip, 49) == Approx(4));
  CHECK(open_clip.views(picture(1, 45, 42))[0].pixels()[0] == picture(1, 45, 42).pixels()[6]);
}

TEST_CASE("open_clip's file counts before others beside it") {
  const Copy copy(mpt);
  std::filesystem::copy_file(copy.path / "lm/model.safetensors", copy.path / "vision/model.safetensors");
  CHECK(logits(copy.load(), shots()) == logits(load(mpt), shots()));
}

TEST_CASE("towers of open_clip and of transformers") {
  const Checkpoint folder = Checkpoint::open(mpt + "/vision");
  const ClipVision tower = ClipVision::open(folder);
  CHECK(tower.config.hidden_act == Activation::quick_gelu);
  CHECK(ClipVision::open(folder, false).config.hidden_act == Activation::gelu);
  CHECK(tower.config.num_attention_heads == 2);
  CHECK(tower.config.intermediate_size == 64);
  CHECK(tower.weights.contains("encoder.layers.1.self_attn.v_proj.bias"));
  CHECK_NOTHROW(Vit(tower.weights, tower.config));
  CHECK_NOTHROW(tower.weights.expect_all_used());
  CHECK_THROWS_AS(ClipVision::transform_from(Json::parse(R"({"resize_mode": "longest"})"), 42), UnsupportedError);
  CHECK_THROWS_AS(ClipVision::transform_from(Json::parse(R"({"interpolation": "nearest"})"), 42), UnsupportedError);
  CHECK_THROWS_AS(ClipVision::config_from(Json::parse(R"({"vision_cfg": {"width": 30, "head_width": 8}})")), ConfigError);
  CHECK_THROWS_AS(ClipVision::config_from(Json::parse(R"({"vision_cfg": {"timm_model_name": "x"}})")), UnsupportedError);
}
