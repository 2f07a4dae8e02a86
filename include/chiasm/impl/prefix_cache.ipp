#pragma once

#include <chiasm/pipelines/prefix_cache.hpp>

#include <algorithm>
#include <list>
#include <mutex>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE std::size_t Prefix::shared(const Context& ctx, const LanguageModel& lm, const PreparedPrompt& prompt) const {
  if (ids.empty() || prompt.ids.size() < 2 || compute != ctx.compute() || isa != ctx.isa()) return 0;
  if (cache.kind() != KvKind::automatic && cache.kind() != ctx.kv_kind()) return 0;
  if (std::max(ids.size(), prompt.ids.size()) > lm.stable_length()) return 0;
  const std::size_t most = std::min(ids.size(), prompt.ids.size() - 1);
  auto length = static_cast<std::size_t>(std::mismatch(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(most), prompt.ids.begin()).first - ids.begin());
  // Equal ids where a picture stands do not mean the same picture.
  for (std::size_t i = 0;; ++i) {
    const bool here = i < pictures.size() && pictures[i].begin < length, there = i < prompt.pictures.size() && prompt.pictures[i].begin < length;
    if (!here && !there) return length;
    if (here && there && pictures[i].begin == prompt.pictures[i].begin && pictures[i].rows == prompt.pictures[i].rows &&
        pictures[i].content == prompt.pictures[i].content)
      continue;
    if (here) length = std::min(length, pictures[i].begin);
    if (there) length = std::min(length, prompt.pictures[i].begin);
    return length;
  }
}

CHIASM_INLINE void Prefix::truncate(std::size_t length) {
  cache.truncate(length);
  ids.resize(std::min(length, ids.size()));
  while (!pictures.empty() && pictures.back().begin >= length) pictures.pop_back();
}

struct PrefixCache::Entries {
  explicit Entries(std::size_t max) : max_bytes(max) {}

  const std::size_t max_bytes;
  mutable std::mutex mutex;
  std::list<Prefix> recent;  // the latest first
  std::size_t bytes = 0;
};

CHIASM_INLINE PrefixCache::PrefixCache(std::size_t max_bytes) : entries_(std::make_unique<Entries>(max_bytes)) {}
CHIASM_INLINE PrefixCache::~PrefixCache() = default;

CHIASM_INLINE Prefix PrefixCache::take(Context& ctx, const LanguageModel& lm, const PreparedPrompt& prompt) {
  if (ctx.watched()) return {};
  const std::lock_guard lock(entries_->mutex);
  std::list<Prefix>& recent = entries_->recent;
  auto best = recent.end();
  std::size_t length = 0;
  for (auto prefix = recent.begin(); prefix != recent.end(); ++prefix)
    if (const std::size_t shared = prefix->shared(ctx, lm, prompt); shared > length) {
      best = prefix;
      length = shared;
    }
  if (best == recent.end()) return {};
  if (length < best->ids.size() - length) {  // most of it is something else: a conversation that others will go on with
    Prefix copy{best->ids, best->pictures, KvCache(), best->compute, best->isa};
    copy.cache.copy_head(ctx, best->cache, length);
    copy.truncate(length);
    recent.splice(recent.begin(), recent, best);
    return copy;
  }
  Prefix taken = std::move(*best);
  entries_->bytes -= taken.bytes();
  recent.erase(best);
  taken.truncate(length);
  return taken;
}

CHIASM_INLINE void PrefixCache::put(Prefix prefix) {
  const std::size_t bytes = prefix.bytes();
  if (prefix.ids.empty() || bytes > entries_->max_bytes) return;
  const std::lock_guard lock(entries_->mutex);
  entries_->recent.push_front(std::move(prefix));
  for (entries_->bytes += bytes; entries_->bytes > entries_->max_bytes; entries_->recent.pop_back()) entries_->bytes -= entries_->recent.back().bytes();
}

CHIASM_INLINE std::size_t PrefixCache::bytes() const noexcept {
  const std::lock_guard lock(entries_->mutex);
  return entries_->bytes;
}
CHIASM_INLINE void PrefixCache::clear() noexcept {
  const std::lock_guard lock(entries_->mutex);
  entries_->recent.clear();
  entries_->bytes = 0;
}

}  // namespace chiasm
