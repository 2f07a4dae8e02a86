#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/packed_cache.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/torch_pickle.hpp>

#include <algorithm>
#include <cstdio>
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
  std::optional<GgufModel> gguf;
  std::mutex mutex;
  std::map<std::string, Json, std::less<>> parsed;

  /// A tree as the options want it.
  Weights converting(const Weights& weights) const {
    Conversion how;
    how.kind = options.weights;
    how.bf16_panels = options.bf16_panels;
    how.threads = options.threads;
    how.cancel = options.cancel;
    how.on_progress = options.on_progress;
    if (!options.packed_cache.empty()) how.before = cache_of(weights);
    return weights.converting(std::move(how));
  }
  std::shared_ptr<ConvertedTensors> cache_of(const Weights& weights) const {
    std::optional<WeightsIdentity> identity = WeightsIdentity::of(weights);
    if (!identity) return nullptr;
    const std::lock_guard lock(caches_mutex);
    std::shared_ptr<PackedCache>& cache = caches[weights.source()];
    if (!cache) cache = std::make_shared<PackedCache>(PackedCache::path_in(options.packed_cache, weights.source(), options.weights), std::move(*identity), options.weights);
    return cache;
  }
  mutable std::mutex caches_mutex;
  mutable std::map<std::string, std::shared_ptr<PackedCache>> caches;  // by the trees' sources

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

namespace detail {

/// Of a folder's files, the GGUF models: each one's first shard. And the files that hold vision towers.
struct GgufFiles {
  std::vector<std::string> models, mmprojs;

  explicit GgufFiles(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (!name.ends_with(".gguf")) continue;
      const std::string_view shard = shard_of(name);
      if (name.find("mmproj") != std::string::npos) mmprojs.push_back(name);
      else if (shard.empty() || shard.starts_with("-00001-of-")) models.push_back(name);
    }
  }

  /// "-00001-of-00003", as gguf-split names what it cuts up; empty for a whole file.
  static std::string_view shard_of(std::string_view name) {
    constexpr std::string_view form = "-00000-of-00000.gguf";
    if (name.size() < form.size()) return {};
    const std::string_view end = name.substr(name.size() - form.size());
    for (std::size_t i = 0; i < form.size(); ++i)
      if (form[i] == '0' ? end[i] < '0' || end[i] > '9' : end[i] != form[i]) return {};
    return end.substr(0, end.size() - 5);
  }
};

/// The model that begins with `name`, of the files that `list` names and `open` opens. A tower that lies there is taken where it fits.
inline GgufModel read_gguf(const std::string& name, FunctionRef<std::vector<std::string>()> list, FunctionRef<FileMap(const std::string&)> open,
                           const std::optional<FileMap>& mmproj) {
  GgufModel model{Gguf::parse(open(name))};
  const auto count = model.text.get<std::uint16_t>("split.count", 1);
  if (count > 1) {
    const std::string_view shard = GgufFiles::shard_of(name);
    char first[32];
    std::snprintf(first, sizeof first, "-00001-of-%05u", unsigned{count});
    if (shard != first) throw FileError(model.text.file(), "one of " + std::to_string(count) + " shards; the first one's name ends in " + first + ".gguf");
    for (unsigned i = 2; i <= count; ++i) {
      std::snprintf(first, sizeof first, "-%05u-of-%05u.gguf", i, unsigned{count});
      model.shards.push_back(Gguf::parse(open(name.substr(0, name.size() - shard.size() - 5) + first)));
    }
  }
  if (mmproj) {
    model.mmproj = Gguf::parse(*mmproj);
  } else if (const std::vector<std::string> beside = GgufFiles(list()).mmprojs; beside.size() == 1 && beside[0] != name) {
    if (Gguf tower = Gguf::parse(open(beside[0])); GgufModel::fit(model.text, tower)) model.mmproj = std::move(tower);
  }
  return model;
}

/// The only model. Throws FileError.
inline const std::string& only_gguf(const GgufFiles& files, const std::string& folder) {
  if (files.models.size() == 1) return files.models[0];
  if (files.models.empty()) throw FileError(folder, "no GGUF file but " + files.mmprojs[0] + ", which is no text model");
  throw FileError(folder, std::to_string(files.models.size()) + " GGUF models (" + files.models[0] + ", " + files.models[1] + ", ...): say which one");
}

}  // namespace detail

