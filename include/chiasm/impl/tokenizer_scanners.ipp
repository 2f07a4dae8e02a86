#pragma once

#include <chiasm/io/tokenizer/unicode.hpp>

#include <array>
#include <cstdint>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// Hand-written matchers of the pre-tokenisation patterns that nearly all checkpoints share; about 10 times as fast as the general
/// matcher (bench/io/tokenizer_bench: pattern). A scanner returns the end of the match at `at`, or `at` if there is none.
using Scanner = std::size_t (*)(std::string_view text, std::size_t at);

enum CodeClass : std::uint8_t { other_code, letter_code, number_code, space_code };

constexpr std::array<CodeClass, 128> ascii_classes() {
  std::array<CodeClass, 128> classes{};
  for (std::size_t c = 0; c < 128; ++c) {
    classes[c] = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? letter_code
                 : c >= '0' && c <= '9'                           ? number_code
                 : c == ' ' || (c >= 9 && c <= 13)                ? space_code
                                                                  : other_code;
  }
  return classes;
}
inline constexpr std::array<CodeClass, 128> ascii_class = ascii_classes();

// Class of the character at `at`, and `behind` set behind it. at < text.size().
inline CodeClass class_at(std::string_view text, std::size_t at, std::size_t& behind) noexcept {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) {
    behind = at + 1;
    return ascii_class[byte];
  }
  behind = at;
  const char32_t code = unicode::next(text, behind);
  const std::uint16_t bits = unicode::detail::property(code);
  if ((bits & unicode::detail::space_bit) != 0) return space_code;
  const std::uint32_t category = std::uint32_t{1} << (bits & 31U);
  return (category & unicode::detail::letters) != 0 ? letter_code : (category & unicode::detail::numbers) != 0 ? number_code : other_code;
}

// End of the run of characters of this class from `at` on, at most `most` of them.
inline std::size_t run_end(std::string_view text, std::size_t at, CodeClass kind, std::size_t most = static_cast<std::size_t>(-1)) noexcept {
  for (std::size_t behind = at; at < text.size() && most > 0; at = behind, --most)
    if (class_at(text, at, behind) != kind) break;
  return at;
}

// 's 't 're 've 'm 'll 'd at an apostrophe; `at` if there is none.
template <bool caseless>
std::size_t contraction_end(std::string_view text, std::size_t at) noexcept {
  const auto letter = [&](std::size_t i) -> char {
    if (i >= text.size()) return '\0';
    return caseless && text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] + 32) : text[i];
  };
  const char first = letter(at + 1), second = letter(at + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if ((first == 'r' || first == 'v') && second == 'e') return at + 3;
  if (first == 'l' && second == 'l') return at + 3;
  if (caseless && text.substr(at + 1).starts_with("\xC5\xBF")) return at + 3;  // U+017F, long s, folds to s
  return at;
}

// \s+(?!\S)|\s+ at white space: a run that ends in a word leaves its last blank to the word.
inline std::size_t blanks_end(std::string_view text, std::size_t at) noexcept {
  std::size_t last = at, end = at, count = 0;
  for (std::size_t behind = at; end < text.size() && class_at(text, end, behind) == space_code; end = behind, ++count) last = end;
  return end == text.size() || count == 1 ? end : last;
}

// GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
inline std::size_t scan_gpt2(std::string_view text, std::size_t at) {
  if (text[at] == '\'') {
    const std::size_t end = contraction_end<false>(text, at);
    if (end != at) return end;
  }
  std::size_t behind = at;
  CodeClass kind = class_at(text, at, behind);
  if (text[at] == ' ' && behind < text.size()) {
    const std::size_t word = behind;
    kind = class_at(text, word, behind);
    if (kind == space_code) return blanks_end(text, at);
  }
  return kind == space_code ? blanks_end(text, at) : run_end(text, behind, kind);
}

// Llama 3, Qwen2 (1 digit at a time): (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|
// \s*[\r\n]+|\s+(?!\S)|\s+
template <std::size_t digits>
std::size_t scan_llama3(std::string_view text, std::size_t at) {
  if (text[at] == '\'') {
    const std::size_t end = contraction_end<true>(text, at);
    if (end != at) return end;
  }
  std::size_t behind = at, after = at;
  const CodeClass kind = class_at(text, at, behind);
  if (kind == letter_code) return run_end(text, behind, letter_code);
  if (kind == number_code) return run_end(text, at, number_code, digits);
  const auto newline = [&](std::size_t i) { return text[i] == '\r' || text[i] == '\n'; };
  const CodeClass following = behind < text.size() ? class_at(text, behind, after) : space_code;
  if (following == letter_code && !newline(at)) return run_end(text, after, letter_code);
  if (kind == other_code || (text[at] == ' ' && following == other_code)) {
    std::size_t end = run_end(text, kind == other_code ? behind : after, other_code);
    while (end < text.size() && newline(end)) ++end;
    return end;
  }
  std::size_t end = at, last_newline = static_cast<std::size_t>(-1);
  for (std::size_t next = at; end < text.size() && class_at(text, end, next) == space_code; end = next)
    if (newline(end)) last_newline = end;
  return last_newline != static_cast<std::size_t>(-1) ? last_newline + 1 : blanks_end(text, at);
}

// CLIP: <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
inline std::size_t scan_clip(std::string_view text, std::size_t at) {
  if (text[at] == '<') {
    for (const std::string_view special : {std::string_view("<|startoftext|>"), std::string_view("<|endoftext|>")})
      if (text.substr(at, special.size()) == special) return at + special.size();
  }
  if (text[at] == '\'') {
    const std::size_t end = contraction_end<false>(text, at);
    if (end != at) return end;
  }
  std::size_t behind = at;
  const CodeClass kind = class_at(text, at, behind);
  if (kind == space_code) return at;
  return kind == number_code ? behind : run_end(text, behind, kind);
}

inline constexpr std::string_view gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

inline Scanner scanner_for(std::string_view source) noexcept {
  if (source == gpt2_pattern) return scan_gpt2;
  if (source ==
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)")
    return scan_llama3<3>;
  if (source == R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)")
    return scan_llama3<1>;
  if (source == R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)") return scan_clip;
  return nullptr;
}

}  // namespace detail
}  // namespace chiasm
