/// DecoderStack: what the decoders of all families do around their blocks. A batch whose sequences share each pass through the weights,
/// their caches, the seam before each block, observing, cancelling.
#pragma once

#include <chiasm/modules/language_model.hpp>
#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/embedding.hpp>
#include <chiasm/nn/linear.hpp>
#include <chiasm/nn/relative_position_bias.hpp>
#include <chiasm/nn/rope.hpp>

#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A batch on its way through the blocks.
struct DecoderPass {
  std::span<const Sequence> batch;
  std::size_t layer = 0;      // the block that it is in
  const Rope* rope = nullptr;
  Tensor cos, sin;            // (T, rotary dimensions / 2), of decoders that turn queries and keys
  DistanceBias distances;     // of decoders that have biases by distance
  std::size_t first_row = 0;  // of the rows that go through the blocks now, among all

  /// The angles of all rows, by their positions. To be called before the first block, as add_positions().
  void find_angles(Context& ctx, const Rope& by, std::size_t rows) {
    rope = &by;
    cos = ctx.empty(Shape{rows, by.pairs()});
    sin = ctx.empty(cos.shape());
    std::size_t begin = 0;
    for (const Sequence& sequence : batch) {
      const std::size_t length = sequence.cache->length(), together = sequence.steps ? 1 : sequence.rows;
      for (std::size_t t = 0; t < sequence.rows; t += together)
        by.angles(length + t, together, cos.slice(begin + t, together), sin.slice(begin + t, together));
      begin += sequence.rows;
    }
  }
  void rotate(Context& ctx, MutView x, std::size_t head_dim) const {
    rope->apply(ctx, x, head_dim, cos.slice(first_row, x.rows()), sin.slice(first_row, x.rows()));
  }

  /// The biases of all distances between a row and what it sees.
  void find_distances(Context& ctx, const RelativePositionBias& by) {
    std::size_t back = 0, ahead = 0;
    for (const Sequence& sequence : batch) {
      back = std::max(back, sequence.cache->length() + sequence.rows);
      ahead = std::max(ahead, sequence.rows);
    }
    distances = by(ctx, back, ahead);
  }

  /// Adds the learned embedding of its position to each row of x (T, D); row 0 of the table is that of position 0. `key` is what config.json
  /// calls the table's length. Throws ArgumentError for a sequence that is too long.
  void add_positions(Context& ctx, View table, std::string_view key, MutView x) const {
    std::size_t row = 0;
    for (const Sequence& sequence : batch) {
      const std::size_t first = sequence.cache->length();
      if (first + sequence.rows > table.rows())
        throw ArgumentError("a sequence of " + std::to_string(first + sequence.rows) + " positions, the model has " + std::to_string(table.rows()) + " (" +
                            std::string(key) + ")");
      for (std::size_t t = 0; t < sequence.rows; ++t, ++row) ctx.kernels().add(x.row(row), table.row(first + t), x.row(row), x.columns());
    }
  }

  /// Each sequence's keys and values go to the end of its cache, and its queries see what is there then.
  Operand attend(Context& ctx, View q, View k, View v, Attend attend) const {  // (T, H d), (T, Kv d), (T, Kv dv) -> (T, H dv)
    attend.name = "self_attn";
    attend.layer = layer;
    auto parts = ctx.empty<AttentionPart>(Shape{batch.size()});
    std::size_t begin = 0;
    for (std::size_t i = 0; i < batch.size(); begin += batch[i++].rows) {
      const std::size_t rows = batch[i].rows;
      KvCache::Layer& cache = (*batch[i].cache)[layer];
      attend.offset = attend.first_query = cache.length();
      parts.data()[i] = {q.slice(begin, rows), cache.append(ctx, k.slice(begin, rows), v.slice(begin, rows)), {}, attend};
    }
    return attention_operand(ctx, Shape{q.rows(), attend.heads * attend.v_dim}, parts.values());
  }
};

/// What is to be known of a decoder from outside, whatever its family.
struct DecoderSizes {
  std::size_t vocab_size = 0;
  std::size_t embedding_size = 0;  // of the rows that embed() gives and forward() takes and returns
  std::size_t hidden_size = 0;     // of the rows between blocks, which a BlockHook sees
  std::size_t num_hidden_layers = 0, num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  std::size_t context_length = 0;  // that it was trained for
};

/// A family brings begin(), block(), end(), embed() and logits().
class DecoderStack : public LanguageModel {
 public:
  using LanguageModel::forward;

  const DecoderSizes& sizes() const noexcept { return sizes_; }
  std::size_t vocab_size() const noexcept final { return sizes_.vocab_size; }
  std::size_t hidden_size() const noexcept final { return sizes_.embedding_size; }
  KvCache new_cache() const final { return KvCache(sizes_.num_hidden_layers, sizes_.num_key_value_heads, sizes_.head_dim, sizes_.head_dim); }

