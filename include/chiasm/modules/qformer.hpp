/// Q-Former: learned queries read an image, alone or beside a text. BLIP-2, arXiv:2301.12597; beside an instruction: InstructBLIP, arXiv:2305.06500.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/text_batch.hpp>
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/embedding.hpp>
#include <chiasm/nn/linear.hpp>
#include <chiasm/nn/norm.hpp>

#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct QFormerConfig {
  std::size_t num_query_tokens = 32, hidden_size = 768, intermediate_size = 3072, num_hidden_layers = 12, num_attention_heads = 12;
  std::size_t encoder_hidden_size = 1408;     // of what the queries read
  std::size_t cross_attention_frequency = 2;  // 2: layers 0, 2, 4, ... have cross-attention
  Activation hidden_act = Activation::gelu;
  float layer_norm_eps = 1e-12f;
  // A Q-Former that reads text has words, positions, and a feed-forward block for them beside that of the queries.
  bool text = false;
  std::size_t vocab_size = 30522, max_position_embeddings = 512;

  /// From a config.json with a `qformer_config`: BLIP-2's or InstructBLIP's. Throws ConfigError.
  static QFormerConfig from(const Json& config) {
    const Json qformer = config.find("qformer_config");
    QFormerConfig c;
    c.num_query_tokens = config_size(config, "num_query_tokens", c.num_query_tokens);
    c.hidden_size = config_size(qformer, "hidden_size", c.hidden_size);
    c.intermediate_size = config_size(qformer, "intermediate_size", c.intermediate_size);
    c.num_hidden_layers = config_layers(qformer, "num_hidden_layers", c.num_hidden_layers);
    c.num_attention_heads = config_size(qformer, "num_attention_heads", c.num_attention_heads);
    config_divides(qformer, "num_attention_heads", c.num_attention_heads, c.hidden_size);
    c.encoder_hidden_size = config_size(config.find("vision_config"), "hidden_size", c.encoder_hidden_size);  // whatever qformer_config says
    c.cross_attention_frequency = config_size(qformer, "cross_attention_frequency", c.cross_attention_frequency);
    c.hidden_act = config_activation(qformer, "hidden_act", "gelu");
    c.layer_norm_eps = static_cast<float>(config_positive(qformer, "layer_norm_eps", 1e-12));
    c.text = qformer.find("use_qformer_text_input").is_null() ? config.get<std::string>("model_type", "blip-2") == "instructblip"
                                                              : qformer.get<bool>("use_qformer_text_input", false);
    c.vocab_size = config_size(qformer, "vocab_size", c.vocab_size);
    c.max_position_embeddings = config_size(qformer, "max_position_embeddings", c.max_position_embeddings);
    return c;
  }
};

/// BERT's attention, to itself or to other states, with the norm after the residual.
class QFormerAttention {
 public:
  QFormerAttention(const Weights& w, const QFormerConfig& c, std::size_t states_width)
      : query_(w / "attention" / "query", c.hidden_size, c.hidden_size),
        key_value_(w / "attention", {{"key", c.hidden_size}, {"value", c.hidden_size}}, states_width),
        dense_(w / "output" / "dense", c.hidden_size, c.hidden_size),
        norm_(w / "output" / "LayerNorm", c.hidden_size, c.layer_norm_eps),
        attend_(Attend::scaled(c.num_attention_heads, c.hidden_size / c.num_attention_heads)) {}

  /// One batch of states may serve all of x. Of those of sequence n, the first `visible[n]` are seen; empty: all.
  Tensor operator()(Context& ctx, View x, View states, std::span<const std::size_t> visible, std::string_view name, std::size_t layer) const {
    const std::size_t width = x.columns(), length = states.shape()[1];
    const Tensor q = query_(ctx, x);             // (N, T, D)
    const Tensor kv = key_value_(ctx, states);   // (N or 1, S, 2 D)
    Attend attend = attend_;
    attend.name = name;
    attend.layer = layer;
    auto parts = ctx.empty<AttentionPart>(Shape{x.shape()[0]});
    for (std::size_t n = 0; n < x.shape()[0]; ++n) {
      const float* const keys = kv.row(states.shape()[0] == 1 ? 0 : n * length);
      const KvView seen{keys, keys + width, visible.empty() ? length : visible[n], 2 * width, attend.head_dim, 2 * width, attend.head_dim};
      parts.data()[n] = {q.view()[n], seen, {}, attend};
    }
    return norm_(ctx, dense_(ctx, attention_operand(ctx, x.shape(), parts.values()), Activation::none, x));
  }

 private:
  Linear query_, key_value_, dense_;
  LayerNorm norm_;
  Attend attend_;
};

