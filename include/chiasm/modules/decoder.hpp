/// Decoder: the pre-norm language model of Llama (arXiv:2302.13971), Mistral (2310.06825) and Qwen2 (2407.10671): RMS norm, rotary
/// positions, grouped-query attention with an optional sliding window, gated feed-forward.
#pragma once

#include <chiasm/modules/language_model.hpp>
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/embedding.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>
#include <chiasm/nn/rope.hpp>

#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct DecoderConfig {
  std::size_t vocab_size = 32000, hidden_size = 4096, intermediate_size = 11008, num_hidden_layers = 32;
  std::size_t num_attention_heads = 32, num_key_value_heads = 32, head_dim = 128;
  Activation hidden_act = Activation::silu;
  float rms_norm_eps = 1e-6f;
  RopeConfig rope;
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  std::vector<std::size_t> windows;  // per layer, 0: sees everything; empty: no layer has one
};

class DecoderAttention {
 public:
  DecoderAttention(const Weights& w, const DecoderConfig& c, std::size_t window)
      : qkv_(w,
             {{"q_proj", c.num_attention_heads * c.head_dim, c.qkv_bias},
              {"k_proj", c.num_key_value_heads * c.head_dim, c.qkv_bias},
              {"v_proj", c.num_key_value_heads * c.head_dim, c.qkv_bias}},
             c.hidden_size),
        o_proj_(w / "o_proj", c.num_attention_heads * c.head_dim, c.hidden_size, c.out_bias) {
    attend_.heads = c.num_attention_heads;
    attend_.kv_heads = c.num_key_value_heads;
    attend_.head_dim = attend_.v_dim = c.head_dim;
    attend_.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    attend_.causal = true;
    attend_.window = window;
  }

  Tensor operator()(Context& ctx, View x, std::span<const Sequence> batch, std::size_t layer, const Rope& rope, View cos, View sin, View residual) const {
    Tensor qkv = qkv_(ctx, x);                                                   // (T, (H + 2 Kv) d)
    const std::size_t width = attend_.heads * attend_.head_dim, kv_width = attend_.kv_heads * attend_.head_dim;
    rope.apply(ctx, qkv.view().column_slice(0, width + kv_width), attend_.head_dim, cos, sin);  // queries and keys alike
    Tensor mixed = ctx.empty(Shape{x.rows(), width});                            // (T, H d)
    std::size_t begin = 0;
    for (const Sequence& sequence : batch) {
      const View rows = qkv.slice(begin, sequence.rows);
      Attend attend = attend_;
      attend.offset = (*sequence.cache)[layer].length();
      const KvView kv = (*sequence.cache)[layer].append(ctx, rows.column_slice(width, kv_width), rows.column_slice(width + kv_width, kv_width));
      attention(ctx, rows.column_slice(0, width), kv, mixed.slice(begin, sequence.rows), attend);
      begin += sequence.rows;
    }
    return o_proj_(ctx, mixed, Activation::none, residual);                      // (T, D)
  }

 private:
  Linear qkv_, o_proj_;
  Attend attend_;
};

class DecoderLayer {
 public:
  DecoderLayer(const Weights& w, const DecoderConfig& c, std::size_t window)
      : input_layernorm_(w / "input_layernorm", c.hidden_size, c.rms_norm_eps),
        self_attn_(w / "self_attn", c, window),
        post_attention_layernorm_(w / "post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        mlp_(w / "mlp", c.hidden_size, c.intermediate_size, c.hidden_act, c.mlp_bias) {}

  Tensor operator()(Context& ctx, View x, std::span<const Sequence> batch, std::size_t layer, const Rope& rope, View cos, View sin) const {  // (T, D) -> (T, D)
    const Tensor y = self_attn_(ctx, input_layernorm_(ctx, x), batch, layer, rope, cos, sin, x);
    return mlp_(ctx, post_attention_layernorm_(ctx, y), y);
  }

 private:
  RmsNorm input_layernorm_;
  DecoderAttention self_attn_;
  RmsNorm post_attention_layernorm_;
  GatedMlp mlp_;
};

class Decoder : public LanguageModel {
 public:
  using LanguageModel::forward;

