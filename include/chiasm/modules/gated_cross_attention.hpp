/// GatedCrossAttention: a block between the layers of a language model, in which text looks at pictures, and which is nothing at all while its gates
/// are zero. Flamingo, arXiv:2204.14198; in the forms of OpenFlamingo (2308.01390) and IDEFICS (2306.16527).
///
///     const GatedCrossAttention look{w / "gated_cross_attn_layer", {.hidden_size = 2048, .media_width = 1024, .intermediate_size = 8192}};  // OpenFlamingo
///     const std::vector<MediaRun> runs = media_runs(ids, image_token);          // which rows of the text see which picture
///     const MediaKeysValues media = look.keys_values(ctx, resampled);           // (N, L, Dv): once for a prompt
///     look(ctx, hidden, media, runs);                                           // (T, D), in place
///
/// GatedDecoder (modules/gated_decoder.hpp) does this for all blocks of a model, while a prompt is read and while it is answered.
#pragma once

#include <chiasm/core/token_id.hpp>
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/kv_cache.hpp>
#include <chiasm/nn/linear.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <cmath>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// Successive rows that see the same media: `count` of them from `first` on, none where that is 0.
struct MediaRun {
  std::size_t rows = 0, first = 0, count = 0;
  bool mean = false;  // all that is seen counts alike, whatever the row asks for

  bool sees_what(const MediaRun& other) const noexcept { return first == other.first && count == other.count && mean == other.mean; }
};

/// How far text looks back.
struct MediaSight {
  bool only_immediate = true;         // at the last medium before it, itself included; else at all before it
  std::optional<TokenId> end = {};  // behind this token nothing is seen up to the next medium: IDEFICS's end of a document
};

/// What the rows of a text see. A `media_token` stands for each medium, in order. With only_immediate off, rows before the first medium see all media, each
/// counting alike: what OpenFlamingo's softmax makes of a row whose every score is masked.
inline std::vector<MediaRun> media_runs(std::span<const TokenId> ids, TokenId media_token, const MediaSight& sight = {}) {
  std::size_t all = 0, seen = 0;
  for (const TokenId id : ids) all += id == media_token;
  bool ended = false;
  std::vector<MediaRun> runs;
  for (const TokenId id : ids) {
    if (id == media_token) {
      ++seen;
      ended = false;
    }
    MediaRun here{1, 0, 0, false};
    if (seen == 0) here = {1, 0, sight.only_immediate ? 0 : all, !sight.only_immediate && all > 0};
    else if (!ended) here = sight.only_immediate ? MediaRun{1, seen - 1, 1, false} : MediaRun{1, 0, seen, false};
    if (!runs.empty() && runs.back().sees_what(here)) ++runs.back().rows;
    else runs.push_back(here);
    ended = ended || (sight.end && id == *sight.end);
  }
  return runs;
}

/// What one block's text reads of media: their keys and values, kept as a decoder keeps its own (ContextOptions::kv).
struct MediaKeysValues {
  std::size_t media = 0, rows = 0;  // rows of each medium
  KvCache::Layer layer = {};        // of all media, one behind the other

  KvView view(std::size_t first, std::size_t count) const noexcept { return layer.view(first * rows, count * rows); }
};

struct GatedCrossAttentionConfig {
  std::size_t hidden_size = 2048;  // of the text
  std::size_t media_width = 1024;  // of the pictures
  std::size_t heads = 8, head_dim = 64;
  std::size_t intermediate_size = 4 * hidden_size;
  Activation hidden_act = Activation::gelu;  // IDEFICS: silu
  float norm_eps = 1e-5f;
  // IDEFICS: RMS norms, a gated feed-forward, and, in some models, an RMS norm on each head's queries and keys.
  bool rms_norm = false, gated_mlp = false, qk_norm = false;
};

class GatedCrossAttention {
 public:
  /// OpenFlamingo's names below `gated_cross_attn_layer.`, or IDEFICS's below `gated_cross_attn_layers.N.`. A gate is one number for all columns or
  /// one for each, as the file has it. Throws WeightError.
  GatedCrossAttention(const Weights& w, const GatedCrossAttentionConfig& c)
      : GatedCrossAttention(w, c, w.contains("cross_attn") ? idefics : open_flamingo, c.heads * c.head_dim) {}

