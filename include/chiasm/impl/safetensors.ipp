#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/impl/json_string.hpp>
#include <chiasm/io/safetensors.hpp>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <set>

namespace chiasm::inline CHIASM_ABI {

static_assert(std::endian::native == std::endian::little, "weights are read as they lie in the file, which is little-endian");

namespace detail {

inline constexpr std::pair<std::string_view, DType> safetensors_dtypes[] = {
    {"F32", DType::f32},         {"F16", DType::f16},         {"BF16", DType::bf16},       {"F64", DType::f64},
    {"F8_E4M3", DType::f8_e4m3}, {"F8_E5M2", DType::f8_e5m2}, {"F8_E8M0", DType::f8_e8m0}, {"I8", DType::i8},
    {"U8", DType::u8},           {"I16", DType::i16},         {"U16", DType::u16},         {"I32", DType::i32},
    {"U32", DType::u32},         {"I64", DType::i64},         {"U64", DType::u64},         {"BOOL", DType::boolean}};

inline std::optional<DType> safetensors_dtype(std::string_view name) noexcept {
  for (const auto& [key, dtype] : safetensors_dtypes)
    if (key == name) return dtype;
  return std::nullopt;
}

/// One entry of a safetensors header.
class SafetensorsEntry {
 public:
  SafetensorsEntry(const FileMap& file, Json info) : file_(file), info_(info) {}

  DType dtype() const {
    const Json value = member("dtype");
    if (!value.is_string()) refuse("dtype is " + value.dump(60) + ", expected a string");
    const std::string_view name = value.as_string();
    if (const std::optional<DType> dtype = safetensors_dtype(name)) return *dtype;
    for (const std::string_view other : {"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"})
      if (other == name) throw UnsupportedError(file_.path() + ": " + quoted(info_.key()) + " has dtype " + std::string(name));
    refuse("dtype is " + quoted(name) + ", which is none of the format");
  }
  Shape shape() const {
    const Json value = member("shape");
    if (!value.is_array()) refuse("shape is " + value.dump(60) + ", expected a list of extents");
    if (value.size() > Shape::max_rank)
      throw UnsupportedError(file_.path() + ": " + quoted(info_.key()) + " has " + std::to_string(value.size()) + " dimensions, at most " + std::to_string(Shape::max_rank));
    Shape shape;
    for (const Json extent : value) shape.append(count(extent, "shape"));
    return shape;
  }
  /// Begin and end, relative to the data section.
  std::pair<std::size_t, std::size_t> offsets() const {
    const Json value = member("data_offsets");
    if (!value.is_array() || value.size() != 2) refuse("data_offsets is " + value.dump(60) + ", expected [begin, end]");
    const std::pair offsets(count(value.at(0), "data_offsets"), count(value.at(1), "data_offsets"));
    if (offsets.first > offsets.second) refuse("data_offsets is " + value.dump(60) + ": begin is after end");
    return offsets;
  }
  /// Bytes that the shape asks for.
  std::size_t bytes(DType dtype, const Shape& shape) const {
    std::size_t product = size_of(dtype);
    for (const std::size_t extent : shape) {
      if (extent != 0 && product > std::numeric_limits<std::size_t>::max() / extent) refuse("shape " + shape.to_string() + " overflows");
      product *= extent;
    }
    return product;
  }
  [[noreturn]] void refuse(const std::string& what, std::uint64_t byte = 8) const {
    throw FormatError(file_.path(), byte, quoted(info_.key()) + ": " + what);
  }

 private:
  Json member(std::string_view key) const {
    if (!info_.is_object()) refuse("is no object with dtype, shape and data_offsets");
    if (!info_.contains(key)) refuse("has no " + std::string(key));
    return info_.find(key);
  }
  std::size_t count(const Json& value, const std::string& what) const {
    if (!value.is_integer() || value.as_int() < 0) refuse(what + " has " + value.dump(60) + ", expected integers from 0 to 2^63 - 1");
    return static_cast<std::size_t>(value.as_int());
  }

