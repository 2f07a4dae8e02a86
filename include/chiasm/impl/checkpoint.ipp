#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/torch_pickle.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>

namespace chiasm::inline CHIASM_ABI {

struct Checkpoint::State {
  std::string name;
  CheckpointOptions options;
  std::optional<std::map<std::string, FileMap, std::less<>>> files;  // none: a folder
  std::mutex mutex;
  std::map<std::string, Json, std::less<>> parsed;

  /// File names, sorted.
  std::vector<std::string> list() const {
    std::vector<std::string> names;
    if (files) {
      for (const auto& [file, bytes] : *files) names.push_back(file);
      return names;
    }
    std::error_code error;
    for (std::filesystem::directory_iterator entry(name, error), end; !error && entry != end; entry.increment(error))
      names.push_back(entry->path().filename().string());
    if (error) throw FileError(name, "cannot be listed: " + error.message());
    std::sort(names.begin(), names.end());
    return names;
  }
};

CHIASM_INLINE Checkpoint Checkpoint::open(const std::string& folder, CheckpointOptions options) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(folder, error);
  if (!std::filesystem::exists(status)) throw FileError(folder, "no such folder" + (error ? " (" + error.message() + ")" : std::string()));
  if (!std::filesystem::is_directory(status)) throw FileError(folder, "is a file, expected a folder with config.json and weights");
  auto state = std::make_shared<State>();
  state->name = folder;
  state->options = std::move(options);
  return Checkpoint(std::move(state));
}

CHIASM_INLINE Checkpoint Checkpoint::from_memory(std::vector<std::pair<std::string, std::span<const std::byte>>> files, CheckpointOptions options,
                                                 std::string name, std::shared_ptr<const void> owner) {
  auto state = std::make_shared<State>();
  state->name = std::move(name);
  state->options = std::move(options);
  state->files.emplace();
  for (auto& [file, bytes] : files)
    if (!state->files->try_emplace(file, FileMap(bytes, state->name + "/" + file, owner)).second)
      throw ArgumentError("Checkpoint::from_memory: '" + file + "' is there twice");
  return Checkpoint(std::move(state));
}

CHIASM_INLINE Checkpoint Checkpoint::subfolder(std::string_view folder) const {
  if (!state_->files) return open(path(folder), state_->options);
  auto state = std::make_shared<State>();
  state->name = path(folder);
  state->options = state_->options;
  state->files.emplace();
  const std::string prefix = std::string(folder) + "/";
  for (const auto& [file, bytes] : *state_->files)
    if (file.starts_with(prefix)) state->files->emplace(file.substr(prefix.size()), bytes);
  if (state->files->empty()) throw FileError(state->name, "not among the files in memory");
  return Checkpoint(std::move(state));
}

CHIASM_INLINE const std::string& Checkpoint::name() const noexcept { return state_->name; }

CHIASM_INLINE std::string Checkpoint::path(std::string_view file) const {
  const bool separated = state_->name.empty() || state_->name.back() == '/';
  return state_->name + (separated ? "" : "/") + std::string(file);
}

CHIASM_INLINE bool Checkpoint::has(std::string_view file) const {
  if (state_->files) return state_->files->find(file) != state_->files->end();
  std::error_code error;
  return std::filesystem::exists(path(file), error);
}

CHIASM_INLINE FileMap Checkpoint::file(std::string_view file) const {
  if (!state_->files) return FileMap::open(path(file));
  const auto found = state_->files->find(file);
  if (found == state_->files->end()) throw FileError(path(file), "not among the files in memory");
  return found->second;
}

CHIASM_INLINE std::string Checkpoint::read(std::string_view file) const { return std::string(this->file(file).text()); }

CHIASM_INLINE Json Checkpoint::json(std::string_view file) const {
  const std::lock_guard lock(state_->mutex);
  const auto known = state_->parsed.find(file);
  if (known != state_->parsed.end()) return known->second;
  if (!has(file)) return {};
  const FileMap map = this->file(file);
  return state_->parsed.emplace(file, Json::parse(map.text(), map.path())).first->second;
}

CHIASM_INLINE Json Checkpoint::config() const {
  Json config = json("config.json");
  if (config.is_null() && !has("config.json")) throw FileError(path("config.json"), "not there: a checkpoint begins with it");
  if (!config.is_object()) throw ConfigError(path("config.json"), "", "expected an object, have " + config.dump(60));
  return config;
}

CHIASM_INLINE std::string Checkpoint::model_type() const { return std::string(config()["model_type"].as_string()); }

CHIASM_INLINE Json Checkpoint::image_processor_config() const {
  if (const Json nested = processor_config(); nested.find("image_processor").is_object()) return nested;
  if (!has("preprocessor_config.json"))
    throw FileError(path("preprocessor_config.json"), "missing, and processor_config.json has no image_processor");
  return preprocessor_config();
}

CHIASM_INLINE Weights Checkpoint::weights(const std::string& name) const {
  const FileMap bytes = file(name);
  Weights weights(name.ends_with(".safetensors") ? Safetensors::parse(bytes).tensors : TorchPickle::parse(bytes).tensors, path(name), state_->options.weights);
  if (state_->options.on_progress) state_->options.on_progress(name, 1, 1);
  return weights;
}

CHIASM_INLINE Weights Checkpoint::weights() const {
  const State& state = *state_;
  std::vector<std::string> safetensors, torch, others;
  for (const std::string& name : state.list()) {
    const auto ends = [&](std::string_view ending) { return name.ends_with(ending); };
    const auto begins = [&](std::string_view beginning) { return name.starts_with(beginning); };
    // What trainers leave beside the weights.
    const bool trainers = begins("training_args") || begins("optimizer") || begins("scheduler") || begins("scaler") || begins("rng_state");
    if (ends(".safetensors")) safetensors.push_back(name);
    if ((ends(".bin") || ends(".pt") || ends(".pth")) && !trainers) torch.push_back(name);
    if (ends(".gguf") || ends(".h5") || ends(".msgpack") || ends(".onnx")) others.push_back(name);
  }
  for (const auto& [names, whole] : {std::pair(&safetensors, std::string("model.safetensors")), std::pair(&torch, std::string("pytorch_model.bin"))}) {
    if (has(whole)) return weights(whole);
    const std::string index = whole + ".index.json";
    if (has(index)) {
      const auto shard = [&](const std::string& name) {
        if (!has(name)) throw FileError(path(name), "not there, but " + index + " names it");
        return file(name);
      };
      const auto progress = [&](std::string_view file, std::size_t done, std::size_t total) {
        if (state.options.on_progress) state.options.on_progress(file, done, total);
      };
      const auto read = names == &torch ? read_torch_pickle_shards : read_safetensors_shards;
      return Weights(read(file(index), shard, progress), state.name, state.options.weights);
    }
    if (names->size() == 1) return weights(names->front());
  }
  const std::string known = "model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json";
  for (const std::vector<std::string>* const names : {&safetensors, &torch})
    if (names->size() > 1)
      throw FileError(state.name, std::to_string(names->size()) + " files of weights (" + names->at(0) + ", " + names->at(1) + ", ...) but none of " + known);
  if (!others.empty()) throw UnsupportedError("weights in " + path(others[0]) + "; readable are " + known + ", or one *.safetensors, *.bin or *.pt");
  throw FileError(state.name, "no weights: looked for " + known + ", *.safetensors, *.bin, *.pt");
}

}  // namespace chiasm
