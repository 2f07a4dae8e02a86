#pragma once

#include <chiasm/impl/hits.hpp>
#include <chiasm/impl/index_file.hpp>
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/pipelines/hnsw_index.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <unordered_map>

// hnswlib's own vector code is chosen when the program is compiled, and some of it is not inline, so that two translation units could not both include it:
// the distances come from this library's kernels instead.
#ifndef NO_MANUAL_VECTORIZATION
#define NO_MANUAL_VECTORIZATION
#include <hnswlib/hnswlib.h>
#undef NO_MANUAL_VECTORIZATION
#else
#include <hnswlib/hnswlib.h>
#endif

namespace chiasm::inline CHIASM_ABI {

namespace detail {

inline constexpr std::string_view hnsw_index_format = "chiasm hnsw index";
inline constexpr std::uint32_t most_hnsw_layers = 64;

/// The negative dot product as a distance.
class DotSpace final : public hnswlib::SpaceInterface<float> {
 public:
  explicit DotSpace(std::size_t dim) : metric_{kernels::active().dot, dim} {}
  std::size_t get_data_size() override { return metric_.dim * sizeof(float); }
  hnswlib::DISTFUNC<float> get_dist_func() override {
    return [](const void* a, const void* b, const void* metric) {
      const auto& [dot, dim] = *static_cast<const Metric*>(metric);
      return -dot(static_cast<const float*>(a), static_cast<const float*>(b), dim);
    };
  }
  void* get_dist_func_param() override { return &metric_; }

 private:
  struct Metric {
    float (*dot)(const float*, const float*, std::size_t) noexcept;
    std::size_t dim;
  };
  Metric metric_;
};

/// What hnswlib throws, as an Error.
template <class F>
auto with_hnswlib(F call) {
  try {
    return call();
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw Error(std::string("hnswlib: ") + error.what());
  }
}

}  // namespace detail

struct HnswIndex::Graph {
  using Hnsw = hnswlib::HierarchicalNSW<float>;
  using Links = hnswlib::linklistsizeint;
  struct Rows {
    std::size_t first = 0, count = 0;
  };

  Graph(std::size_t dim_, HnswOptions options_) : dim(dim_), options(options_), space(dim_) { reset(64); }

  /// An empty graph.
  void reset(std::size_t capacity) {
    const auto seed = static_cast<std::size_t>(options.seed + ids.size());
    hnsw = detail::with_hnswlib([&] { return std::make_unique<Hnsw>(&space, capacity, options.M, options.ef_construction, seed); });
    hnsw->setEf(options.ef);
  }
  std::size_t rows() const noexcept { return ids.size(); }
  const float* row(std::size_t i) const { return reinterpret_cast<const float*>(hnsw->getDataByInternalId(static_cast<hnswlib::tableint>(i))); }
  /// Floats from one row to the next: links and a label stand between them.
  std::size_t stride() const noexcept { return hnsw->size_data_per_element_ / sizeof(float); }
  std::uint32_t level(std::size_t i) const { return static_cast<std::uint32_t>(hnsw->element_levels_[i]); }
  Links* links(std::size_t i, std::uint32_t layer) const {
    const auto row = static_cast<hnswlib::tableint>(i);
    return layer == 0 ? hnsw->get_linklist0(row) : hnsw->get_linklist(row, static_cast<int>(layer));
  }

