/// CheckpointFolder: which files there are, and which of them are no files of a checkpoint.
#pragma once

#include "amounts.hpp"
#include "findings.hpp"

#include <chiasm/core/error.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace examples {

class CheckpointFolder : public Findings {
 protected:
  explicit CheckpointFolder(std::string folder) : folder_(std::move(folder)) {
    while (folder_.size() > 1 && folder_.ends_with('/')) folder_.pop_back();
    facts["folder"] = folder_;
  }

  bool look_at_folder() {
    namespace fs = std::filesystem;
    std::error_code failed;
    const fs::file_status status = fs::status(folder_, failed);
    if (!fs::exists(status)) return error(folder_, "there is no such folder"), false;
    gguf_ = folder_.ends_with(".gguf") && !fs::is_directory(status);
    if (gguf_) return true;
    if (!fs::is_directory(status)) return error(folder_, "is a file; give the folder that holds it, with config.json and tokenizer.json"), false;
    for (fs::directory_iterator entry(folder_, failed), end; !failed && entry != end; entry.increment(failed)) {
      std::error_code ignored;
      if (!entry->is_directory(ignored)) files_[entry->path().filename().string()] = entry->is_regular_file(ignored) ? entry->file_size(ignored) : 0;
    }
    if (failed) return error(folder_, "cannot be listed: " + failed.message()), false;
    for (const auto& [file, size] : files_) look_at_file(file, size);
    if (has("flamingo_config.json")) return true;
    gguf_ = !has("config.json") && !files_ending({".gguf"}).empty();
    if (gguf_) return true;
    if (!has("config.json")) no_config();
    return has("config.json") && !broken_.contains("config.json");
  }

  /// The message of an exception, whose file is said already.
  static std::string without_path(std::string message, const std::string& path) {
    if (message.starts_with(path + ": ")) message.erase(0, path.size() + 2);
    return message;
  }

  /// Runs `look`; what it throws becomes an error at `where`.
  template <class Look>
  bool try_to(const std::string& where, Look look) {
    const std::size_t before = findings.size();
    try {
      look();
    } catch (const chiasm::Error& e) {
      if (!broken_.contains(where)) error(where, without_path(without_path(e.what(), folder_ + "/" + where), where));
    } catch (const std::bad_alloc&) {
      error(where, "asks for more memory than there is");
    }
    return findings.size() == before && !broken_.contains(where);
  }
  bool has(const std::string& file) const { return files_.contains(file); }
  std::string path(const std::string& file) const { return folder_ + "/" + file; }
  std::string head(const std::string& file, std::size_t most = 512) const {
    std::ifstream stream(path(file), std::ios::binary);
    std::string text(most, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(most));
    text.resize(static_cast<std::size_t>(stream.gcount()));
    return text;
  }
  /// Weights as torch.save writes them, and not what trainers leave beside them.
  static bool is_torch_file(const std::string& file) {
    const auto is_any = [&](std::initializer_list<std::string_view> parts, auto fits) { return std::any_of(parts.begin(), parts.end(), fits); };
    return is_any({".bin", ".pt", ".pth"}, [&](std::string_view ending) { return file.ends_with(ending); }) &&
           !is_any({"training_args", "optimizer", "scheduler", "scaler", "rng_state"}, [&](std::string_view beginning) { return file.starts_with(beginning); });
  }

  std::vector<std::string> torch_files() const {
    std::vector<std::string> found;
    for (const auto& [file, size] : files_)
      if (is_torch_file(file)) found.push_back(file);
    return found;
  }

  std::vector<std::string> files_ending(std::initializer_list<std::string_view> endings) const {
    std::vector<std::string> found;
    for (const auto& [file, size] : files_)
      for (const std::string_view ending : endings)
        if (file.ends_with(ending)) found.push_back(file);
    return found;
  }

  std::string folder_;
  std::map<std::string, std::uint64_t> files_;  // name -> bytes
  std::set<std::string> broken_;                // files about which enough has been said
  bool gguf_ = false;                           // one GGUF file, or a folder of them and no config.json

 private:
  /// What is no file of a checkpoint at all, whatever its name says.
  void look_at_file(const std::string& file, std::uint64_t size) {
    static constexpr std::string_view read =
        " config.json generation_config.json preprocessor_config.json processor_config.json tokenizer.json tokenizer_config.json "
        "special_tokens_map.json added_tokens.json chat_template.json chat_template.jinja model.safetensors.index.json pytorch_model.bin.index.json vocab.json merges.txt "
        "vocab.txt tokenizer.model spiece.model sentencepiece.bpe.model qwen.tiktoken ";
    const bool expected = read.find(" " + file + " ") != std::string_view::npos || file.ends_with(".safetensors") || is_torch_file(file);
    const auto refuse = [&](const std::string& what) {
      broken_.insert(file);
      if (expected) error(file, what);
    };
    if (file.ends_with(".incomplete") || file.ends_with(".part") || file.ends_with(".aria2") || file.ends_with(".crdownload"))
      note(file, "an unfinished download");
    std::error_code failed;
    if (!std::filesystem::exists(path(file), failed)) return refuse("is a link to a file that is not there");
    if (expected && size == 0) return refuse("is empty: download it again");
    const std::string text = head(file);
    if (text.starts_with("version https://git-lfs.github.com/spec/")) {
      const std::size_t at = text.find("\nsize ");
      const std::uint64_t whole = at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + 6, nullptr, 10);
      const std::string real = whole > 0 ? " of " + bytes_text(whole) : "";
      refuse("is a git-LFS pointer (" + std::to_string(size) + " bytes of text) in place of the file" + real +
             ": run `git lfs pull` in this folder, or download the file itself");
    } else if (expected && (text.starts_with("<!DOCTYPE") || text.starts_with("<!doctype") || text.starts_with("<html"))) {
      refuse("is a web page, not the file: download it again (a gated model wants a login first)");
    }
  }

  void no_config() {
    namespace fs = std::filesystem;
    std::string why = "not there: a checkpoint begins with it";
    std::vector<std::string> below;
    std::error_code failed;
    fs::recursive_directory_iterator entry(folder_, fs::directory_options::skip_permission_denied, failed), end;
    for (std::size_t seen = 0; !failed && entry != end && seen < 2000; entry.increment(failed), ++seen) {
      if (entry.depth() > 3) entry.disable_recursion_pending();
      if (entry->path().filename() == "config.json") below.push_back(entry->path().parent_path().string());
    }
    std::sort(below.begin(), below.end());
    std::vector<std::string> weights = files_ending({".safetensors"});
    if (weights.empty()) weights = torch_files();
    if (!below.empty())
      why += ". Is it one of these folders? " + list_text(below);
    else if (has("adapter_config.json"))
      why += ". This is an adapter (LoRA), not a model: merge it into its base model (peft: merge_and_unload, save_pretrained)";
    else if (has("model_index.json"))
      why += ". This is a diffusers pipeline, which makes pictures; models that read pictures are supported";
    else if (has("params.json"))
      why += ". These are weights in their maker's own layout: look for the same model in the transformers layout (often a name that ends in -hf)";
    else if (!weights.empty())
      why += ". The weights are here (" + list_text(weights) + "): download config.json and the tokenizer's files of the same repository, too";
    else if (files_.empty())
      why += ". The folder is empty";
    error("config.json", why);
  }
};

}  // namespace examples
