/// T5 (arXiv:1910.10683), T5 v1.1 and Flan-T5 (arXiv:2210.11416): an encoder-decoder whose positions are biases of attention, which is not scaled.
/// Key names and class defaults of transformers' T5ForConditionalGeneration.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/decoder_stack.hpp>
#include <chiasm/modules/encoder_decoder.hpp>
#include <chiasm/nn/embedding.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>
#include <chiasm/nn/relative_position_bias.hpp>
#include <chiasm/nn/self_attention.hpp>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct T5Config {
  std::size_t vocab_size = 32128, d_model = 512, d_kv = 64, d_ff = 2048, num_layers = 6, num_decoder_layers = 6, num_heads = 8;
  std::size_t relative_attention_num_buckets = 32, relative_attention_max_distance = 128;
  Activation dense_act_fn = Activation::relu;
  bool is_gated_act = false;
  float layer_norm_epsilon = 1e-6f;
  bool scale_decoder_outputs = true;  // by d_model^-0.5: where the head once was the embeddings
  std::size_t n_positions = 512;      // that it was trained with; more are no error

  /// Throws ConfigError.
  static T5Config from(const Json& config) {
    T5Config c;
    c.vocab_size = config_size(config, "vocab_size", c.vocab_size);
    c.d_model = config_size(config, "d_model", c.d_model);
    c.d_kv = config_size(config, "d_kv", c.d_kv);
    c.d_ff = config_size(config, "d_ff", c.d_ff);
    c.num_layers = config_layers(config, "num_layers", c.num_layers);
    c.num_decoder_layers = config_layers(config, "num_decoder_layers", c.num_layers);
    c.num_heads = config_size(config, "num_heads", c.num_heads);
    c.relative_attention_num_buckets = config_size(config, "relative_attention_num_buckets", c.relative_attention_num_buckets);
    c.relative_attention_max_distance = config_size(config, "relative_attention_max_distance", c.relative_attention_max_distance);
    c.n_positions = config_size(config, "n_positions", c.n_positions);
    if (c.relative_attention_num_buckets < 4) config.fail("'relative_attention_num_buckets' is below 4");
    if (c.relative_attention_max_distance <= c.relative_attention_num_buckets / 2)
      config.fail("'relative_attention_max_distance' is " + std::to_string(c.relative_attention_max_distance) + ", expected more than half of the " +
                  std::to_string(c.relative_attention_num_buckets) + " buckets");

    // "relu", "gated-gelu", ...: but files may say the two halves of it themselves, and that counts.
    const std::string forward = config.get<std::string>("feed_forward_proj", "relu");
    const std::size_t dash = forward.find('-');
    if (dash != std::string::npos && (forward.substr(0, dash) != "gated" || forward.find('-', dash + 1) != std::string::npos))
      config["feed_forward_proj"].fail("is '" + forward + "', expected an activation or gated-<activation>");
    c.is_gated_act = config.get<bool>("is_gated_act", dash != std::string::npos);
    const std::string activation = forward == "gated-gelu" ? "gelu_new" : forward.substr(dash == std::string::npos ? 0 : dash + 1);
    c.dense_act_fn = config_activation(config, "dense_act_fn", activation);
    c.layer_norm_epsilon = static_cast<float>(config_positive(config, "layer_norm_epsilon", 1e-6));
    // Files of T5 v1.1 and Flan-T5 say that their head is not the embeddings, which the reference takes for "not scaled", whichever head there is.
    const Json tied = config.find("tie_word_embeddings");
    c.scale_decoder_outputs = config.get<bool>("scale_decoder_outputs", tied.is_null() || tied.as_bool());
    return c;
  }
};

/// Self-attention with biases by distance: of the encoder, which sees everything, or of the decoder, which sees what its caches hold.
class T5Attention {
 public:
  T5Attention(const Weights& w, const T5Config& c, std::size_t layer)
      : qkv_(w, {{"q", c.num_heads * c.d_kv, false}, {"k", c.num_heads * c.d_kv, false}, {"v", c.num_heads * c.d_kv, false}}, c.d_model),
        o_(w / "o", c.num_heads * c.d_kv, c.d_model, false) {
    attend_.heads = attend_.kv_heads = c.num_heads;
    attend_.head_dim = attend_.v_dim = c.d_kv;
    attend_.layer = layer;
  }