  void reserve(std::size_t more) {
    const std::size_t needed = rows() + more;
    if (needed >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) throw ArgumentError("HnswIndex: more than 2^31 vectors");
    if (needed > hnsw->max_elements_) detail::with_hnswlib([&] { hnsw->resizeIndex(std::max(needed, 2 * rows())); });
  }
  /// Rows are added one after the other, and none twice: hnswlib's own numbers, the labels and ours are the same.
  void append(std::uint64_t id, View vectors) {
    reserve(vectors.rows());
    where[id] = {rows(), vectors.rows()};
    most_rows = std::max(most_rows, vectors.rows());
    for (std::size_t i = 0; i < vectors.rows(); ++i) {
      ids.push_back(id);
      detail::with_hnswlib([&] { hnsw->addPoint(vectors.row(i), ids.size() - 1); });
    }
  }
  /// What is there, in the order of its rows.
  std::vector<std::pair<std::uint64_t, Rows>> ordered() const {
    std::vector<std::pair<std::uint64_t, Rows>> entries(where.begin(), where.end());
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.second.first < b.second.first; });
    return entries;
  }
  void hide(Rows range) {
    for (std::size_t i = range.first; i < range.first + range.count; ++i) detail::with_hnswlib([&] { hnsw->markDelete(i); });
    removed += range.count;
  }
  void compact() {
    if (2 * removed <= rows()) return;
    Graph fresh(dim, options);
    fresh.reset(std::max<std::size_t>(rows() - removed, 1));
    for (const auto& [id, range] : ordered()) {
      fresh.append(id, View(row(range.first), Shape{range.count, dim}, stride()));
    }
    std::swap(hnsw, fresh.hnsw);
    // The graph points to the space that it was made with.
    hnsw->dist_func_param_ = space.get_dist_func_param();
    std::swap(ids, fresh.ids);
    std::swap(where, fresh.where);
    std::swap(most_rows, fresh.most_rows);
    removed = 0;
  }

  std::size_t dim;
  HnswOptions options;
  detail::DotSpace space;
  std::unique_ptr<Hnsw> hnsw;
  std::vector<std::uint64_t> ids;  // of each row
  std::unordered_map<std::uint64_t, Rows> where;
  std::size_t removed = 0, most_rows = 1;
};

inline HnswIndex::HnswIndex(std::size_t dim, HnswOptions options) {
  (void)FlatIndex(dim);
  const auto check = [](const char* name, std::size_t value, std::size_t least, std::size_t most) {
    if (value < least || value > most)
      throw ArgumentError("HnswIndex: " + std::string(name) + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " + std::to_string(most));
  };
  check("M", options.M, 2, 256);
  check("ef_construction", options.ef_construction, 1, 65536);
  check("ef", options.ef, 1, 1 << 20);
  graph_ = std::make_unique<Graph>(dim, options);
}
inline HnswIndex::HnswIndex(HnswIndex&&) noexcept = default;
inline HnswIndex& HnswIndex::operator=(HnswIndex&&) noexcept = default;
inline HnswIndex::~HnswIndex() = default;

inline std::size_t HnswIndex::follow(Context& ctx, const VectorIndex& other) {
  if (other.dim() != dim())
    throw ShapeError("HnswIndex::follow", "vectors of " + std::to_string(other.dim()) + " in an index of vectors of " + std::to_string(dim()));
  std::size_t changes = 0;
  for (const std::uint64_t id : ids())
    if (!other.contains(id)) changes += remove(id);
  const auto alike = [](View a, View b) {
    if (a.rows() != b.rows()) return false;
    for (std::size_t i = 0; i < a.rows(); ++i)
      if (std::memcmp(a.row(i), b.row(i), a.columns() * sizeof(float)) != 0) return false;
    return true;
  };
  std::vector<std::uint64_t> wanted;
  for (const std::uint64_t id : other.ids())
    if (!contains(id) || !alike(vectors(id), other.vectors(id))) wanted.push_back(id);
  graph_->reserve(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    ctx.check_cancelled();
    put(wanted[i], other.vectors(wanted[i]));
    if ((i + 1) % 256 == 0 || i + 1 == wanted.size()) ctx.progress("hnsw", i + 1, wanted.size());
  }
  return changes + wanted.size();
}

inline std::size_t HnswIndex::dim() const noexcept { return graph_->dim; }
inline std::size_t HnswIndex::size() const noexcept { return graph_->where.size(); }
inline bool HnswIndex::contains(std::uint64_t id) const noexcept { return graph_->where.find(id) != graph_->where.end(); }
inline std::vector<std::uint64_t> HnswIndex::ids() const {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, range] : graph_->ordered()) ids.push_back(id);
  return ids;
}
inline View HnswIndex::vectors(std::uint64_t id) const {
  const auto known = graph_->where.find(id);
  if (known == graph_->where.end()) throw ArgumentError("HnswIndex::vectors: no vector of id " + std::to_string(id));
  return {graph_->row(known->second.first), Shape{known->second.count, dim()}, graph_->stride()};
}
inline const HnswOptions& HnswIndex::options() const noexcept { return graph_->options; }

