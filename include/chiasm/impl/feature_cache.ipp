#pragma once

#include <chiasm/pipelines/feature_cache.hpp>

#include <algorithm>
#include <list>
#include <mutex>
#include <random>

namespace chiasm::inline CHIASM_ABI {

struct FeatureCache::Entries {
  struct Entry {
    Digest content;
    std::shared_ptr<const Tensor> rows;
  };

  explicit Entries(std::size_t max) : max_bytes(max) {
    std::random_device random;
    const auto word = [&] { return std::uint64_t{random()} << 32 | random(); };
    key = {word(), word()};
  }

  const std::size_t max_bytes;
  ContentHash<>::Key key;
  mutable std::mutex mutex;
  std::list<Entry> recent;  // the latest first
  std::size_t bytes = 0;
};

CHIASM_INLINE FeatureCache::FeatureCache(std::size_t max_bytes) : entries_(std::make_unique<Entries>(max_bytes)) {}
CHIASM_INLINE FeatureCache::~FeatureCache() = default;

CHIASM_INLINE Digest FeatureCache::digest(const Context& ctx, const Image& image) const noexcept {
  ContentHash<> hash(entries_->key);
  hash << static_cast<std::uint64_t>(image.width()) << static_cast<std::uint64_t>(image.height());
  if (const auto& colour = image.transparent()) hash << std::as_bytes(std::span(*colour));
  hash << static_cast<std::uint64_t>(image.indexed()) << static_cast<std::uint64_t>(image.alpha().size()) << std::as_bytes(image.alpha());
  hash << std::as_bytes(image.pixels()) << static_cast<std::uint64_t>(ctx.compute()) << std::as_bytes(std::span(ctx.isa()));
  return hash.digest();
}

CHIASM_INLINE Features FeatureCache::get(Context& ctx, const Image& image, FunctionRef<Tensor()> encode) {
  Features features{nullptr, digest(ctx, image)};
  std::list<Entries::Entry>& recent = entries_->recent;
  const auto find = [&] { return std::find_if(recent.begin(), recent.end(), [&](const auto& entry) { return entry.content == features.content; }); };
  if (!ctx.watched()) {
    const std::lock_guard lock(entries_->mutex);
    if (const auto entry = find(); entry != recent.end()) {
      recent.splice(recent.begin(), recent, entry);
      features.rows = entry->rows;
      features.reused = true;
      return features;
    }
  }
  Tensor encoded = encode();
  if (encoded.bytes() > entries_->max_bytes) {
    features.rows = std::make_shared<const Tensor>(std::move(encoded));
    return features;
  }
  // Not in the context's memory: it is kept for longer than that.
  auto rows = std::make_shared<Tensor>(encoded.shape(), std::shared_ptr<MemoryPool>());
  std::memcpy(rows->data(), encoded.data(), encoded.bytes());
  features.rows = rows;

  const std::lock_guard lock(entries_->mutex);
  if (find() != recent.end()) return features;  // another thread was faster
  recent.push_front({features.content, std::move(rows)});
  for (entries_->bytes += encoded.bytes(); entries_->bytes > entries_->max_bytes; recent.pop_back()) entries_->bytes -= recent.back().rows->bytes();
  return features;
}

CHIASM_INLINE std::size_t FeatureCache::bytes() const noexcept {
  const std::lock_guard lock(entries_->mutex);
  return entries_->bytes;
}
CHIASM_INLINE void FeatureCache::clear() noexcept {
  const std::lock_guard lock(entries_->mutex);
  entries_->recent.clear();
  entries_->bytes = 0;
}

}  // namespace chiasm
