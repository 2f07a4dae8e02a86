#pragma once

#include <chiasm/impl/hits.hpp>
#include <chiasm/impl/index_file.hpp>
#include <chiasm/nn/matmul.hpp>
#include <chiasm/pipelines/vector_index.hpp>

#include <algorithm>
#include <limits>
#include <unordered_map>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// The best `k` so far.
class BestHits {
 public:
  explicit BestHits(std::size_t k) : k_(k) {}
  /// What is below this needs no offer.
  float floor() const noexcept { return hits_.size() < k_ ? -std::numeric_limits<float>::infinity() : hits_.front().score; }
  void offer(Hit hit) {
    if (hit.score != hit.score) hit.score = -std::numeric_limits<float>::infinity();  // an overflow inside the product
    if (hits_.size() == k_) {
      if (!better(hit, hits_.front())) return;
      std::pop_heap(hits_.begin(), hits_.end(), better);
      hits_.back() = hit;
    } else {
      hits_.push_back(hit);
    }
    std::push_heap(hits_.begin(), hits_.end(), better);
  }
  std::vector<Hit> take() {
    std::sort_heap(hits_.begin(), hits_.end(), better);
    return std::move(hits_);
  }

 private:
  std::size_t k_;
  std::vector<Hit> hits_;  // a heap, the worst in front
};

}  // namespace detail

struct FlatIndex::Rows {
  struct Entry {
    std::uint64_t id;
    std::size_t first, count;  // rows
    bool removed = false;      // its rows stay until there are many of the kind
  };
  std::size_t dim;
  std::vector<float> data;      // (rows, dim)
  std::vector<Entry> entries;   // in the order of their rows
  std::unordered_map<std::uint64_t, std::size_t> where;
  std::size_t removed_rows = 0;

  std::size_t rows() const noexcept { return data.size() / dim; }
  const float* row(std::size_t i) const noexcept { return data.data() + i * dim; }

  /// Drops the rows of what was removed, once they are the greater part.
  void compact() {
    if (removed_rows * 2 <= rows()) return;
    std::size_t to = 0, kept = 0;
    for (Entry& entry : entries) {
      if (entry.removed) continue;
      std::copy(row(entry.first), row(entry.first + entry.count), data.begin() + static_cast<std::ptrdiff_t>(to * dim));
      where[entry.id] = kept;
      entries[kept++] = {entry.id, to, entry.count};
      to += entries[kept - 1].count;
    }
    entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(kept), entries.end());
    data.resize(to * dim);
    removed_rows = 0;
  }
};

CHIASM_INLINE FlatIndex::FlatIndex(std::size_t dim) : rows_(std::make_unique<Rows>()) {
  if (dim == 0 || dim > detail::most_dimensions)
    throw ArgumentError("FlatIndex: vectors of " + std::to_string(dim) + ", expected 1 to " + std::to_string(detail::most_dimensions));
  rows_->dim = dim;
}
CHIASM_INLINE FlatIndex::FlatIndex(FlatIndex&&) noexcept = default;
CHIASM_INLINE FlatIndex& FlatIndex::operator=(FlatIndex&&) noexcept = default;
CHIASM_INLINE FlatIndex::~FlatIndex() = default;
CHIASM_INLINE std::size_t FlatIndex::dim() const noexcept { return rows_->dim; }
CHIASM_INLINE std::size_t FlatIndex::size() const noexcept { return rows_->where.size(); }
CHIASM_INLINE bool FlatIndex::contains(std::uint64_t id) const noexcept { return rows_->where.find(id) != rows_->where.end(); }

CHIASM_INLINE void FlatIndex::put(std::uint64_t id, View vectors) {
  detail::check_vectors("FlatIndex::put", vectors, dim());
  // All that may fail for lack of memory comes before the first change.
  std::vector<float>& data = rows_->data;
  const std::size_t needed = data.size() + vectors.rows() * dim();
  if (needed > data.capacity()) data.reserve(std::max(needed, data.capacity() + data.capacity() / 2));
  rows_->entries.reserve(rows_->entries.size() == rows_->entries.capacity() ? rows_->entries.size() * 2 + 1 : 0);
  const auto [known, fresh] = rows_->where.try_emplace(id, rows_->entries.size());
  if (!fresh) {
    Rows::Entry& old = rows_->entries[known->second];
    old.removed = true;
    rows_->removed_rows += old.count;
    known->second = rows_->entries.size();
  }
  rows_->entries.push_back({id, rows_->rows(), vectors.rows()});
  for (std::size_t i = 0; i < vectors.rows(); ++i) data.insert(data.end(), vectors.row(i), vectors.row(i) + dim());
  rows_->compact();
}

CHIASM_INLINE bool FlatIndex::remove(std::uint64_t id) {
  const auto known = rows_->where.find(id);
  if (known == rows_->where.end()) return false;
  Rows::Entry& entry = rows_->entries[known->second];
  entry.removed = true;
  rows_->removed_rows += entry.count;
  rows_->where.erase(known);
  rows_->compact();
  return true;
}

CHIASM_INLINE std::vector<std::uint64_t> FlatIndex::ids() const {
  std::vector<std::uint64_t> ids;
  for (const Rows::Entry& entry : rows_->entries)
    if (!entry.removed) ids.push_back(entry.id);
  return ids;
}