  /// `model.embed_tokens`, `model.layers.N`, `model.norm` and, unless it is tied to the embeddings, `lm_head`. Throws WeightError.
  Decoder(const Weights& w, DecoderConfig config)
      : config_(std::move(config)),
        embed_tokens_(w / "model" / "embed_tokens", config_.vocab_size, config_.hidden_size),
        norm_(w / "model" / "norm", config_.hidden_size, config_.rms_norm_eps) {
    layers_.reserve(config_.num_hidden_layers);
    for (std::size_t i = 0; i < config_.num_hidden_layers; ++i)
      layers_.emplace_back(w / "model" / "layers" / i, config_, config_.windows.empty() ? 0 : config_.windows[i]);
    rope_ = Rope(config_.rope);  // after the weights have confirmed the size of a head
    // As the reference: a head that is in the file counts, even one that differs under tie_word_embeddings; some files that are not tied
    // by their configuration leave it out.
    const bool tied = !w.contains("lm_head");
    lm_head_ = tied ? Linear(embed_tokens_.weight(), Tensor()) : Linear(w / "lm_head", config_.hidden_size, config_.vocab_size, false);
    w.ignore("rotary_emb.inv_freq");
  }

  const DecoderConfig& config() const noexcept { return config_; }
  std::size_t vocab_size() const noexcept override { return config_.vocab_size; }
  std::size_t hidden_size() const noexcept override { return config_.hidden_size; }
  std::size_t stable_length() const noexcept override { return rope_.stable_length(); }
  KvCache new_cache() const override { return KvCache(config_.num_hidden_layers, config_.num_key_value_heads, config_.head_dim, config_.head_dim); }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return embed_tokens_(ctx, ids); }  // (T) -> (T, D)

  Tensor forward(Context& ctx, View embeddings, std::span<const Sequence> batch, const BlockHook* before_block) const override {  // (T, D) -> (T, D)
    if (embeddings.columns() != config_.hidden_size) throw ShapeError("Decoder", embeddings.shape().to_string());
    Tensor cos = ctx.empty(Shape{embeddings.rows(), rope_.dim() / 2}), sin = ctx.empty(cos.shape());
    auto lengths = ctx.empty<std::size_t>(Shape{batch.size()});  // of the caches before this pass
    std::size_t begin = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Sequence& sequence = batch[i];
      if (sequence.rows > embeddings.rows() - begin) throw ShapeError("Decoder", "a batch of more rows than " + embeddings.shape().to_string());
      if (sequence.cache == nullptr || sequence.cache->layers() != layers_.size())
        throw ShapeError("Decoder", "a cache of " + std::to_string(sequence.cache == nullptr ? 0 : sequence.cache->layers()) + " layers for " +
                                        std::to_string(layers_.size()));
      lengths.data()[i] = sequence.cache->length();
      rope_.angles(sequence.cache->length(), sequence.rows, cos.slice(begin, sequence.rows), sin.slice(begin, sequence.rows));
      begin += sequence.rows;
    }
    if (begin != embeddings.rows()) throw ShapeError("Decoder", std::to_string(begin) + " rows in the batch of " + embeddings.shape().to_string());
    try {
      return blocks(ctx, embeddings, batch, before_block, cos, sin);
    } catch (...) {  // some layers have grown and some have not: a cache must not be left so
      for (std::size_t i = 0; i < batch.size(); ++i) batch[i].cache->truncate(lengths.data()[i]);
      throw;
    }
  }

  Tensor logits(Context& ctx, View hidden) const override { return lm_head_(ctx, hidden); }  // (T, D) -> (T, V)

 private:
  Tensor blocks(Context& ctx, View embeddings, std::span<const Sequence> batch, const BlockHook* before_block, View cos, View sin) const {
    Tensor x = ctx.empty(embeddings.shape());
    for (std::size_t t = 0; t < x.rows(); ++t) std::memcpy(x.row(t), embeddings.row(t), x.columns() * sizeof(float));
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      ctx.check_cancelled();
      if (before_block != nullptr) (*before_block)(i, x);
      ctx.observe("hidden", i, x);
      x = layers_[i](ctx, x, batch, i, rope_, cos, sin);
      if (x.rows() > batch.size()) ctx.progress("prefill", i + 1, layers_.size());
    }
    x = norm_(ctx, x);
    ctx.observe("hidden", layers_.size(), x);
    return x;
  }

  DecoderConfig config_;
  Embedding embed_tokens_;
  std::vector<DecoderLayer> layers_;
  RmsNorm norm_;
  Rope rope_;
  Linear lm_head_;
};

}  // namespace chiasm