  /// Keys and values of media, which stay the same for all text that looks at them. Throws ShapeError.
  MediaKeysValues keys_values(Context& ctx, View media) const {  // (N, L, Dv)
    if (media.shape().rank() != 3) throw ShapeError("GatedCrossAttention", "media " + media.shape().to_string());
    Tensor kv = to_kv_(ctx, media);                              // (N, L, 2 H d)
    const std::size_t inner = kv.columns() / 2, rows = media.shape()[1];
    if (qk_norm_) k_norm_.heads(ctx, kv.view().column_slice(0, inner));
    // A medium is read by itself, and what is kept in blocks is read from the beginning of one. (Published models have 64 rows.)
    const KvKind kind = rows % kernels::kv_block == 0 ? KvKind::automatic : KvKind::f32;
    MediaKeysValues made{media.shape()[0], rows, KvCache::Layer(attend_.heads, attend_.head_dim, attend_.v_dim, kind)};
    (void)made.layer.append(ctx, kv.view().column_slice(0, inner), kv.view().column_slice(inner, inner));
    return made;
  }

  /// `runs` in the order of x's rows; `keys_values` may be empty where no row sees anything. `layer` and the position of row 0 are what observers are told.
  /// Throws ShapeError, Cancelled.
  void operator()(Context& ctx, MutView x, const MediaKeysValues& keys_values, std::span<const MediaRun> runs, std::size_t layer = 0, std::size_t position = 0) const {  // (T, D)
    std::size_t rows = 0, seeing = 0;
    for (const MediaRun& run : runs) {
      rows += run.rows;
      if (run.count > 0) ++seeing;
      if (run.count > 0 && (run.first + run.count > keys_values.media || keys_values.layer.key_width() != attend_.heads * attend_.head_dim))
        throw ShapeError("GatedCrossAttention", "medium " + std::to_string(run.first + run.count - 1) + " of " + std::to_string(keys_values.media) + ", keys of " +
                                                    std::to_string(keys_values.layer.key_width()));
    }
    if (rows != x.rows()) throw ShapeError("GatedCrossAttention", x.shape().to_string() + " for runs of " + std::to_string(rows) + " rows");
    if (seeing > 0) {
      Tensor seen = look(ctx, norm_(ctx, x), keys_values, runs, layer, position);  // (T, D)
      add_gated(ctx, attn_gate_, seen, x);
    }
    const Operand normed = ff_norm_(ctx, x);
    Tensor thought = gated_mlp_ ? gated_ff_(ctx, normed) : ff_(ctx, normed);
    add_gated(ctx, ff_gate_, thought, x);
  }

 private:
  /// Two implementations' words for the same parts.
  struct Names {
    std::string_view norm, to_q, to_out, attn_gate, ff_norm, ff_gate;
  };
  static constexpr Names open_flamingo{"attn.norm", "attn.to_q", "attn.to_out", "attn_gate", "ff.0", "ff_gate"};
  static constexpr Names idefics{"input_layernorm", "cross_attn.q_proj", "cross_attn.o_proj", "alpha_cross_attn", "post_attention_layernorm", "alpha_dense"};

  class Norm {
   public:
    Norm() = default;
    Norm(const Weights& w, const GatedCrossAttentionConfig& c) : is_rms_(c.rms_norm) {
      if (c.rms_norm) rms_ = RmsNorm(w, c.hidden_size, c.norm_eps);
      else layer_ = LayerNorm(w, c.hidden_size, c.norm_eps);
    }
    Operand operator()(Context& ctx, View x) const { return is_rms_ ? rms_.operand(ctx, x) : layer_.operand(ctx, x); }

   private:
    LayerNorm layer_;
    RmsNorm rms_;
    bool is_rms_ = false;
  };