  const FileMap& file_;
  Json info_;
};

}  // namespace detail

CHIASM_INLINE Safetensors Safetensors::parse(const FileMap& file) {
  constexpr std::uint64_t length_bytes = 8, max_header = 100'000'000;
  if (file.size() < length_bytes)
    throw FormatError(file.path(), file.size(), "the file ends after " + std::to_string(file.size()) + " bytes, expected 8 with the header's length");
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, file.data(), sizeof header_size);
  if (header_size > max_header)
    throw FormatError(file.path(), 0, "header of " + std::to_string(header_size) + " bytes, at most " + std::to_string(max_header));
  if (header_size > file.size() - length_bytes)
    throw FormatError(file.path(), file.size(), "the file ends inside the header of " + std::to_string(header_size) + " bytes");
  const std::string_view text = file.text().substr(length_bytes, static_cast<std::size_t>(header_size));
  if (!text.starts_with('{')) throw FormatError(file.path(), length_bytes, "the header does not begin with '{'");
  const Json header = Json::parse(text, file.path(), Json::Duplicates::error, length_bytes);

  const std::uint64_t data_begin = length_bytes + header_size;
  const std::span<const std::byte> data = file.bytes().subspan(static_cast<std::size_t>(data_begin));
  struct Part {
    std::size_t begin, end;
    Weight weight;
    Json info;
  };
  std::vector<Part> parts;
  parts.reserve(header.size());
  Safetensors result;
  for (const Json info : header) {
    if (info.key() == "__metadata__") {
      if (!info.is_object()) throw FormatError(file.path(), length_bytes, "__metadata__ is no object");
      for (const Json value : info)
        if (!value.is_string()) throw FormatError(file.path(), length_bytes, "__metadata__ has " + detail::quoted(value.key()) + ": " + value.dump(60) + ", expected a string");
      result.metadata = info;
      continue;
    }
    const detail::SafetensorsEntry entry(file, info);
    const DType dtype = entry.dtype();
    const Shape shape = entry.shape();
    const auto [begin, end] = entry.offsets();
    const std::size_t bytes = entry.bytes(dtype, shape);
    if (end - begin != bytes)
      entry.refuse("data_offsets span " + std::to_string(end - begin) + " bytes, " + std::string(name(dtype)) + " " + shape.to_string() + " takes " + std::to_string(bytes));
    if (end > data.size())
      entry.refuse("ends at byte " + std::to_string(end) + " of the data, which has " + std::to_string(data.size()), file.size());
    // An empty tensor of a file that ends with its header still has an address.
    const std::byte* const first = file.data() + data_begin + begin;
    parts.push_back({begin, end, Weight(std::string(info.key()), dtype, shape, first, file.owner(), file.path()), info});
  }

  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::size_t filled = 0;
  for (Part& part : parts) {
    if (part.begin != filled)
      detail::SafetensorsEntry(file, part.info)
          .refuse("begins at byte " + std::to_string(part.begin) + " of the data, the tensor before ends at " + std::to_string(filled), data_begin + part.begin);
    filled = part.end;
    result.tensors.push_back(std::move(part.weight));
  }
  if (filled != data.size())
    throw FormatError(file.path(), data_begin + filled, std::to_string(data.size() - filled) + " bytes after the last tensor belong to none");
  return result;
}

CHIASM_INLINE Weights read_safetensors(const std::string& path, WeightKind kind) {
  return Weights(Safetensors::parse(FileMap::open(path)).tensors, path, kind);
}

CHIASM_INLINE Weights read_safetensors(std::span<const std::byte> bytes, std::string name, std::shared_ptr<const void> owner, WeightKind kind) {
  return Weights(Safetensors::parse(FileMap(bytes, name, std::move(owner))).tensors, name, kind);
}

namespace detail {

/// The tensors of all shards that an index names: of safetensors or, with another `parse`, of another format.
inline std::vector<Weight> read_shards(const FileMap& index, FunctionRef<FileMap(const std::string& shard)> open, FunctionRef<std::vector<Weight>(const FileMap&)> parse,
                                       FunctionRef<void(std::string_view shard, std::size_t done, std::size_t total)> progress) {
  const Json map = Json::parse(index.text(), index.path(), Json::Duplicates::error).find("weight_map");
  if (!map.is_object()) throw FormatError(index.path(), 0, "no object 'weight_map' with the file of each tensor");
  std::map<std::string, std::set<std::string_view>, std::less<>> shards;  // file -> names of its tensors, which `map` keeps
  for (const Json value : map) {
    const auto refuse = [&](const std::string& what) { throw FormatError(index.path(), 0, "weight_map: " + detail::quoted(value.key()) + " " + what); };
    if (!value.is_string()) refuse("is " + value.dump(60) + ", expected a file name");
    const std::string_view file = value.as_string();
    // The files are those of this folder, wherever the index came from.
    if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\:\0", 4)) != std::string_view::npos)
      refuse("is in " + value.dump(60) + ", expected the plain name of a file beside the index");
    shards[std::string(file)].insert(value.key());
  }
  std::vector<Weight> tensors;
  tensors.reserve(map.size());
  std::size_t done = 0;
  for (auto& [name, wanted] : shards) {
    const FileMap file = open(name);
    for (Weight& weight : parse(file)) {
      if (wanted.erase(weight.name()) == 0)
        throw WeightError(file.path(), weight.name(), weight.describe() + " that " + index.path() + " does not have in this file", "no such tensor");
      tensors.push_back(std::move(weight));
    }
    if (!wanted.empty()) throw WeightError(file.path(), std::string(*wanted.begin()), "missing", "a tensor, by " + index.path());
    progress(name, ++done, shards.size());
  }
  return tensors;
}

}  // namespace detail

