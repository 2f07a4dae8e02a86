#pragma once

#include <chiasm/impl/index_file.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/pipelines/picture_index.hpp>

#include <algorithm>
#include <map>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE ModelIdentity ModelIdentity::of(const Checkpoint& checkpoint) {
  detail::Checksum sum({});
  detail::absorb(sum, checkpoint.config().dump());
  for (const Json& file : {checkpoint.preprocessor_config(), checkpoint.processor_config()}) detail::absorb(sum, file.dump());
  // A tree that takes note converts nothing: these are the file's own bytes.
  std::vector<WeightError> findings;
  const Weights weights = checkpoint.weights().noting(findings);
  for (const std::string& name : weights.names()) {
    const Weight weight = weights.get(name);
    detail::absorb(sum, name);
    detail::absorb(sum, weight.describe());
    constexpr std::size_t sample = 256;
    const std::span bytes(weight.data(), weight.bytes());
    if (bytes.size() <= 3 * sample) {
      sum << bytes;
      continue;
    }
    for (const std::size_t at : {std::size_t{0}, bytes.size() / 2, bytes.size() - sample}) sum << bytes.subspan(at, sample);
  }
  std::string name = checkpoint.name();
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  return {name.substr(name.rfind('/') + 1), sum.digest()};
}

CHIASM_INLINE Digest PictureFile::digest(std::span<const std::byte> bytes) noexcept {
  detail::Checksum sum({});
  sum << bytes;
  return sum.digest();
}

struct PictureIndex::Entries {
  struct Less {
    bool operator()(const Digest& a, const Digest& b) const noexcept { return a.high != b.high ? a.high < b.high : a.low < b.low; }
  };
  ModelIdentity model;
  FlatIndex vectors;
  std::uint64_t next_id = 0;
  std::map<std::uint64_t, PictureFile> files;
  std::map<std::string, std::uint64_t, std::less<>> by_path;
  std::multimap<Digest, std::uint64_t, Less> by_content;

  /// Takes note of a picture whose embeddings are there, or about to be.
  void add(std::uint64_t id, PictureFile file) {
    by_path.emplace(file.path, id);
    by_content.emplace(file.content, id);
    files.emplace(id, std::move(file));
  }
  bool remove(std::string_view path) {
    const auto known = by_path.find(path);
    if (known == by_path.end()) return false;
    const std::uint64_t id = known->second;
    const auto [first, last] = by_content.equal_range(files.at(id).content);
    by_content.erase(std::find_if(first, last, [&](const auto& entry) { return entry.second == id; }));
    by_path.erase(known);
    files.erase(id);
    vectors.remove(id);
    return true;
  }
};

CHIASM_INLINE PictureIndex::PictureIndex(ModelIdentity model, std::size_t dim)
    : entries_(new Entries{std::move(model), FlatIndex(dim), 0, {}, {}, {}}) {}
CHIASM_INLINE PictureIndex::PictureIndex(PictureIndex&&) noexcept = default;
CHIASM_INLINE PictureIndex& PictureIndex::operator=(PictureIndex&&) noexcept = default;
CHIASM_INLINE PictureIndex::~PictureIndex() = default;
CHIASM_INLINE const ModelIdentity& PictureIndex::model() const noexcept { return entries_->model; }
CHIASM_INLINE const FlatIndex& PictureIndex::vectors() const noexcept { return entries_->vectors; }

CHIASM_INLINE void PictureIndex::expect_model(const ModelIdentity& other, const std::string& where) const {
  const ModelIdentity& own = model();
  if (own.digest == other.digest) return;
  const auto call = [](const ModelIdentity& identity) { return "'" + identity.name + "' (" + detail::to_hex(identity.digest).substr(0, 12) + ")"; };
  throw ArgumentError(where + ": made with the model " + call(own) + ", asked with " + call(other) +
                      ", whose embeddings are others: ask with the model that made it, or make the index anew");
}

CHIASM_INLINE std::vector<PictureFile> PictureIndex::files() const {
  std::vector<PictureFile> files;
  for (const auto& [id, file] : entries_->files) files.push_back(file);
  return files;
}
CHIASM_INLINE const PictureFile* PictureIndex::find(std::string_view path) const noexcept {
  const auto known = entries_->by_path.find(path);
  return known == entries_->by_path.end() ? nullptr : &entries_->files.find(known->second)->second;
}
CHIASM_INLINE const PictureFile* PictureIndex::find(const Digest& content) const noexcept {
  const auto known = entries_->by_content.find(content);
  return known == entries_->by_content.end() ? nullptr : &entries_->files.find(known->second)->second;
}
CHIASM_INLINE std::optional<std::uint64_t> PictureIndex::id(std::string_view path) const noexcept {
  const auto known = entries_->by_path.find(path);
  return known == entries_->by_path.end() ? std::nullopt : std::optional(known->second);
}
CHIASM_INLINE const std::string& PictureIndex::path(std::uint64_t id) const {
  const auto known = entries_->files.find(id);
  if (known == entries_->files.end()) throw ArgumentError("PictureIndex::path: no picture of id " + std::to_string(id));
  return known->second.path;
}

