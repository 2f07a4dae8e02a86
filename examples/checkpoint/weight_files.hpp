/// CheckpointWeights: the files with weights, and the tensors in them.
#pragma once

#include "config.hpp"

#include <chiasm/core/weight.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/torch_pickle.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace examples {

class CheckpointWeights : public CheckpointConfig {
 protected:
  using CheckpointConfig::CheckpointConfig;

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
  /// BLIP-2's first stage, which compares pictures with texts, as opposed to its second, which speaks.
  bool is_retrieval() const {
    return type_ == "blip-2" && std::any_of(tensors_.begin(), tensors_.end(), [](const chiasm::Weight& weight) { return weight.name() == "itm_head.weight"; });
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

  std::vector<ordered_json> weight_files_;
  std::vector<chiasm::Weight> tensors_;
  std::set<std::string> lost_;  // names of tensors in shards that are not there
  std::uint64_t stored_ = 0;

 private:
  void no_weights() {
    const std::vector<std::string> gguf = files_ending({".gguf"}), others = files_ending({".ckpt", ".h5", ".msgpack", ".onnx", ".npz"});
    if (!gguf.empty())
      error("weights", "only as GGUF (" + list_text(gguf) + "), beside a config.json: give the GGUF file itself, or download the original *.safetensors");
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

  std::set<std::string> seen_;  // names of tensors that are there
};

}  // namespace examples
