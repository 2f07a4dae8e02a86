#pragma once

#include <chiasm/core/error.hpp>

#include <chiasm/impl/tokenizer_models.ipp>

#include <cstdio>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

// Readers of files other than tokenizer.json write what they read as the text of a tokenizer.json: one description, one
// tokenizer. Beyond the published language, a model may have "user_defined_symbols" (see Bpe and Unigram).

/// Appends a JSON string. `text` is well-formed UTF-8.
inline void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  out += '"';
}

/// The bytes of a string in GPT-2's letters.
inline std::string byte_letters(std::string_view bytes) {
  std::string letters;
  for (const char c : bytes) unicode::append(letters, byte_alphabet.letter[static_cast<unsigned char>(c)]);
  return letters;
}

/// Merges of a vocabulary that only has an order: every way to put a token together from two others, tokens in the order given,
/// the ways of one token by the ids of its parts. Bounded, since a hostile file's long tokens would make quadratic work.
class MergeDerivation {
 public:
  MergeDerivation(const Vocabulary& parts, const std::string& file, std::size_t file_size)
      : parts_(parts), file_(file), work_(64 * file_size + (std::size_t{1} << 20)), room_(32 * file_size + (std::size_t{1} << 20)) {}

  /// Appends the merges that give `token`, to a JSON array under way that may be empty. With `bytes` they are spelled in GPT-2's letters and a
  /// token may be cut within a character.
  void append(std::string& out, std::string_view token, bool bytes) {
    ways_.clear();
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      if (!bytes && (static_cast<unsigned char>(token[cut]) & 0xC0U) == 0x80U) continue;
      spend(work_, token.size());
      const TokenId left = parts_.find(token.substr(0, cut));
      if (left < 0) continue;
      const TokenId right = parts_.find(token.substr(cut));
      if (right >= 0) ways_.push_back({left, right, cut});
    }
    std::sort(ways_.begin(), ways_.end(), [](const Way& a, const Way& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
    for (const Way& way : ways_) {
      spend(room_, token.size() + 8);
      if (out.back() != '[') out += ',';
      out += '[';
      for (const std::string_view part : {token.substr(0, way.cut), token.substr(way.cut)}) {
        if (out.back() != '[') out += ',';
        bytes ? append_json(out, byte_letters(part)) : append_json(out, part);
      }
      out += ']';
    }
  }

 private:
  struct Way {
    TokenId left, right;
    std::size_t cut;
  };
  void spend(std::size_t& budget, std::size_t amount) const {
    if (amount > budget) throw FormatError(file_, 0, "tokens so long that their merges are out of proportion to the file");
    budget -= amount;
  }
  const Vocabulary& parts_;
  const std::string& file_;
  std::size_t work_, room_;
  std::vector<Way> ways_;
};

}  // namespace detail
}  // namespace chiasm
