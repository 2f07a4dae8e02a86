/// Checkpoint: a folder as Hugging Face publishes models: config.json, *.safetensors, tokenizer.json and so on. Or the same files in memory. Or a GGUF file,
/// which has all that in one, and shows it as a folder would.
#pragma once

#include <chiasm/core/callback.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/io/file_map.hpp>
#include <chiasm/io/gguf_model.hpp>
#include <chiasm/io/json.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct CheckpointOptions {
  WeightKind weights = WeightKind::keep;
  bool bf16_panels = false;  // see Conversion; load() sets it for Compute::bf16 and i8 where AMX is used
  std::string mmproj = {};  // of a GGUF model, the path of the file with its vision tower; empty: the one mmproj*.gguf beside it, if it fits
  // After each weight file, and after each matrix that is converted.
  Callback<void(std::string_view name, std::size_t done, std::size_t total)> on_progress = {};
  CancelToken cancel = {};                   // ends a conversion with Cancelled
  std::shared_ptr<ThreadPool> threads = {};  // that convert; none: a pool of all processors
  // A folder for what has been converted, so that the next start maps it (io/packed_cache.hpp): of checkpoints that are files, each has a file there, as large
  // as its converted matrices. Empty: nothing is written.
  std::string packed_cache = {};
};

/// Cheap to copy, and shareable between threads. Opening reads nothing: each file is read when it is asked for, each JSON file once.
class Checkpoint {
 public:
  /// A folder, or a GGUF file, or a folder of nothing but a GGUF file (or its shards) and maybe an mmproj. Throws FileError if it is not there, or not clear
  /// which of several GGUF files is meant; for GGUF, of which the metadata are read, also FormatError, UnsupportedError.
  static Checkpoint open(const std::string& path, CheckpointOptions options = {});

  /// Files in memory, by the names that they have in a folder. `name` is what errors call the whole. Without an `owner`, the caller keeps
  /// the bytes as long as anything made from them lives. Throws ArgumentError if a name is there twice.
  static Checkpoint from_memory(std::vector<std::pair<std::string, std::span<const std::byte>>> files, CheckpointOptions options = {},
                                std::string name = "<memory>", std::shared_ptr<const void> owner = {});

  /// A folder inside this one, or the files in memory whose names begin with it and a slash. Throws FileError if there is none.
  Checkpoint subfolder(std::string_view folder) const;

  /// The folder or GGUF file, as it was given.
  const std::string& name() const noexcept;
  /// The GGUF file that this is, and those that belong to it; null for all other checkpoints. It has no files in the sense of has(), file() and read().
  const GgufModel* gguf() const noexcept;
  bool has(std::string_view file) const;
  /// What errors call a file of this checkpoint; in a folder, where it is.
  std::string path(std::string_view file) const;
  /// One file's bytes. Throws FileError.
  FileMap file(std::string_view file) const;
  /// A copy of one file's bytes. Throws FileError.
  std::string read(std::string_view file) const;
  /// A JSON file, or null if it is not there. Throws FileError, FormatError.
  Json json(std::string_view file) const;

  /// config.json. Throws FileError if it is not there, FormatError, and ConfigError if it is no object.
  Json config() const;
  /// "llava", "clip", ... Throws as config(), and ConfigError if there is none.
  std::string model_type() const;
  /// Null if the checkpoint has none. Throw FileError, FormatError.
  Json generation_config() const { return json("generation_config.json"); }
  Json preprocessor_config() const { return json("preprocessor_config.json"); }
  Json processor_config() const { return json("processor_config.json"); }
  Json tokenizer_config() const { return json("tokenizer_config.json"); }
  /// The file that says how pictures are prepared: processor_config.json where it holds an `image_processor` (as transformers 5 saves it), or else
  /// preprocessor_config.json. Throws FileError if it is neither, FormatError.
  Json image_processor_config() const;

  /// The tensors of model.safetensors, or of the shards of model.safetensors.index.json, or of the only *.safetensors; or else of pytorch_model.bin, of its
  /// index's shards, of the only *.bin, *.pt or *.pth. The data stay in the files until they are used. A fresh tree each time. Throws FileError,
  /// FormatError, WeightError (see io/safetensors.hpp, io/torch_pickle.hpp), and UnsupportedError where there are weights of other formats only.
  Weights weights() const;
  /// The tensors of one file: *.safetensors, or what torch.save wrote. Throws as above.
  Weights weights(const std::string& file) const;
  /// Writes to CheckpointOptions::packed_cache what trees of this checkpoint have converted and it does not have: for the end of loading. load() does so.
  void keep_converted() const noexcept;

 private:
  struct State;
  explicit Checkpoint(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/checkpoint.ipp>
#endif