/// BERT's feed-forward block: norm(x + W2 gelu(W1 x)).
class QFormerFeedForward {
 public:
  QFormerFeedForward(const Weights& w, std::string_view intermediate, std::string_view output, const QFormerConfig& c)
      : intermediate_(w / intermediate / "dense", c.hidden_size, c.intermediate_size),
        output_(w / output / "dense", c.intermediate_size, c.hidden_size),
        norm_(w / output / "LayerNorm", c.hidden_size, c.layer_norm_eps),
        activation_(c.hidden_act) {}

  Tensor operator()(Context& ctx, View x) const {  // (N, T, D) -> (N, T, D)
    return norm_(ctx, output_(ctx, intermediate_.operand(ctx, x, activation_), Activation::none, x));
  }

 private:
  Linear intermediate_, output_;
  LayerNorm norm_;
  Activation activation_;
};

class QFormerLayer {
 public:
  QFormerLayer(const Weights& w, const QFormerConfig& c, std::size_t layer)
      : layer_(layer), attention_(w / "attention", c, c.hidden_size), queries_(w, "intermediate_query", "output_query", c) {
    if (layer % c.cross_attention_frequency == 0) crossattention_.emplace(w / "crossattention", c, c.encoder_hidden_size);
    if (c.text) text_.emplace(w, "intermediate", "output", c);
  }

  /// The first `queries` rows of each sequence are queries, the others a text's. Queries and text see each other; the image is for queries alone.
  Tensor operator()(Context& ctx, View x, std::size_t queries, View image, std::span<const std::size_t> visible) const {  // (N, Q + L, D) -> same
    const std::size_t words = x.shape()[1] - queries;
    Tensor a = attention_(ctx, x, x, visible, "self_attention", layer_);                  // (N, Q + L, D)
    if (queries == 0) return (*text_)(ctx, a);
    Tensor q = words == 0 ? std::move(a) : rows(ctx, a, 0, queries);                     // (N, Q, D)
    if (crossattention_) q = (*crossattention_)(ctx, q, image, {}, "cross_attention", layer_);
    q = queries_(ctx, q);
    if (words == 0) return q;
    return beside(ctx, q, (*text_)(ctx, rows(ctx, a, queries, words)));                  // (N, Q + L, D)
  }

  /// Rows [begin, begin + count) of each sequence.
  static Tensor rows(Context& ctx, View x, std::size_t begin, std::size_t count) {  // (N, T, D) -> (N, count, D)
    const std::size_t length = x.shape()[1];
    Tensor y = ctx.empty(Shape{x.shape()[0], count, x.columns()});
    for (std::size_t i = 0; i < y.rows(); ++i) std::memcpy(y.row(i), x.row(i / count * length + begin + i % count), x.columns() * sizeof(float));
    return y;
  }

 private:
  static Tensor beside(Context& ctx, View a, View b) {  // (N, A, D), (N, B, D) -> (N, A + B, D)
    const std::size_t first = a.shape()[1], second = b.shape()[1], length = first + second;
    Tensor y = ctx.empty(Shape{a.shape()[0], length, a.columns()});
    for (std::size_t i = 0; i < y.rows(); ++i) {
      const std::size_t n = i / length, t = i % length;
      std::memcpy(y.row(i), t < first ? a.row(n * first + t) : b.row(n * second + t - first), y.columns() * sizeof(float));
    }
    return y;
  }

  std::size_t layer_;
  QFormerAttention attention_;
  std::optional<QFormerAttention> crossattention_;
  QFormerFeedForward queries_;
  std::optional<QFormerFeedForward> text_;
};

class QFormer {
 public:
  /// `query_tokens`, `embeddings.{layernorm,word_embeddings,position_embeddings}`, `encoder.layer.N`: what normalise() makes of a checkpoint,
  /// below `qformer.`. Throws WeightError.
  QFormer(const Weights& w, const QFormerConfig& c)
      : config_(c),
        query_tokens_(w.tensor("query_tokens", Shape{1, c.num_query_tokens, c.hidden_size})),
        layernorm_(w / "embeddings" / "layernorm", c.hidden_size, c.layer_norm_eps) {
    if (c.text) {
      word_embeddings_ = Embedding(w / "embeddings" / "word_embeddings", c.vocab_size, c.hidden_size);
      position_embeddings_ = (w / "embeddings" / "position_embeddings").tensor("weight", Shape{c.max_position_embeddings, c.hidden_size});
    }
    layers_.reserve(c.num_hidden_layers);
    for (std::size_t i = 0; i < c.num_hidden_layers; ++i) layers_.emplace_back(w / "encoder" / "layer" / i, c, i);
    (w / "embeddings").ignore("position_ids");
  }

  const QFormerConfig& config() const noexcept { return config_; }

