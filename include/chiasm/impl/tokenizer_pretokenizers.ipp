#pragma once

#include <chiasm/impl/tokenizer_normalizers.ipp>
#include <chiasm/impl/tokenizer_scanners.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// A text under way to pieces. `text` is either the caller's or `storage`.
struct PieceList {
  struct Piece {
    std::uint32_t begin, end;  // bytes of `text`
    bool first;                // begins where the whole input begins
  };
  std::string_view text;
  std::string storage;
  std::vector<Piece> pieces, scratch;

  std::string_view operator[](const Piece& piece) const { return text.substr(piece.begin, piece.end - piece.begin); }

  /// Replaces every piece by what `cut(view, keep)` keeps of it: keep(begin, end), bytes of the view.
  template <class Cut>
  void split(Cut cut) {
    scratch.clear();
    for (const Piece& piece : pieces) {
      const auto keep = [&](std::size_t begin, std::size_t end) {
        if (begin < end)
          scratch.push_back({static_cast<std::uint32_t>(piece.begin + begin), static_cast<std::uint32_t>(piece.begin + end), piece.first && begin == 0});
      };
      cut((*this)[piece], keep);
    }
    pieces.swap(scratch);
  }
  /// Rewrites every piece: write(view, first, out) appends its new text.
  template <class Write>
  void rewrite(Write write) {
    std::string out;
    out.reserve(text.size() + text.size() / 4);
    for (Piece& piece : pieces) {
      const std::size_t begin = out.size();
      write((*this)[piece], piece.first, out);
      piece.begin = static_cast<std::uint32_t>(begin);
      piece.end = static_cast<std::uint32_t>(out.size());
    }
    storage = std::move(out);
    text = storage;
  }
};

