#pragma once

#include <chiasm/io/tokenizer/unicode.hpp>

#include <chiasm/impl/unicode_tables.hpp>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

namespace chiasm::inline CHIASM_ABI {
namespace unicode {

namespace detail {
// Bits of tables::property_data.
inline constexpr std::uint16_t alphabetic_bit = 1U << 5, space_bit = 1U << 6, nfc_bit = 1U << 7, lower_bit = 1U << 11;

inline std::uint16_t property(char32_t code) noexcept {
  if (code > 0x10FFFF) return 0;
  return tables::property_data[std::size_t{tables::property_index[code >> 7]} * 128 + (code & 127)];
}
inline std::uint8_t combining_class(char32_t code) noexcept {
  if (code > 0x10FFFF) return 0;
  return tables::combining_data[std::size_t{tables::combining_index[code >> 7]} * 128 + (code & 127)];
}
inline constexpr std::uint32_t bit(Category category) noexcept { return std::uint32_t{1} << static_cast<unsigned>(category); }
inline constexpr std::uint32_t letters =
    bit(Category::Lu) | bit(Category::Ll) | bit(Category::Lt) | bit(Category::Lm) | bit(Category::Lo);
inline constexpr std::uint32_t marks = bit(Category::Mn) | bit(Category::Mc) | bit(Category::Me);
inline constexpr std::uint32_t numbers = bit(Category::Nd) | bit(Category::Nl) | bit(Category::No);
inline constexpr std::uint32_t punctuation = bit(Category::Pc) | bit(Category::Pd) | bit(Category::Ps) | bit(Category::Pe) |
                                             bit(Category::Pi) | bit(Category::Pf) | bit(Category::Po);
inline bool in(char32_t code, std::uint32_t categories) noexcept { return (categories >> (property(code) & 31U) & 1U) != 0; }

template <std::size_t N>
const tables::CaseMapping* find(const tables::CaseMapping (&table)[N], char32_t code) noexcept {
  const auto* row = std::lower_bound(std::begin(table), std::end(table), code,
                                     [](const tables::CaseMapping& entry, char32_t key) { return entry.code < key; });
  return row != std::end(table) && row->code == code ? row : nullptr;
}

// Length of the well-formed sequence at `at`, or 0 and the length of the maximal ill-formed subpart in `bad` (>= 1).
inline std::size_t sequence(std::string_view text, std::size_t at, std::size_t& bad) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80) return 1;
  bad = 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (at + 1 >= text.size() || byte(at + 1) < low || byte(at + 1) > high) return 0;
  for (bad = 2; bad < size; ++bad)
    if (at + bad >= text.size() || (byte(at + bad) & 0xC0U) != 0x80U) return 0;
  return size;
}
}  // namespace detail

CHIASM_INLINE const char* version() noexcept { return tables::version; }
CHIASM_INLINE Category category(char32_t code) noexcept { return static_cast<Category>(detail::property(code) & 31U); }
CHIASM_INLINE bool is_letter(char32_t code) noexcept { return detail::in(code, detail::letters); }
CHIASM_INLINE bool is_mark(char32_t code) noexcept { return detail::in(code, detail::marks); }
CHIASM_INLINE bool is_number(char32_t code) noexcept { return detail::in(code, detail::numbers); }
CHIASM_INLINE bool is_punctuation(char32_t code) noexcept { return detail::in(code, detail::punctuation); }
CHIASM_INLINE bool is_alphabetic(char32_t code) noexcept { return (detail::property(code) & detail::alphabetic_bit) != 0; }
CHIASM_INLINE bool is_space(char32_t code) noexcept { return (detail::property(code) & detail::space_bit) != 0; }
CHIASM_INLINE bool is_word(char32_t code) noexcept {
  return is_alphabetic(code) || detail::in(code, detail::marks | detail::bit(Category::Nd) | detail::bit(Category::Pc)) ||
         code == 0x200C || code == 0x200D;
}

CHIASM_INLINE char32_t next(std::string_view text, std::size_t& at) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t lead = byte(at);
  if (lead < 0x80) return ++at, lead;
  std::size_t bad = 0;
  const std::size_t size = detail::sequence(text, at, bad);
  const std::size_t from = at;
  at += size == 0 ? 1 : size;
  switch (size) {
    case 2: return (lead & 0x1FU) << 6 | (byte(from + 1) & 0x3FU);
    case 3: return (lead & 0x0FU) << 12 | (byte(from + 1) & 0x3FU) << 6 | (byte(from + 2) & 0x3FU);
    case 4:
      return (lead & 0x07U) << 18 | (byte(from + 1) & 0x3FU) << 12 | (byte(from + 2) & 0x3FU) << 6 | (byte(from + 3) & 0x3FU);
    default: return 0xFFFD;
  }
}

