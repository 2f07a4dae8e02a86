/// HnswIndex: hierarchical navigable small worlds (arXiv:1603.09320) by hnswlib: most of the nearest vectors, after looking at few. Comes in with the
/// target chiasm::hnswlib, which defines CHIASM_HAS_HNSWLIB.
#pragma once

#include <chiasm/pipelines/vector_index.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// Named as hnswlib and the paper do.
struct HnswOptions {
  std::size_t M = 16;                 // links of a vector in a layer, 2 to 256; in the lowest layer twice as many
  std::size_t ef_construction = 200;  // candidates for the links of a new vector
  std::size_t ef = 64;                // candidates of a search: more find more and take longer
  std::uint64_t seed = 0;             // of the layers
};

/// The same graph for the same calls in the same order. Removed vectors stay in the graph, unseen, until they are the greater part.
class HnswIndex final : public VectorIndex {
 public:
  /// Throws ArgumentError: a dimension that FlatIndex rejects, options out of range.
  explicit HnswIndex(std::size_t dim, HnswOptions options = {});
  HnswIndex(HnswIndex&&) noexcept;
  HnswIndex& operator=(HnswIndex&&) noexcept;
  ~HnswIndex() override;

  /// Puts and removes what it takes to hold what `other` holds, and says how many ids that were: 0 where they are alike already. Reports progress as
  /// "hnsw". Throws ShapeError, Cancelled, after which calling it again goes on.
  std::size_t follow(Context& ctx, const VectorIndex& other);

  std::size_t dim() const noexcept override;
  std::size_t size() const noexcept override;
  bool contains(std::uint64_t id) const noexcept override;
  std::vector<std::uint64_t> ids() const override;
  View vectors(std::uint64_t id) const override;
  void put(std::uint64_t id, View vectors) override;
  bool remove(std::uint64_t id) override;
  std::vector<std::vector<Hit>> search(Context& ctx, View queries, std::size_t k) const override;
  void save(const std::string& path) const override;

  /// Throws FileError, FormatError (no index, truncated, not what its checksum says, or links that lead nowhere).
  static HnswIndex load(const std::string& path);

  const HnswOptions& options() const noexcept;

 private:
  struct Graph;
  std::unique_ptr<Graph> graph_;
};

}  // namespace chiasm

#include <chiasm/impl/index/hnsw.ipp>
