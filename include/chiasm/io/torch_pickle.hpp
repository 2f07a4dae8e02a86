/// Torch pickle: what torch.save writes: a zip archive of storages, and a pickle that says which tensors lie in them. The pickle is read, never run.
/// https://docs.pytorch.org/docs/stable/notes/serialization.html (archive), CPython's Lib/pickletools.py (opcodes).
#pragma once

#include <chiasm/core/function_ref.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/io/file_map.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// What one *.bin, *.pt or *.pth holds: a state dict, maybe inside the dict of a training run.
struct TorchPickle {
  /// In the order of the pickle. A name is the path of keys to the tensor, joined with '.' ("model_state_dict.perceiver.latents"; a list's keys are 0, 1, ...);
  /// what is no tensor (an epoch, a learning rate) is left out. Tensors point into the file's map and keep it, several to the same bytes where they
  /// shared them; those that do not lie in rows, a transposed one for example, are copies.
  std::vector<Weight> tensors;

  /// Reads the archive's directory and the pickle; the data stay where they are. Nothing named by the pickle is ever called: of Python's
  /// names it may use those that state dicts are made of. Throws FormatError (no archive, a directory, a pickle or a tensor that disagrees with the file) and
  /// UnsupportedError (the format before torch 1.6, TorchScript, compressed or encrypted or big-endian archives, opcodes and names that no
  /// state dict needs, dtypes that the library has not, more than eight dimensions). Both say the byte.
  static TorchPickle parse(const FileMap& file);
};

/// The tensors of one file. Below a key of a training run's dict: `read_torch_pickle(path) / "model_state_dict"`. Throws FileError, and as TorchPickle::parse.
Weights read_torch_pickle(const std::string& path, WeightKind kind = WeightKind::keep);

/// As above, from memory. `name` is what errors call it. Without an `owner`, the caller keeps the bytes as long as the weights live.
Weights read_torch_pickle(std::span<const std::byte> bytes, std::string name = "<memory>", std::shared_ptr<const void> owner = {},
                          WeightKind kind = WeightKind::keep);

/// The tensors of all shards that a `pytorch_model.bin.index.json` names, where `open` gives a shard by its file name and `progress` hears of each
/// shard read: (name, done, total). Throws as read_safetensors_shards() and TorchPickle::parse.
std::vector<Weight> read_torch_pickle_shards(const FileMap& index, FunctionRef<FileMap(const std::string& shard)> open,
                                             FunctionRef<void(std::string_view shard, std::size_t done, std::size_t total)> progress);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/torch_pickle.ipp>
#endif
