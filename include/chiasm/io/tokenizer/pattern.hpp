/// Pattern: the regular expressions of published tokenizer.json files, in Oniguruma's Ruby syntax, on UTF-8.
#pragma once

#include <chiasm/core/error.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A compiled regular expression. Backtracking, leftmost, first alternative wins; const and shareable between threads.
///
/// Known: literals and escapes, `.`, classes with ranges, negation, nesting, `&&`, `[:posix:]`, `\d \w \s \h`, `\p{..}` with
/// general categories, scripts, Alphabetic, White_Space, Any; groups, `(?i:..)`, `(?m:..)`, atomic groups, lookahead, lookbehind of fixed
/// length; greedy, lazy and possessive quantifiers, `{n,m}`; `^ $ \A \z \Z \b \B`.
class Pattern {
 public:
  /// Throws FormatError (byte within `source`) for an expression that is malformed, UnsupportedError for back references and
  /// other constructs that tokenizers do not use, or an expression that unfolds to more than 65536 instructions.
  explicit Pattern(std::string_view source);
  /// Matches `text` as it stands.
  static Pattern literal(std::string_view text);

  struct Match {
    std::size_t begin, end;  // bytes
  };

  /// The matches in a text, from left to right, without overlap. Keeps its scratch between matches; `text` must stay valid.
  class Search {
   public:
    Search(const Pattern& pattern, std::string_view text);
    /// The next match, none at the end. Throws UnsupportedError if the expression needs more than about
    /// 20'000'000 + 1024 * text.size() steps: catastrophic backtracking ends in an error, never in a hang.
    std::optional<Match> next();

   private:
    friend class Pattern;
    struct Choice {
      std::uint32_t kind, instruction;
      std::size_t low, high;
    };
    bool run(std::uint32_t instruction, std::size_t at, std::size_t& end);
    const Pattern& pattern_;
    std::string_view text_;
    std::size_t at_ = 0, steps_ = 0;
    std::optional<std::size_t> last_end_;
    std::vector<Choice> choices_;
    std::vector<std::size_t> marks_;
  };

 private:
  struct Program;
  struct Compiler;
  Pattern() = default;
  std::shared_ptr<const Program> program_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/tokenizer_pattern.ipp>
#endif
