/// The Flamingo family: prompts of OpenFlamingo, in which pictures and text take turns, and the files that its models are put together from.
/// arXiv:2308.01390.
#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/torch_pickle.hpp>
#include <chiasm/models/flamingo.hpp>
#include <chiasm/pipelines/family.hpp>

#include <optional>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// Where the parts of an OpenFlamingo model are. Published are checkpoint.pt alone, and by their names a language model and a CLIP, in folders of their own:
///     const Pipeline flamingo = load(FlamingoFiles{.checkpoint = "OpenFlamingo-3B-vitl-mpt1b/checkpoint.pt",
///                                                  .language_model = "mpt-1b-redpajama-200b", .vision = "clip-vit-large-patch14"});
struct FlamingoFiles {
  std::string checkpoint;      // checkpoint.pt, or the same as safetensors
  std::string language_model;  // a folder
  std::string vision;          // a folder, of open_clip or of transformers
  std::string tokenizer = {};  // a folder; empty: the language model's. Tokens that it lacks are appended, as in training
  std::string media_token = "<image>", eoc_token = "<|endofchunk|>";
  // As in OpenFlamingoConfig.
  std::size_t cross_attn_every_n_layers = 0;
  bool only_attend_immediate_media = true, vision_tokens_ln_post = false;
  std::optional<bool> vision_quick_gelu = {};  // for a folder that does not say it, or says it wrong: true for OpenAI's weights
};

/// The parts, opened.
struct FlamingoParts {
  FlamingoFiles files;
  FileMap checkpoint;
  Checkpoint language_model, vision;
  Tokenizer tokenizer;

  /// Throws FileError, FormatError, ConfigError, UnsupportedError.
  static FlamingoParts open(const FlamingoFiles& files, const CheckpointOptions& options) {
    Checkpoint language_model = Checkpoint::open(files.language_model, options);
    Tokenizer tokenizer = Tokenizer::load(files.tokenizer.empty() ? language_model : Checkpoint::open(files.tokenizer));
    return {files, FileMap::open(files.checkpoint), std::move(language_model), Checkpoint::open(files.vision, options), complete(tokenizer, files)};
  }

  /// A folder with all of them and flamingo_config.json: `checkpoint`, `lm`, `vision` and, if there is one, `tokenizer` say what is where in it, the
  /// other keys are FlamingoFiles's. Throws FileError, FormatError, ConfigError, UnsupportedError.
  static FlamingoParts open(const Checkpoint& folder) {
    const Json config = folder.json("flamingo_config.json");
    if (!config.is_object()) throw ConfigError(folder.path("flamingo_config.json"), "", "expected an object, have " + config.dump(60));
    FlamingoFiles files;
    files.checkpoint = config.get<std::string>("checkpoint", "checkpoint.pt");
    files.language_model = config.get<std::string>("lm", "lm");
    files.vision = config.get<std::string>("vision", "vision");
    const std::string usual = "tokenizer_with_special_tokens";
    files.tokenizer = config.get<std::string>("tokenizer", folder.has(usual + "/tokenizer.json") ? usual : files.language_model);
    files.media_token = config.get<std::string>("media_token", files.media_token);
    files.eoc_token = config.get<std::string>("eoc_token", files.eoc_token);
    files.cross_attn_every_n_layers = config_layers(config, "cross_attn_every_n_layers", 0);
    files.only_attend_immediate_media = config.get<bool>("only_attend_immediate_media", true);
    files.vision_tokens_ln_post = config.get<bool>("vision_tokens_ln_post", false);
    if (const Json quick = config.find("vision_quick_gelu"); !quick.is_null()) files.vision_quick_gelu = quick.as_bool();
    const Tokenizer tokenizer = complete(Tokenizer::load(folder.subfolder(files.tokenizer)), files);
    for (const auto& [key, token] : {std::pair("media_token_id", files.media_token), std::pair("eoc_token_id", files.eoc_token)})
      if (const Json id = config.find(key); !id.is_null() && tokenizer.id(token) != id.as<TokenId>())
        id.fail("is " + id.dump() + ", '" + token + "' in the tokenizer is " + std::to_string(tokenizer.id(token).value_or(-1)));
    return {files, folder.file(files.checkpoint), folder.subfolder(files.language_model), folder.subfolder(files.vision), tokenizer};
  }

 private:
  /// In the order of training: it makes the ids.
  static Tokenizer complete(const Tokenizer& tokenizer, const FlamingoFiles& files) {
    std::vector<std::string> special{files.eoc_token, files.media_token};
    if (!tokenizer.pad()) special.push_back("<PAD>");
    return tokenizer.with_special_tokens(special);
  }
};

class FlamingoFamily final : public Family {
 public:
  explicit FlamingoFamily(const FlamingoParts& parts) : FlamingoFamily(parts, ClipVision::open(parts.vision, parts.files.vision_quick_gelu)) {}

  std::string_view name() const noexcept override { return "open_flamingo"; }
  const LanguageModel& language_model() const noexcept override { return model_.language_model(); }
  std::string_view image_placeholder() const noexcept override { return placeholder_; }
  const OpenFlamingo& model() const noexcept { return model_; }
  const ImageProcessor& processor() const noexcept { return processor_; }

  /// What the resampler sees.
  PatchGrid patch_grid(const Image& image) const override {
    const std::size_t side = model_.config().vision.grid();
    return {side, side, 0, processor_.field_of_view(image)};
  }

  /// What stands for one medium.
  Tensor encode(Context& ctx, const Medium& frames) const {  // -> (1, L, Dv)
    return model_.media(ctx, pixels(ctx, std::span<const Medium>(&frames, 1)));
  }