CHIASM_INLINE Checkpoint Checkpoint::open(const std::string& path, CheckpointOptions options) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) throw FileError(path, "no such file or folder" + (error ? " (" + error.message() + ")" : std::string()));
  auto state = std::make_shared<State>();
  state->name = path;
  state->options = std::move(options);
  std::string gguf;  // its path
  if (std::filesystem::is_directory(status)) {
    if (!std::filesystem::exists(std::filesystem::path(path) / "config.json", error))
      if (const detail::GgufFiles files(state->list()); !files.models.empty() || !files.mmprojs.empty())
        gguf = (std::filesystem::path(path) / detail::only_gguf(files, path)).string();
  } else if (path.ends_with(".gguf")) {
    gguf = path;
  } else {
    throw FileError(path, "is a file, expected a folder with config.json and weights, or a *.gguf");
  }
  const std::string& mmproj = state->options.mmproj;
  if (gguf.empty()) {
    if (!mmproj.empty()) throw ArgumentError("mmproj " + mmproj + " for " + path + ", which is no GGUF file");
    return Checkpoint(std::move(state));
  }
  const std::filesystem::path file(gguf), folder = file.parent_path();
  State beside;
  beside.name = folder.empty() ? "." : folder.string();
  state->gguf = detail::read_gguf(
      file.filename().string(), [&] { return beside.list(); }, [&](const std::string& name) { return FileMap::open((folder / name).string()); },
      mmproj.empty() ? std::nullopt : std::optional(FileMap::open(mmproj)));
  state->files.emplace();
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
  if (state->files->contains("config.json")) return Checkpoint(std::move(state));
  if (const detail::GgufFiles gguf(state->list()); !gguf.models.empty() || !gguf.mmprojs.empty()) {
    const auto bytes = [&](const std::string& file) {
      const auto found = state->files->find(file);
      if (found == state->files->end()) throw FileError(state->name + "/" + file, "not among the files in memory");
      return found->second;
    };
    const std::string& mmproj = state->options.mmproj;
    state->gguf = detail::read_gguf(
        detail::only_gguf(gguf, state->name), [&] { return state->list(); }, bytes, mmproj.empty() ? std::nullopt : std::optional(bytes(mmproj)));
  }
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
CHIASM_INLINE const GgufModel* Checkpoint::gguf() const noexcept { return state_->gguf ? &*state_->gguf : nullptr; }

CHIASM_INLINE std::string Checkpoint::path(std::string_view file) const {
  if (state_->gguf) return state_->gguf->text.file();  // all that there is of it
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
  if (const std::optional<GgufModel>& gguf = state_->gguf) {
    const Json made = file == "config.json" ? gguf->config() : file == "preprocessor_config.json" ? gguf->preprocessor_config() : Json();
    return state_->parsed.emplace(file, made).first->second;
  }
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
  if (!has("preprocessor_config.json") && !(state_->gguf && state_->gguf->mmproj))
    throw FileError(path("preprocessor_config.json"), "missing, and processor_config.json has no image_processor");
  return preprocessor_config();
}

CHIASM_INLINE void Checkpoint::keep_converted() const noexcept {
  const std::lock_guard lock(state_->caches_mutex);
  for (const auto& [source, cache] : state_->caches) cache->write();
}

CHIASM_INLINE Weights Checkpoint::weights(const std::string& name) const {
  const FileMap bytes = file(name);
  Weights weights(name.ends_with(".safetensors") ? Safetensors::parse(bytes).tensors : TorchPickle::parse(bytes).tensors, path(name));
  if (state_->options.on_progress) state_->options.on_progress(name, 1, 1);
  return state_->converting(weights);
}

CHIASM_INLINE Weights Checkpoint::weights() const {
  const State& state = *state_;
  if (state.gguf) {
    const Weights weights = state.gguf->weights();
    if (state.options.on_progress) state.options.on_progress(state.gguf->text.file(), 1, 1);
    return state.converting(weights);
  }
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
      return state.converting(Weights(read(file(index), shard, progress), state.name));
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