  GatedCrossAttention(const Weights& w, const GatedCrossAttentionConfig& c, const Names& names, std::size_t inner)
      : norm_(w / names.norm, c),
        to_q_(w / names.to_q, c.hidden_size, inner, false),
        to_kv_(w.contains("attn.to_kv") ? Linear(w / "attn.to_kv", c.media_width, 2 * inner, false)
                                        : Linear(w / "cross_attn", {{"k_proj", inner, false}, {"v_proj", inner, false}}, c.media_width)),
        to_out_(w / names.to_out, inner, c.hidden_size, false),
        attn_gate_(gate(w, names.attn_gate, c.hidden_size)),
        ff_norm_(w / names.ff_norm, c),
        ff_gate_(gate(w, names.ff_gate, c.hidden_size)),
        gated_mlp_(c.gated_mlp),
        qk_norm_(c.qk_norm) {
    if (c.gated_mlp) gated_ff_ = GatedMlp(w / "mlp", c.hidden_size, c.intermediate_size, c.hidden_act);
    else ff_ = Mlp(w, "ff.1", "ff.3", c.hidden_size, c.intermediate_size, c.hidden_size, c.hidden_act, false);
    if (c.qk_norm) {
      q_norm_ = RmsNorm(w / "cross_attn" / "q_layer_norm", c.head_dim, c.norm_eps);
      k_norm_ = RmsNorm(w / "cross_attn" / "k_layer_norm", c.head_dim, c.norm_eps);
    }
    attend_ = Attend::scaled(c.heads, c.head_dim);
    attend_.name = "xattn";
  }

  static Tensor gate(const Weights& w, std::string_view name, std::size_t width) {  // tanh, (1) or (D)
    Shape shape{1};
    if (w.contains(name))
      if (const Shape stored = w.stored(name).shape(); stored.size() == 1 || stored.size() == width) shape = stored;
    Tensor gate = w.tensor(name, shape).reshape(Shape{shape.size()});
    for (float& alpha : gate.values()) alpha = std::tanh(alpha);
    return gate;
  }

  /// Run by run, each over its own media alone: the same as one matrix of scores with most of it masked, for a part of its cost. Rows that see nothing get 0.
  Tensor look(Context& ctx, const Operand& x, const MediaKeysValues& keys_values, std::span<const MediaRun> runs, std::size_t layer, std::size_t position) const {  // (T, D) -> (T, D)
    Tensor q = to_q_(ctx, x);                                                                                     // (T, H d)
    if (qk_norm_) q_norm_.heads(ctx, q);
    auto parts = ctx.empty<AttentionPart>(Shape{runs.size()});
    std::size_t begin = 0, count = 0;
    for (const MediaRun& run : runs) {
      Attend how = attend_;
      if (run.mean) how.scale = 0;
      if (run.count == 0) how.name = {};  // nothing to tell
      how.layer = layer;
      how.first_query = position + begin;
      how.first_key = run.first * keys_values.rows;
      parts.data()[count++] = {q.slice(begin, run.rows), run.count == 0 ? KvView() : keys_values.view(run.first, run.count), {}, how};
      begin += run.rows;
    }
    return to_out_(ctx, attention_operand(ctx, q.shape(), parts.values()));                                        // (T, H d)
  }

  static void add_gated(Context& ctx, const Tensor& gate, Tensor& y, MutView x) {  // x += gate * y
    ctx.parallel(x.rows(), 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t t = begin; t < end; ++t) {
        if (gate.size() == 1) {
          ctx.kernels().axpy(gate.data()[0], y.row(t), x.row(t), x.columns());
        } else {
          ctx.kernels().mul(gate.data(), y.row(t), y.row(t), x.columns());
          ctx.kernels().add(x.row(t), y.row(t), x.row(t), x.columns());
        }
      }
    });
  }

  Norm norm_;
  Linear to_q_, to_kv_, to_out_;
  RmsNorm q_norm_, k_norm_;
  Tensor attn_gate_;
  Norm ff_norm_;
  Mlp ff_;
  GatedMlp gated_ff_;
  Tensor ff_gate_;
  bool gated_mlp_, qk_norm_;
  Attend attend_;
};

}  // namespace chiasm