  Tensor operator()(Context& ctx, const Operand& x, const DistanceBias& bias, View residual) const {  // (S, D) -> (S, D)
    Attend attend = attend_;
    attend.name = "encoder.self_attn";
    bias.add_to(attend);
    return o_(ctx, self_attention(ctx, qkv_, x, attend), Activation::none, residual);
  }

  Tensor operator()(Context& ctx, const Operand& x, const DecoderPass& pass, View residual) const {  // (T, D) -> (T, D)
    const Tensor qkv = qkv_(ctx, x);                                                       // (T, 3 H d)
    const View all = qkv;
    const std::size_t width = qkv.columns() / 3;
    Attend attend = attend_;
    attend.causal = true;
    pass.distances.add_to(attend);
    const Operand mixed = pass.attend(ctx, all.column_slice(0, width), all.column_slice(width, width), all.column_slice(2 * width, width), attend);
    return o_(ctx, mixed, Activation::none, residual);
  }

 private:
  Linear qkv_, o_;
  Attend attend_;
};

class T5FeedForward {
 public:
  T5FeedForward(const Weights& w, const T5Config& c) : layer_norm_(w / "layer_norm", c.d_model, c.layer_norm_epsilon), is_gated_(c.is_gated_act) {
    if (is_gated_) gated_ = GatedMlp(w / "DenseReluDense", "wi_0", "wi_1", "wo", c.d_model, c.d_ff, c.dense_act_fn);
    else dense_ = Mlp(w / "DenseReluDense", "wi", "wo", c.d_model, c.d_ff, c.d_model, c.dense_act_fn, false);
  }

  Tensor operator()(Context& ctx, View x) const {  // (T, D) -> (T, D)
    const Operand y = layer_norm_.operand(ctx, x);
    return is_gated_ ? gated_(ctx, y, x) : dense_(ctx, y, x);
  }

 private:
  RmsNorm layer_norm_;
  Mlp dense_;
  GatedMlp gated_;
  bool is_gated_;
};

class T5EncoderBlock {
 public:
  T5EncoderBlock(const Weights& w, const T5Config& c, std::size_t layer)
      : layer_norm_(w / 0 / "layer_norm", c.d_model, c.layer_norm_epsilon), self_attention_(w / 0 / "SelfAttention", c, layer), feed_forward_(w / 1, c) {}

  Tensor operator()(Context& ctx, View x, const DistanceBias& bias) const {  // (S, D) -> (S, D)
    return feed_forward_(ctx, self_attention_(ctx, layer_norm_.operand(ctx, x), bias, x));
  }

 private:
  RmsNorm layer_norm_;
  T5Attention self_attention_;
  T5FeedForward feed_forward_;
};

class T5DecoderBlock {
 public:
  T5DecoderBlock(const Weights& w, const T5Config& c, std::size_t layer)
      : self_layer_norm_(w / 0 / "layer_norm", c.d_model, c.layer_norm_epsilon),
        self_attention_(w / 0 / "SelfAttention", c, layer),
        cross_layer_norm_(w / 1 / "layer_norm", c.d_model, c.layer_norm_epsilon),
        enc_dec_attention_(w / 1 / "EncDecAttention", c.d_model, c.num_heads, c.d_kv, layer),
        feed_forward_(w / 2, c) {}

  const EncoderDecoderAttention& enc_dec_attention() const noexcept { return enc_dec_attention_; }

  Tensor operator()(Context& ctx, View x, const DecoderPass& pass, const KvCache::Layer& memory) const {  // (T, D) -> (T, D)
    Tensor y = self_attention_(ctx, self_layer_norm_.operand(ctx, x), pass, x);
    if (memory.length() > 0) {
      const std::size_t position = pass.batch.empty() ? 0 : (*pass.batch[0].cache)[pass.layer].length() - pass.batch[0].rows;
      y = enc_dec_attention_(ctx, cross_layer_norm_(ctx, y), memory, position, y);
    }
    return feed_forward_(ctx, y);
  }

