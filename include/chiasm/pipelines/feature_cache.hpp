/// FeatureCache: the rows that stand for a picture in a prompt, kept so that a second question about it encodes nothing.
#pragma once

#include <chiasm/core/content_hash.hpp>
#include <chiasm/core/context.hpp>
#include <chiasm/core/function_ref.hpp>
#include <chiasm/io/image.hpp>

#include <cstddef>
#include <memory>

namespace chiasm::inline CHIASM_ABI {

/// What an encoder made of a picture, and what the picture is known by: its pixels' hash, under a key drawn at random for each cache.
struct Features {
  std::shared_ptr<const Tensor> rows;  // (n, D)
  Digest content;
  bool reused = false;
};

/// For one encoder and its image processor. Bounded in bytes, the least recently used go first. Threads may share it: two that ask for
/// the same new picture at the same time both encode it.
class FeatureCache {
 public:
  /// 0: keeps nothing.
  explicit FeatureCache(std::size_t max_bytes);
  ~FeatureCache();
  FeatureCache(const FeatureCache&) = delete;
  FeatureCache& operator=(const FeatureCache&) = delete;

  /// The picture's features: those kept, or what `encode` returns. A context that is observed always encodes; contexts of different
  /// precision or kernels share nothing. Throws what `encode` throws.
  Features get(Context& ctx, const Image& image, FunctionRef<Tensor()> encode);

  /// What this cache knows the picture by, for a context of this precision and these kernels.
  Digest digest(const Context& ctx, const Image& image) const noexcept;

  /// Bytes of all that is kept.
  std::size_t bytes() const noexcept;
  void clear() noexcept;

 private:
  struct Entries;
  std::unique_ptr<Entries> entries_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/feature_cache.ipp>
#endif
