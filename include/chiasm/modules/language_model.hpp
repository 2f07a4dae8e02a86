/// LanguageModel: what generation asks of a decoder, whatever its family.
#pragma once

#include <chiasm/core/token_id.hpp>
#include <chiasm/nn/kv_cache.hpp>

#include <span>

namespace chiasm::inline CHIASM_ABI {

/// One sequence's share of a batch: `rows` new positions that continue what `cache` holds.
struct Sequence {
  KvCache* cache = nullptr;
  std::size_t rows = 0;
  // The rows are steps of an answer, at most Context::most_steps() of them: each becomes, bit for bit, what it becomes in a pass of its own.
  bool steps = false;
};

/// The decoder's seam: called before block `layer` with the hidden states of the batch, (sum of rows, D), which it may change.
/// Flamingo and IDEFICS put their gated cross-attention here.
using BlockHook = FunctionRef<void(std::size_t layer, MutView hidden)>;

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  /// Rows of the logits: the vocabulary, padding included.
  virtual std::size_t vocab_size() const noexcept = 0;
  /// Width of the rows that embed() gives, and that forward() takes and returns. (Between the blocks of a smaller OPT it is another.)
  virtual std::size_t hidden_size() const noexcept = 0;
  /// An empty cache of this model's layout.
  virtual KvCache new_cache() const = 0;

  /// Positions up to which a sequence may grow without a change of what its earlier positions would be: a cache of a beginning serves any
  /// prompt of at most this length. (Dynamic NTK turns all positions otherwise once a prompt is longer.)
  virtual std::size_t stable_length() const noexcept { return static_cast<std::size_t>(-1); }

  /// Token embeddings. Throws ArgumentError for an id outside the vocabulary.
  virtual Tensor embed(Context& ctx, std::span<const TokenId> ids) const = 0;  // (T) -> (T, D)

  /// Final hidden states, normed. The rows of `x` are the sequences' new positions, one sequence after the other; each attends to
  /// its own cache, which grows by its rows. Throws ShapeError (also for a cache of another model) and Cancelled, which takes effect
  /// between layers. After an exception the caches are as before.
  virtual Tensor forward(Context& ctx, View x, std::span<const Sequence> batch, const BlockHook* before_block) const = 0;  // (sum of rows, D) -> same

  virtual Tensor logits(Context& ctx, View hidden) const = 0;  // (T, D) -> (T, V)

  Tensor forward(Context& ctx, View x, std::span<const Sequence> batch) const { return forward(ctx, x, batch, nullptr); }
  /// A batch of one.
  Tensor forward(Context& ctx, View x, KvCache& cache) const {
    const Sequence one{&cache, x.rows()};
    return forward(ctx, x, std::span<const Sequence>(&one, 1), nullptr);
  }
};

}  // namespace chiasm
