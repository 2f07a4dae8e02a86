/// PrefixCache: beginnings of prompts that a language model has read already, so that a prompt which begins the same way is read from
/// where it differs.
#pragma once

#include <chiasm/pipelines/family.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// The positions that a KvCache holds, and what stands there.
struct Prefix {
  std::vector<TokenId> ids;  // (T), as PreparedPrompt's
  std::vector<PreparedPrompt::Picture> pictures;
  KvCache cache;             // of T positions; no layers: empty
  Compute compute = Compute::f32;  // what it was computed with
  std::string isa;

  /// Positions at the beginning that it has in common with a prompt which `lm` is to read in this context; fewer than the prompt has, because the
  /// last one's result is wanted.
  std::size_t shared(const Context& ctx, const LanguageModel& lm, const PreparedPrompt& prompt) const;
  /// Forgets the positions from `length` on.
  void truncate(std::size_t length);
  std::size_t bytes() const { return cache.bytes() + ids.size() * sizeof(TokenId); }
};

/// Bounded in bytes, the least recently used go first. Threads may share it: each takes a prefix out and puts it back longer.
class PrefixCache {
 public:
  /// 0: keeps nothing.
  explicit PrefixCache(std::size_t max_bytes);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The longest beginning of the prompt that is kept; empty where there is none, and for a context that is observed. A prefix that goes on
  /// otherwise gives up what is left of it if that is the smaller part, and is copied if it is the larger one.
  Prefix take(Context& ctx, const LanguageModel& lm, const PreparedPrompt& prompt);
  void put(Prefix prefix);

  /// Bytes of all that is kept.
  std::size_t bytes() const noexcept;
  void clear() noexcept;

 private:
  struct Entries;
  std::unique_ptr<Entries> entries_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/prefix_cache.ipp>
#endif