CHIASM_INLINE void PictureIndex::put(PictureFile file, View embeddings) {
  const std::uint64_t id = entries_->next_id;
  entries_->vectors.put(id, embeddings);
  ++entries_->next_id;
  entries_->remove(file.path);
  entries_->add(id, std::move(file));
}
CHIASM_INLINE bool PictureIndex::put_known(PictureFile file) {
  const PictureFile* const known = find(file.content);
  if (known == nullptr) return false;
  const View from = entries_->vectors.vectors(*id(known->path));
  Tensor embeddings(from.shape());
  std::copy(from.data(), from.data() + from.size(), embeddings.data());
  put(std::move(file), embeddings);
  return true;
}
CHIASM_INLINE bool PictureIndex::remove(std::string_view path) { return entries_->remove(path); }

CHIASM_INLINE std::vector<PictureIndex::Found> PictureIndex::search(Context& ctx, View query, std::size_t k) const { return search(ctx, vectors(), query, k); }
CHIASM_INLINE std::vector<PictureIndex::Found> PictureIndex::search(Context& ctx, const VectorIndex& index, View query, std::size_t k) const {
  std::map<std::uint64_t, float> best;
  for (const std::vector<Hit>& hits : index.search(ctx, query, k))
    for (const Hit& hit : hits) {
      const auto [known, fresh] = best.emplace(hit.id, hit.score);
      if (!fresh) known->second = std::max(known->second, hit.score);
    }
  std::vector<Hit> hits;
  for (const auto& [id, score] : best) hits.push_back({id, score});
  std::stable_sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) { return a.score > b.score; });  // ids ascend already
  std::vector<Found> found;
  for (const Hit& hit : hits)
    if (found.size() < k) found.push_back({path(hit.id), hit.score});
  return found;
}

namespace detail {
inline constexpr std::string_view picture_index_format = "chiasm picture index";
}

CHIASM_INLINE void PictureIndex::save(const std::string& path) const {
  detail::NewIndexFile file(detail::picture_index_format);
  file.add("model", model().name);
  file.add("model_digest", detail::to_hex(model().digest));
  std::vector<std::uint8_t> paths;
  std::vector<std::uint64_t> path_ends, sizes, contents;
  std::vector<std::int64_t> modified;
  for (const std::uint64_t id : vectors().ids()) {
    const PictureFile& picture = entries_->files.at(id);
    paths.insert(paths.end(), picture.path.begin(), picture.path.end());
    path_ends.push_back(paths.size());
    sizes.push_back(picture.size);
    modified.push_back(picture.modified);
    contents.insert(contents.end(), {picture.content.low, picture.content.high});
  }
  const std::size_t count = path_ends.size(), length = paths.size();
  file.add("next_id", Shape{1}, std::vector<std::uint64_t>{entries_->next_id});  // ids never come back: another index may follow this one
  entries_->vectors.write(file);
  file.add("path_ends", Shape{count}, std::move(path_ends));
  file.add("sizes", Shape{count}, std::move(sizes));
  file.add("modified", Shape{count}, std::move(modified));
  file.add("contents", Shape{count, 2}, std::move(contents));
  file.add("paths", Shape{length}, std::move(paths));  // last: what follows it would not be aligned
  file.write(path);
}

CHIASM_INLINE PictureIndex PictureIndex::load(const std::string& path) {
  const detail::IndexFile file(path, detail::picture_index_format);
  const std::optional<Digest> digest = detail::from_hex(file.text("model_digest"));
  if (!digest) file.fail("model_digest is no digest");
  FlatIndex vectors = FlatIndex::read(file);
  PictureIndex index(ModelIdentity{std::string(file.text("model")), *digest}, vectors.dim());
  const std::vector<std::uint64_t> ids = vectors.ids();
  index.entries_->vectors = std::move(vectors);
  const auto paths = file.values<std::uint8_t>("paths", 1);
  const auto path_ends = file.values<std::uint64_t>("path_ends", 1), sizes = file.values<std::uint64_t>("sizes", 1);
  const auto contents = file.values<std::uint64_t>("contents", 2);
  const auto modified = file.values<std::int64_t>("modified", 1);
  const auto next_id = file.values<std::uint64_t>("next_id", 1);
  if (next_id.size() != 1 || path_ends.size() != ids.size() || sizes.size() != ids.size() || modified.size() != ids.size() || contents.size() != 2 * ids.size())
    file.fail(std::to_string(ids.size()) + " ids, but tables of other lengths");
  index.entries_->next_id = next_id[0];
  std::size_t begin = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (path_ends[i] < begin || path_ends[i] > paths.size())
      file.fail("path " + std::to_string(i) + " ends at " + std::to_string(path_ends[i]) + " of " + std::to_string(paths.size()));
    PictureFile picture{std::string(reinterpret_cast<const char*>(paths.data()) + begin, path_ends[i] - begin), sizes[i], modified[i],
                        Digest{contents[2 * i], contents[2 * i + 1]}};
    begin = path_ends[i];
    if (index.find(picture.path) != nullptr) file.fail("a path is there twice");
    if (ids[i] >= next_id[0]) file.fail("id " + std::to_string(ids[i]) + ", expected less than " + std::to_string(next_id[0]));
    index.entries_->add(ids[i], std::move(picture));
  }
  if (begin != paths.size()) file.fail("bytes behind the last path");
  return index;
}

}  // namespace chiasm
