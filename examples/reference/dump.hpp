/// Dump: what the library computed for a reference case, tensors by name.
#pragma once

#include <chiasm/core/tensor.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace reference {

/// Tensors by name, as they go into a safetensors file. A name that comes again (one call per picture) is joined along the first dimension.
class Dump {
 public:
  struct Entry {
    std::vector<std::size_t> shape;
    chiasm::DType dtype = chiasm::DType::f32;
    std::string bytes;
  };

  /// Only tensors that `expected` has are kept; its shapes tell where the reference has a batch dimension in front or zero views behind.
  explicit Dump(const chiasm::Weights& expected) {
    for (const std::string& name : expected.names()) {
      const chiasm::Shape shape = expected.get(name).shape();
      shapes_[name].assign(shape.begin(), shape.end());
    }
  }

  bool wants(const std::string& name) const { return shapes_.contains(name); }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  /// Their names as they came first.
  const std::vector<std::string>& order() const { return order_; }

  void add(const std::string& name, chiasm::View tensor) {
    if (!wants(name)) return;
    std::vector<std::size_t> shape(tensor.shape().begin(), tensor.shape().end());
    std::string bytes;
    for (std::size_t i = 0; i < tensor.rows(); ++i) bytes.append(reinterpret_cast<const char*>(tensor.row(i)), tensor.columns() * sizeof(float));
    const std::vector<std::size_t>& want = shapes_.at(name);
    if (want.size() == shape.size() + 1) {
      // The views of one picture, to which the reference adds empty ones where another picture has more. Or one of several pictures in a row of them.
      if (want[0] == 1) {
        if (Entry& row = slot(name); !row.shape.empty()) {
          row.shape[1] += shape[0];
          row.bytes += bytes;
          return;
        }
      } else if (want[1] > shape[0] && shape[0] > 0) {
        bytes.resize(bytes.size() / shape[0] * want[1], '\0');
        shape[0] = want[1];
      }
      shape.insert(shape.begin(), 1);
    }
    Entry& entry = slot(name);
    if (entry.shape.empty()) entry.shape = shape;
    else if (entry.shape.size() == shape.size() && std::equal(shape.begin() + 1, shape.end(), entry.shape.begin() + 1)) entry.shape[0] += shape[0];
    else return;
    entry.bytes += bytes;
  }
  void add(const std::string& name, std::vector<std::size_t> shape, const std::vector<std::int64_t>& values) {
    if (!wants(name)) return;
    const char* const data = reinterpret_cast<const char*>(values.data());
    slot(name) = {std::move(shape), chiasm::DType::i64, std::string(data, data + values.size() * sizeof(std::int64_t))};
  }

  void write(const std::string& path) const {
    std::vector<chiasm::Weight> tensors;
    for (const auto& [name, entry] : entries_) {
      chiasm::Shape shape;
      for (const std::size_t extent : entry.shape) shape.append(extent);
      tensors.emplace_back(name, entry.dtype, shape, reinterpret_cast<const std::byte*>(entry.bytes.data()), nullptr, path);
    }
    chiasm::write_safetensors(path, tensors);
  }

 private:
  Entry& slot(const std::string& name) {
    const auto [entry, fresh] = entries_.try_emplace(name);
    if (fresh) order_.push_back(name);
    return entry->second;
  }
  std::map<std::string, std::vector<std::size_t>> shapes_;
  std::map<std::string, Entry> entries_;
  std::vector<std::string> order_;
};

}  // namespace reference
