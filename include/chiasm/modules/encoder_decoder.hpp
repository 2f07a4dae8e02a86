/// Encoder-decoder: one stack reads the whole input at once, the other is a language model that writes and looks at what was read.
/// Vaswani et al., arXiv:1706.03762.
#pragma once

#include <chiasm/io/json.hpp>
#include <chiasm/modules/language_model.hpp>
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/linear.hpp>

#include <memory>

namespace chiasm::inline CHIASM_ABI {

/// Of a checkpoint: the id that every answer begins with and that is no part of it, from generation_config.json, or else from config.json (of the
/// language model), each of which may be null. Throws ConfigError where neither says, and for an id outside the vocabulary.
inline TokenId decoder_start_token(const Json& generation_config, const Json& config, std::size_t vocab_size) {
  for (const Json& from : {generation_config, config})
    for (const std::string_view key : {"decoder_start_token_id", "bos_token_id"}) {
      const Json value = from.find(key);
      if (value.is_null()) continue;
      const auto id = value.as<TokenId>();
      if (id < 0 || static_cast<std::size_t>(id) >= vocab_size)
        value.fail("is " + std::to_string(id) + ", the vocabulary has " + std::to_string(vocab_size) + " entries");
      return id;
    }
  config.fail("has no 'decoder_start_token_id', nor has generation_config.json");
}

/// A decoder's attention to what the encoder made of the input. Keys and values do not change while the decoder writes: they are computed once.
class EncoderDecoderAttention {
 public:
  EncoderDecoderAttention() = default;
  /// `q`, `k`, `v` and `o` below `w`, without biases; the scores are not scaled. `layer` is for observers. Throws WeightError.
  EncoderDecoderAttention(const Weights& w, std::size_t width, std::size_t heads, std::size_t head_dim, std::size_t layer)
      : q_(w / "q", width, heads * head_dim, false),
        kv_(w, {{"k", heads * head_dim, false}, {"v", heads * head_dim, false}}, width),
        o_(w / "o", heads * head_dim, width, false) {
    attend_.heads = attend_.kv_heads = heads;
    attend_.head_dim = attend_.v_dim = head_dim;
    attend_.name = "cross_attn";
    attend_.layer = layer;
  }

  /// Puts the keys and values of the encoder's output into an empty layer of that many heads.
  void read(Context& ctx, View encoded, KvCache::Layer& memory) const {  // (S, D)
    const Tensor kv = kv_(ctx, encoded);                                 // (S, 2 H d)
    const std::size_t width = kv.columns() / 2;
    (void)memory.append(ctx, kv.view().column_slice(0, width), kv.view().column_slice(width, width));
  }

  /// `position`: that of the first row, for observers.
  Tensor operator()(Context& ctx, View x, const KvCache::Layer& memory, std::size_t position, View residual) const {  // (T, D) -> (T, D)
    const Tensor q = q_(ctx, x);                                                                                      // (T, H d)
    Attend attend = attend_;
    attend.first_query = position;
    return o_(ctx, attention(ctx, q, memory.view(), attend), Activation::none, residual);
  }

 private:
  Linear q_, kv_, o_;
  Attend attend_;
};

/// Const and shareable between threads, as are the language models that it makes.
class EncoderDecoder {
 public:
  virtual ~EncoderDecoder() = default;

  /// Rows of the logits: the vocabulary, padding included.
  virtual std::size_t vocab_size() const noexcept = 0;
  virtual std::size_t hidden_size() const noexcept = 0;

  /// The encoder's token embeddings. Throws ArgumentError for an id outside the vocabulary.
  virtual Tensor embed(Context& ctx, std::span<const TokenId> ids) const = 0;  // (S) -> (S, D)

  /// What the encoder makes of an input: embeddings of tokens, of pictures, of both. Throws ShapeError, Cancelled.
  virtual Tensor encode(Context& ctx, View embeddings) const = 0;  // (S, D) -> (S, D)

  /// The decoder, bound to what encode() made: a language model whose prompt is the decoder's start token. Every layer's cross-attention keys and values
  /// are computed here, and shared by all sequences that it then writes. It serves no other input: its stable_length() is 0. It keeps what it needs of
  /// this model alive. Throws ShapeError, Cancelled.
  virtual std::shared_ptr<const LanguageModel> decoder(Context& ctx, View encoded) const = 0;
  /// The decoder by itself, which looks at nothing.
  virtual const LanguageModel& decoder() const noexcept = 0;

  /// encode() and decoder() in one.
  std::shared_ptr<const LanguageModel> bind(Context& ctx, View embeddings) const { return decoder(ctx, encode(ctx, embeddings)); }  // (S, D)
};

}  // namespace chiasm