inline void HnswIndex::put(std::uint64_t id, View vectors) {
  detail::check_vectors("HnswIndex::put", vectors, dim());
  const auto known = graph_->where.find(id);
  const bool fresh = known == graph_->where.end();
  const Graph::Rows old = fresh ? Graph::Rows() : known->second;
  graph_->append(id, vectors);
  if (!fresh) graph_->hide(old);
  graph_->compact();
}

inline bool HnswIndex::remove(std::uint64_t id) {
  const auto known = graph_->where.find(id);
  if (known == graph_->where.end()) return false;
  graph_->hide(known->second);
  graph_->where.erase(known);
  graph_->compact();
  return true;
}

inline std::vector<std::vector<Hit>> HnswIndex::search(Context& ctx, View queries, std::size_t k) const {
  detail::check_vectors("HnswIndex::search", queries, dim());
  std::vector<std::vector<Hit>> results(queries.rows());
  k = std::min(k, size());
  if (k == 0) return results;
  ctx.parallel(queries.rows(), 1, [&](std::size_t query, std::size_t end) {
    for (; query < end; ++query) {
      ctx.check_cancelled();
      std::map<std::uint64_t, float> best;
      // An id of several vectors may be found several times: then more are looked for.
      const std::size_t visible = graph_->rows() - graph_->removed;
      for (std::size_t rows = k;; rows = std::min(2 * rows, visible)) {
        auto found = detail::with_hnswlib([&] { return graph_->hnsw->searchKnn(queries.row(query), rows); });
        for (; !found.empty(); found.pop()) {
          const auto [known, fresh] = best.emplace(graph_->ids[found.top().second], -found.top().first);
          if (!fresh) known->second = std::max(known->second, -found.top().first);
        }
        if (best.size() >= k || rows >= visible || graph_->most_rows == 1) break;
      }
      for (const auto& [id, score] : best) results[query].push_back({id, score});
      std::sort(results[query].begin(), results[query].end(), detail::better);
      if (results[query].size() > k) results[query].resize(k);
    }
  });
  return results;
}

inline void HnswIndex::save(const std::string& path) const {
  const Graph& graph = *graph_;
  const std::size_t rows = graph.rows();
  std::vector<std::uint8_t> removed;
  std::vector<std::uint32_t> levels, links;  // links: for each row and layer their number, and the rows that they lead to
  std::vector<float> vectors;
  vectors.reserve(rows * graph.dim);
  for (std::size_t i = 0; i < rows; ++i) {
    vectors.insert(vectors.end(), graph.row(i), graph.row(i) + graph.dim);
    removed.push_back(graph.hnsw->isMarkedDeleted(static_cast<hnswlib::tableint>(i)));
    levels.push_back(graph.level(i));
    for (std::uint32_t layer = 0; layer <= graph.level(i); ++layer) {
      const Graph::Links* const list = graph.links(i, layer);
      const std::uint32_t count = graph.hnsw->getListCount(graph.links(i, layer));
      links.push_back(count);
      links.insert(links.end(), list + 1, list + 1 + count);
    }
  }
  const HnswOptions& o = graph.options;
  detail::NewIndexFile file(detail::hnsw_index_format);
  const std::size_t link_count = links.size();
  file.add("options", Shape{5}, std::vector<std::uint64_t>{o.M, o.ef_construction, o.ef, o.seed, rows == 0 ? 0 : graph.hnsw->enterpoint_node_});
  file.borrow("ids", Shape{rows}, graph.ids.data());
  file.add("vectors", Shape{rows, graph.dim}, std::move(vectors));
  file.add("levels", Shape{rows}, std::move(levels));
  file.add("links", Shape{link_count}, std::move(links));
  file.add("removed", Shape{rows}, std::move(removed));
  file.write(path);
}