  /// What the queries read from images. Throws ShapeError.
  Tensor operator()(Context& ctx, View image) const {  // (N, S, De) -> (N, Q, D)
    check(image, image.shape().rank() == 3 ? image.shape()[0] : 0);
    return read(ctx, embed(ctx, true, image.shape()[0], {}), config_.num_query_tokens, image, {});
  }

  /// As above, beside a text each, which they see and which sees them: the text's rows follow the queries'. One image may serve all texts.
  /// Throws ShapeError, ArgumentError: no words here, a text longer than the positions, an id outside the vocabulary.
  Tensor operator()(Context& ctx, View image, const TextBatch& texts) const {  // (N or 1, S, De), N texts of L -> (N, Q + L, D)
    check(texts);
    check(image, texts.texts());
    std::vector<std::size_t> visible(texts.used.begin(), texts.used.end());
    for (std::size_t& count : visible) count += config_.num_query_tokens;
    return read(ctx, embed(ctx, true, texts.texts(), texts), config_.num_query_tokens, image, visible);
  }

  /// Texts by themselves, without queries or an image. Throws as above.
  Tensor text(Context& ctx, const TextBatch& texts) const {  // N texts of L -> (N, L, D)
    check(texts);
    return read(ctx, embed(ctx, false, texts.texts(), texts), 0, {}, texts.used);
  }

  /// The layouts of BLIP-2, of its image-text retrieval and of InstructBLIP as the last of these, with the queries at qformer.query_tokens.
  static Weights normalise(const Weights& checkpoint) {
    return checkpoint.renamed([](std::string_view name) {
      const std::string full(name);
      if (name == "query_tokens" || name.starts_with("embeddings.")) return "qformer." + full;
      if (name.starts_with("qformer.layernorm.")) return "qformer.embeddings." + full.substr(8);
      return full;
    });
  }

 private:
  void check(View image, std::size_t sequences) const {
    if (image.shape().rank() != 3 || image.columns() != config_.encoder_hidden_size || (image.shape()[0] != 1 && image.shape()[0] != sequences))
      throw ShapeError("QFormer", image.shape().to_string() + ", expected (" + std::to_string(sequences) + ", states, " +
                                      std::to_string(config_.encoder_hidden_size) + ")");
  }
  void check(const TextBatch& texts) const {
    if (!config_.text) throw ArgumentError("QFormer: a text, for one that reads images alone");
    if (texts.length == 0 || texts.length > config_.max_position_embeddings || texts.ids.empty() || texts.ids.size() % texts.length != 0)
      throw ArgumentError("QFormer: " + std::to_string(texts.ids.size()) + " ids in texts of " + std::to_string(texts.length) + ", at most " +
                          std::to_string(config_.max_position_embeddings) + " positions");
    if (!texts.used.empty() && texts.used.size() != texts.texts())
      throw ArgumentError("QFormer: lengths of " + std::to_string(texts.used.size()) + " texts, there are " + std::to_string(texts.texts()));
    for (const std::size_t count : texts.used)
      if (count > texts.length) throw ArgumentError("QFormer: a text of " + std::to_string(count) + " tokens in " + std::to_string(texts.length));
  }

  /// Queries as they are, words with their positions.
  Tensor embed(Context& ctx, bool queries, std::size_t sequences, const TextBatch& texts) const {  // -> (N, Q + L, D)
    const std::size_t count = queries ? config_.num_query_tokens : 0, length = count + texts.length, width = config_.hidden_size;
    const Tensor words = texts.length == 0 ? Tensor() : word_embeddings_(ctx, texts.ids);  // (N L, D)
    Tensor x = ctx.empty(Shape{sequences, length, width});
    for (std::size_t i = 0; i < x.rows(); ++i) {
      const std::size_t n = i / length, t = i % length;
      if (t < count) std::memcpy(x.row(i), query_tokens_.row(t), width * sizeof(float));
      else ctx.kernels().add(words.row(n * texts.length + t - count), position_embeddings_.row(t - count), x.row(i), width);
    }
    return layernorm_(ctx, x);
  }

  Tensor read(Context& ctx, Tensor x, std::size_t queries, View image, std::span<const std::size_t> visible) const {  // (N, Q + L, D) -> same
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      ctx.check_cancelled();
      x = layers_[i](ctx, x, queries, image, visible);
      ctx.observe("layer", i, x);
    }
    ctx.observe("last_hidden_state", x);
    return x;
  }

  QFormerConfig config_;
  Tensor query_tokens_;
  LayerNorm layernorm_;
  Embedding word_embeddings_;
  Tensor position_embeddings_;
  std::vector<QFormerLayer> layers_;
};

}  // namespace chiasm
