/// PictureIndex: the pictures of some folders and their embeddings, in a file that knows which model made them and what each picture was then.
#pragma once

#include <chiasm/core/content_hash.hpp>
#include <chiasm/pipelines/vector_index.hpp>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Checkpoint;

/// What tells one model's embeddings from another's.
struct ModelIdentity {
  std::string name;  // the folder's
  Digest digest;     // of the configurations, and of name, shape and a sample of each weight

  /// Throws as Checkpoint::weights().
  static ModelIdentity of(const Checkpoint& checkpoint);
};

/// A picture as a file.
struct PictureFile {
  std::string path;
  std::uint64_t size = 0;     // bytes
  std::int64_t modified = 0;  // in whatever the caller counts time
  Digest content;

  static Digest digest(std::span<const std::byte> bytes) noexcept;
  bool operator==(const PictureFile&) const = default;
};

/// Searching may be shared between threads, changing may not.
class PictureIndex {
 public:
  /// Throws ArgumentError, see FlatIndex.
  PictureIndex(ModelIdentity model, std::size_t dim);
  PictureIndex(PictureIndex&&) noexcept;
  PictureIndex& operator=(PictureIndex&&) noexcept;
  ~PictureIndex();

  /// Throws FileError, FormatError (no index of pictures, truncated, or not what its checksum says).
  static PictureIndex load(const std::string& path);
  /// Writes a safetensors file: the tensors `vectors`, `ids`, `counts`, `paths` and so on, and the model as metadata. It appears under its name when it is
  /// whole. Throws FileError.
  void save(const std::string& path) const;

  const ModelIdentity& model() const noexcept;
  /// Throws ArgumentError where the embeddings were made by another model: `where` is the index's file.
  void expect_model(const ModelIdentity& other, const std::string& where) const;

  std::size_t size() const noexcept { return vectors().size(); }
  std::vector<PictureFile> files() const;  // in the order in which they were put
  /// Null: not in the index. Valid until the next change.
  const PictureFile* find(std::string_view path) const noexcept;
  /// A picture with this content, wherever it is or was. Null: none.
  const PictureFile* find(const Digest& content) const noexcept;

  /// Puts a picture with its embeddings in the place of what was known under its path. Throws as VectorIndex::put.
  void put(PictureFile file, View embeddings);  // (E) or (n, E)
  /// Puts a picture whose content is known already, under its path or another one: nothing has to be encoded. False: it is not known.
  bool put_known(PictureFile file);
  bool remove(std::string_view path);

  /// The embeddings; ids are those of id() and path().
  const FlatIndex& vectors() const noexcept;
  const std::string& path(std::uint64_t id) const;  // throws ArgumentError: there is none of this id
  std::optional<std::uint64_t> id(std::string_view path) const noexcept;

  struct Found {
    std::string path;
    float score = 0;
  };
  /// The `k` pictures most similar to the query, best first. A query of several rows scores by the best of them. Throws as VectorIndex::search.
  std::vector<Found> search(Context& ctx, View query, std::size_t k) const;  // (E) or (n, E)
  /// The same by another index of the same ids.
  std::vector<Found> search(Context& ctx, const VectorIndex& index, View query, std::size_t k) const;

 private:
  struct Entries;
  std::unique_ptr<Entries> entries_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/picture_index.ipp>
#endif
