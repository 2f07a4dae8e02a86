/// CheckpointFolder: weights in memory written down as a checkpoint on disk, for as long as the object lives.
#pragma once

#include <chiasm/io/safetensors.hpp>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

class CheckpointFolder {
 public:
  /// config.json, model.safetensors, a copy of `tokenizer`, a tokenizer.json, and `others`: file names and contents.
  CheckpointFolder(const std::string& config, const chiasm::Weights& weights, const std::string& tokenizer,
                   std::vector<std::pair<std::string, std::string>> others = {})
      : folder_(std::filesystem::temp_directory_path() / ("chiasm-bench-" + std::to_string(std::random_device()()))) {
    std::filesystem::create_directory(folder_);
    others.emplace_back("config.json", config);
    for (const auto& [name, content] : others) std::ofstream(folder_ / name) << content;
    std::filesystem::copy_file(tokenizer, folder_ / "tokenizer.json");
    std::vector<chiasm::Weight> tensors;
    for (const std::string& name : weights.names()) {
      const chiasm::Weight w = weights.get(name);
      tensors.emplace_back(name, w.dtype(), w.shape(), w.data(), nullptr, path());
    }
    chiasm::write_safetensors(path() + "/model.safetensors", tensors);
  }
  ~CheckpointFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;

  std::string path() const { return folder_.string(); }

 private:
  std::filesystem::path folder_;
};