CHIASM_INLINE void append(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0U | code >> 6), put(0x80U | (code & 0x3FU));
  } else if (code < 0x10000) {
    put(0xE0U | code >> 12), put(0x80U | (code >> 6 & 0x3FU)), put(0x80U | (code & 0x3FU));
  } else {
    put(0xF0U | code >> 18), put(0x80U | (code >> 12 & 0x3FU)), put(0x80U | (code >> 6 & 0x3FU)), put(0x80U | (code & 0x3FU));
  }
}

CHIASM_INLINE bool is_valid(std::string_view text) noexcept {
  std::size_t bad = 0;
  for (std::size_t at = 0; at < text.size();) {
    std::uint64_t eight = 0;  // ASCII comes in long runs
    while (text.size() - at >= 8 && (std::memcpy(&eight, text.data() + at, 8), (eight & 0x8080808080808080U) == 0)) at += 8;
    if (at == text.size()) break;
    const std::size_t size = detail::sequence(text, at, bad);
    if (size == 0) return false;
    at += size;
  }
  return true;
}

CHIASM_INLINE std::string replace_invalid(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    std::size_t bad = 0;
    const std::size_t size = detail::sequence(text, at, bad);
    if (size == 0) {
      valid += "\xEF\xBF\xBD";
      at += bad;
    } else {
      valid += text.substr(at, size);
      at += size;
    }
  }
  return valid;
}

namespace detail {
struct Marked {  // a code point and its combining class
  char32_t code;
  std::uint8_t order;
};

inline void decompose(std::vector<Marked>& out, char32_t code, bool compatible) {
  constexpr char32_t hangul = 0xAC00, lead = 0x1100, vowel = 0x1161, tail = 0x11A7;
  if (code < 0xA0) return out.push_back({code, 0});
  if (code >= hangul && code < hangul + 11172) {
    const char32_t index = code - hangul;
    out.push_back({lead + index / 588, 0});
    out.push_back({vowel + index % 588 / 28, 0});
    if (index % 28 != 0) out.push_back({tail + index % 28, 0});
    return;
  }
  if ((property(code) & (compatible ? nfc_bit << 3 : nfc_bit << 1)) == 0) return out.push_back({code, combining_class(code)});
  const auto* row = std::lower_bound(std::begin(tables::decompositions), std::end(tables::decompositions), code,
                                     [](const tables::Decomposition& entry, char32_t key) { return entry.code < key; });
  if (row == std::end(tables::decompositions) || row->code != code) return out.push_back({code, combining_class(code)});
  const std::size_t first = compatible ? row->compatible : row->canonical;
  const std::size_t size = compatible ? row->compatible_size : row->canonical_size;
  for (std::size_t i = first; i < first + size; ++i) {
    const char32_t part = tables::decomposition_pool[i];
    out.push_back({part, combining_class(part)});
  }
}

// The character that two compose to, 0 if they do not.
inline char32_t composed(char32_t first, char32_t second) noexcept {
  if (first >= 0x1100 && first < 0x1113 && second >= 0x1161 && second < 0x1176)
    return 0xAC00 + ((first - 0x1100) * 21 + (second - 0x1161)) * 28;
  if (first >= 0xAC00 && first < 0xD7A4 && (first - 0xAC00) % 28 == 0 && second > 0x11A7 && second < 0x11C3)
    return first + (second - 0x11A7);
  const auto* row = std::lower_bound(std::begin(tables::compositions), std::end(tables::compositions), std::pair(first, second),
                                     [](const tables::Composition& entry, const std::pair<char32_t, char32_t>& key) {
                                       return entry.first != key.first ? entry.first < key.first : entry.second < key.second;
                                     });
  return row != std::end(tables::compositions) && row->first == first && row->second == second ? row->composed : 0;
}
}  // namespace detail