  Tensor forward(Context& ctx, View embeddings, std::span<const Sequence> batch, const BlockHook* before_block) const final {  // (T, E) -> (T, E)
    if (embeddings.columns() != sizes_.embedding_size) throw ShapeError("Decoder", embeddings.shape().to_string());
    auto lengths = ctx.empty<std::size_t>(Shape{batch.size()});  // of the caches before this pass
    std::size_t rows = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Sequence& sequence = batch[i];
      if (sequence.rows > embeddings.rows() - rows) throw ShapeError("Decoder", "a batch of more rows than " + embeddings.shape().to_string());
      if (sequence.cache == nullptr || sequence.cache->layers() != sizes_.num_hidden_layers)
        throw ShapeError("Decoder", "a cache of " + std::to_string(sequence.cache == nullptr ? 0 : sequence.cache->layers()) + " layers for " +
                                        std::to_string(sizes_.num_hidden_layers));
      for (std::size_t j = 0; j < i; ++j)
        if (batch[j].cache == sequence.cache) throw ShapeError("Decoder", "sequences " + std::to_string(j) + " and " + std::to_string(i) + " of a batch have one cache");
      lengths.data()[i] = sequence.cache->length();
      rows += sequence.rows;
    }
    if (rows != embeddings.rows()) throw ShapeError("Decoder", std::to_string(rows) + " rows in the batch of " + embeddings.shape().to_string());
    try {
      DecoderPass pass;
      pass.batch = batch;
      Tensor x = begin(ctx, embeddings, pass);
      if (rows <= most_rows || before_block != nullptr || ctx.watched()) return blocks(ctx, std::move(x), pass, rows, before_block);
      return pieces(ctx, x, pass);
    } catch (...) {  // some layers have grown and some have not: a cache must not be left so
      for (std::size_t i = 0; i < batch.size(); ++i) batch[i].cache->truncate(lengths.data()[i]);
      throw;
    }
  }

 protected:
  explicit DecoderStack(const DecoderSizes& sizes) : sizes_(sizes) {}

  /// The input of the first block, and what of `pass` the blocks need.
  virtual Tensor begin(Context& ctx, View embeddings, DecoderPass& pass) const = 0;  // (T, E) -> (T, D)
  virtual Tensor block(Context& ctx, View x, const DecoderPass& pass) const = 0;     // (T, D) -> (T, D)
  virtual Tensor end(Context& ctx, Tensor x) const = 0;                              // (T, D) -> (T, E)

  static Tensor copy(Context& ctx, View x) {
    Tensor y = ctx.empty(x.shape());
    for (std::size_t t = 0; t < x.rows(); ++t) std::memcpy(y.row(t), x.row(t), x.columns() * sizeof(float));
    return y;
  }

  /// The output projection. As the reference: a head that is in the file counts, even one that differs under tie_word_embeddings; some files
  /// that are not tied by their configuration leave it out.
  Linear head(const Weights& w, std::string_view name, const Embedding& embeddings) const {
    return w.contains(name) ? Linear(w / name, sizes_.embedding_size, sizes_.vocab_size, false) : Linear(w.converted(embeddings.weight()), Tensor());
  }

 private:
  // A long prompt goes through all blocks in pieces: memory is taken for a piece alone, and more of it stays in the cache between two products. 8,192 tokens of
  // four layers of a decoder of 1.1 billion take a twentieth less time, and a quarter less where that memory is fresh, as it is for a first prompt. The last
  // piece may be longer, so that none is of a few rows, which other kernels would compute.
  static constexpr std::size_t piece_rows = 1024, most_rows = piece_rows + piece_rows / 2;

  Tensor pieces(Context& ctx, const Tensor& x, DecoderPass& pass) const {  // (T, D) -> (T, E)
    const std::span<const Sequence> batch = pass.batch;
    for (const Sequence& sequence : batch) sequence.cache->reserve(ctx, sequence.cache->length() + sequence.rows);
    Tensor y = ctx.empty(Shape{x.rows(), sizes_.embedding_size});
    std::vector<Sequence> piece;  // of each sequence one stretch of rows
    std::size_t i = 0, done = 0;  // sequences that are done, rows of the next one that are
    while (i < batch.size()) {
      piece.clear();
      std::size_t rows = 0;
      for (bool whole = true; whole && i < batch.size();) {
        const std::size_t left = batch[i].rows - done, count = left > most_rows ? piece_rows : left;
        if (rows > 0 && rows + count > most_rows) break;
        piece.push_back({batch[i].cache, count, batch[i].steps});
        rows += count;
        whole = count == left;
        done = whole ? 0 : done + count;
        i += whole;
      }
      pass.batch = piece;
      const Tensor of_piece = blocks(ctx, copy(ctx, x.slice(pass.first_row, rows)), pass, x.rows(), nullptr);
      std::memcpy(y.row(pass.first_row), of_piece.data(), of_piece.bytes());
      pass.first_row += rows;
    }
    return y;
  }

  /// Of all rows of the pass or of a piece of them.
  Tensor blocks(Context& ctx, Tensor x, DecoderPass& pass, std::size_t all_rows, const BlockHook* before_block) const {  // (T, D) -> (T, E)
    bool reads = false;  // a prompt, in place of taking steps
    for (const Sequence& sequence : pass.batch) reads = reads || (sequence.rows > 1 && !sequence.steps);
    const std::size_t layers = sizes_.num_hidden_layers;
    for (pass.layer = 0; pass.layer < layers; ++pass.layer) {
      ctx.check_cancelled();
      if (before_block != nullptr) (*before_block)(pass.layer, x);
      ctx.observe("hidden", pass.layer, x);
      x = block(ctx, x, pass);
      ctx.observe("layer", pass.layer, x);
      if (reads) ctx.progress("prefill", (pass.first_row * layers + x.rows() * (pass.layer + 1)) / all_rows, layers);
    }
    x = end(ctx, std::move(x));
    ctx.observe("hidden", layers, x);
    return x;
  }

  DecoderSizes sizes_;
};

}  // namespace chiasm
