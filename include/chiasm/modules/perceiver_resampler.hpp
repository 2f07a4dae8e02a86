/// PerceiverResampler: learned latents read a picture, or the frames of a video, and stand for it, as many rows whatever it has. Flamingo,
/// arXiv:2204.14198; in the forms of OpenFlamingo (2308.01390) and IDEFICS (2306.16527).
///
///     const PerceiverResampler resample{w / "perceiver", {.width = 1024, .latents = 64}};                                          // OpenFlamingo
///     const PerceiverResampler resample{w / "perceiver_resampler", {.width = 1280, .heads = 16, .head_dim = 96,
///                                                                   .hidden_act = Activation::relu, .qk_norm = true}};             // IDEFICS
///     Tensor media = resample(ctx, patches);                                                                                       // (N, V, D) -> (N, L, D)
#pragma once

#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/linear.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct PerceiverResamplerConfig {
  std::size_t width = 1024;  // of what is read and of the latents
  std::size_t latents = 64, depth = 6, heads = 8, head_dim = 64;
  std::size_t intermediate_size = 4 * width;
  Activation hidden_act = Activation::gelu;  // IDEFICS: relu
  bool qk_norm = false;                      // IDEFICS can have a layer norm on each head's queries and keys
  // Learned positions of frames in their medium and of media in the prompt, for at most so many; 0: there are none.
  std::size_t max_frames = 0, max_media = 0;
};

class PerceiverResampler {
 public:
  PerceiverResampler() = default;
  /// OpenFlamingo's names below `perceiver.`, or IDEFICS's below `perceiver_resampler.`. Throws WeightError.
  PerceiverResampler(const Weights& w, const PerceiverResamplerConfig& c)
      : config_(c),
        latents_(w.tensor("latents", Shape{c.latents, c.width})),
        frame_embs_(c.max_frames == 0 ? Tensor() : w.tensor("frame_embs", Shape{c.max_frames, c.width})),
        media_time_embs_(c.max_media == 0 ? Tensor() : w.tensor("media_time_embs", Shape{c.max_media, 1, c.width})) {
    const Names& names = w.contains("blocks") ? idefics : open_flamingo;
    layers_.reserve(c.depth);
    for (std::size_t i = 0; i < c.depth; ++i) layers_.emplace_back(w / names.layers / i, names, c);
    norm_ = LayerNorm(w / names.norm, c.width, eps);
  }

  const PerceiverResamplerConfig& config() const noexcept { return config_; }

