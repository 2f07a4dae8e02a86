/// Context: what a call runs with. Threads, kernels, recycled memory, cancellation, progress, observer. One per request
/// (not shared between threads that run at the same time); models are const and shared.
#pragma once

#include <chiasm/core/callback.hpp>
#include <chiasm/core/cancel_token.hpp>
#include <chiasm/core/kv_kind.hpp>
#include <chiasm/core/tensor.hpp>
#include <chiasm/core/thread_pool.hpp>

#include <memory>
#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

namespace kernels {
struct Table;
}

/// The precision of activations inside matrix products.
enum class Compute : std::uint8_t {
  f32,   // activations stay f32 whatever the weights are: equal to the reference in every tier
  bf16,  // activations may be rounded: to bf16 where the processor multiplies bf16 tiles (AMX), and before weights in blocks to eight bits with a scale for
         // every 32 (AVX2 and up; on AMX for up to 16 tokens); f32 elsewhere. Cached keys and values are bf16 everywhere
  i8,    // as bf16, but activations of any number of tokens may be rounded to eight bits, with a scale for every token and 1024 of its numbers: for weights of
         // WeightKind::i8, whose products AMX then does twice as fast as in bf16
};

/// "f32", "bf16", "i8"
constexpr std::string_view name(Compute compute) noexcept {
  constexpr std::string_view names[] = {"f32", "bf16", "i8"};
  return names[static_cast<std::size_t>(compute)];
}

/// One attention of a module, as ContextOptions::on_attention is told of it.
struct AttentionWeights {
  std::string_view name;                     // "self_attn", "xattn", "resampler", "qformer.cross_attention", ...
  std::size_t layer = 0;
  View weights;                              // (heads, queries, keys), the probabilities of each query's keys
  View value_norms;                          // (heads, keys), the values' Euclidean norms: what key j adds to query i is weights[i, j] * value_norms[j] long
  std::size_t first_query = 0, first_key = 0;  // where these lie among all the module has: positions of a decoder, rows of a pass, latents of all pictures
};

struct ContextOptions {
  std::size_t threads = 0;            // 0: CHIASM_THREADS, or else the processors that this process may use
  std::string_view isa = {};          // "scalar", "portable", "avx2", "avx512", "amx"; empty: CHIASM_ISA, or else the best
  Compute compute = Compute::f32;
  KvKind kv = KvKind::automatic;      // of the caches that this context fills
  CancelToken cancel = {};
  Callback<void(std::string_view stage, std::size_t done, std::size_t total)> on_progress = {};
  Callback<void(std::string_view name, View tensor)> on_tensor = {};  // intermediate tensors, named as the reference dumps name them
  // Where attention looks, of every attention that has a name (Attend::name). Computed for this alone, so that it costs nothing when unused.
  Callback<void(const AttentionWeights& attention)> on_attention = {};
};

class Context {
 public:
  /// Throws ArgumentError: an unknown tier, or one that this processor lacks.
  explicit Context(ContextOptions options = {});
  /// As above, with a thread pool that several contexts share: `options.threads` has no effect. Throws ArgumentError also without a pool.
  Context(std::shared_ptr<ThreadPool> pool, ContextOptions options);

  std::size_t threads() const noexcept { return pool_->size(); }
  const std::shared_ptr<ThreadPool>& pool() const noexcept { return pool_; }
  const kernels::Table& kernels() const noexcept { return *kernels_; }
  /// Name of the kernels' tier, as in ContextOptions::isa.
  std::string_view isa() const noexcept;
  Compute compute() const noexcept { return options_.compute; }
  /// Of a cache that this context fills: never automatic.
  KvKind kv_kind() const noexcept {
    if (options_.kv != KvKind::automatic) return options_.kv;
    return options_.compute == Compute::f32 ? KvKind::f32 : KvKind::bf16;
  }

  /// Rows of a pass, at most, that can be steps of an answer: each becomes, bit for bit, what it becomes in a pass of its own.
  std::size_t most_steps() const noexcept;

  /// An uninitialised tensor from the recycled memory.
  template <class T = float>
  BasicTensor<T> empty(Shape shape) {
    return BasicTensor<T>(shape, memory_.pool);
  }
  /// As empty(), filled with zeros.
  template <class T = float>
  BasicTensor<T> zeros(Shape shape) {
    BasicTensor<T> tensor(shape, memory_.pool);
    if (tensor.bytes() != 0) std::memset(static_cast<void*>(tensor.data()), 0, tensor.bytes());
    return tensor;
  }
  /// Gives recycled memory that nothing uses back to the system.
  void trim() noexcept { memory_.pool->trim(); }

  /// ThreadPool::parallel on this context's threads. Inside, denormals (numbers below 1e-38) count as zero where the processor can do that: a product that
  /// meets many of them (the tails of an activation) would take up to half as long again.
  void parallel(std::size_t count, std::size_t grain, FunctionRef<void(std::size_t begin, std::size_t end)> body);

  CancelToken& cancel_token() noexcept { return options_.cancel; }
  /// Throws Cancelled. Modules call it before each layer, long operations between their parts.
  void check_cancelled() const {
    if (options_.cancel.cancelled()) throw Cancelled();
  }

  /// Tells on_progress, if there is one.
  void progress(std::string_view stage, std::size_t done, std::size_t total) const {
    if (options_.on_progress) options_.on_progress(stage, done, total);
  }

  /// Whether intermediate tensors are wanted: ask before computing anything only for observe().
  bool observed() const noexcept { return static_cast<bool>(options_.on_tensor); }
  /// Hands an intermediate tensor to on_tensor under its full name, "vision.layer.3". Free when nobody observes.
  void observe(std::string_view name, View tensor) const {
    if (observed()) options_.on_tensor(scope_ + std::string(name), tensor);
  }
  void observe(std::string_view name, std::size_t index, View tensor) const {
    if (observed()) options_.on_tensor(scope_ + std::string(name) + "." + std::to_string(index), tensor);
  }

  /// Whether anybody wants to know where attention looks.
  bool attention_observed() const noexcept { return static_cast<bool>(options_.on_attention); }
  void observe_attention(AttentionWeights attention) const {
    if (!attention_observed()) return;
    const std::string name = scope_ + std::string(attention.name);
    attention.name = name;
    options_.on_attention(attention);
  }
  /// Whether somebody observes tensors or attention: then everything is computed, and nothing comes from a cache.
  bool watched() const noexcept { return observed() || attention_observed(); }

  /// While it lives, observed names begin with `name` and a dot.
  class Scope {
   public:
    Scope(Context& ctx, std::string_view name) : ctx_(ctx), length_(ctx.scope_.size()) {
      if (ctx.watched()) ctx.scope_.append(name).append(".");
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { ctx_.scope_.resize(length_); }

   private:
    Context& ctx_;
    std::size_t length_;
  };

 private:
  /// The pool of this context; tensors that outlive it (a cache of keys) keep the pool, which is closed then.
  struct Memory {
    std::shared_ptr<MemoryPool> pool = std::make_shared<MemoryPool>();
    Memory() = default;
    Memory(Memory&&) noexcept = default;
    Memory& operator=(Memory&& other) noexcept {
      pool.swap(other.pool);
      return *this;
    }
    ~Memory() {
      if (pool) pool->close();
    }
  };

  ContextOptions options_;
  std::shared_ptr<ThreadPool> pool_;
  Memory memory_;
  const kernels::Table* kernels_ = nullptr;
  std::string scope_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/context.ipp>
#endif