inline HnswIndex HnswIndex::load(const std::string& path) {
  const detail::IndexFile file(path, detail::hnsw_index_format);
  const std::vector<std::uint64_t> o = file.values<std::uint64_t>("options", 1);
  if (o.size() != 5) file.fail(std::to_string(o.size()) + " options, expected 5");
  const Shape shape = file.table<float>("vectors", 2).shape();
  const std::size_t rows = shape[0];
  const auto ids = file.values<std::uint64_t>("ids", 1);
  const auto levels = file.values<std::uint32_t>("levels", 1), links = file.values<std::uint32_t>("links", 1);
  const auto removed = file.values<std::uint8_t>("removed", 1);
  const auto vectors = file.values<float>("vectors", 2);
  if (ids.size() != rows || levels.size() != rows || removed.size() != rows) file.fail(std::to_string(rows) + " vectors, but tables of other lengths");
  if (rows >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) file.fail("more than 2^31 vectors");
  if (!detail::all_finite(vectors.data(), vectors.size())) file.fail("a vector has NaN or infinity");

  // All is looked at before any of it becomes a pointer.
  const std::size_t M = static_cast<std::size_t>(std::min<std::uint64_t>(o[0], 1 << 16));
  std::size_t at = 0;
  for (std::size_t i = 0; i < rows; ++i) {
    if (levels[i] > detail::most_hnsw_layers) file.fail("vector " + std::to_string(i) + " is in " + std::to_string(levels[i]) + " layers");
    for (std::uint32_t layer = 0; layer <= levels[i]; ++layer) {
      if (at >= links.size()) file.fail("links end before vector " + std::to_string(i));
      const std::size_t count = links[at++];
      if (count > (layer == 0 ? 2 * M : M) || count > links.size() - at) file.fail("vector " + std::to_string(i) + " has " + std::to_string(count) + " links");
      for (const std::size_t end = at + count; at < end; ++at)
        if (links[at] >= rows || links[at] == i || levels[links[at]] < layer)
          file.fail("vector " + std::to_string(i) + " has a link to " + std::to_string(links[at]) + " in layer " + std::to_string(layer));
    }
  }
  if (at != links.size()) file.fail("links behind the last vector");
  const std::uint32_t top = rows == 0 ? 0 : *std::max_element(levels.begin(), levels.end());
  if (rows > 0 && (o[4] >= rows || levels[o[4]] != top)) file.fail("searches begin at vector " + std::to_string(o[4]) + ", which is not in the highest layer");

  std::optional<HnswIndex> made;
  try {
    made.emplace(shape[1], HnswOptions{static_cast<std::size_t>(o[0]), static_cast<std::size_t>(o[1]), static_cast<std::size_t>(o[2]), o[3]});
  } catch (const ArgumentError& error) {
    file.fail(error.what());
  }
  Graph& graph = *made->graph_;
  graph.ids = ids;
  graph.reset(std::max<std::size_t>(rows, 1));
  Graph::Hnsw& hnsw = *graph.hnsw;
  at = 0;
  for (std::size_t i = 0; i < rows; ++i) {
    const auto row = static_cast<hnswlib::tableint>(i);
    std::memset(hnsw.data_level0_memory_ + i * hnsw.size_data_per_element_, 0, hnsw.size_data_per_element_);
    std::memcpy(hnsw.getDataByInternalId(row), vectors.data() + i * graph.dim, graph.dim * sizeof(float));
    hnsw.setExternalLabel(row, i);
    hnsw.label_lookup_[i] = row;
    hnsw.linkLists_[i] = nullptr;
    if (levels[i] > 0) {
      const std::size_t bytes = hnsw.size_links_per_element_ * levels[i] + 1;
      hnsw.linkLists_[i] = static_cast<char*>(std::calloc(bytes, 1));  // hnswlib frees it
      if (hnsw.linkLists_[i] == nullptr) throw std::bad_alloc();
    }
    hnsw.element_levels_[i] = static_cast<int>(levels[i]);
    hnsw.cur_element_count = i + 1;
    for (std::uint32_t layer = 0; layer <= levels[i]; ++layer) {
      const std::uint32_t count = links[at++];
      Graph::Links* const list = graph.links(i, layer);
      hnsw.setListCount(list, static_cast<unsigned short>(count));
      std::memcpy(list + 1, links.data() + at, count * sizeof(std::uint32_t));
      at += count;
    }
    if (removed[i] != 0) {
      hnsw.markDeletedInternal(row);
      ++graph.removed;
      continue;
    }
    const auto [known, fresh] = graph.where.try_emplace(ids[i], Graph::Rows{i, 0});
    if (!fresh && known->second.first + known->second.count != i) file.fail("the vectors of id " + std::to_string(ids[i]) + " do not lie together");
    graph.most_rows = std::max(graph.most_rows, ++known->second.count);
  }
  if (rows > 0) {
    hnsw.enterpoint_node_ = static_cast<hnswlib::tableint>(o[4]);
    hnsw.maxlevel_ = static_cast<int>(top);
  }
  return std::move(*made);
}

}  // namespace chiasm
