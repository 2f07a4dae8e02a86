#pragma once

#include <chiasm/io/file_map.hpp>

#include <chiasm/impl/tokenizer_description.ipp>

#include <charconv>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// A file of tiktoken: lines of a token's bytes in base64, a blank, and its rank, which is its id.
struct TiktokenFile {
  std::vector<std::pair<std::string, TokenId>> tokens;  // by rank
  std::string path;
  std::size_t file_size = 0;

  explicit TiktokenFile(const FileMap& file) : path(file.path()), file_size(file.size()) {
    const std::string_view text = file.text();
    std::array<bool, 256> single{};
    Vocabulary seen;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      const auto fail = [&](const std::string& what) { throw FormatError(path, at, "no line of a tiktoken file: " + what); };
      std::string_view line = text.substr(at, end - at);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.empty()) {
        const std::size_t blank = line.find(' ');
        if (blank == std::string_view::npos) fail("no blank");
        const auto bytes = from_base64(line.substr(0, blank));
        if (!bytes || bytes->empty()) fail("no base64 in front of the blank");
        const std::string_view digits = line.substr(blank + 1);
        TokenId rank = -1;
        const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
        if (error != std::errc() || stop != digits.data() + digits.size() || rank < 0) fail("no rank behind the blank");
        if (seen.find(*bytes) >= 0) fail("a token that stands twice");
        seen.insert(*bytes, rank);
        if (bytes->size() == 1) single[static_cast<unsigned char>((*bytes)[0])] = true;
        tokens.emplace_back(*bytes, rank);
      }
      at = end + 1;
    }
    const auto missing = static_cast<std::size_t>(std::find(single.begin(), single.end(), false) - single.begin());
    if (missing < single.size()) throw FormatError(path, 0, "no tiktoken file: no token for byte " + std::to_string(missing));
    std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    for (std::size_t i = 1; i < tokens.size(); ++i)
      if (tokens[i].second == tokens[i - 1].second) throw FormatError(path, 0, "no tiktoken file: rank " + std::to_string(tokens[i].second) + " stands twice");
  }

  /// `digits`: how many digits make one piece. `added` and `names` are JSON.
  TokenizerDescription description(unsigned digits, bool nfc, bool ignore_merges, const std::string& added, const std::string& names) const {
    std::string text = "{\"added_tokens\":" + added + ",\"normalizer\":" + (nfc ? "{\"type\":\"NFC\"}" : "null");
    text += R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)";
    append_json(text, std::string(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})") + (digits > 1 ? "{1," + std::to_string(digits) + "}" : "") +
                          R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
    text += R"(},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},"decoder":{"type":"ByteLevel"}})";
    Vocabulary parts, letters;
    parts.reserve(tokens.size(), file_size);
    letters.reserve(tokens.size(), file_size);
    for (const auto& [bytes, rank] : tokens) {
      parts.insert(bytes, rank);
      letters.insert(byte_letters(bytes), rank);
    }
    if (!letters.seal()) throw FormatError(path, 0, "ranks out of proportion to the " + std::to_string(tokens.size()) + " tokens");
    MergeDerivation derivation(parts, path, file_size);
    for (const auto& [bytes, rank] : tokens) derivation.add(bytes, rank, true);
    Bpe::Options options;
    options.bytes = true;
    options.ignore_merges = ignore_merges;
    return {text, path, make_bpe(std::move(letters), options, derivation.merges, path), names};
  }
};

}  // namespace detail
}  // namespace chiasm