  /// Media are read independently of each other, but for media_time_embs; frames of one medium together. Throws ShapeError (also for more
  /// frames or media than have positions), Cancelled.
  Tensor operator()(Context& ctx, View x) const {  // (N, V, D), or with frames (N, F, V, D) -> (N, L, D)
    const std::size_t rank = x.shape().rank(), width = config_.width;
    if ((rank != 3 && rank != 4) || x.columns() != width) throw ShapeError("PerceiverResampler", x.shape().to_string() + " for a width of " + std::to_string(width));
    const std::size_t media = x.shape()[0], frames = rank == 4 ? x.shape()[1] : 1, patches = x.shape()[-2];
    const Tensor placed = with_positions(ctx, x, media, frames, patches);  // empty: nothing is added
    const View seen = (placed.empty() ? x : placed.view()).reshape(Shape{media, frames * patches, width});

    Tensor latents = ctx.empty(Shape{media, config_.latents, width});     // (N, L, D)
    for (std::size_t n = 0; n < media; ++n) std::memcpy(latents.row(n * config_.latents), latents_.data(), latents_.bytes());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      ctx.check_cancelled();
      latents = layers_[i](ctx, seen, latents, i);
    }
    return norm_(ctx, latents);
  }

 private:
  static constexpr float eps = 1e-5f;

  /// Two implementations' words for the same parts.
  struct Names {
    std::string_view layers, norm_media, norm_latents, to_q, to_out, ff_norm, ff_in, ff_out, norm;
  };
  static constexpr Names open_flamingo{"layers", "0.norm_media", "0.norm_latents", "0.to_q", "0.to_out", "1.0", "1.1", "1.3", "norm"};
  static constexpr Names idefics{"blocks", "0.context_layer_norm", "0.latents_layer_norm", "0.q_proj", "0.output_proj", "1.ln", "1.fc", "1.c_proj", "layer_norm"};

  class Layer {
   public:
    Layer(const Weights& w, const Names& names, const PerceiverResamplerConfig& c)
        : norm_media_(w / names.norm_media, c.width, eps),
          norm_latents_(w / names.norm_latents, c.width, eps),
          to_q_(w / names.to_q, c.width, c.heads * c.head_dim, false),
          to_kv_(w.contains("0.to_kv") ? Linear(w / "0.to_kv", c.width, 2 * c.heads * c.head_dim, false)
                                       : Linear(w / "0", {{"k_proj", c.heads * c.head_dim, false}, {"v_proj", c.heads * c.head_dim, false}}, c.width)),
          to_out_(w / names.to_out, c.heads * c.head_dim, c.width, false),
          ff_norm_(w / names.ff_norm, c.width, eps),
          ff_(w, names.ff_in, names.ff_out, c.width, c.intermediate_size, c.width, c.hidden_act, false),
          qk_norm_(c.qk_norm) {
      if (c.qk_norm) {
        q_norm_ = LayerNorm(w / "0" / "q_layer_norm", c.head_dim, eps);
        k_norm_ = LayerNorm(w / "0" / "k_layer_norm", c.head_dim, eps);
      }
      attend_ = Attend::scaled(c.heads, c.head_dim);
      attend_.name = "resampler";
    }

    Tensor operator()(Context& ctx, View x, View latents, std::size_t layer) const {  // (N, V, D), (N, L, D) -> (N, L, D)
      const Tensor y = attend(ctx, x, latents, layer);
      return ff_(ctx, ff_norm_.operand(ctx, y), y);
    }

   private:
    /// The latents look at what is seen and at each other: keys and values are of both, in this order.
    Tensor attend(Context& ctx, View x, View latents, std::size_t layer) const {
      const std::size_t media = x.shape()[0], seen = x.shape()[1], count = latents.shape()[1], inner = attend_.heads * attend_.head_dim;
      const Tensor asking = norm_latents_(ctx, latents);                                                  // (N, L, D)
      Tensor q = to_q_(ctx, asking);                                                                      // (N, L, H d)
      Tensor kv = ctx.empty(Shape{media, seen + count, 2 * inner});                                       // (N, V + L, 2 H d)
      {
        const Tensor read = norm_media_(ctx, x);                                                          // (N, V, D)
        Tensor both = ctx.empty(Shape{media, seen + count, x.columns()});                                 // (N, V + L, D)
        for (std::size_t n = 0; n < media; ++n) {
          std::memcpy(both.row(n * (seen + count)), read.row(n * seen), seen * x.columns() * sizeof(float));
          std::memcpy(both.row(n * (seen + count) + seen), asking.row(n * count), count * x.columns() * sizeof(float));
        }
        to_kv_(ctx, both, kv.view());
      }
      if (qk_norm_) {
        q_norm_.heads(ctx, q);
        k_norm_.heads(ctx, kv.view().column_slice(0, inner));
      }
      Attend how = attend_;
      how.layer = layer;
      auto parts = ctx.empty<AttentionPart>(Shape{media});
      for (std::size_t n = 0; n < media; ++n) {
        const float* const first = kv.row(n * (seen + count));
        const KvView both{first, first + inner, seen + count, 2 * inner, attend_.head_dim, 2 * inner, attend_.head_dim};
        parts.data()[n] = {q.view()[n], both, {}, how};
      }
      return to_out_(ctx, attention_operand(ctx, q.shape(), parts.values()), Activation::none, latents);  // (N, L, H d)
    }

    LayerNorm norm_media_, norm_latents_, q_norm_, k_norm_;
    Linear to_q_, to_kv_, to_out_;
    LayerNorm ff_norm_;
    Mlp ff_;
    bool qk_norm_;
    Attend attend_;
  };

  Tensor with_positions(Context& ctx, View x, std::size_t media, std::size_t frames, std::size_t patches) const {  // (N F V, D)
    const auto check = [&](const Tensor& table, std::size_t count, const char* what) {
      if (!table.empty() && count > table.shape()[0])
        throw ShapeError("PerceiverResampler", x.shape().to_string() + ": " + std::to_string(count) + " " + what + ", positions for " + std::to_string(table.shape()[0]));
    };
    check(frame_embs_, frames, "frames");
    check(media_time_embs_, media, "media");
    if (frame_embs_.empty() && media_time_embs_.empty() && x.contiguous()) return {};
    Tensor y = ctx.empty(Shape{media * frames * patches, x.columns()});
    for (std::size_t row = 0; row < y.rows(); ++row) {
      std::memcpy(y.row(row), x.row(row), x.columns() * sizeof(float));
      if (!frame_embs_.empty()) ctx.kernels().add(y.row(row), frame_embs_.row(row / patches % frames), y.row(row), x.columns());
      if (!media_time_embs_.empty()) ctx.kernels().add(y.row(row), media_time_embs_.row(row / (patches * frames)), y.row(row), x.columns());
    }
    return y;
  }

  PerceiverResamplerConfig config_;
  Tensor latents_, frame_embs_, media_time_embs_;
  std::vector<Layer> layers_;
  LayerNorm norm_;
};

}  // namespace chiasm
