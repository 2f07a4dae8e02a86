/// CheckpointFolder: weights in memory written down as a checkpoint on disk, for as long as the object lives.
#pragma once

#include <chiasm/core/weights.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>

class CheckpointFolder {
 public:
  /// config.json, model.safetensors and a copy of `tokenizer`, a tokenizer.json.
  CheckpointFolder(const std::string& config, const chiasm::Weights& weights, const std::string& tokenizer)
      : folder_(std::filesystem::temp_directory_path() / ("chiasm-bench-" + std::to_string(std::random_device()()))) {
    std::filesystem::create_directory(folder_);
    std::ofstream(folder_ / "config.json") << config;
    std::filesystem::copy_file(tokenizer, folder_ / "tokenizer.json");
    write(weights);
  }
  ~CheckpointFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;

  std::string path() const { return folder_.string(); }

 private:
  void write(const chiasm::Weights& weights) const {
    std::string header;
    std::size_t offset = 0;
    for (const std::string& name : weights.names()) {
      const chiasm::Weight w = weights.get(name);
      std::string shape;
      for (std::size_t n : w.shape()) shape.append(shape.empty() ? "" : ",").append(std::to_string(n));
      header.append(header.empty() ? "{\"" : ",\"").append(name).append("\":{\"dtype\":\"");
      header.append(w.dtype() == chiasm::DType::f32 ? "F32" : "BF16").append("\",\"shape\":[").append(shape).append("],\"data_offsets\":[");
      header.append(std::to_string(offset)).append(",").append(std::to_string(offset + w.bytes())).append("]}");
      offset += w.bytes();
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::ofstream file(folder_ / "model.safetensors", std::ios::binary);
    const auto size = static_cast<std::uint64_t>(header.size());
    file.write(reinterpret_cast<const char*>(&size), sizeof size) << header;
    for (const std::string& name : weights.names()) {
      const chiasm::Weight w = weights.get(name);
      file.write(reinterpret_cast<const char*>(w.data()), static_cast<std::streamsize>(w.bytes()));
    }
    if (!file.flush()) throw std::runtime_error(path() + ": no space for a checkpoint");
  }

  std::filesystem::path folder_;
};