 private:
  RmsNorm self_layer_norm_;
  T5Attention self_attention_;
  RmsNorm cross_layer_norm_;
  EncoderDecoderAttention enc_dec_attention_;
  T5FeedForward feed_forward_;
};

class T5Encoder {
 public:
  /// `block.N` and `final_layer_norm` below `w`. Throws WeightError.
  T5Encoder(const Weights& w, const T5Config& c)
      : relative_attention_bias_(w / "block" / 0 / "layer" / 0 / "SelfAttention" / "relative_attention_bias", c.relative_attention_num_buckets,
                                 c.relative_attention_max_distance, c.num_heads, true),
        final_layer_norm_(w / "final_layer_norm", c.d_model, c.layer_norm_epsilon),
        width_(c.d_model) {
    block_.reserve(c.num_layers);
    for (std::size_t i = 0; i < c.num_layers; ++i) block_.emplace_back(w / "block" / i / "layer", c, i);
  }

  /// The hidden states are observed as `encoder_hidden.N`, the last one normed. Throws ShapeError, Cancelled.
  Tensor operator()(Context& ctx, View embeddings) const {  // (S, D) -> (S, D)
    if (embeddings.columns() != width_ || embeddings.rows() == 0) throw ShapeError("T5Encoder", embeddings.shape().to_string());
    const DistanceBias bias = relative_attention_bias_(ctx, embeddings.rows() - 1, embeddings.rows() - 1);
    ctx.observe("encoder_hidden", 0, embeddings);
    Tensor x;
    for (std::size_t i = 0; i < block_.size(); ++i) {
      ctx.check_cancelled();
      x = block_[i](ctx, i == 0 ? embeddings : x.view(), bias);
      if (i + 1 < block_.size()) ctx.observe("encoder_hidden", i + 1, x);
      ctx.progress("encode prompt", i + 1, block_.size());
    }
    x = final_layer_norm_(ctx, x);
    ctx.observe("encoder_hidden", block_.size(), x);
    return x;
  }

 private:
  RelativePositionBias relative_attention_bias_;
  std::vector<T5EncoderBlock> block_;
  RmsNorm final_layer_norm_;
  std::size_t width_;
};

/// What the language models of one checkpoint share.
struct T5DecoderWeights {
  /// `shared` is the whole model's embeddings; `decoder` and `lm_head` below `w`. Throws WeightError.
  T5DecoderWeights(const Weights& w, const T5Config& c, const Embedding& shared)
      : config(c),
        embed_tokens(w.contains("decoder.embed_tokens") ? Embedding(w / "decoder" / "embed_tokens", c.vocab_size, c.d_model) : shared),
        relative_attention_bias(w / "decoder" / "block" / 0 / "layer" / 0 / "SelfAttention" / "relative_attention_bias", c.relative_attention_num_buckets,
                                c.relative_attention_max_distance, c.num_heads, false),
        final_layer_norm(w / "decoder" / "final_layer_norm", c.d_model, c.layer_norm_epsilon),
        lm_head(w.contains("lm_head") ? Linear(w / "lm_head", c.d_model, c.vocab_size, false) : Linear(w.converted(shared.weight()), Tensor())) {
    block.reserve(c.num_decoder_layers);
    for (std::size_t i = 0; i < c.num_decoder_layers; ++i) block.emplace_back(w / "decoder" / "block" / i / "layer", c, i);
    (w / "decoder").ignore("EncDecAttention.relative_attention_bias");  // the first files have one, which was never used
  }

  T5Config config;
  Embedding embed_tokens;
  std::vector<T5DecoderBlock> block;
  RelativePositionBias relative_attention_bias;
  RmsNorm final_layer_norm;
  Linear lm_head;
};