CHIASM_INLINE std::string normalise(std::string_view text, Form form) {
  const bool compose = form == Form::nfc || form == Form::nfkc, compatible = form == Form::nfkc || form == Form::nfkd;
  // A text of starters that all pass the quick check is in its normal form already: nearly every text.
  const auto refused = static_cast<std::uint16_t>(detail::nfc_bit << static_cast<unsigned>(form));
  std::size_t clean = 0;  // everything before is final: the last starter that passed
  bool same = true;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      clean = at++;
      continue;
    }
    const char32_t code = next(text, at);
    if ((detail::property(code) & refused) != 0 || detail::combining_class(code) != 0) {
      same = false;
      break;
    }
    clean = here;
  }
  if (same) return std::string(text);

  std::string result(text.substr(0, clean));
  result.reserve(text.size() + 16);
  std::vector<detail::Marked> parts;
  parts.reserve(text.size() - clean);
  for (std::size_t at = clean; at < text.size();) detail::decompose(parts, next(text, at), compatible);
  for (std::size_t i = 0; i < parts.size();) {  // canonical ordering: stable by class, between starters
    if (parts[i].order == 0) {
      ++i;
      continue;
    }
    std::size_t end = i;
    while (end < parts.size() && parts[end].order != 0) ++end;
    std::stable_sort(parts.begin() + static_cast<std::ptrdiff_t>(i), parts.begin() + static_cast<std::ptrdiff_t>(end),
                     [](const detail::Marked& a, const detail::Marked& b) { return a.order < b.order; });
    i = end;
  }
  if (compose) {
    constexpr std::size_t none = static_cast<std::size_t>(-1);
    std::size_t starter = none, kept = 0;
    int last = -1;  // class of the last mark kept after the starter; -1: none
    for (const detail::Marked part : parts) {
      if (starter != none && last < static_cast<int>(part.order)) {
        if (const char32_t both = detail::composed(parts[starter].code, part.code)) {
          parts[starter].code = both;
          continue;
        }
      }
      if (part.order == 0) {
        starter = kept;
        last = -1;
      } else {
        last = part.order;
      }
      parts[kept++] = part;
    }
    parts.resize(kept);
  }
  for (const detail::Marked part : parts) append(result, part.code);
  return result;
}

CHIASM_INLINE std::string lower(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char byte = text[at];
    if (static_cast<unsigned char>(byte) < 0x80) {
      result += byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + 32) : byte;
      ++at;
      continue;
    }
    const std::size_t from = at;
    const char32_t code = next(text, at);
    if ((detail::property(code) & detail::lower_bit) == 0) {
      result += text.substr(from, at - from);
      continue;
    }
    const tables::CaseMapping* row = detail::find(tables::lowercase, code);
    append(result, row->to);
    if (row->then != 0) append(result, row->then);
  }
  return result;
}

CHIASM_INLINE char32_t fold(char32_t code) noexcept {
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  if (const tables::CaseMapping* row = detail::find(tables::casefold, code)) return row->to;
  if ((detail::property(code) & detail::lower_bit) == 0) return code;
  const tables::CaseMapping* row = detail::find(tables::lowercase, code);
  return row->then == 0 ? row->to : code;
}

CHIASM_INLINE std::size_t grapheme_end(std::string_view text, std::size_t at) noexcept {
  enum Break : unsigned { other, cr, lf, control, extend, zwj, regional, prepend, spacing, l, v, t, lv, lvt, pictograph };
  if (at >= text.size()) return text.size();
  const auto kind = [](char32_t code) { return static_cast<Break>(detail::property(code) >> 12); };
  Break left = kind(next(text, at));
  bool emoji = left == pictograph;          // GB11: pictograph extend* zwj | pictograph
  bool odd_regional = left == regional;     // GB12, GB13
  while (at < text.size()) {
    std::size_t behind = at;
    const Break right = kind(next(text, behind));
    bool joined = false;
    if (left == cr) {
      joined = right == lf;
    } else if (left == lf || left == control || right == cr || right == lf || right == control) {
      joined = false;
    } else if (right == extend || right == zwj || right == spacing || left == prepend) {
      joined = true;
    } else if (left == l) {
      joined = right == l || right == v || right == lv || right == lvt;
    } else if (left == lv || left == v) {
      joined = right == v || right == t;
    } else if (left == lvt || left == t) {
      joined = right == t;
    } else if (left == zwj && right == pictograph) {
      joined = emoji;
    } else if (left == regional && right == regional) {
      joined = odd_regional;
    }
    if (!joined) return at;
    if (right == pictograph) {
      emoji = true;
    } else if (right != extend && right != zwj) {
      emoji = false;
    }
    odd_regional = right == regional && !(left == regional && odd_regional);
    left = right;
    at = behind;
  }
  return at;
}

CHIASM_INLINE int script(char32_t code) noexcept {
  const auto* row = std::lower_bound(std::begin(tables::script_ranges), std::end(tables::script_ranges), code,
                                     [](const tables::ScriptRange& range, char32_t key) { return range.last < key; });
  return row != std::end(tables::script_ranges) && row->first <= code ? row->script : -1;
}

CHIASM_INLINE int script_named(std::string_view name) noexcept {
  const auto next_letter = [](std::string_view word, std::size_t& i) {
    while (i < word.size() && (word[i] == ' ' || word[i] == '_' || word[i] == '-')) ++i;
    if (i >= word.size()) return '\0';
    const char c = word[i++];
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  for (std::size_t s = 0; s < std::size(tables::script_names); ++s) {
    std::size_t i = 0, j = 0;
    char a = 0, b = 0;
    do {
      a = next_letter(name, i);
      b = next_letter(tables::script_names[s], j);
    } while (a == b && a != '\0');
    if (a == b) return static_cast<int>(s);
  }
  return -1;
}

}  // namespace unicode
}  // namespace chiasm
