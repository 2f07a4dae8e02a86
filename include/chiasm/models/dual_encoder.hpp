/// DualEncoderModel: what CLIP, SigLIP and BLIP-2's retrieval have in common. An image and a text become vectors of one space.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/core/function_ref.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/kernels/table.hpp>
#include <chiasm/modules/text_batch.hpp>

#include <cmath>
#include <cstring>
#include <span>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

class DualEncoderModel {
 public:
  virtual ~DualEncoderModel() = default;

  /// Rows of length 1. V is vectors_per_image(); where that is 1, the dimension is not there.
  Tensor embed_images(Context& ctx, View pixels) const {                        // (N, 3, H, W) -> (N, [V,] E)
    return embed(ctx, "vision", "image_embeds", [&] { return pool_images(ctx, pixels); });
  }
  Tensor embed_texts(Context& ctx, const TextBatch& texts) const {              // N texts -> (N, E)
    return embed(ctx, "text", "text_embeds", [&] { return pool_texts(ctx, texts); });
  }

  /// scale * image . text + bias for every pair: of an image's vectors, the nearest to the text counts.
  Tensor logits_per_image(Context& ctx, View images, View texts) const {        // (N, [V,] E), (M, E) -> (N, M)
    const std::size_t vectors = vectors_per_image();
    if (images.columns() != texts.columns() || images.rows() % vectors != 0)
      throw ShapeError("logits_per_image", images.shape().to_string() + ", " + texts.shape().to_string());
    Tensor logits = ctx.empty(Shape{images.rows() / vectors, texts.rows()});
    for (std::size_t i = 0; i < logits.rows(); ++i)
      for (std::size_t j = 0; j < texts.rows(); ++j) {
        float nearest = ctx.kernels().dot(images.row(i * vectors), texts.row(j), images.columns());
        for (std::size_t v = 1; v < vectors; ++v) nearest = std::max(nearest, ctx.kernels().dot(images.row(i * vectors + v), texts.row(j), images.columns()));
        logits.row(i)[j] = scale_ * nearest + bias_;
      }
    return logits;
  }

  /// Probabilities of the texts for each image: softmax over the texts (CLIP, BLIP-2), or each text by itself (SigLIP).
  Tensor probabilities(Context& ctx, View logits) const {                       // (N, M) -> (N, M)
    Tensor p = ctx.empty(logits.shape());
    for (std::size_t i = 0; i < logits.rows(); ++i) {
      if (!sigmoid_) ctx.kernels().softmax(logits.row(i), p.row(i), logits.columns());
      else
        for (std::size_t j = 0; j < logits.columns(); ++j) p.row(i)[j] = 1.0f / (1.0f + std::exp(-logits.row(i)[j]));
    }
    return p;
  }

  /// Vectors that an image becomes.
  virtual std::size_t vectors_per_image() const noexcept { return 1; }

  /// Whether match() is there.
  virtual bool matches() const noexcept { return false; }
  /// An image and each text, looked at together: scores against a match and for it. Throws UnsupportedError.
  virtual Tensor match(Context&, View, const TextBatch&) const {                // (1, 3, H, W), N texts -> (N, 2)
    throw UnsupportedError("a matching score: this model compares an image and a text by their vectors alone");
  }

  /// Most tokens of a text.
  virtual std::size_t max_length() const noexcept = 0;
  /// Whether texts are padded to max_length() and the padding is seen.
  bool pads_to_max_length() const noexcept { return sigmoid_; }

 protected:
  DualEncoderModel(float scale, float bias, bool sigmoid) : scale_(scale), bias_(bias), sigmoid_(sigmoid) {}

  /// A learned number, stored with shape () or (1). Throws WeightError.
  static float scalar(const Weights& w, std::string_view name) { return w.get(name).reshape(Shape{1}).to_f32().data()[0]; }

  /// The towers' vectors before they are brought to length 1.
  virtual Tensor pool_images(Context& ctx, View pixels) const = 0;             // (N, 3, H, W) -> (N, [V,] E)
  virtual Tensor pool_texts(Context& ctx, const TextBatch& texts) const = 0;   // N texts -> (N, E)

  /// One row of each sequence: position `position(n)` of sequence n.
  static Tensor pick(Context& ctx, View x, FunctionRef<std::size_t(std::size_t n)> position) {  // (N, T, D) -> (N, D)
    Tensor y = ctx.empty(Shape{x.shape()[0], x.columns()});
    for (std::size_t n = 0; n < y.rows(); ++n) std::memcpy(y.row(n), x.row(n * x.shape()[1] + position(n)), x.columns() * sizeof(float));
    return y;
  }

 private:
  Tensor embed(Context& ctx, std::string_view tower, std::string_view name, FunctionRef<Tensor()> pool) const {
    Tensor x;
    {
      const Context::Scope scope(ctx, tower);
      x = pool();
      ctx.observe("pooler_output", x);
    }
    for (std::size_t i = 0; i < x.rows(); ++i)
      ctx.kernels().scale(1.0f / std::sqrt(ctx.kernels().dot(x.row(i), x.row(i), x.columns())), x.row(i), x.row(i), x.columns());
    ctx.observe(name, x);
    return x;
  }

  float scale_, bias_;
  bool sigmoid_;
};

}  // namespace chiasm