/// Bound to one encoder output, or to none.
class T5Decoder final : public DecoderStack {
 public:
  explicit T5Decoder(std::shared_ptr<const T5DecoderWeights> w) : DecoderStack(sizes_of(w->config)), w_(std::move(w)), memory_(new_cache()) {}
  /// Throws ShapeError, Cancelled.
  T5Decoder(Context& ctx, std::shared_ptr<const T5DecoderWeights> w, View encoded) : T5Decoder(std::move(w)) {  // (S, D)
    if (encoded.columns() != hidden_size() || encoded.rows() == 0) throw ShapeError("T5Decoder", encoded.shape().to_string());
    for (std::size_t i = 0; i < w_->block.size(); ++i) {
      ctx.check_cancelled();
      w_->block[i].enc_dec_attention().read(ctx, encoded, memory_[i]);
    }
  }

  std::size_t stable_length() const noexcept override { return 0; }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return w_->embed_tokens(ctx, ids); }  // (T) -> (T, D)
  Tensor logits(Context& ctx, View hidden) const override {                                                       // (T, D) -> (T, V)
    if (!w_->config.scale_decoder_outputs) return w_->lm_head(ctx, hidden);
    const float scale = 1.0f / std::sqrt(static_cast<float>(hidden_size()));
    Tensor scaled = ctx.empty(hidden.shape());
    for (std::size_t t = 0; t < scaled.rows(); ++t) ctx.kernels().scale(scale, hidden.row(t), scaled.row(t), scaled.columns());
    return w_->lm_head(ctx, scaled);
  }

 protected:
  Tensor begin(Context& ctx, View embeddings, DecoderPass& pass) const override {
    pass.find_distances(ctx, w_->relative_attention_bias);
    return copy(ctx, embeddings);
  }
  Tensor block(Context& ctx, View x, const DecoderPass& pass) const override { return w_->block[pass.layer](ctx, x, pass, memory_[pass.layer]); }
  Tensor end(Context& ctx, Tensor x) const override { return w_->final_layer_norm(ctx, x); }

 private:
  static DecoderSizes sizes_of(const T5Config& c) {
    return {c.vocab_size, c.d_model, c.d_model, c.num_decoder_layers, c.num_heads, c.num_heads, c.d_kv, c.n_positions};
  }

  std::shared_ptr<const T5DecoderWeights> w_;
  KvCache memory_;  // keys and values of the encoder's output, a layer for each block
};

class T5 final : public EncoderDecoder {
 public:
  /// `shared`, `encoder.block.N`, `decoder.block.N`, their `final_layer_norm`, and `lm_head` where the file has one. Throws WeightError.
  T5(const Weights& w, const T5Config& c) : T5(w, c, Embedding(embeddings(w), c.vocab_size, c.d_model)) {}

  const T5Config& config() const noexcept { return w_->config; }
  std::size_t vocab_size() const noexcept override { return config().vocab_size; }
  std::size_t hidden_size() const noexcept override { return config().d_model; }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return embed_tokens_(ctx, ids); }  // (S) -> (S, D)
  Tensor encode(Context& ctx, View embeddings) const override { return encoder_(ctx, embeddings); }            // (S, D) -> (S, D)
  std::shared_ptr<const LanguageModel> decoder(Context& ctx, View encoded) const override {                    // (S, D)
    return std::make_shared<const T5Decoder>(ctx, w_, encoded);
  }
  const T5Decoder& decoder() const noexcept override { return decoder_; }

 private:
  T5(const Weights& w, const T5Config& c, const Embedding& shared)
      : embed_tokens_(w.contains("encoder.embed_tokens") ? Embedding(w / "encoder" / "embed_tokens", c.vocab_size, c.d_model) : shared),
        encoder_(w / "encoder", c),
        w_(std::make_shared<const T5DecoderWeights>(w, c, shared)),
        decoder_(w_) {}

  /// `shared`; files that hold every tensor once may have it under another of its names.
  static Weights embeddings(const Weights& w) {
    for (const char* const part : {"encoder", "decoder"})
      if (!w.contains("shared") && (w / part).contains("embed_tokens")) return w / part / "embed_tokens";
    return w / (w.contains("shared") || !w.contains("lm_head") ? "shared" : "lm_head");
  }

  Embedding embed_tokens_;
  T5Encoder encoder_;
  std::shared_ptr<const T5DecoderWeights> w_;
  T5Decoder decoder_;
};

}  // namespace chiasm