CHIASM_INLINE View FlatIndex::vectors(std::uint64_t id) const {
  const auto known = rows_->where.find(id);
  if (known == rows_->where.end()) throw ArgumentError("FlatIndex::vectors: no vector of id " + std::to_string(id));
  const Rows::Entry& entry = rows_->entries[known->second];
  return {rows_->row(entry.first), Shape{entry.count, dim()}};
}

CHIASM_INLINE std::vector<std::vector<Hit>> FlatIndex::search(Context& ctx, View queries, std::size_t k) const {
  detail::check_vectors("FlatIndex::search", queries, dim());
  const std::size_t count = queries.rows();
  std::vector<std::vector<Hit>> results(count);
  k = std::min(k, size());
  if (k == 0) return results;
  std::vector<detail::BestHits> best(count, detail::BestHits(k));

  // Scores of a block of rows: few enough to stay near the processor, enough to keep all threads busy.
  constexpr std::size_t block_scores = std::size_t{1} << 21, least_rows = 4096;
  const std::size_t block_rows = std::max(block_scores / count, least_rows);
  const std::vector<Rows::Entry>& entries = rows_->entries;
  for (std::size_t begin = 0, end = 0; begin < entries.size(); begin = end) {
    const std::size_t first = entries[begin].first;
    do ++end;
    while (end < entries.size() && entries[end].first + entries[end].count - first <= block_rows);
    const std::size_t rows = entries[end - 1].first + entries[end - 1].count - first;
    const Weight block("vectors", DType::f32, Shape{rows, dim()}, reinterpret_cast<const std::byte*>(rows_->row(first)), nullptr, "<memory>");
    Tensor scores = ctx.empty(Shape{count, rows});  // (Q, rows)
    matmul(ctx, queries, block, scores);
    ctx.parallel(count, 1, [&](std::size_t query, std::size_t last) {
      for (; query < last; ++query) {
        const float* const score = scores.row(query);
        for (std::size_t i = begin; i < end; ++i) {
          const Rows::Entry& entry = entries[i];
          float highest = score[entry.first - first];
          for (std::size_t row = 1; row < entry.count; ++row) highest = std::max(highest, score[entry.first - first + row]);
          if (highest < best[query].floor() || entry.removed) continue;
          best[query].offer({entry.id, highest});
        }
      }
    });
  }
  for (std::size_t query = 0; query < count; ++query) results[query] = best[query].take();
  return results;
}

CHIASM_INLINE void FlatIndex::write(detail::NewIndexFile& file) const {
  std::vector<std::uint64_t> counts;
  std::vector<float> kept;  // the rows, where some are those of removed ids
  std::size_t rows = 0;
  for (const Rows::Entry& entry : rows_->entries) {
    if (entry.removed) continue;
    counts.push_back(entry.count);
    rows += entry.count;
    if (rows_->removed_rows > 0) kept.insert(kept.end(), rows_->row(entry.first), rows_->row(entry.first + entry.count));
  }
  const std::size_t entries = counts.size();
  file.add("ids", Shape{entries}, ids());
  file.add("counts", Shape{entries}, std::move(counts));
  if (rows_->removed_rows > 0) file.add("vectors", Shape{rows, dim()}, std::move(kept));
  else file.borrow("vectors", Shape{rows, dim()}, rows_->data.data());
}

CHIASM_INLINE FlatIndex FlatIndex::read(const detail::IndexFile& file) {
  const Shape shape = file.table<float>("vectors", 2).shape();
  if (shape[1] == 0 || shape[1] > detail::most_dimensions) file.fail("vectors of shape " + shape.to_string());
  FlatIndex index(shape[1]);
  const std::vector<std::uint64_t> ids = file.values<std::uint64_t>("ids", 1), counts = file.values<std::uint64_t>("counts", 1);
  if (ids.size() != counts.size()) file.fail(std::to_string(ids.size()) + " ids with " + std::to_string(counts.size()) + " counts");
  std::size_t rows = 0;
  index.rows_->entries.reserve(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (counts[i] == 0 || counts[i] > shape[0] - rows)
      file.fail("id " + std::to_string(ids[i]) + " has " + std::to_string(counts[i]) + " vectors of " + std::to_string(shape[0] - rows));
    if (!index.rows_->where.emplace(ids[i], i).second) file.fail("id " + std::to_string(ids[i]) + " is there twice");
    index.rows_->entries.push_back({ids[i], rows, counts[i]});
    rows += counts[i];
  }
  if (rows != shape[0]) file.fail(std::to_string(shape[0]) + " vectors, of which " + std::to_string(rows) + " have an id");
  index.rows_->data = file.values<float>("vectors", 2);
  if (!detail::all_finite(index.rows_->data.data(), index.rows_->data.size())) file.fail("a vector has NaN or infinity");
  return index;
}

namespace detail {
inline constexpr std::string_view flat_index_format = "chiasm vector index";
}

CHIASM_INLINE void FlatIndex::save(const std::string& path) const {
  detail::NewIndexFile file(detail::flat_index_format);
  write(file);
  file.write(path);
}
CHIASM_INLINE FlatIndex FlatIndex::load(const std::string& path) { return read(detail::IndexFile(path, detail::flat_index_format)); }

}  // namespace chiasm
