/// What is in a checkpoint folder, and everything that keeps it from being loaded, in words that a person can act on. Of weights, only
/// the headers are read.
#pragma once

#include <chiasm/chiasm.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace examples {

using nlohmann::ordered_json;

/// "5.9 MB", in powers of ten, as download pages count.
inline std::string bytes_text(double bytes) {
  const char* const units[] = {"bytes", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1000;
  char text[40];
  std::snprintf(text, sizeof text, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}
inline std::string bytes_text(std::uint64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

/// "2.9 million"
inline std::string count_text(std::uint64_t count) {
  const double n = static_cast<double>(count);
  char text[40];
  if (count < 100'000)
    std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(count));
  else if (n < 999.5e6)
    std::snprintf(text, sizeof text, "%.1f million", n / 1e6);
  else
    std::snprintf(text, sizeof text, "%.2f billion", n / 1e9);
  return text;
}

class CheckpointReport {
 public:
  struct Finding {
    bool fatal;  // the checkpoint cannot be loaded, or used for what it is for
    std::string where, what;
  };

  /// With `read_weights`, all values are looked at, too: not-a-numbers, infinities, tensors of nothing but zeros.
  explicit CheckpointReport(std::string folder, bool read_weights = false) : folder_(std::move(folder)), read_weights_(read_weights) {
    while (folder_.size() > 1 && folder_.ends_with('/')) folder_.pop_back();
    facts["folder"] = folder_;
    const bool there = look_at_folder();
    if (there && has("flamingo_config.json")) {
      look_at_flamingo();
    } else if (there && read_config()) {
      read_weight_files();
      wire();
      read_tokenizer();
      read_image_processor();
      read_chat_template();
      read_generation_config();
      count_memory();
      if (loads()) load();
    }
    facts["loads"] = loads();
    facts["findings"] = ordered_json::array();
    for (const Finding& finding : findings)
      facts["findings"].push_back({{"severity", finding.fatal ? "error" : "note"}, {"where", finding.where}, {"what", finding.what}});
  }

  bool loads() const {
    return std::none_of(findings.begin(), findings.end(), [](const Finding& finding) { return finding.fatal; });
  }

  ordered_json facts;                                        // for programs
  std::vector<std::pair<std::string, std::string>> summary;  // for people: a word and what is to be said
  std::vector<Finding> findings;

 private:
  void error(std::string where, std::string what) { findings.push_back({true, std::move(where), std::move(what)}); }
  void note(std::string where, std::string what) { findings.push_back({false, std::move(where), std::move(what)}); }
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
      if (!broken_.contains(where)) error(where, without_path(e.what(), folder_ + "/" + where));
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
  static std::string list_text(const std::vector<std::string>& names, std::size_t most = 6) {
    std::string text;
    for (std::size_t i = 0; i < names.size() && i < most; ++i) text += (i == 0 ? "" : ", ") + names[i];
    return names.size() > most ? text + " and " + std::to_string(names.size() - most) + " more" : text;
  }

  // --- the folder

  bool look_at_folder() {
    namespace fs = std::filesystem;
    std::error_code failed;
    const fs::file_status status = fs::status(folder_, failed);
    if (!fs::exists(status)) return error(folder_, "there is no such folder"), false;
    if (!fs::is_directory(status)) {
      error(folder_, folder_.ends_with(".gguf")
                         ? "is one GGUF file; what is read are folders in the Hugging Face layout: config.json, *.safetensors, tokenizer.json"
                         : "is a file; give the folder that holds it, with config.json and tokenizer.json");
      return false;
    }
    for (fs::directory_iterator entry(folder_, failed), end; !failed && entry != end; entry.increment(failed)) {
      std::error_code ignored;
      if (!entry->is_directory(ignored)) files_[entry->path().filename().string()] = entry->is_regular_file(ignored) ? entry->file_size(ignored) : 0;
    }
    if (failed) return error(folder_, "cannot be listed: " + failed.message()), false;
    for (const auto& [file, size] : files_) look_at_file(file, size);
    if (has("flamingo_config.json")) return true;
    if (!has("config.json")) no_config();
    return has("config.json") && !broken_.contains("config.json");
  }

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
    std::vector<std::string> gguf = files_ending({".gguf"}), weights = files_ending({".safetensors"});
    if (weights.empty()) weights = torch_files();
    if (!below.empty())
      why += ". Is it one of these folders? " + list_text(below);
    else if (has("adapter_config.json"))
      why += ". This is an adapter (LoRA), not a model: merge it into its base model (peft: merge_and_unload, save_pretrained)";
    else if (has("model_index.json"))
      why += ". This is a diffusers pipeline, which makes pictures; models that read pictures are supported";
    else if (has("params.json"))
      why += ". These are weights in their maker's own layout: look for the same model in the transformers layout (often a name that ends in -hf)";
    else if (!gguf.empty())
      why += ". There are GGUF files (" + list_text(gguf) +
             "), which are not read: download the original repository, with config.json and *.safetensors";
    else if (!weights.empty())
      why += ". The weights are here (" + list_text(weights) + "): download config.json and the tokenizer's files of the same repository, too";
    else if (files_.empty())
      why += ". The folder is empty";
    error("config.json", why);
  }

  bool read_config() {
    checkpoint_ = chiasm::Checkpoint::open(folder_);
    if (!try_to("config.json", [&] { config_ = checkpoint_->config(); })) return false;
    for (const std::string file :
         {"generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "chat_template.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"})
      if (has(file) && !broken_.contains(file) && !try_to(file, [&] { (void)checkpoint_->json(file); })) broken_.insert(file);
    if (!try_to("config.json", [&] { type_ = checkpoint_->model_type(); })) return false;
    facts["model_type"] = type_;
    summary.emplace_back("model", type_);
    if (const chiasm::Json names = config_.find("architectures"); names.is_array() && names.size() > 0 && names.at(0).is_string()) {
      facts["architecture"] = std::string(names.at(0).as_string());
      summary.back().second += " (" + std::string(names.at(0).as_string()) + ")";
    }
    std::vector<std::string> known = {"blip-2", "instructblip", "idefics", "llava", "llava_next", "clip", "siglip", "t5"};
    known.insert(known.end(), std::begin(chiasm::text_model_types), std::end(chiasm::text_model_types));
    known_ = std::find(known.begin(), known.end(), type_) != known.end();
    if (!known_) {
      std::string list;
      for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
      std::string hint;
      if (config_.contains("mm_vision_tower") || type_.starts_with("llava_"))
        hint = ". It looks like LLaVA in its authors' own layout: take the transformers form (llava-hf/...)";
      else if (config_.contains("auto_map"))
        hint = ". It comes with Python code of its own (auto_map), which is not run";
      error("config.json", "model_type '" + type_ + "' is none of those that are supported: " + list + hint);
    }
    if (const chiasm::Json quantized = config_.find("quantization_config"); quantized.is_object()) {
      const chiasm::Json method = quantized.find("quant_method");
      error("config.json", "the weights are quantised (" +
                               (method.is_string() ? std::string(method.as_string()) : std::string("quantization_config")) +
                               "), which is not read: take the original checkpoint in bf16, f16 or f32");
    }
    return true;
  }

  // --- weights

  void read_weight_files() {
    std::string whole, index;
    std::vector<std::string> others;
    for (const bool torch : {false, true}) {  // as Checkpoint::weights() looks for them
      whole = torch ? "pytorch_model.bin" : "model.safetensors", index = whole + ".index.json";
      const std::vector<std::string> files = torch ? torch_files() : files_ending({".safetensors"});
      if (others.empty()) others = files;
      if (files.size() == 1) others = files;
      if (has(whole) || has(index) || files.size() == 1) break;
    }
    if (has(whole)) {
      read_weight_file(whole);
      if (has(index)) note(index, "is not looked at, because there is " + whole);
    } else if (has(index)) {
      read_shards(index);
    } else if (others.size() == 1) {
      read_weight_file(others[0]);
    } else if (others.size() > 1) {
      const std::string name = others[0].ends_with(".safetensors") ? "model.safetensors" : "pytorch_model.bin";
      error("weights", std::to_string(others.size()) + " *" + std::filesystem::path(others[0]).extension().string() + " (" + list_text(others) +
                           "), but neither " + name + " nor " + name + ".index.json, which says what is where: download that, too");
    } else {
      no_weights();
    }
    count_weights();
  }

  void count_weights() {
    facts["weights"] = {{"files", weight_files_}, {"tensors", tensors_.size()}};
    std::map<chiasm::DType, std::array<std::uint64_t, 3>> dtypes;  // tensors, elements, bytes
    for (const chiasm::Weight& weight : tensors_) {
      auto& [tensors, elements, bytes] = dtypes[weight.dtype()];
      ++tensors, elements += weight.shape().size(), bytes += weight.bytes();
      stored_ += weight.bytes();
    }
    std::string words = std::to_string(tensors_.size()) + " tensors, " + bytes_text(stored_) + " in " +
                        (weight_files_.size() == 1 ? weight_files_[0].value("name", std::string()) : std::to_string(weight_files_.size()) + " files");
    std::string separator = ": ";
    facts["weights"]["bytes"] = stored_;
    facts["weights"]["dtypes"] = ordered_json::object();
    for (const auto& [dtype, numbers] : dtypes) {
      const std::string name(chiasm::name(dtype));
      facts["weights"]["dtypes"][name] = {{"tensors", numbers[0]}, {"elements", numbers[1]}, {"bytes", numbers[2]}};
      words += separator + name + (dtypes.size() == 1 ? "" : " " + bytes_text(numbers[2]));
      separator = ", ";
    }
    if (!tensors_.empty()) summary.emplace_back("weights", words);
  }

  void no_weights() {
    const std::vector<std::string> gguf = files_ending({".gguf"}), others = files_ending({".ckpt", ".h5", ".msgpack", ".onnx", ".npz"});
    if (!gguf.empty())
      error("weights", "only as GGUF (" + list_text(gguf) + "), which is not read: download the original *.safetensors");
    else if (!others.empty())
      error("weights", "only in formats that are not read (" + list_text(others) + "): download *.safetensors");
    else
      error("weights", "there are none: model.safetensors, or model.safetensors.index.json with its shards, is missing");
  }

  /// Opens one file and adds its tensors. `wanted`: the names that the index places there.
  bool read_weight_file(const std::string& file, const std::set<std::string>* wanted = nullptr) {
    const std::string lost = wanted == nullptr ? "" : " (" + std::to_string(wanted->size()) + " tensors, such as " + *wanted->begin() + ")";
    if (broken_.contains(file)) return false;
    const std::string text = head(file);
    if (text.starts_with("GGUF")) return error(file, "is a GGUF file under another name" + lost), false;
    const bool safetensors = file.ends_with(".safetensors");
    if (safetensors && (text.starts_with("PK\x03\x04") || (text.size() > 1 && text[0] == '\x80' && text[1] == '\x02')))
      return error(file, "is a pickled PyTorch file under another name" + lost), false;
    const std::size_t before = findings.size();
    try {
      const chiasm::FileMap bytes = checkpoint_->file(file);
      const std::vector<chiasm::Weight> content = safetensors ? chiasm::Safetensors::parse(bytes).tensors : chiasm::TorchPickle::parse(bytes).tensors;
      for (const chiasm::Weight& weight : content) {
        if (wanted != nullptr && !wanted->contains(weight.name()))
          error(file, "holds '" + weight.name() + "', which the index does not place there: index and shards are not of one version");
        if (!seen_.insert(weight.name()).second) {
          error(file, "holds '" + weight.name() + "' a second time");
          continue;
        }
        tensors_.push_back(weight);
      }
      weight_files_.push_back({{"name", file}, {"bytes", files_.at(file)}, {"tensors", content.size()}});
    } catch (const chiasm::Error& e) {
      const std::optional<std::uint64_t> whole = safetensors ? announced_size(file) : std::nullopt;
      if (whole && *whole > files_.at(file))
        error(file, "is cut short: " + bytes_text(files_.at(file)) + " of " + bytes_text(*whole) + " (" + std::to_string(files_.at(file)) + " of " +
                        std::to_string(*whole) + " bytes): download it again" + lost);
      else
        error(file, without_path(e.what(), path(file)) + lost);
    }
    return findings.size() == before;
  }

  /// The size that a safetensors file's own header asks for, where that can be read.
  std::optional<std::uint64_t> announced_size(const std::string& file) const {
    try {
      const std::string length = head(file, 8);
      std::uint64_t size = 0;
      if (length.size() < 8) return std::nullopt;
      std::memcpy(&size, length.data(), 8);
      if (size > 100'000'000) return std::nullopt;
      if (size + 8 > files_.at(file)) return size + 8;
      const std::string text = head(file, static_cast<std::size_t>(size) + 8).substr(8);
      std::uint64_t end = 0;
      for (const chiasm::Json tensor : chiasm::Json::parse(text, file))
        if (const chiasm::Json offsets = tensor.find("data_offsets"); offsets.is_array() && offsets.size() == 2)
          end = std::max(end, static_cast<std::uint64_t>(std::max<std::int64_t>(offsets.at(1).as_int(), 0)));
      return 8 + size + end;
    } catch (const chiasm::Error&) {
      return std::nullopt;
    }
  }

  void read_shards(const std::string& index) {
    if (broken_.contains(index)) return;
    std::map<std::string, std::set<std::string>> shards;
    const bool fine = try_to(index, [&] {
      const chiasm::Json map = checkpoint_->json(index).find("weight_map");
      if (!map.is_object() || map.size() == 0) throw chiasm::FormatError(path(index), 0, "no object 'weight_map' with the file of each tensor");
      for (const chiasm::Json entry : map) {
        const std::string shard(entry.as_string());
        if (shard.empty() || shard == "." || shard == ".." || shard.find_first_of("/\\:") != std::string::npos)
          entry.fail("is '" + shard + "', expected the plain name of a file beside the index");
        shards[shard].insert(std::string(entry.key()));
      }
    });
    if (!fine) return;
    for (const auto& [shard, names] : shards) {
      if (!has(shard)) {
        error(shard,
              "is missing; " + index + " places " + std::to_string(names.size()) + " tensors there, such as " + *names.begin() + ": download it");
        lost_.insert(names.begin(), names.end());
        continue;
      }
      if (!read_weight_file(shard, &names)) {
        for (const std::string& name : names)
          if (!seen_.contains(name)) lost_.insert(name);
        continue;
      }
      std::vector<std::string> missing;
      for (const std::string& name : names)
        if (!seen_.contains(name)) missing.push_back(name);
      if (!missing.empty())
        error(shard, "lacks " + std::to_string(missing.size()) + " tensors that " + index + " places there: " + list_text(missing) +
                         ". Index and shards are not of one version");
      lost_.insert(missing.begin(), missing.end());
    }
    for (const std::string& file : files_ending({".safetensors"}))
      if (!shards.contains(file)) note(file, "is not looked at: the index does not name it");
  }

  /// Builds the model on what the headers say: every tensor that config.json asks for, with its shape, and none left over.
  void wire() {
    if (!known_) return;
    const chiasm::Weights files(tensors_, folder_);
    std::vector<chiasm::WeightError> wrong;
    const chiasm::Weights w = files.noting(wrong);
    (void)try_to("config.json", [&] {
      if (is_llava()) {
        const chiasm::Llava model(w, config_);
        describe(model);
      } else if (is_idefics()) {
        const chiasm::Idefics model(w, config_);
        describe(model);
      } else if (is_retrieval()) {
        const chiasm::Blip2Itm model(w, config_);
        describe(model.config());
      } else if (is_blip2()) {
        const chiasm::Blip2 model(w, config_);
        describe(model.config());
        const auto* const t5 = dynamic_cast<const chiasm::T5*>(model.encoder_decoder());
        t5 != nullptr ? describe(*t5) : describe(model.language_model());
      } else if (chiasm::is_text_model(type_)) {
        const std::unique_ptr<chiasm::LanguageModel> model = chiasm::make_text_model(w, config_);
        w.expect_all_used();
        describe(*model);
      } else if (type_ == "t5") {
        const chiasm::T5 model(w, chiasm::T5Config::from(config_));
        w.expect_all_used();
        describe(model);
      } else if (type_ == "clip") {
        const chiasm::Clip model(w, config_);
        describe(model.vision_model().config(), "clip_vision_model");
        describe(model.text_model().config());
      } else {
        const chiasm::Siglip model(w, config_);
        describe(model.vision_model().config(), "siglip_vision_model");
        describe(model.text_model().config());
      }
    });
    report(wrong);
    count_parameters(files);
  }

  /// Tensors that lie in a shard that is not there are said with the shard; the others one by one, alike ones in one line.
  void report(const std::vector<chiasm::WeightError>& wrong) {
    if (tensors_.empty()) return;
    struct Group {
      std::string first, file, have, want;
      std::size_t count = 0;
    };
    std::vector<std::pair<std::string, Group>> groups;
    std::map<std::string, std::size_t> place;
    const std::set<std::string> names = lost_names();
    std::size_t lost = 0;
    ordered_json list = ordered_json::array();
    for (const chiasm::WeightError& one : wrong) {
      if (one.have == "missing" && names.contains(one.tensor)) {
        ++lost;
        continue;
      }
      list.push_back({{"tensor", one.tensor}, {"file", one.file}, {"have", one.have}, {"want", one.want}});
      std::string pattern = one.tensor;  // "model.layers.0.x" and "model.layers.1.x" are alike
      for (std::size_t at = 0; (at = pattern.find_first_of("0123456789", at)) != std::string::npos; ++at) {
        std::size_t end = at;
        while (end < pattern.size() && pattern[end] >= '0' && pattern[end] <= '9') ++end;
        const bool number = (at == 0 || pattern[at - 1] == '.') && (end == pattern.size() || pattern[end] == '.');
        if (number)
          pattern.replace(at, end - at, "N");
        else
          at = end - 1;
      }
      const auto [known, fresh] = place.try_emplace(pattern + "|" + one.have + "|" + one.want, groups.size());
      if (fresh) groups.push_back({pattern, {one.tensor, one.file, one.have, one.want, 0}});
      ++groups[known->second].second.count;
    }
    facts["wrong_tensors"] = list;
    for (const auto& [pattern, group] : groups) {
      const std::string which =
          group.count == 1 ? "'" + group.first + "'" : std::to_string(group.count) + " tensors '" + pattern + "', such as '" + group.first + "',";
      const std::string is = group.count == 1 ? " is " : " are ";
      const std::string file = std::filesystem::path(group.file).filename().string();
      if (group.have == "missing")
        error("weights", which + is + "missing; config.json asks for " + (group.want == "a tensor" ? "it" : group.want));
      else if (group.have.starts_with("not used"))
        error(file, which + is + group.have + ": the model that config.json describes has no place for " + (group.count == 1 ? "it" : "them"));
      else
        error(file, which + is + group.have + ", config.json asks for " + group.want);
    }
    if (lost > 0) note("weights", std::to_string(lost) + " tensors of the model lie in shards that are missing or damaged");
  }
  bool is_llava() const { return type_ == "llava" || type_ == "llava_next"; }
  bool is_idefics() const { return type_ == "idefics"; }
  bool is_blip2() const { return type_ == "blip-2" || type_ == "instructblip"; }
  /// BLIP-2's first stage, which compares pictures with texts, as opposed to its second, which speaks.
  bool is_retrieval() const {
    return type_ == "blip-2" && std::any_of(tensors_.begin(), tensors_.end(), [](const chiasm::Weight& weight) { return weight.name() == "itm_head.weight"; });
  }
  chiasm::Weights normalise(const chiasm::Weights& w) const { return is_llava() ? chiasm::Llava::normalise(w) : is_blip2() ? chiasm::Blip2::normalise(w) : is_idefics() ? chiasm::Idefics::normalise(w) : w; }
  bool generates() const { return is_llava() || is_idefics() || (is_blip2() && !is_retrieval()) || chiasm::is_text_model(type_) || type_ == "t5"; }
  bool takes_pictures() const { return is_llava() || is_idefics() || is_blip2() || type_ == "clip" || type_ == "siglip"; }
  /// The names in lost_ as the model calls them.
  std::set<std::string> lost_names() const {
    std::vector<chiasm::Weight> tensors;
    for (const std::string& name : lost_) tensors.emplace_back(name, chiasm::DType::f32, chiasm::Shape{0}, nullptr, nullptr, folder_);
    chiasm::Weights lost(std::move(tensors), folder_);
    const std::vector<std::string> names = normalise(lost).names();
    return {names.begin(), names.end()};
  }

  void count_parameters(const chiasm::Weights& files) {
    std::uint64_t total = 0;
    std::map<std::string, std::uint64_t> parts;
    std::vector<chiasm::WeightError> ignored;
    const chiasm::Weights named = normalise(files).noting(ignored);
    for (const std::string& name : named.names()) {
      const chiasm::Weight weight = named.get(name);
      if (weight.dtype() >= chiasm::DType::i8) continue;  // buffers
      std::string part = name.starts_with("model.") ? name.substr(6) : name;
      part.resize(std::min(part.find('.'), part.size()));
      parts[part] += weight.shape().size();
      total += weight.shape().size();
    }
    if (total == 0) return;
    facts["parameters"] = total;
    facts["parts"] = ordered_json::object();
    std::string words;
    for (const auto& [part, count] : parts) {
      facts["parts"][part] = count;
      words += (words.empty() ? "" : ", ") + part + " " + count_text(count);
    }
    summary.emplace_back("parameters", count_text(total) + ": " + words);
  }

  // --- what the model is

  void describe(const chiasm::VitConfig& c, const std::string& type) {
    facts["vision"] = {{"type", type},
                       {"layers", c.num_hidden_layers},
                       {"width", c.hidden_size},
                       {"heads", c.num_attention_heads},
                       {"image_size", c.image_size},
                       {"patch_size", c.patch_size},
                       {"patches", c.grid() * c.grid()}};
    summary.emplace_back("vision", std::to_string(c.num_hidden_layers) + " layers of width " + std::to_string(c.hidden_size) + ", pictures of " +
                                       std::to_string(c.image_size) + " x " + std::to_string(c.image_size) + " in " +
                                       std::to_string(c.grid() * c.grid()) + " patches of " + std::to_string(c.patch_size) + " x " +
                                       std::to_string(c.patch_size) + (c.fused_qkv ? " (EVA-CLIP)" : c.class_token ? " (CLIP)" : " (SigLIP)"));
    vision_ = c;
  }
  void describe(const chiasm::TextTowerConfig& c) {
    facts["text"] = {{"layers", c.num_hidden_layers},
                     {"width", c.hidden_size},
                     {"heads", c.num_attention_heads},
                     {"vocabulary", c.vocab_size},
                     {"context_length", c.max_position_embeddings}};
    summary.emplace_back("text", std::to_string(c.num_hidden_layers) + " layers of width " + std::to_string(c.hidden_size) + ", vocabulary of " +
                                     std::to_string(c.vocab_size) + ", texts of at most " + std::to_string(c.max_position_embeddings) + " tokens");
    vocabulary_ = c.vocab_size;
  }
  void describe(const chiasm::LanguageModel& model) {
    vocabulary_ = model.vocab_size();
    facts["language"] = {{"vocabulary", model.vocab_size()}, {"width", model.hidden_size()}};
    const auto* const decoder = dynamic_cast<const chiasm::DecoderStack*>(&model);
    if (decoder == nullptr) return;
    const chiasm::DecoderSizes& c = decoder->sizes();
    const chiasm::Json text = config_.find("text_config");
    const std::string type = (text.is_object() ? text : config_).get<std::string>("model_type", "llama");
    context_ = c.context_length;
    cache_ = c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 2 * sizeof(float);
    facts["language"] = {{"type", type},
                         {"layers", c.num_hidden_layers},
                         {"width", c.hidden_size},
                         {"heads", c.num_attention_heads},
                         {"key_value_heads", c.num_key_value_heads},
                         {"head_dim", c.head_dim},
                         {"vocabulary", c.vocab_size},
                         {"context_length", context_}};
    std::string words = type + ": " + std::to_string(c.num_hidden_layers) + " layers of width " + std::to_string(c.hidden_size) + ", " +
                        std::to_string(c.num_attention_heads) + " heads";
    if (c.num_key_value_heads != c.num_attention_heads) words += " (" + std::to_string(c.num_key_value_heads) + " of keys and values)";
    words += ", vocabulary of " + std::to_string(c.vocab_size);
    summary.emplace_back("language", words);
    std::string length = std::to_string(context_) + " tokens";
    const auto* const windowed = dynamic_cast<const chiasm::Decoder*>(&model);
    const std::size_t window = windowed == nullptr || windowed->config().windows.empty()
                                   ? 0
                                   : *std::max_element(windowed->config().windows.begin(), windowed->config().windows.end());
    if (window > 0 && window < context_) {
      length += ", of which a layer sees the last " + std::to_string(window);
      facts["language"]["sliding_window"] = window;
    }
    summary.emplace_back("context", length);
  }
  void describe(const chiasm::T5& model) {
    const chiasm::T5Config& c = model.config();
    facts["encoder"] = {{"layers", c.num_layers}, {"width", c.d_model}, {"heads", c.num_heads}};
    summary.emplace_back("encoder", std::to_string(c.num_layers) + " layers of width " + std::to_string(c.d_model) + ", " + std::to_string(c.num_heads) + " heads");
    describe(model.decoder());
  }
  void describe(const chiasm::Blip2Config& c) {
    describe(c.vision, c.instruct ? "instructblip_vision_model" : "blip_2_vision_model");
    const chiasm::QFormerConfig& q = c.qformer;
    const bool reads_text = c.instruct || is_retrieval();
    facts["qformer"] = {{"queries", q.num_query_tokens}, {"layers", q.num_hidden_layers}, {"width", q.hidden_size}, {"heads", q.num_attention_heads},
                        {"cross_attention_frequency", q.cross_attention_frequency}, {"reads_text", reads_text}};
    summary.emplace_back("Q-Former", std::to_string(q.num_query_tokens) + " queries, " + std::to_string(q.num_hidden_layers) + " layers of width " +
                                         std::to_string(q.hidden_size) + ", " + std::to_string(q.num_attention_heads) + " heads" +
                                         (c.instruct ? "; reads the instruction, too" : reads_text ? "; reads texts, too" : ""));
    view_tokens_ = is_retrieval() ? 0 : q.num_query_tokens;
  }
  void describe(const chiasm::Llava& model) {
    const chiasm::LlavaConfig& c = model.config();
    describe(c.vision, c.vision.class_token ? "clip_vision_model" : "siglip_vision_model");
    describe(model.language_model());
    image_token_ = c.image_token_index;
    anyres_ = c.anyres;
    view_tokens_ = c.vision.grid() * c.vision.grid() + c.vision.class_token - (c.vision_feature_select_strategy == chiasm::FeatureStrategy::patches);
  }

  // --- OpenFlamingo: three checkpoints in one folder

  void look_at_flamingo() {
    type_ = "open_flamingo";
    facts["model_type"] = type_;
    summary.emplace_back("model", type_);
    checkpoint_ = chiasm::Checkpoint::open(folder_);
    std::optional<chiasm::FlamingoParts> parts;
    if (!try_to("flamingo_config.json", [&] { parts = chiasm::FlamingoParts::open(*checkpoint_); })) return;
    const chiasm::FlamingoFiles& files = parts->files;
    std::vector<chiasm::WeightError> wrong;
    (void)try_to(files.checkpoint, [&] {
      const bool safetensors = files.checkpoint.ends_with(".safetensors");
      const chiasm::Weights trained(safetensors ? chiasm::Safetensors::parse(parts->checkpoint).tensors : chiasm::TorchPickle::parse(parts->checkpoint).tensors,
                                    path(files.checkpoint));
      const chiasm::ClipVision vision = chiasm::ClipVision::open(parts->vision, files.vision_quick_gelu);
      const chiasm::Weights base = parts->language_model.weights();
      config_ = parts->language_model.config();
      for (const chiasm::Weights& tree : {trained, base, vision.weights}) {
        const chiasm::Weights noted = tree.noting(wrong);
        weight_files_.push_back({{"name", tree.source()}, {"bytes", tree.bytes()}, {"tensors", tree.names().size()}});
        for (const std::string& name : tree.names()) tensors_.push_back(noted.get(name));
      }
      image_token_ = parts->tokenizer.id(files.media_token);
      const chiasm::OpenFlamingo model(trained.noting(wrong), base.noting(wrong), config_, vision.weights.noting(wrong),
                                       {vision.config, files.vision_tokens_ln_post, files.only_attend_immediate_media, files.cross_attn_every_n_layers, *image_token_});
      describe(vision.config, "clip_vision_model");
      summary.emplace_back("pictures", in_words(vision.image_transform) + " (open_clip)");
      facts["connector"] = {{"latents", model.perceiver().config().latents}, {"first_layer", model.gated_layers().first}, {"interval", model.gated_layers().interval}};
      summary.emplace_back("connector", std::to_string(model.perceiver().config().latents) + " latents a picture, seen before layer " +
                                            std::to_string(model.gated_layers().first) + " and each " + std::to_string(model.gated_layers().interval) + " layers on");
      describe(model.language_model().inner());
      count_parameters(chiasm::OpenFlamingo::normalise(trained, base, config_).merged(vision.weights.renamed([](std::string_view name) {
        return "vision_encoder." + std::string(name);
      })));
      facts["tokenizer"] = {{"size", parts->tokenizer.size()}};
      summary.emplace_back("tokenizer", std::to_string(parts->tokenizer.size()) + " tokens");
    });
    report(wrong);
    count_weights();
    count_memory();
    if (loads()) load();
  }

  void describe(const chiasm::Idefics& model) {
    const chiasm::IdeficsConfig& c = model.config();
    describe(c.vision, "idefics_vision");
    describe(model.llama());
    vocabulary_ = model.language_model().vocab_size();  // with the additional tokens
    facts["language"]["vocabulary"] = vocabulary_;
    facts["connector"] = {{"resampler", c.use_resampler}, {"interval", c.cross_layer_interval}, {"qk_layer_norms", c.qk_layer_norms}};
    if (c.use_resampler) facts["connector"]["latents"] = c.perceiver.latents;
    summary.emplace_back("connector", (c.use_resampler ? std::to_string(c.perceiver.latents) + " latents a picture" : std::string("the tower's states")) + ", seen before " +
                                          (c.cross_layer_interval == 1 ? std::string("every layer") : "layer 0 and each " + std::to_string(c.cross_layer_interval) + " layers on"));
  }

  // --- words

  void read_tokenizer() {
    const std::size_t before = findings.size();
    std::string kind, source;
    for (const char* const file : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model",
                                   "vocab.json", "vocab.txt", "qwen.tiktoken", "tiktoken.model"})
      if (source.empty() && has(file)) source = file;
    if (source.empty()) {
      error("tokenizer.json", "not there, nor another tokenizer's file: download tokenizer.json of the same repository");
      return;
    }
    std::optional<chiasm::Tokenizer> tokens;
    for (const char* const file : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
      if (broken_.contains(file)) return;  // said already
    (void)try_to(source, [&] { tokens = chiasm::Tokenizer::load(*checkpoint_); });
    if (!tokens) return;
    const auto type_of = [](const chiasm::Json& part) {
      return part.find("type").is_string() ? std::string(part.find("type").as_string()) : std::string();
    };
    if (source == "tokenizer.json") {
      const chiasm::Json file = checkpoint_->json(source);
      kind = type_of(file.find("model"));
      if (kind.empty()) kind = file.find("model").contains("merges") ? "BPE" : "WordPiece";
    } else {
      kind = source.ends_with(".model") ? "SentencePiece" : source == "vocab.txt" ? "WordPiece" : source.ends_with(".tiktoken") ? "tiktoken" : "BPE";
    }
    std::size_t special = 0;
    for (chiasm::TokenId id = 0; id < static_cast<chiasm::TokenId>(tokens->size()); ++id) special += tokens->is_special(id);
    facts["tokenizer"] = {{"file", source}, {"kind", kind}, {"size", tokens->size()}, {"special_tokens", special}};
    std::string words = kind + " from " + source + ", " + std::to_string(tokens->size()) + " tokens, " + std::to_string(special) + " of them special";
    for (const auto& [name, id] :
         {std::pair("bos", tokens->bos()), std::pair("eos", tokens->eos()), std::pair("pad", tokens->pad()), std::pair("unk", tokens->unk())}) {
      facts["tokenizer"][name] = id ? ordered_json(*id) : ordered_json();
      if (id) words += std::string("; ") + name + " " + std::string(tokens->token(*id)) + " (" + std::to_string(*id) + ")";
    }
    const chiasm::Json settings = checkpoint_->tokenizer_config();
    if (const chiasm::Json name = settings.find("tokenizer_class"); name.is_string()) facts["tokenizer"]["class"] = std::string(name.as_string());
    summary.emplace_back("tokenizer", words);

    std::size_t beyond = 0;
    chiasm::TokenId last = 0;
    for (chiasm::TokenId id = static_cast<chiasm::TokenId>(vocabulary_);
         vocabulary_ > 0 && id < static_cast<chiasm::TokenId>(std::max(vocabulary_, tokens->size()) + 1000); ++id)
      if (!tokens->token(id).empty() && id != image_token_) ++beyond, last = id;
    if (beyond > 0)
      note(source, std::to_string(beyond) + " tokens have ids from " + std::to_string(vocabulary_) + " on, up to " + std::to_string(last) +
                       ", for which the model has no embedding: a text with one of them is refused");
    if (image_token_ && tokens->token(*image_token_).empty())
      error("config.json", "the picture's placeholder is token " + std::to_string(*image_token_) +
                               " (image_token_index), which the tokenizer does not have: tokenizer and config.json are not of one model");
    else if (image_token_) {
      const std::vector<chiasm::TokenId> ids = tokens->encode(tokens->token(*image_token_), false);
      if (ids != std::vector<chiasm::TokenId>{*image_token_})
        error(source, "reads the picture's placeholder '" + std::string(tokens->token(*image_token_)) + "' as " + std::to_string(ids.size()) +
                          " tokens: it must be an added token");
    }
    has_eos_ = tokens->eos().has_value();
    if (findings.size() == before) tokenizer_ = std::move(tokens);
  }

  void read_chat_template() {
    if (!generates()) return;
    std::string file = "chat template";
    for (const char* const name : {"processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"}) {
      if (broken_.contains(name)) return;  // said already
      const bool holds = std::string_view(name).ends_with(".jinja") ? has(name) : has(name) && checkpoint_->json(name).contains("chat_template");
      if (holds && file == "chat template") file = name;
    }
    (void)try_to(file, [&] {
      const std::optional<chiasm::ChatTemplate> found = chiasm::ChatTemplate::find(*checkpoint_);
      facts["chat_template"] = {{"from", found ? ordered_json(file) : ordered_json()}};
      if (!found) {
        summary.emplace_back("chat template",
                             image_token_ ? "none; LLaVA 1.5's USER/ASSISTANT turns are used"
                             : is_idefics() && tokenizer_ && tokenizer_->id("<end_of_utterance>") ? "none; User/Assistant turns that end with <end_of_utterance> are used"
                                                                                                  : "none: a prompt is read as it stands");
        return;
      }
      const bool parts = found->content_form() == chiasm::ContentForm::parts;
      facts["chat_template"]["content"] = parts ? "parts" : "text";
      summary.emplace_back("chat template", "from " + file + (parts ? "; takes a list of texts and pictures" : "; takes plain text"));
    });
  }

  void read_generation_config() {
    if (!generates()) return;
    const std::string file = "generation_config.json";
    if (broken_.contains(file)) return;
    chiasm::GenerateOptions options;
    const chiasm::Json json = checkpoint_->generation_config();
    if (!json.is_null() && !try_to(file, [&] { options = chiasm::GenerateOptions::from(json); })) return;
    std::string words;
    const auto say = [&](const std::string& what) { words += (words.empty() ? "" : ", ") + what; };
    if (options.do_sample.value_or(false)) say("samples");
    if (options.num_beams.value_or(1) > 1) say(std::to_string(*options.num_beams) + " beams");
    const auto number = [](double value) {
      char text[40];
      std::snprintf(text, sizeof text, "%g", value);
      return std::string(text);
    };
    if (options.temperature) say("temperature " + number(*options.temperature));
    if (options.top_k) say("top_k " + std::to_string(*options.top_k));
    if (options.top_p) say("top_p " + number(*options.top_p));
    if (options.repetition_penalty) say("repetition_penalty " + number(*options.repetition_penalty));
    if (options.max_new_tokens)
      say("at most " + std::to_string(*options.max_new_tokens) + " new tokens");
    else if (options.max_length)
      say("at most " + std::to_string(*options.max_length) + " tokens in all");
    std::vector<chiasm::TokenId> ends = options.eos_token_id.value_or(std::vector<chiasm::TokenId>());
    if (!ends.empty()) {
      std::vector<std::string> names;
      for (const chiasm::TokenId id : ends)
        names.push_back(std::to_string(id) +
                        (tokenizer_ && !tokenizer_->token(id).empty() ? " " + std::string(tokenizer_->token(id)) : std::string()));
      say("ends at " + list_text(names));
    }
    facts["generation_config"] = {{"there", !json.is_null()}, {"do_sample", options.do_sample.value_or(false)}, {"eos_token_id", ends}};
    if (!json.is_null()) summary.emplace_back("generation", words.empty() ? "greedy" : words);
    const bool in_config = !config_.find("eos_token_id").is_null() || !config_.find("text_config").find("eos_token_id").is_null();
    if (ends.empty() && !has_eos_ && !(json.is_null() && in_config))
      note(json.is_null() ? "config.json" : file, "no end token is named, there or in the tokenizer: an answer ends at its longest length only");
  }

  // --- pictures

  void read_image_processor() {
    if (!takes_pictures()) return;
    std::string file = "preprocessor_config.json";
    if (has("processor_config.json") && !broken_.contains("processor_config.json") &&
        checkpoint_->processor_config().find("image_processor").is_object())
      file = "processor_config.json";
    if (broken_.contains(file)) return;
    if (!has(file)) return error(file, "not there: it says how pictures are prepared; download it from the same repository");
    (void)try_to(file, [&] {
      const char* const kind = type_ == "clip"     ? "CLIPImageProcessor"
                               : type_ == "siglip" ? "SiglipImageProcessor"
                               : is_blip2()        ? "BlipImageProcessor"
                               : is_idefics()      ? "IdeficsImageProcessor"
                               : anyres_           ? "LlavaNextImageProcessor"
                                                   : "LlavaImageProcessor";
      const chiasm::ImageProcessor processor = chiasm::ImageProcessor::from_json(checkpoint_->image_processor_config(), kind);
      const chiasm::ImageProcessorConfig& c = processor.config();
      facts["image_processor"] = {{"file", file}, {"type", c.image_processor_type}};
      summary.emplace_back("pictures", in_words(c) + " (" + c.image_processor_type + ")");
      if (!vision_) return;
      const std::vector<chiasm::Image> views = processor.views(chiasm::Image(640, 480));
      const std::size_t side = vision_->image_size;
      if (!views.empty() && (views[0].width() != static_cast<int>(side) || views[0].height() != static_cast<int>(side)))
        findings.push_back({is_llava() || is_idefics() || (is_blip2() && !is_retrieval()), file,
                            "makes pictures of " + std::to_string(views[0].width()) + " x " + std::to_string(views[0].height()) +
                                ", the vision tower was trained on " + std::to_string(side) + " x " + std::to_string(side) + " (config.json)"});
      if (view_tokens_ == 0) return;
      std::size_t most = view_tokens_;
      if (anyres_) {
        const std::size_t grid = vision_->grid();
        for (const auto& [height, width] : c.image_grid_pinpoints) {
          const std::size_t rows = static_cast<std::size_t>(height) / side * grid, columns = static_cast<std::size_t>(width) / side * grid;
          most = std::max(most, view_tokens_ + rows * (columns + 1));
        }
      }
      facts["image_tokens"] = {{"least", view_tokens_}, {"most", most}};
      summary.emplace_back("image tokens", anyres_ ? "up to " + std::to_string(most) + " a picture: " + std::to_string(view_tokens_) +
                                                         " for the whole, the rest for its tiles"
                                                   : std::to_string(view_tokens_) + " a picture");
      if (context_ > 0 && view_tokens_ >= context_)
        note("config.json", "one picture takes " + std::to_string(view_tokens_) + " tokens, more than the context of " + std::to_string(context_));
    });
  }

  static std::string in_words(const chiasm::ImageProcessorConfig& c) {
    const char* const filters[] = {"nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming"};
    std::string words;
    const auto step = [&](const std::string& what) { words += (words.empty() ? "" : ", ") + what; };
    const auto pair = [](int width, int height) { return std::to_string(width) + " x " + std::to_string(height); };
    if (!c.image_grid_pinpoints.empty()) {
      std::vector<std::string> canvases;
      for (const auto& [height, width] : c.image_grid_pinpoints) canvases.push_back(pair(width, height));
      step("the whole, and tiles of the best of " + list_text(canvases, 12));
    }
    if (c.do_pad) step("padded to a square");
    const std::string filter = std::string(" (") + filters[static_cast<std::size_t>(c.resample)] + ")";
    if (c.do_resize && c.size.shortest_edge > 0)
      step("shorter side to " + std::to_string(c.size.shortest_edge) + filter);
    else if (c.do_resize && c.size.height > 0)
      step("resized to " + pair(c.size.width, c.size.height) + filter);
    else if (c.do_resize)
      step("resized" + filter);
    if (c.do_center_crop) step("middle " + pair(c.crop_size.width, c.crop_size.height));
    const auto numbers = [](const std::array<double, 3>& values) {
      char text[80];
      if (values[0] == values[1] && values[1] == values[2])
        std::snprintf(text, sizeof text, "%.4g", values[0]);
      else
        std::snprintf(text, sizeof text, "(%.4g, %.4g, %.4g)", values[0], values[1], values[2]);
      return std::string(text);
    };
    if (c.do_rescale && std::abs(c.rescale_factor * 255 - 1) > 1e-6) step("times " + std::to_string(c.rescale_factor));
    if (c.do_normalize) step("mean " + numbers(c.image_mean) + ", deviation " + numbers(c.image_std));
    return words;
  }

  // --- memory

  void count_memory() {
    if (tensors_.empty()) return;
    std::uint64_t mapped = 0, copied = 0, as_f32 = 0, as_bf16 = 0;
    for (const chiasm::Weight& weight : tensors_) {
      const std::uint64_t elements = weight.shape().size();
      const bool matrix = weight.shape().rank() >= 2, kernel = static_cast<std::size_t>(weight.dtype()) < chiasm::float_kinds;
      mapped += matrix && kernel ? weight.bytes() : 0;
      copied += matrix && kernel ? 0 : elements * sizeof(float);
      as_f32 += weight.dtype() == chiasm::DType::f32 && matrix ? 0 : elements * sizeof(float);
      as_bf16 += !matrix ? elements * sizeof(float) : weight.dtype() == chiasm::DType::bf16 ? 0 : elements * 2;
    }
    facts["memory"] = {
        {"mapped_bytes", mapped}, {"copied_bytes", copied}, {"copied_bytes_weights_f32", as_f32}, {"copied_bytes_weights_bf16", as_bf16}};
    std::string words = bytes_text(mapped) + " of weights mapped from the files, " + bytes_text(copied) + " copied; " + bytes_text(as_f32) +
                        " copied with --weights f32, " + bytes_text(as_bf16) + " with bf16";
    if (cache_ > 0) {
      facts["memory"]["kv_cache_bytes_per_1000_tokens"] = cache_ * 1000;
      words += "; keys and values " + bytes_text(static_cast<std::uint64_t>(cache_ * 1000)) + " per 1,000 tokens";
      if (context_ > 0) words += ", " + bytes_text(static_cast<std::uint64_t>(cache_ * context_)) + " for the whole context";
    }
    summary.emplace_back("memory", words);
    if (!read_weights_) return;
    std::size_t looked_at = 0;
    for (const chiasm::Weight& weight : tensors_) {
      if (weight.shape().size() == 0 || weight.dtype() >= chiasm::DType::i8) continue;
      ++looked_at;
      look_at_values(weight);
    }
    summary.emplace_back("values", "of " + std::to_string(looked_at) + " tensors read");
  }

  void look_at_values(const chiasm::Weight& weight) {
    bool zero = true;
    std::uint64_t bad = 0;
    const chiasm::Weight rows = weight.reshape(chiasm::Shape{weight.shape().rows(), weight.shape().columns()});
    const std::size_t step = std::max<std::size_t>(1, (std::size_t{1} << 20) / std::max<std::size_t>(1, rows.shape()[1]));
    for (std::size_t begin = 0; begin < rows.shape()[0]; begin += step) {
      const chiasm::Tensor values = rows.slice(begin, std::min(step, rows.shape()[0] - begin)).to_f32();
      for (std::size_t i = 0; i < values.size(); ++i) {
        bad += !std::isfinite(values.data()[i]);
        zero &= values.data()[i] == 0;
      }
    }
    const std::string file = std::filesystem::path(weight.file()).filename().string();
    if (bad > 0) error(file, "'" + weight.name() + "' holds " + std::to_string(bad) + " values that are infinite or no numbers");
    if (zero && weight.shape().rank() >= 2) note(file, "'" + weight.name() + "' holds nothing but zeros: a download with holes?");
  }

  // --- and the proof

  void load() {
    try {
      if (type_ == "clip" || type_ == "siglip" || is_retrieval()) {
        (void)chiasm::DualEncoder::load(*checkpoint_);
      } else {
        const chiasm::Pipeline pipeline = chiasm::load(*checkpoint_);
        const chiasm::Message question{"user", image_token_ || is_blip2() || is_idefics() ? chiasm::Prompt{chiasm::Image(8, 8), "What is this?"} : chiasm::Prompt{"What is this?"}};
        try {
          const std::string prompt = pipeline.render(std::span<const chiasm::Message>(&question, 1));
          facts["example_prompt"] = prompt;
          summary.emplace_back("a question is", ordered_json(prompt).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
        } catch (const chiasm::Error& e) {
          error("chat template", std::string("fails on a plain question: ") + e.what());
        }
      }
    } catch (const chiasm::Error& e) {
      error(folder_, e.what());
    }
  }

  std::string folder_, type_;
  bool read_weights_, known_ = false, anyres_ = false, has_eos_ = false;
  std::map<std::string, std::uint64_t> files_;  // name -> bytes
  std::set<std::string> broken_;                // files about which enough has been said
  std::optional<chiasm::Checkpoint> checkpoint_;
  chiasm::Json config_;
  std::vector<ordered_json> weight_files_;
  std::vector<chiasm::Weight> tensors_;
  std::set<std::string> seen_, lost_;  // names of tensors that are there, and of those in shards that are not
  std::uint64_t stored_ = 0;
  std::optional<chiasm::VitConfig> vision_;
  std::optional<chiasm::Tokenizer> tokenizer_;
  std::optional<chiasm::TokenId> image_token_;
  std::size_t vocabulary_ = 0, context_ = 0, cache_ = 0, view_tokens_ = 0;
};

}  // namespace examples