  PreparedPrompt prepare(Context& ctx, std::string_view text, std::span<const std::shared_ptr<const Image>> images, bool add_special_tokens,
                         FeatureCache& cache) const override {
    std::vector<Medium> media;
    for (const auto& image : images) media.push_back({image});
    return prepare_media(ctx, text, media, add_special_tokens, cache);
  }

  /// Where the resampler has positions of media, all have as many frames. Throws ArgumentError.
  PreparedPrompt prepare_media(Context& ctx, std::string_view text, std::span<const Medium> media, bool add_special_tokens, FeatureCache& cache) const override {
    PreparedPrompt prepared;
    prepared.ids = tokenizer_.encode(text, add_special_tokens);
    for (std::size_t t = 0; t < prepared.ids.size(); ++t)
      if (prepared.ids[t] == model_.config().media_token_id) prepared.pictures.push_back({t, 1, {}, false});
    if (prepared.pictures.size() != media.size())
      throw ArgumentError("the prompt has " + std::to_string(prepared.pictures.size()) + " '" + placeholder_ + "' for " + std::to_string(media.size()) + " pictures");
    prepared.embeddings = language_model().embed(ctx, prepared.ids);  // (T, D)
    if (media.empty()) return prepared;

    Tensor features;  // (M, L, Dv)
    const bool alone = model_.perceiver().config().max_media == 0;  // what a medium becomes is the same wherever it stands
    if (!alone) features = model_.media(ctx, pixels(ctx, media));
    for (std::size_t m = 0; m < media.size(); ++m) {
      ctx.check_cancelled();
      PreparedPrompt::Picture& picture = prepared.pictures[m];
      if (alone && media[m].size() == 1) {
        const Features known = cache.get(ctx, *media[m][0], [&] { return encode(ctx, media[m]); });
        put(ctx, features, *known.rows, m, media.size());
        picture.content = known.content;
        picture.reused = known.reused;
      } else {
        if (alone) put(ctx, features, encode(ctx, media[m]), m, media.size());
        ContentHash<> hash({m, media.size()});
        for (const auto& frame : media[m]) {
          const Digest one = cache.digest(ctx, *frame);
          hash << one.low << one.high;
        }
        picture.content = hash.digest();
      }
    }
    prepared.model = model_.bind(ctx, features, prepared.ids);
    return prepared;
  }

  // The requests and demonstrations of the model's own evaluation.
  std::string caption_request() const override { return "Output:"; }
  std::string answer_request(std::string_view question) const override { return "Question:" + std::string(question) + " Short answer:"; }
  std::string demonstration(std::string_view question, std::string_view answer) const override {
    return (question.empty() ? caption_request() : answer_request(question)) + std::string(answer) + end_ + (question.empty() ? "\n" : "");
  }

 private:
  FlamingoFamily(const FlamingoParts& parts, const ClipVision& vision)
      : placeholder_(parts.files.media_token),
        end_(parts.files.eoc_token),
        tokenizer_(parts.tokenizer),
        processor_(vision.image_transform),
        model_(Weights(is_archive(parts.checkpoint) ? TorchPickle::parse(parts.checkpoint).tensors : Safetensors::parse(parts.checkpoint).tensors, parts.checkpoint.path()),
               parts.language_model.weights(), parts.language_model.config(), vision.weights, config(parts, vision)) {
    const auto rows = static_cast<TokenId>(language_model().vocab_size());
    for (const std::string& token : {placeholder_, end_})
      if (const TokenId id = *tokenizer_.id(token); id >= rows)
        throw WeightError(parts.checkpoint.path(), "lang_encoder", std::to_string(rows) + " embeddings",
                          "one for '" + token + "', which is token " + std::to_string(id) + " of the tokenizer: checkpoint and tokenizer are not of one model");
  }

  static bool is_archive(const FileMap& file) { return !file.path().ends_with(".safetensors"); }
  static OpenFlamingoConfig config(const FlamingoParts& parts, const ClipVision& vision) {
    return {vision.config, parts.files.vision_tokens_ln_post, parts.files.only_attend_immediate_media, parts.files.cross_attn_every_n_layers,
            parts.tokenizer.id(parts.files.media_token).value_or(-1)};
  }

  Tensor pixels(Context& ctx, std::span<const Medium> media) const {  // -> (M, F, 3, H, W)
    const std::size_t frames = media.empty() ? 0 : media[0].size(), side = model_.config().vision.image_size;
    if (frames == 0) throw ArgumentError("a medium without frames");
    Tensor all = ctx.empty(Shape{media.size(), frames, 3, side, side});
    float* to = all.data();
    for (const Medium& medium : media) {
      if (medium.size() != frames) throw ArgumentError("media of " + std::to_string(frames) + " and of " + std::to_string(medium.size()) + " frames in one prompt");
      for (const auto& frame : medium) {
        const Tensor one = processor_(*frame).pixel_values;  // (1, 3, H, W)
        std::memcpy(to, one.data(), one.bytes());
        to += one.size();
      }
    }
    ctx.observe("vision_x", all);
    return all;
  }

  static void put(Context& ctx, Tensor& all, View one, std::size_t place, std::size_t count) {  // (M, L, Dv) <- (1, L, Dv)
    if (all.empty()) all = ctx.empty(Shape{count, one.rows(), one.columns()});
    std::memcpy(all.row(place * one.rows()), one.data(), one.size() * sizeof(float));
  }

  std::string placeholder_, end_;
  Tokenizer tokenizer_;
  ImageProcessor processor_;
  OpenFlamingo model_;
};

}  // namespace chiasm
