#pragma once

#include <chiasm/io/file_map.hpp>
#include <chiasm/pipelines/demonstrations.hpp>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE DemonstrationFile DemonstrationFile::from(const Json& entry, const std::string& folder) {
  DemonstrationFile demonstration;
  demonstration.image = (std::filesystem::path(folder) / std::filesystem::path(entry["image"].as_string())).string();
  if (entry.contains("caption")) {
    if (entry.contains("answer")) entry.fail("has both an answer and a caption");
    demonstration.answer = entry["caption"].as_string();
  } else {
    demonstration.question = entry.get<std::string>("question", "");
    demonstration.answer = entry["answer"].as_string();
  }
  return demonstration;
}

CHIASM_INLINE std::string folder_of(const std::string& file) {
  const std::size_t slash = file.rfind('/');
  return slash == std::string::npos ? std::string() : file.substr(0, slash + 1);
}

CHIASM_INLINE std::vector<Json> read_json_lines(const std::string& path) {
  const FileMap file = FileMap::open(path);
  std::vector<Json> values;
  const std::string_view text = file.text();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) values.push_back(Json::parse(line, path, Json::Duplicates::last_wins, begin));
    begin = end + 1;
  }
  return values;
}

CHIASM_INLINE std::vector<DemonstrationFile> DemonstrationFile::read(const std::string& path) {
  namespace fs = std::filesystem;
  std::vector<DemonstrationFile> demonstrations;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const std::string folder = folder_of(path);
    for (const Json& line : read_json_lines(path)) demonstrations.push_back(from(line, folder));
    if (demonstrations.empty()) throw FileError(path, "no demonstrations: the file has no lines");
    return demonstrations;
  }
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) files.push_back(entry->path());
  if (error) throw FileError(path, "cannot be read: " + error.message());
  std::sort(files.begin(), files.end());
  for (const fs::path& picture : files) {
    if (picture.extension() == ".txt") continue;
    fs::path text = picture;
    text.replace_extension(".txt");
    if (!std::binary_search(files.begin(), files.end(), text)) continue;
    std::string caption(FileMap::open(text.string()).text());
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
    while (!caption.empty() && blank(caption.back())) caption.pop_back();
    caption.erase(caption.begin(), std::find_if_not(caption.begin(), caption.end(), blank));
    demonstrations.push_back({picture.string(), {}, std::move(caption)});
  }
  if (demonstrations.empty()) throw FileError(path, "no demonstrations: no picture in this folder has a text of its name, like cat.jpg and cat.txt");
  return demonstrations;
}

CHIASM_INLINE std::vector<std::uint64_t> select_nearest(Context& ctx, const VectorIndex& index, View query, std::size_t n) {
  std::vector<std::uint64_t> ids;
  for (const Hit& hit : index.nearest(ctx, query, n)) ids.push_back(hit.id);
  std::reverse(ids.begin(), ids.end());
  return ids;
}

CHIASM_INLINE std::vector<std::uint64_t> select_random(std::size_t count, std::size_t n, std::uint64_t seed) {
  std::vector<std::uint64_t> ids(count);
  std::iota(ids.begin(), ids.end(), std::uint64_t{0});
  n = std::min(n, count);
  std::uint64_t state = seed;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint64_t z = state += 0x9e3779b97f4a7c15u;  // SplitMix64: the same everywhere, which <random>'s distributions are not
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    std::swap(ids[i], ids[i + z % (count - i)]);
  }
  ids.resize(n);
  return ids;
}

}  // namespace chiasm
