/// Demonstrations: pictures with answers, of which some are chosen for a few-shot prompt: at random, or those most similar to the picture that is asked
/// about (RICES, arXiv:2109.05014).
#pragma once

#include <chiasm/io/json.hpp>
#include <chiasm/pipelines/vector_index.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A demonstration whose picture is still a file.
struct DemonstrationFile {
  std::string image;     // as the program can open it
  std::string question;  // empty: the answer is a caption
  std::string answer;

  /// {"image", "question", "answer"}, or {"image", "caption"}: an image of a relative path is sought in `folder`. Throws ConfigError.
  static DemonstrationFile from(const Json& entry, const std::string& folder);
  /// Those of a JSON lines file, with images relative to it; or of a folder: each picture beside which there is a text of its name, cat.jpg and cat.txt, which
  /// is its caption. Throws FileError (also where there is none), FormatError, ConfigError.
  static std::vector<DemonstrationFile> read(const std::string& path);
};

/// The folder that a file's relative paths are relative to: "data/" of "data/shots.jsonl".
std::string folder_of(const std::string& file);
/// The values of a JSON lines file; blank lines count for nothing. Throws FileError, FormatError.
std::vector<Json> read_json_lines(const std::string& path);

/// Retrieval-based in-context example selection: the ids of the `n` nearest to the query, the nearest last, next to the question, as OpenFlamingo has it.
/// Throws as VectorIndex::search.
std::vector<std::uint64_t> select_nearest(Context& ctx, const VectorIndex& index, View query, std::size_t n);
/// `n` different ones of `count` in random order, or all if there are fewer; the same for the same seed.
std::vector<std::uint64_t> select_random(std::size_t count, std::size_t n, std::uint64_t seed);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/demonstrations.ipp>
#endif
