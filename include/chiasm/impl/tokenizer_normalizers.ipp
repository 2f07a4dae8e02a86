#pragma once

#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer/pattern.hpp>

#include <chiasm/impl/tokenizer_vocabulary.ipp>
#include <chiasm/impl/unicode.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

[[noreturn]] inline void unknown_part(const Json& part, const std::string& kind) {
  throw UnsupportedError(kind + " '" + part.get<std::string>("type", "") + "' (" + part.file() + ": " + part.pointer() + ")");
}

/// {"Regex": ...} or {"String": ...}.
inline Pattern read_pattern(const Json& json) {
  if (!json.is_object()) json.fail("is not an object with 'String' or 'Regex'");
  if (const Json text = json.find("String"); !text.is_null()) return Pattern::literal(text.as_string());
  const Json expression = json["Regex"];
  try {
    return Pattern(expression.as_string());
  } catch (const FormatError& error) {
    expression.fail(error.what());
  }
}

inline std::string replace_all(std::string_view text, std::string_view what, std::string_view with) {
  std::string result;
  result.reserve(text.size());
  std::size_t at = 0;
  if (!what.empty()) {
    for (std::size_t found = text.find(what); found != std::string_view::npos; found = text.find(what, at)) {
      result += text.substr(at, found - at);
      result += with;
      at = found + what.size();
    }
  }
  result += text.substr(at);
  return result;
}

inline std::string replace_all(std::string_view text, const Pattern& what, std::string_view with) {
  std::string result;
  result.reserve(text.size());
  std::size_t at = 0;
  Pattern::Search search(what, text);
  while (const auto match = search.next()) {
    result += text.substr(at, match->begin - at);
    result += with;
    at = match->end;
  }
  result += text.substr(at);
  return result;
}

/// sentencepiece's table of replacements: a double array (Darts) over UTF-8 whose values point into a buffer of NUL-terminated strings.
class Charsmap {
 public:
  explicit Charsmap(const Json& json) {
    const std::optional<std::string> decoded = from_base64(json.as_string());
    if (!decoded) json.fail("is not base64");
    const std::string& bytes = *decoded;
    const auto word = [&](std::size_t at) {
      std::uint32_t value = 0;
      for (std::size_t i = 0; i < 4; ++i) value |= std::uint32_t{static_cast<unsigned char>(bytes[at + i])} << 8 * i;
      return value;
    };
    if (bytes.size() < 4 || word(0) > bytes.size() - 4 || word(0) % 4 != 0) json.fail("is no precompiled character map");
    const std::size_t units = word(0) / 4;
    for (std::size_t i = 0; i < units; ++i) units_.push_back(word(4 + i * 4));
    if (units_.empty()) json.fail("is no precompiled character map");
    strings_ = bytes.substr(4 + units * 4);
  }

  // Applied to each grapheme of less than 6 bytes, else to each character; of a known beginning the shortest decides, and the whole is replaced.
  std::string operator()(std::string_view text) const {
    std::string result;
    result.reserve(text.size() + text.size() / 8);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = unicode::grapheme_end(text, at);
      const std::string_view grapheme = text.substr(at, end - at);
      at = end;
      if (grapheme.size() < 6) {
        if (const auto other = find(grapheme)) {
          result += *other;
          continue;
        }
      }
      for (std::size_t i = 0; i < grapheme.size();) {
        const std::size_t from = i;
        unicode::next(grapheme, i);
        const std::string_view letter = grapheme.substr(from, i - from);
        result += find(letter).value_or(letter);
      }
    }
    return unicode::is_valid(result) ? result : unicode::replace_invalid(result);
  }

 private:
  std::optional<std::string_view> find(std::string_view key) const {
    const auto offset = [](std::uint32_t unit) { return std::size_t{unit >> 10} << ((unit & 0x200U) >> 6); };
    std::size_t node = offset(units_[0]);
    for (const char c : key) {
      const auto label = static_cast<unsigned char>(c);
      if (label == 0) return std::nullopt;
      node ^= label;
      if (node >= units_.size()) return std::nullopt;
      const std::uint32_t unit = units_[node];
      if ((unit & 0x800000FFU) != label) return std::nullopt;
      node ^= offset(unit);
      if ((unit >> 8 & 1U) != 0) {
        if (node >= units_.size()) return std::nullopt;
        const std::size_t begin = units_[node] & 0x7FFFFFFFU;
        if (begin > strings_.size()) return std::nullopt;
        const std::string_view rest = std::string_view(strings_).substr(begin);
        return rest.substr(0, rest.find('\0'));
      }
    }
    return std::nullopt;
  }

  std::vector<std::uint32_t> units_;
  std::string strings_;
};

