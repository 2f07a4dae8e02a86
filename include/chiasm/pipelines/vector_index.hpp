/// VectorIndex: vectors under ids, and the ids whose vectors are nearest to a query. FlatIndex compares with all of them; HnswIndex
/// (pipelines/hnsw_index.hpp) with few, and finds nearly the same.
#pragma once

#include <chiasm/core/context.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

namespace detail {
class IndexFile;
class NewIndexFile;
}

/// What a search finds.
struct Hit {
  std::uint64_t id = 0;
  float score = 0;
  bool operator==(const Hit&) const = default;
};

/// The score of an id is the dot product of the query with its vector, the cosine where both have length 1; of an id with several vectors (a picture
/// by its parts, or by BLIP-2's queries) it is the largest. Searching may be shared between threads, changing may not.
class VectorIndex {
 public:
  virtual ~VectorIndex() = default;

  /// Length of a vector.
  virtual std::size_t dim() const noexcept = 0;
  /// Number of ids.
  virtual std::size_t size() const noexcept = 0;
  virtual bool contains(std::uint64_t id) const noexcept = 0;
  /// All ids, in the order in which they were put.
  virtual std::vector<std::uint64_t> ids() const = 0;
  /// The vectors of an id, valid until the next change. Throws ArgumentError: there is none of this id.
  virtual View vectors(std::uint64_t id) const = 0;  // -> (n, dim)

  /// Puts these vectors under `id`, in the place of what was there. Throws ShapeError, ArgumentError (no vector, NaN, infinity).
  virtual void put(std::uint64_t id, View vectors) = 0;  // (dim) or (n, dim)
  /// False: there was none of this id.
  virtual bool remove(std::uint64_t id) = 0;

  /// For each query the `k` ids with the highest scores, highest first, of equal ones the lower id; all where there are fewer.
  /// Throws ShapeError, ArgumentError (NaN, infinity), Cancelled.
  virtual std::vector<std::vector<Hit>> search(Context& ctx, View queries, std::size_t k) const = 0;  // (dim) or (Q, dim) -> Q lists
  /// The same for one query.
  std::vector<Hit> nearest(Context& ctx, View query, std::size_t k) const { return search(ctx, query, k).at(0); }

  /// Writes a safetensors file with a checksum; it appears under its name when it is whole. Throws FileError.
  virtual void save(const std::string& path) const = 0;
};

/// Exact: a product with all vectors, which lie side by side in f32. (A context of Compute::bf16 may round where many queries come at once.)
class FlatIndex final : public VectorIndex {
 public:
  /// Throws ArgumentError: 0, or more than 2^20.
  explicit FlatIndex(std::size_t dim);
  FlatIndex(FlatIndex&&) noexcept;
  FlatIndex& operator=(FlatIndex&&) noexcept;
  ~FlatIndex() override;

  std::size_t dim() const noexcept override;
  std::size_t size() const noexcept override;
  bool contains(std::uint64_t id) const noexcept override;
  std::vector<std::uint64_t> ids() const override;
  View vectors(std::uint64_t id) const override;
  void put(std::uint64_t id, View vectors) override;
  bool remove(std::uint64_t id) override;
  std::vector<std::vector<Hit>> search(Context& ctx, View queries, std::size_t k) const override;
  void save(const std::string& path) const override;

  /// Throws FileError, FormatError (no index, truncated, or not what its checksum says).
  static FlatIndex load(const std::string& path);

 private:
  friend class PictureIndex;
  static FlatIndex read(const detail::IndexFile& file);
  void write(detail::NewIndexFile& file) const;
  struct Rows;
  std::unique_ptr<Rows> rows_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/vector_index.ipp>
#endif
