#pragma once

#include <chiasm/impl/pipeline.ipp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/models/blip2_itm.hpp>
#include <chiasm/models/clip.hpp>
#include <chiasm/models/siglip.hpp>
#include <chiasm/pipelines/dual_encoder.hpp>

#include <algorithm>

namespace chiasm::inline CHIASM_ABI {

struct DualEncoder::Parts {
  std::unique_ptr<const DualEncoderModel> model;
  Tokenizer tokenizer;
  ImageProcessor processor;
  std::shared_ptr<ThreadPool> threads;
  Compute compute = Compute::f32;
  std::string isa;
};

CHIASM_INLINE DualEncoder DualEncoder::load(const std::string& folder, LoadOptions options) {
  CheckpointOptions reading = detail::reading(options);
  return load(Checkpoint::open(folder, std::move(reading)), std::move(options));
}

CHIASM_INLINE DualEncoder DualEncoder::load(const Checkpoint& checkpoint, LoadOptions options) {
  const std::string type = checkpoint.model_type();
  if (type != "clip" && type != "siglip" && type != "blip-2")
    throw UnsupportedError("model_type '" + type + "' as an encoder of images and texts (" + checkpoint.path("config.json") + "), expected clip, siglip or blip-2");
  const Json file = checkpoint.image_processor_config();
  Tokenizer tokenizer = Tokenizer::load(checkpoint);
  std::unique_ptr<const DualEncoderModel> model;
  if (type == "clip") model = std::make_unique<Clip>(checkpoint.weights(), checkpoint.config());
  else if (type == "siglip") model = std::make_unique<Siglip>(checkpoint.weights(), checkpoint.config());
  else model = std::make_unique<Blip2Itm>(checkpoint.weights(), checkpoint.config());
  checkpoint.keep_converted();
  const char* const kind = type == "clip" ? "CLIPImageProcessor" : type == "siglip" ? "SiglipImageProcessor" : "BlipImageProcessor";
  ImageProcessor processor = ImageProcessor::from_json(file, kind);
  const DualEncoder encoder(std::make_shared<Parts>(Parts{std::move(model), std::move(tokenizer), std::move(processor),
                                                          std::make_shared<ThreadPool>(options.threads), options.compute, std::move(options.isa)}));
  (void)encoder.new_context();
  return encoder;
}

CHIASM_INLINE Tensor DualEncoder::pixels(Context& ctx, std::span<const Image> images) const {
  Tensor pixels;  // (N, 3, H, W)
  for (std::size_t n = 0; n < images.size(); ++n) {
    const ImageInputs one = parts_->processor(images[n]);
    const Shape& shape = one.pixel_values.shape();
    if (n == 0) pixels = ctx.empty(Shape{images.size(), shape[1], shape[2], shape[3]});
    if (one.pixel_values.size() * images.size() != pixels.size()) throw ArgumentError("DualEncoder: pictures of several sizes after preprocessing");
    std::copy(one.pixel_values.data(), one.pixel_values.data() + one.pixel_values.size(), pixels.data() + n * one.pixel_values.size());
  }
  if (images.empty()) throw ArgumentError("DualEncoder: no pictures");
  ctx.observe("pixel_values", pixels);
  return pixels;
}
CHIASM_INLINE Tensor DualEncoder::embed(Context& ctx, std::span<const Image> images) const {
  return parts_->model->embed_images(ctx, pixels(ctx, images));
}

CHIASM_INLINE DualEncoder::Tokens DualEncoder::tokenize(std::span<const std::string> texts) const {
  if (texts.empty()) throw ArgumentError("DualEncoder: no texts");
  const std::size_t longest = parts_->model->max_length();
  std::vector<std::vector<TokenId>> rows;
  Tokens tokens;
  for (const std::string& text : texts) {
    std::vector<TokenId> ids = parts_->tokenizer.encode(text);
    if (ids.size() > longest) {  // what is too long loses its middle: the end token stays at the end
      const TokenId last = ids.back();
      ids.resize(longest);
      ids.back() = last;
    }
    tokens.length = std::max(tokens.length, ids.size());
    rows.push_back(std::move(ids));
  }
  const bool full = parts_->model->pads_to_max_length();
  if (full) tokens.length = longest;
  const TokenId pad = parts_->tokenizer.pad().value_or(parts_->tokenizer.eos().value_or(0));
  for (std::vector<TokenId>& ids : rows) {
    if (!full) tokens.used.push_back(ids.size());
    ids.resize(tokens.length, pad);
    tokens.ids.insert(tokens.ids.end(), ids.begin(), ids.end());
  }
  return tokens;
}

CHIASM_INLINE Tensor DualEncoder::embed_tokens(Context& ctx, const Tokens& tokens) const {
  return parts_->model->embed_texts(ctx, TextBatch{tokens.ids, tokens.length, tokens.used});
}
CHIASM_INLINE Tensor DualEncoder::embed(Context& ctx, std::span<const std::string> texts) const { return embed_tokens(ctx, tokenize(texts)); }
CHIASM_INLINE Tensor DualEncoder::embed(const Image& image) const {
  Context ctx = new_context();
  Tensor rows = embed(ctx, std::span<const Image>(&image, 1));
  const Shape flat = vectors_per_image() == 1 ? Shape{rows.columns()} : Shape{rows.rows(), rows.columns()};
  return std::move(rows).reshape(flat);
}
CHIASM_INLINE Tensor DualEncoder::embed(const std::string& text) const {
  Context ctx = new_context();
  Tensor row = embed(ctx, std::span<const std::string>(&text, 1));
  const Shape flat{row.columns()};
  return std::move(row).reshape(flat);
}

CHIASM_INLINE Tensor DualEncoder::logits(Context& ctx, View image_embeddings, View text_embeddings) const {
  return parts_->model->logits_per_image(ctx, image_embeddings, text_embeddings);
}

CHIASM_INLINE std::vector<float> DualEncoder::match(Context& ctx, const Image& image, std::span<const std::string> texts) const {
  const Tokens tokens = tokenize(texts);
  const Tensor logits = parts_->model->match(ctx, pixels(ctx, std::span<const Image>(&image, 1)), TextBatch{tokens.ids, tokens.length, tokens.used});  // (N, 2)
  std::vector<float> probabilities;
  for (std::size_t n = 0; n < logits.rows(); ++n) probabilities.push_back(1.0f / (1.0f + std::exp(logits.row(n)[0] - logits.row(n)[1])));
  return probabilities;
}
CHIASM_INLINE std::vector<float> DualEncoder::match(const Image& image, std::span<const std::string> texts) const {
  Context ctx = new_context();
  return match(ctx, image, texts);
}
CHIASM_INLINE float DualEncoder::match(const Image& image, const std::string& text) const {
  return match(image, std::span<const std::string>(&text, 1)).front();
}
CHIASM_INLINE bool DualEncoder::matches() const noexcept { return parts_->model->matches(); }
CHIASM_INLINE std::size_t DualEncoder::vectors_per_image() const noexcept { return parts_->model->vectors_per_image(); }

CHIASM_INLINE std::vector<float> DualEncoder::classify(const Image& image, std::span<const std::string> texts) const {
  static const std::string as_it_is[] = {"{}"};
  return classify(image, texts, as_it_is);
}

CHIASM_INLINE std::vector<float> DualEncoder::classify(const Image& image, std::span<const std::string> labels, std::span<const std::string> templates) const {
  Context ctx = new_context();
  const Tensor classes = embed_labels(ctx, labels, templates);          // (labels, E)
  const Tensor seen = embed(ctx, std::span<const Image>(&image, 1));    // (1, E)
  const Tensor p = probabilities(ctx, seen, classes);                   // (1, labels)
  return {p.data(), p.data() + p.size()};
}

CHIASM_INLINE Tensor DualEncoder::embed_labels(Context& ctx, std::span<const std::string> labels, std::span<const std::string> templates) const {
  if (labels.empty()) throw ArgumentError("DualEncoder::classify: no label");
  if (templates.empty()) throw ArgumentError("DualEncoder::classify: no template");
  Tensor means;  // (labels, E)
  for (std::size_t label = 0; label < labels.size(); ++label) {
    ctx.check_cancelled();
    std::vector<std::string> prompts;
    for (const std::string& form : templates) {
      const std::size_t at = form.find("{}");
      if (at == std::string::npos) throw ArgumentError("DualEncoder::classify: template '" + form + "' has no {}");
      prompts.push_back(form.substr(0, at) + labels[label] + form.substr(at + 2));
    }
    const Tensor each = embed(ctx, prompts);  // (templates, E)
    if (label == 0) means = ctx.zeros(Shape{labels.size(), each.columns()});
    float* const mean = means.row(label);
    for (std::size_t i = 0; i < each.rows(); ++i) ctx.kernels().add(mean, each.row(i), mean, each.columns());
    ctx.kernels().scale(1.0f / std::sqrt(ctx.kernels().dot(mean, mean, each.columns())), mean, mean, each.columns());
  }
  return means;
}

CHIASM_INLINE Tensor DualEncoder::probabilities(Context& ctx, View image_embeddings, View label_embeddings) const {
  return parts_->model->probabilities(ctx, logits(ctx, image_embeddings, label_embeddings));
}

CHIASM_INLINE Context DualEncoder::new_context(CancelToken cancel) const {
  ContextOptions options;
  options.isa = parts_->isa;
  options.compute = parts_->compute;
  options.cancel = std::move(cancel);
  return Context(parts_->threads, std::move(options));
}
CHIASM_INLINE const DualEncoderModel& DualEncoder::model() const noexcept { return *parts_->model; }
CHIASM_INLINE const Tokenizer& DualEncoder::tokenizer() const noexcept { return parts_->tokenizer; }

}  // namespace chiasm
