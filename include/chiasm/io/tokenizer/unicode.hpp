/// Unicode text: validation, categories, the four normal forms, lower case, grapheme clusters. Unicode Standard 15.0
/// (UAX #15, UAX #29, UAX #44); the tables in impl/unicode_tables.hpp are generated from the Unicode Character Database.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {
namespace unicode {

/// General category, UAX #44 table 12; Cn is "unassigned".
enum class Category : std::uint8_t {
  Cn, Lu, Ll, Lt, Lm, Lo, Mn, Mc, Me, Nd, Nl, No, Pc, Pd, Ps, Pe, Pi, Pf, Po, Sm, Sc, Sk, So, Zs, Zl, Zp, Cc, Cf, Cs, Co,
};

/// Version of the Unicode Character Database behind all functions of this file, as in "15.0.0".
const char* version() noexcept;

Category category(char32_t code) noexcept;
bool is_letter(char32_t code) noexcept;       ///< L
bool is_mark(char32_t code) noexcept;         ///< M
bool is_number(char32_t code) noexcept;       ///< N
bool is_punctuation(char32_t code) noexcept;  ///< P
bool is_alphabetic(char32_t code) noexcept;   ///< Alphabetic
bool is_space(char32_t code) noexcept;        ///< White_Space
bool is_word(char32_t code) noexcept;         ///< UTS #18 \w: Alphabetic, M, Nd, Pc, zero width (non-)joiner

/// Code point at byte `at` of valid UTF-8, and `at` moved behind it. Ill-formed bytes give U+FFFD, one each.
char32_t next(std::string_view text, std::size_t& at) noexcept;
/// Appends `code` as UTF-8.
void append(std::string& text, char32_t code);
/// Whether `text` is well-formed UTF-8.
bool is_valid(std::string_view text) noexcept;
/// `text` with every maximal ill-formed subpart replaced by one U+FFFD: the Unicode Standard's section 3.9, WHATWG's and Python's way.
std::string replace_invalid(std::string_view text);

enum class Form : std::uint8_t { nfc, nfd, nfkc, nfkd };
/// Normal form of well-formed UTF-8. UAX #15.
std::string normalise(std::string_view text, Form form);
/// Each code point's full lower case, without context rules (a final sigma stays a small sigma).
std::string lower(std::string_view text);
/// Code point for caseless comparison: simple case folding.
char32_t fold(char32_t code) noexcept;
/// End of the extended grapheme cluster that begins at byte `at` of well-formed UTF-8. UAX #29.
std::size_t grapheme_end(std::string_view text, std::size_t at) noexcept;
/// Number of the script of `code`, -1 for an unassigned one. UAX #24.
int script(char32_t code) noexcept;
/// Number of the named script as script() returns it, or -1. Case, blanks, '_' and '-' do not matter.
int script_named(std::string_view name) noexcept;

}  // namespace unicode
}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/unicode.ipp>
#endif