// The reference implementation's normal forms and marks are those of Unicode 9.0, its categories those of 8.0; lower case, white space and
// patterns are of today. Differences other than new characters are those of single characters whose category was changed since.
inline bool younger_than(unsigned unicode_version, char32_t code) noexcept {
  const auto* range = std::lower_bound(std::begin(unicode::tables::young_ranges), std::end(unicode::tables::young_ranges), code,
                                       [](const unicode::tables::YoungRange& row, char32_t key) { return row.last < key; });
  return range != std::end(unicode::tables::young_ranges) && range->first <= code && range->version > unicode_version;
}
inline bool is_old_mark(char32_t code) noexcept {
  return (unicode::is_mark(code) && code != 0x111C9 && !younger_than(9, code)) || code == 0x1CF2 || code == 0x1CF3;
}
inline bool is_old_nonspacing_mark(char32_t code) noexcept {
  if (code == 0x1885 || code == 0x1886 || code == 0xA9BD || code == 0x111C9) return false;
  return (unicode::category(code) == unicode::Category::Mn && !younger_than(8, code)) || code == 0x1734;
}
inline bool is_old_punctuation(char32_t code) noexcept {
  const bool ascii = (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) || (code >= 123 && code <= 126);
  return ascii || (unicode::is_punctuation(code) && !younger_than(8, code)) || code == 0x166D || code == 0x111C9;
}
/// The normal form of Unicode 9.0: what came later stays as it is.
inline std::string normalised(std::string_view text, unicode::Form form) {
  std::string result;
  std::size_t from = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0xE0) {  // nothing below U+0800 is that young but U+0560, U+0588, U+05EF and U+07FD to U+07FF, which take no part
      ++at;
      continue;
    }
    if (!younger_than(9, unicode::next(text, at))) continue;
    result += unicode::normalise(text.substr(from, here - from), form);
    result += text.substr(here, at - here);
    from = at;
  }
  return from == 0 ? unicode::normalise(text, form) : result + unicode::normalise(text.substr(from), form);
}