CHIASM_INLINE std::vector<Weight> read_safetensors_shards(const FileMap& index, FunctionRef<FileMap(const std::string& shard)> open,
                                                          FunctionRef<void(std::string_view shard, std::size_t done, std::size_t total)> progress) {
  return detail::read_shards(index, open, [](const FileMap& file) { return Safetensors::parse(file).tensors; }, progress);
}

CHIASM_INLINE Weights read_safetensors_index(const std::string& path, WeightKind kind) {
  const std::size_t slash = path.find_last_of("/\\");
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  const auto open = [&](const std::string& shard) {
    try {
      return FileMap::open(folder + shard);
    } catch (const FileError& error) {
      throw FileError(error.file, std::string(error.what()).substr(error.file.size() + 2) + " (a shard that " + path + " names)");
    }
  };
  return Weights(read_safetensors_shards(FileMap::open(path), open, [](std::string_view, std::size_t, std::size_t) {}), path, kind);
}

namespace detail {

/// A file under another name until it is whole; then it takes its name.
class NewFile {
 public:
  explicit NewFile(const std::string& path) : path_(path), part_(path + ".part"), file_(std::fopen(part_.c_str(), "wb")) {
    if (file_ == nullptr) refuse();
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (file_ != nullptr) {
      std::fclose(file_);
      std::remove(part_.c_str());
    }
  }
  void write(const void* bytes, std::size_t count) {
    if (count > 0 && std::fwrite(bytes, 1, count, file_) != count) refuse();
  }
  void finish() {
    const int closed = std::fclose(std::exchange(file_, nullptr));
    if (closed != 0 || std::rename(part_.c_str(), path_.c_str()) != 0) {
      std::remove(part_.c_str());
      refuse();
    }
  }

 private:
  [[noreturn]] void refuse() const { throw FileError(path_, "cannot be written"); }
  std::string path_, part_;
  std::FILE* file_;
};

}  // namespace detail

CHIASM_INLINE void write_safetensors(const std::string& path, std::span<const Weight> tensors, std::span<const std::pair<std::string, std::string>> metadata) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      detail::append_json_string(header, key);
      header += ':';
      detail::append_json_string(header, value);
      header += ',';
    }
    header.back() = '}';
    header += ',';
  }
  std::set<std::string_view> names;
  std::size_t offset = 0;
  for (const Weight& tensor : tensors) {
    if (!names.insert(tensor.name()).second) throw WeightError(path, tensor.name(), "twice among the tensors to write", "one tensor of each name");
    detail::append_json_string(header, tensor.name());
    const auto* const dtype = std::find_if(std::begin(detail::safetensors_dtypes), std::end(detail::safetensors_dtypes),
                                           [&](const auto& known) { return known.second == tensor.dtype(); });
    header += ":{\"dtype\":\"" + std::string(dtype->first) + "\",\"shape\":[";
    for (const std::size_t extent : tensor.shape()) header.append(std::to_string(extent)).append(1, ',');
    if (tensor.shape().rank() > 0) header.pop_back();
    header.append("],\"data_offsets\":[").append(std::to_string(offset)).append(1, ',');
    header.append(std::to_string(offset + tensor.bytes())).append("]},");
    offset += tensor.bytes();
  }
  if (header.size() > 1) header.back() = '}';
  else header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');  // so that the data are aligned

  detail::NewFile file(path);
  const std::uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header.data(), header.size());
  for (const Weight& tensor : tensors) file.write(tensor.data(), tensor.bytes());
  file.finish();
}

}  // namespace chiasm
