/// Safetensors: a JSON header and raw tensors behind it. https://github.com/huggingface/safetensors (format).
#pragma once

#include <chiasm/core/function_ref.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/io/file_map.hpp>
#include <chiasm/io/json.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// What one safetensors file holds. The tensors point into the file's map and keep it.
struct Safetensors {
  std::vector<Weight> tensors;  // in the order of their data
  Json metadata;                // `__metadata__`, an object of strings, or null

  /// Reads the header; the data stay where they are. Throws FormatError naming the tensor (header over 100 MB or no JSON object,
  /// a key twice, offsets that leave holes, overlap, or disagree with the shape or the file's end), and UnsupportedError for
  /// dtypes below a byte, complex ones, and more than eight dimensions.
  static Safetensors parse(const FileMap& file);
};

/// The tensors of one safetensors file. Throws FileError, and as Safetensors::parse.
Weights read_safetensors(const std::string& path, WeightKind kind = WeightKind::keep);

/// As above, from memory. `name` is what errors call it. Without an `owner`, the caller keeps the bytes as long as the weights live.
Weights read_safetensors(std::span<const std::byte> bytes, std::string name = "<memory>", std::shared_ptr<const void> owner = {},
                         WeightKind kind = WeightKind::keep);

/// The tensors of all shards that a `model.safetensors.index.json` names; they lie beside it. Throws FileError (a shard is missing), FormatError
/// (no `weight_map`, or a value that is not a plain file name), WeightError (index and shard disagree), and as Safetensors::parse.
Weights read_safetensors_index(const std::string& path, WeightKind kind = WeightKind::keep);

/// As above, where `open` gives a shard by its file name and `progress` hears of each shard read: (name, done, total).
std::vector<Weight> read_safetensors_shards(const FileMap& index, FunctionRef<FileMap(const std::string& shard)> open,
                                            FunctionRef<void(std::string_view shard, std::size_t done, std::size_t total)> progress);

/// Writes tensors, in this order, and texts as `__metadata__`. The file appears under its name when it is whole. Throws FileError; WeightError where two
/// tensors have one name.
void write_safetensors(const std::string& path, std::span<const Weight> tensors, std::span<const std::pair<std::string, std::string>> metadata = {});

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/safetensors.ipp>
#endif