/// How a text is cut into pieces that the model sees one by one.
class PreTokenizer {
 public:
  PreTokenizer() = default;  // one piece
  explicit PreTokenizer(const Json& json) {
    if (json.is_null()) return;
    const std::string type = json.get<std::string>("type", "");
    if (type == "Sequence") {
      kind_ = Kind::sequence;
      const Json steps = json["pretokenizers"];
      if (!steps.is_array()) steps.fail("is not an array");
      for (const Json step : steps) parts_.emplace_back(step);
    } else if (type == "ByteLevel") {
      kind_ = Kind::byte_level;
      prefix_space_ = json.get<bool>("add_prefix_space", true);
      if (json.get<bool>("use_regex", true)) pattern_ = std::make_shared<const Pattern>(gpt2_pattern);
    } else if (type == "Split") {
      kind_ = Kind::split;
      pattern_ = std::make_shared<const Pattern>(read_pattern(json["pattern"]));
      behaviour_ = read_behaviour(json["behavior"]);
      invert_ = json.get<bool>("invert", false);
    } else if (type == "Metaspace") {
      kind_ = Kind::metaspace;
      read_metaspace(json, mark_, scheme_);
      split_ = json.get<bool>("split", true);
    } else if (type == "Whitespace") {
      kind_ = Kind::split;
      constexpr const char* word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}";
      pattern_ = std::make_shared<const Pattern>(std::string("[") + word + "]+|[^" + word + "\\s]+");
      behaviour_ = Behaviour::removed;
      invert_ = true;
    } else if (type == "WhitespaceSplit") {
      kind_ = Kind::whitespace_split;
    } else if (type == "BertPreTokenizer") {
      kind_ = Kind::bert;
    } else if (type == "Punctuation") {
      kind_ = Kind::punctuation;
      behaviour_ = json.contains("behavior") ? read_behaviour(json["behavior"]) : Behaviour::isolated;
    } else if (type == "Digits") {
      kind_ = Kind::digits;
      behaviour_ = json.get<bool>("individual_digits", false) ? Behaviour::isolated : Behaviour::contiguous;
    } else if (type == "CharDelimiterSplit") {
      kind_ = Kind::delimiter;
      mark_ = one_character(json["delimiter"]);
    } else if (type == "UnicodeScripts") {
      kind_ = Kind::scripts;
    } else if (type == "FixedLength") {
      kind_ = Kind::fixed_length;
      length_ = json.get<std::size_t>("length", 5);
      if (length_ == 0) json.fail("has length 0");
    } else {
      unknown_part(json, "pre-tokenizer");
    }
  }

  /// Whether the pieces leave as visible letters for bytes; apply() leaves that last step to the model.
  bool ends_in_bytes() const {
    if (kind_ == Kind::sequence) return !parts_.empty() && parts_.back().ends_in_bytes();
    return kind_ == Kind::byte_level;
  }

  /// Cuts and rewrites. With `bytes`, a final ByteLevel does not spell the bytes as letters.
  void apply(PieceList& list, bool bytes) const {
    switch (kind_) {
      case Kind::none: break;
      case Kind::sequence:
        for (std::size_t i = 0; i < parts_.size(); ++i) parts_[i].apply(list, bytes && i + 1 == parts_.size());
        break;
      case Kind::byte_level:
        if (prefix_space_) {
          list.rewrite([](std::string_view text, bool, std::string& out) {
            if (!text.starts_with(' ')) out += ' ';
            out += text;
          });
        }
        if (pattern_) split(list, *pattern_, Behaviour::isolated, false);
        if (!bytes) {
          list.rewrite([](std::string_view text, bool, std::string& out) {
            for (const char c : text) unicode::append(out, byte_alphabet.letter[static_cast<unsigned char>(c)]);
          });
        }
        break;
      case Kind::split: split(list, *pattern_, behaviour_, invert_); break;
      case Kind::metaspace:
        list.rewrite([&](std::string_view text, bool first, std::string& out) {
          const bool prefixed = text.starts_with(' ') || text.starts_with(mark_);
          if (!prefixed && (scheme_ == Scheme::always || (scheme_ == Scheme::first && first))) out += mark_;
          for (const char c : text) {
            if (c == ' ') {
              out += mark_;
            } else {
              out += c;
            }
          }
        });
        if (split_) {
          list.split([&](std::string_view text, const auto& keep) {
            std::size_t from = 0;
            for (std::size_t at = text.find(mark_, 1); at != std::string_view::npos; at = text.find(mark_, at + 1)) {
              keep(from, at);
              from = at;
            }
            keep(from, text.size());
          });
        }
        break;
      case Kind::whitespace_split: split_where(list, unicode::is_space, Behaviour::removed); break;
      case Kind::bert:
        split_where(list, unicode::is_space, Behaviour::removed);
        split_where(list, is_old_punctuation, Behaviour::isolated);
        break;
      case Kind::punctuation: split_where(list, is_old_punctuation, behaviour_); break;
      case Kind::digits: split_where(list, unicode::is_number, behaviour_); break;
      case Kind::delimiter: {
        std::size_t at = 0;
        const char32_t delimiter = unicode::next(mark_, at);
        split_where(list, [&](char32_t code) { return code == delimiter; }, Behaviour::removed);
        break;
      }
      case Kind::scripts: split_scripts(list); break;
      case Kind::fixed_length:
        list.split([&](std::string_view text, const auto& keep) {
          std::size_t from = 0, count = 0;
          for (std::size_t at = 0; at < text.size();) {
            unicode::next(text, at);
            if (++count == length_) {
              keep(from, at);
              from = at;
              count = 0;
            }
          }
          keep(from, text.size());
        });
        break;
    }
  }

  enum class Scheme : std::uint8_t { always, first, never };

  /// `replacement` and the prefix rule, in the old spelling (add_prefix_space, str_rep) and the new (prepend_scheme).
  static void read_metaspace(const Json& json, std::string& mark, Scheme& scheme) {
    mark = one_character(json["replacement"]);
    const std::string name = json.get<std::string>("prepend_scheme", "always");
    const bool add_prefix = json.get<bool>("add_prefix_space", true);
    if (name != "always" && name != "first" && name != "never") json["prepend_scheme"].fail("is '" + name + "'");
    if (!add_prefix && json.contains("prepend_scheme") && name != "never") json.fail("has add_prefix_space false and prepend_scheme '" + name + "'");
    scheme = name == "never" || !add_prefix ? Scheme::never : name == "first" ? Scheme::first : Scheme::always;
  }

  static std::string one_character(const Json& json) {
    const std::string_view text = json.as_string();
    std::size_t at = 0;
    if (!text.empty()) unicode::next(text, at);
    if (text.empty() || at != text.size()) json.fail("is not one character");
    return std::string(text);
  }

 private:
  enum class Kind : std::uint8_t {
    none, sequence, byte_level, split, metaspace, whitespace_split, bert, punctuation, digits, delimiter, scripts, fixed_length,
  };
  enum class Behaviour : std::uint8_t { removed, isolated, merged_with_previous, merged_with_next, contiguous };

  static Behaviour read_behaviour(const Json& json) {
    const std::string_view name = json.as_string();
    if (name == "Removed") return Behaviour::removed;
    if (name == "Isolated") return Behaviour::isolated;
    if (name == "MergedWithPrevious") return Behaviour::merged_with_previous;
    if (name == "MergedWithNext") return Behaviour::merged_with_next;
    if (name == "Contiguous") return Behaviour::contiguous;
    json.fail("is '" + std::string(name) + "', no behavior of a split");
  }

  // One stretch of a text: between two delimiters, or a delimiter itself.
  struct Stretch {
    std::size_t begin, end;
    bool delimiter;
  };

  // `stretches(view, add)` calls add(begin, end, is delimiter) for the whole view from left to right.
  template <class Stretches>
  static void cut(PieceList& list, Behaviour behaviour, const Stretches& stretches) {
    if (behaviour == Behaviour::removed || behaviour == Behaviour::isolated) {
      list.split([&](std::string_view text, const auto& keep) {
        stretches(text, [&](std::size_t begin, std::size_t end, bool delimiter) {
          if (!delimiter || behaviour == Behaviour::isolated) keep(begin, end);
        });
      });
      return;
    }
    std::vector<Stretch> all;
    list.split([&](std::string_view text, const auto& keep) {
      all.clear();
      stretches(text, [&](std::size_t begin, std::size_t end, bool delimiter) { all.push_back({begin, end, delimiter}); });
      if (behaviour == Behaviour::merged_with_next) std::reverse(all.begin(), all.end());
      std::size_t kept = 0;
      bool previous = false;
      for (std::size_t i = 0; i < all.size(); ++i) {
        const Stretch now = all[i];
        const bool join = kept > 0 && (behaviour == Behaviour::contiguous ? now.delimiter == previous : now.delimiter && !previous);
        previous = now.delimiter;
        if (!join) {
          all[kept++] = now;
        } else if (behaviour == Behaviour::merged_with_next) {
          all[kept - 1].begin = now.begin;
        } else {
          all[kept - 1].end = now.end;
        }
      }
      all.resize(kept);
      if (behaviour == Behaviour::merged_with_next) std::reverse(all.begin(), all.end());
      for (const Stretch& stretch : all) keep(stretch.begin, stretch.end);
    });
  }

  static void split(PieceList& list, const Pattern& pattern, Behaviour behaviour, bool invert) {
    cut(list, behaviour, [&](std::string_view text, const auto& add) {
      std::size_t at = 0;
      Pattern::Search search(pattern, text);
      while (const auto match = search.next()) {
        if (at != match->begin) add(at, match->begin, invert);
        add(match->begin, match->end, !invert);
        at = match->end;
      }
      if (at != text.size()) add(at, text.size(), invert);
    });
  }

  // Each character that `is` holds for is a delimiter of its own.
  template <class Is>
  static void split_where(PieceList& list, Is is, Behaviour behaviour) {
    cut(list, behaviour, [&](std::string_view text, const auto& add) {
      std::size_t from = 0;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t here = at;
        if (!is(unicode::next(text, at))) continue;
        if (from < here) add(from, here, false);
        add(here, at, true);
        from = at;
      }
      if (from < text.size()) add(from, text.size(), false);
    });
  }

  // sentencepiece's rule: a new piece where the script changes; kana count as Han, blanks and code points without a script as anything.
  // What stands before the first script is lost, as in the reference implementation.
  static void split_scripts(PieceList& list) {
    const int han = unicode::script_named("Han"), hiragana = unicode::script_named("Hiragana"), katakana = unicode::script_named("Katakana");
    constexpr int any = -1, none = -2;
    list.split([&](std::string_view text, const auto& keep) {
      std::size_t from = text.size();
      int last = none;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t here = at;
        const char32_t code = unicode::next(text, at);
        int script = code == 0x30FC ? han : code == ' ' || younger_than(9, code) ? any : unicode::script(code);
        if (script == hiragana || script == katakana) script = han;
        if (script == any) continue;
        if (script != last) {
          if (last != none) keep(from, here);
          from = here;
        }
        last = script;
      }
      keep(from, text.size());
    });
  }

  Kind kind_ = Kind::none;
  Behaviour behaviour_ = Behaviour::isolated;
  Scheme scheme_ = Scheme::always;
  bool prefix_space_ = false, invert_ = false, split_ = true;
  std::size_t length_ = 0;
  std::string mark_;
  std::shared_ptr<const Pattern> pattern_;
  std::vector<PreTokenizer> parts_;
};

}  // namespace detail
}  // namespace chiasm