/// What is done to a text before it is cut into pieces.
class TextNormalizer {
 public:
  TextNormalizer() = default;  // leaves a text as it is
  explicit TextNormalizer(const Json& json) {
    if (json.is_null()) return;
    const std::string type = json.get<std::string>("type", "");
    if (type == "Sequence") {
      const Json steps = json["normalizers"];
      if (!steps.is_array()) steps.fail("is not an array");
      for (const Json step : steps) parts_.emplace_back(step);
      kind_ = Kind::sequence;
    } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      kind_ = Kind::form;
      form_ = type == "NFC" ? unicode::Form::nfc : type == "NFD" ? unicode::Form::nfd : type == "NFKC" ? unicode::Form::nfkc : unicode::Form::nfkd;
    } else if (type == "Lowercase") {
      kind_ = Kind::lower;
    } else if (type == "Prepend") {
      kind_ = Kind::prepend;
      content_ = json["prepend"].as<std::string>();
    } else if (type == "Append") {
      kind_ = Kind::append;
      content_ = json["append"].as<std::string>();
    } else if (type == "Replace") {
      kind_ = Kind::replace;
      const Json pattern = json["pattern"];
      if (const Json text = pattern.find("String"); text.is_string() && !text.as_string().empty()) {
        literal_ = text.as<std::string>();
      } else {
        pattern_ = std::make_shared<const Pattern>(read_pattern(pattern));
      }
      content_ = json["content"].as<std::string>();
    } else if (type == "Strip") {
      kind_ = Kind::strip;
      left_ = json.get<bool>("strip_left", true);
      right_ = json.get<bool>("strip_right", true);
    } else if (type == "StripAccents") {
      kind_ = Kind::strip_accents;
    } else if (type == "Nmt") {
      kind_ = Kind::nmt;
    } else if (type == "ByteLevel") {
      kind_ = Kind::byte_level;
    } else if (type == "Precompiled") {
      kind_ = Kind::precompiled;
      charsmap_ = std::make_shared<const Charsmap>(json["precompiled_charsmap"]);
    } else if (type == "BertNormalizer") {
      kind_ = Kind::bert;
      clean_ = json.get<bool>("clean_text", true);
      chinese_ = json.get<bool>("handle_chinese_chars", true);
      lowercase_ = json.get<bool>("lowercase", true);
      accents_ = json.get<bool>("strip_accents", lowercase_);
    } else {
      unknown_part(json, "normalizer");
    }
  }

  bool is_identity() const { return kind_ == Kind::none; }

  /// Rewrites `text`. `leading` becomes false if the first character of the original is cut off.
  void apply(std::string& text, bool& leading) const {
    switch (kind_) {
      case Kind::none: break;
      case Kind::sequence:
        for (const TextNormalizer& part : parts_) part.apply(text, leading);
        break;
      case Kind::form: text = normalised(text, form_); break;
      case Kind::lower: text = unicode::lower(text); break;
      case Kind::prepend:
        if (!text.empty()) text.insert(0, content_);
        break;
      case Kind::append:
        if (!text.empty()) text += content_;
        break;
      case Kind::replace: text = pattern_ ? replace_all(text, *pattern_, content_) : replace_all(text, literal_, content_); break;
      case Kind::strip: {
        const auto [begin, end] = trimmed(text, left_, right_);
        leading = leading && begin == 0;
        text = text.substr(begin, end - begin);
        break;
      }
      case Kind::strip_accents:
        text = mapped(text, [](char32_t code, std::string& out) {
          if (!is_old_mark(code)) unicode::append(out, code);
        });
        break;
      case Kind::nmt: text = mapped(text, nmt); break;
      case Kind::byte_level: {
        std::string letters;
        letters.reserve(text.size() * 2);
        for (const char c : text) unicode::append(letters, byte_alphabet.letter[static_cast<unsigned char>(c)]);
        text = std::move(letters);
        break;
      }
      case Kind::precompiled: text = (*charsmap_)(text); break;
      case Kind::bert: bert(text); break;
    }
  }

  static std::pair<std::size_t, std::size_t> trimmed(std::string_view text, bool left, bool right) {
    std::size_t begin = 0, end = text.size();
    for (std::size_t at = 0; left && at < text.size(); begin = at)
      if (!unicode::is_space(unicode::next(text, at))) break;
    if (right) {
      end = begin;
      for (std::size_t at = begin; at < text.size();)
        if (!unicode::is_space(unicode::next(text, at))) end = at;
    }
    return {begin, end};
  }

 private:
  enum class Kind : std::uint8_t {
    none, sequence, form, lower, prepend, append, replace, strip, strip_accents, nmt, byte_level, precompiled, bert,
  };

  template <class Map>
  static std::string mapped(std::string_view text, Map map) {
    std::string result;
    result.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) map(unicode::next(text, at), result);
    return result;
  }

  static void nmt(char32_t code, std::string& out) {
    const auto among = [&](std::initializer_list<std::pair<char32_t, char32_t>> ranges) {
      for (const auto& [low, high] : ranges)
        if (code >= low && code <= high) return true;
      return false;
    };
    if (among({{1, 8}, {0xB, 0xB}, {0xE, 0x1F}, {0x7F, 0x7F}, {0x8F, 0x8F}, {0x9F, 0x9F}})) return;
    const bool blank = among({{9, 0xA}, {0xC, 0xD}, {0x1680, 0x1680}, {0x200B, 0x200F}, {0x2028, 0x2029}, {0x2581, 0x2581},
                              {0xFEFF, 0xFEFF}, {0xFFFD, 0xFFFD}});
    unicode::append(out, blank ? U' ' : code);
  }


  void bert(std::string& text) const {
    using unicode::Category;
    if (clean_) {
      text = mapped(text, [](char32_t code, std::string& out) {
        const bool blank = code == '\t' || code == '\n' || code == '\r';
        const Category category = unicode::category(code);
        const bool control = category == Category::Cc || category == Category::Co || (category == Category::Cf && !younger_than(8, code));
        if (code == 0 || code == 0xFFFD || (control && !blank)) return;
        unicode::append(out, blank || unicode::is_space(code) ? U' ' : code);
      });
    }
    if (chinese_) {
      text = mapped(text, [](char32_t code, std::string& out) {
        const bool chinese = (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
                             (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
                             (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
                             (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
        if (chinese) out += ' ';
        unicode::append(out, code);
        if (chinese) out += ' ';
      });
    }
    if (accents_) {
      text = mapped(normalised(text, unicode::Form::nfd), [](char32_t code, std::string& out) {
        if (!is_old_nonspacing_mark(code)) unicode::append(out, code);
      });
    }
    if (lowercase_) text = unicode::lower(text);
  }

  Kind kind_ = Kind::none;
  unicode::Form form_ = unicode::Form::nfc;
  bool left_ = true, right_ = true, clean_ = true, chinese_ = true, accents_ = true, lowercase_ = true;
  std::string content_, literal_;
  std::shared_ptr<const Pattern> pattern_;
  std::shared_ptr<const Charsmap> charsmap_;
  std::vector<TextNormalizer> parts_;
};

}  // namespace detail
}  // namespace chiasm
