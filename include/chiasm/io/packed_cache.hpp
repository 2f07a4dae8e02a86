/// PackedCache: converted matrices in a file, so that the next start maps them in place of quantising and packing.
#pragma once

#include <chiasm/core/content_hash.hpp>
#include <chiasm/core/conversion.hpp>
#include <chiasm/core/weights.hpp>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// What tells one checkpoint's weights from another's: name, type, shape and 768 bytes of each tensor, and of each of its files device, number, size and the
/// times of the last change to its content and to itself. A file that is written to, or another one in its place, has other times, whatever its bytes are
/// (nobody but the system sets the second time); the bytes are for file systems that keep no times. Reading all of a checkpoint would take longer than
/// packing it.
struct WeightsIdentity {
  Digest digest;
  std::vector<std::string> files;  // sorted

  /// None where a tensor comes from memory, which has no identity that is cheaper than its content.
  static std::optional<WeightsIdentity> of(const Weights& weights);
};

/// One file of a folder, for one checkpoint and kind of weights. Safe to share between threads, and between processes: a file is written beside the old one and
/// takes its place at once, and who has the old one mapped keeps it.
class PackedCache final : public ConvertedTensors {
 public:
  /// `path`: the file. Opens it if it is whole, of this library's version, and of this identity and kind; otherwise the cache is empty.
  PackedCache(std::string path, WeightsIdentity identity, WeightKind kind);
  ~PackedCache() override;

  /// The file in `folder` for the checkpoint called `name`, a path: the same for the same path, so that a changed checkpoint replaces its cache.
  static std::string path_in(const std::string& folder, const std::string& name, WeightKind kind);

  /// Both pass over tensors of files that the identity does not speak of: trees may be merged.
  std::optional<Weight> find(std::string_view name, const Weight& stored, DType type, Layout layout) override;
  void add(std::string_view name, const Weight& stored, const Weight& converted) override;

  /// Writes the file, if something was added since. False, and no file, where that is not possible (no such folder, no room): a cache is no reason for loading
  /// to fail. Lets go of what was added.
  bool write() noexcept;

  /// Tensors that find() has, or will have after write().
  std::size_t size() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/packed_cache.ipp>
#endif
