#pragma once

#include <chiasm/io/tokenizer/pattern.hpp>

#include <chiasm/io/tokenizer/unicode.hpp>

#include <chiasm/impl/tokenizer_scanners.ipp>

#include <algorithm>
#include <array>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

inline unsigned case_variants(char32_t code, std::array<char32_t, 8>& variants) {
  const char32_t folded = unicode::fold(code);
  unsigned count = 0;
  const auto add = [&](char32_t c) {
    for (unsigned i = 0; i < count; ++i)
      if (variants[i] == c) return;
    if (count < variants.size()) variants[count++] = c;
  };
  add(code);
  add(folded);
  for (const auto& row : unicode::tables::lowercase)
    if (row.to == folded && row.then == 0) add(row.code);
  for (const auto& row : unicode::tables::casefold)
    if (row.to == folded) add(row.code);
  return count;
}

/// A set of code points: categories, properties, ranges and nested sets, all joined, then cut with `also`, then perhaps negated.
struct CodeSet {
  std::array<std::uint64_t, 2> ascii{};  // the answer for code < 128, filled by seal()
  std::uint32_t categories = 0;
  bool alphabetic = false, space = false, word = false, any = false, negated = false, caseless = false;
  std::vector<std::pair<char32_t, char32_t>> ranges;
  std::vector<int> scripts;
  std::vector<CodeSet> nested, also;

  bool has(char32_t code) const {
    return code < 128 ? (ascii[code >> 6] >> (code & 63U) & 1U) != 0 : evaluate(code);
  }
  bool evaluate(char32_t code) const {
    bool in = joined(code);
    if (!in && caseless) {
      std::array<char32_t, 8> variants{};
      const unsigned count = case_variants(code, variants);
      for (unsigned i = 1; i < count && !in; ++i) in = joined(variants[i]);
    }
    for (const CodeSet& set : also) in = in && set.evaluate(code);
    return in != negated;
  }
  void seal() {
    for (CodeSet& set : nested) set.seal();
    for (CodeSet& set : also) set.seal();
    ascii = {};
    for (char32_t code = 0; code < 128; ++code)
      if (evaluate(code)) ascii[code >> 6] |= std::uint64_t{1} << (code & 63U);
  }
  void add(char32_t code) { ranges.emplace_back(code, code); }

 private:
  bool joined(char32_t code) const {
    if (any || (categories != 0 && unicode::detail::in(code, categories))) return true;
    if (alphabetic && unicode::is_alphabetic(code)) return true;
    if (space && unicode::is_space(code)) return true;
    // Oniguruma takes Latin-1's superscripts and fractions for word characters.
    if (word && (unicode::is_alphabetic(code) || code == 0xB2 || code == 0xB3 || code == 0xB9 || (code >= 0xBC && code <= 0xBE) ||
                 unicode::detail::in(code, unicode::detail::marks | unicode::detail::bit(unicode::Category::Nd) |
                                               unicode::detail::bit(unicode::Category::Pc))))
      return true;
    for (const auto& [low, high] : ranges)
      if (code >= low && code <= high) return true;
    if (!scripts.empty() && std::find(scripts.begin(), scripts.end(), unicode::script(code)) != scripts.end()) return true;
    for (const CodeSet& set : nested)
      if (set.evaluate(code)) return true;
    return false;
  }
};

}  // namespace detail

struct Pattern::Program {
  enum class Op : std::uint8_t {
    letter,       // a: code point
    folded,       // a: folded code point
    set,          // a: set
    any,          // everything but a newline
    all,          // everything
    split,        // try a, then b
    jump,         // a
    accept,
    line_begin, line_end, text_begin, text_end, text_end_or_newline, word_boundary, no_word_boundary,
    ahead, not_ahead,    // a: behind the body
    behind, not_behind,  // a: behind the body; b: code points to step back
    atomic,              // a: behind the body
    run,                 // the single-character instruction that follows, low..high times; greedy
    run_possessive,
    mark,      // a: register := position
    progress,  // a: register; fails where the loop body matched nothing
  };
  struct Instruction {
    Op op;
    std::uint32_t a = 0, b = 0;
  };
  static constexpr std::uint32_t unbounded = 0xFFFFFFFF;
  std::string source;
  std::vector<Instruction> code;
  std::vector<detail::CodeSet> sets;
  std::uint32_t registers = 0;
  detail::Scanner scanner = nullptr;  // does the same as the code, faster

  // Whether the single-character instruction takes the character at `at`; then `at` is behind it.
  bool take(const Instruction& instruction, std::string_view text, std::size_t& at) const {
    if (at >= text.size()) return false;
    std::size_t behind = at;
    const char32_t code_point = unicode::next(text, behind);
    bool fits = false;
    switch (instruction.op) {
      case Op::letter: fits = code_point == instruction.a; break;
      case Op::folded: fits = unicode::fold(code_point) == instruction.a; break;
      case Op::set: fits = sets[instruction.a].has(code_point); break;
      case Op::any: fits = code_point != '\n'; break;
      default: fits = true; break;
    }
    if (fits) at = behind;
    return fits;
  }
};

struct Pattern::Compiler {
  using Op = Program::Op;
  enum class Kind : std::uint8_t { empty, single, assertion, sequence, choice, repeat, ahead, not_ahead, behind, not_behind, atomic };
  enum class Greed : std::uint8_t { greedy, lazy, possessive };
  struct Node {
    Kind kind = Kind::empty;
    Program::Instruction instruction{Op::all};  // single, assertion
    std::uint32_t low = 0, high = 0;            // repeat
    Greed greed = Greed::greedy;
    std::vector<Node> parts;
  };

  std::string_view source;
  Program& program;
  std::size_t at = 0;
  bool caseless = false, dot_all = false;
  unsigned depth = 0;

  Compiler(std::string_view text, Program& target) : source(text), program(target) {}

  [[noreturn]] void malformed(const std::string& what) const { throw FormatError("pattern '" + std::string(source) + "'", at, what); }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw UnsupportedError(what + " in pattern '" + std::string(source) + "'");
  }
  bool more() const { return at < source.size(); }
  bool accept(std::string_view text) {
    if (!source.substr(at).starts_with(text)) return false;
    at += text.size();
    return true;
  }

  static Node make(Kind kind, std::vector<Node> parts = {}) {
    Node node;
    node.kind = kind;
    node.parts = std::move(parts);
    return node;
  }
  static Node single(Op op, std::uint32_t a = 0) {
    Node node;
    node.kind = Kind::single;
    node.instruction = {op, a};
    return node;
  }
  static Node assertion(Op op) {
    Node node = single(op);
    node.kind = Kind::assertion;
    return node;
  }
  Node letter(char32_t code) const {
    if (!caseless) return single(Op::letter, code);
    return single(Op::folded, unicode::fold(code));
  }
  Node set(detail::CodeSet codes) {
    codes.caseless = codes.caseless || caseless;
    codes.seal();
    program.sets.push_back(std::move(codes));
    return single(Op::set, static_cast<std::uint32_t>(program.sets.size() - 1));
  }

  Node alternatives() {
    if (++depth > 128) unsupported("groups nested deeper than 128 levels");
    const bool outer_caseless = caseless, outer_dot_all = dot_all;
    std::vector<Node> choices;
    choices.push_back(sequence());
    while (accept("|")) choices.push_back(sequence());
    caseless = outer_caseless;
    dot_all = outer_dot_all;
    --depth;
    return choices.size() == 1 ? std::move(choices[0]) : make(Kind::choice, std::move(choices));
  }

  Node sequence() {
    std::vector<Node> parts;
    while (more() && source[at] != '|' && source[at] != ')') parts.push_back(quantified());
    return parts.size() == 1 ? std::move(parts[0]) : make(Kind::sequence, std::move(parts));
  }

  bool interval(std::uint32_t& low, std::uint32_t& high) {
    const std::size_t from = at;
    const auto number = [&](std::uint32_t& value) {
      const std::size_t begin = at;
      std::uint64_t n = 0;
      while (more() && source[at] >= '0' && source[at] <= '9' && n <= 100000) n = n * 10 + static_cast<unsigned>(source[at++] - '0');
      if (n > 100000) malformed("too big number for repeat range");
      value = static_cast<std::uint32_t>(n);
      return at != begin;
    };
    if (!accept("{")) return false;
    const bool has_low = number(low);
    high = low;
    bool has_high = has_low;
    if (accept(",")) {
      has_high = number(high);
      if (!has_high) high = Program::unbounded;
      if (has_low) has_high = true;
    }
    if (!has_high || !accept("}")) {
      at = from;  // no quantifier: a literal brace
      return false;
    }
    if (high < low) malformed("repeat range " + std::to_string(low) + ".." + std::to_string(high));
    return true;
  }

  Node quantified() {
    Node node = atom();
    for (;;) {
      std::uint32_t low = 0, high = Program::unbounded;
      bool is_interval = false;
      if (accept("*")) {
      } else if (accept("+")) {
        low = 1;
      } else if (accept("?")) {
        high = 1;
      } else if (interval(low, high)) {
        is_interval = true;
      } else {
        return node;
      }
      Node loop = make(Kind::repeat);
      loop.low = low;
      loop.high = high;
      if (is_interval && low == high && more() && source[at] == '?') {
        // Ruby reads a{n}? as an optional a{n}: the next round sees the '?'.
      } else if (accept("?")) {
        loop.greed = Greed::lazy;
      } else if (!is_interval && accept("+")) {
        loop.greed = Greed::possessive;
      }
      loop.parts.push_back(std::move(node));
      node = std::move(loop);
    }
  }

  Node group() {
    const auto body = [&](Kind kind) {
      Node inner = alternatives();
      if (!accept(")")) malformed("group without ')'");
      if (kind == Kind::empty) return inner;
      std::vector<Node> parts;
      parts.push_back(std::move(inner));
      return make(kind, std::move(parts));
    };
    if (!accept("?")) return body(Kind::empty);
    if (accept(":")) return body(Kind::empty);
    if (accept("=")) return body(Kind::ahead);
    if (accept("!")) return body(Kind::not_ahead);
    if (accept(">")) return body(Kind::atomic);
    if (accept("<=")) return body(Kind::behind);
    if (accept("<!")) return body(Kind::not_behind);
    if (accept("#")) {
      const std::size_t end = source.find(')', at);
      if (end == std::string_view::npos) malformed("comment without ')'");
      at = end + 1;
      return make(Kind::empty);
    }
    if (accept("<") || accept("P<")) {
      const std::size_t end = source.find('>', at);
      if (end == std::string_view::npos || end == at) malformed("group name without '>'");
      at = end + 1;
      return body(Kind::empty);
    }
    const bool outer_caseless = caseless, outer_dot_all = dot_all;
    bool on = true;
    for (; more() && source[at] != ':' && source[at] != ')'; ++at) {
      switch (source[at]) {
        case '-': on = false; break;
        case 'i': caseless = on; break;
        case 'm': dot_all = on; break;
        case 'u': break;
        default: unsupported("group (?" + std::string(1, source[at]) + "...)");
      }
    }
    if (accept(":")) {
      Node node = body(Kind::empty);
      caseless = outer_caseless;
      dot_all = outer_dot_all;
      return node;
    }
    if (!accept(")")) malformed("group without ')'");
    // (?i) holds to the end of the enclosing group, over its alternatives too.
    Node rest = alternatives();
    return rest;
  }

  Node atom() {
    const char c = source[at];
    if (c == '(') {
      ++at;
      return group();
    }
    if (c == '[') {
      ++at;
      return set(bracket());
    }
    if (c == '*' || c == '+' || c == '?') malformed("quantifier without something to repeat");
    if (accept(".")) return single(dot_all ? Op::all : Op::any);
    if (accept("^")) return assertion(Op::line_begin);
    if (accept("$")) return assertion(Op::line_end);
    if (c == '\\') return escape();
    return letter(unicode::next(source, at));
  }

  Node escape() {
    if (at + 1 >= source.size()) malformed("ends in a backslash");
    switch (source[at + 1]) {
      case 'A': return at += 2, assertion(Op::text_begin);
      case 'z': return at += 2, assertion(Op::text_end);
      case 'Z': return at += 2, assertion(Op::text_end_or_newline);
      case 'b': return at += 2, assertion(Op::word_boundary);
      case 'B': return at += 2, assertion(Op::no_word_boundary);
      case 'G': case 'K': case 'R': case 'X': case 'g': case 'k':
      case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        unsupported(std::string("'\\") + source[at + 1] + "'");
      default: break;
    }
    detail::CodeSet codes;
    if (class_escape(codes)) return set(std::move(codes));
    return letter(character_escape());
  }

  // \d \w \s \h \p{..} and their negations, at a backslash. False: it is a character.
  bool class_escape(detail::CodeSet& codes) {
    const char c = source[at + 1];
    switch (c) {
      case 'd': case 'D': codes.categories = unicode::detail::bit(unicode::Category::Nd); break;
      case 'w': case 'W': codes.word = true; break;
      case 's': case 'S': codes.space = true; break;
      case 'h': case 'H': codes.ranges = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}}; break;
      case 'p': case 'P': return property(codes), true;
      default: return false;
    }
    codes.negated = c >= 'A' && c <= 'Z';
    at += 2;
    return true;
  }

  void property(detail::CodeSet& codes) {
    codes.negated = source[at + 1] == 'P';
    at += 2;
    std::string name;
    if (accept("{")) {
      const std::size_t end = source.find('}', at);
      if (end == std::string_view::npos) malformed("property without '}'");
      name = std::string(source.substr(at, end - at));
      at = end + 1;
      if (name.starts_with('^')) {
        codes.negated = !codes.negated;
        name.erase(0, 1);
      }
    } else if (more() && source[at] >= 'A' && source[at] <= 'Z') {
      name = std::string(1, source[at++]);
    } else {
      malformed("property without a name");
    }
    if (!named(codes, name)) unsupported("property '" + name + "'");
  }

  static bool named(detail::CodeSet& codes, std::string_view name) {
    std::string key;
    for (const char c : name)
      if (c != ' ' && c != '_' && c != '-') key += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    static constexpr std::string_view two_letters =
        "cn lu ll lt lm lo mn mc me nd nl no pc pd ps pe pi pf po sm sc sk so zs zl zp cc cf cs co ";
    static constexpr std::pair<std::string_view, std::string_view> long_names[] = {
        {"letter", "l"}, {"uppercaseletter", "lu"}, {"lowercaseletter", "ll"}, {"titlecaseletter", "lt"}, {"modifierletter", "lm"},
        {"otherletter", "lo"}, {"mark", "m"}, {"combiningmark", "m"}, {"nonspacingmark", "mn"}, {"spacingmark", "mc"},
        {"enclosingmark", "me"}, {"number", "n"}, {"decimalnumber", "nd"}, {"letternumber", "nl"}, {"othernumber", "no"},
        {"punctuation", "p"}, {"connectorpunctuation", "pc"}, {"dashpunctuation", "pd"}, {"openpunctuation", "ps"},
        {"closepunctuation", "pe"}, {"initialpunctuation", "pi"}, {"finalpunctuation", "pf"}, {"otherpunctuation", "po"},
        {"symbol", "s"}, {"mathsymbol", "sm"}, {"currencysymbol", "sc"}, {"modifiersymbol", "sk"}, {"othersymbol", "so"},
        {"separator", "z"}, {"spaceseparator", "zs"}, {"lineseparator", "zl"}, {"paragraphseparator", "zp"}, {"other", "c"},
        {"control", "cc"}, {"format", "cf"}, {"surrogate", "cs"}, {"privateuse", "co"}, {"unassigned", "cn"}};
    for (const auto& [from, to] : long_names)
      if (key == from) key = std::string(to);
    const auto categories_of = [&](std::string_view prefix) {
      std::uint32_t bits = 0;
      for (unsigned i = 0; i < 30; ++i)
        if (two_letters.substr(std::size_t{3} * i, prefix.size()) == prefix) bits |= 1U << i;
      return bits;
    };
    if (key == "any") return codes.any = true;
    if (key == "alphabetic") return codes.alphabetic = true;
    if (key == "whitespace") return codes.space = true;
    if (key == "space") return codes.space = true;
    if (key == "word") return codes.word = true;
    if (key == "assigned") {
      codes.categories = ~categories_of("cn");
      return true;
    }
    if (key == "ascii") return codes.ranges.emplace_back(0, 127), true;
    if (key == "alpha") return codes.alphabetic = true;
    if (key == "digit") return (codes.categories = categories_of("nd")) != 0;
    if (key == "alnum") return (codes.categories = categories_of("nd")) != 0 && (codes.alphabetic = true);
    if (key == "upper") return (codes.categories = categories_of("lu")) != 0;
    if (key == "lower") return (codes.categories = categories_of("ll")) != 0;
    if (key == "cntrl") return (codes.categories = categories_of("cc")) != 0;
    if (key == "xdigit") {
      codes.ranges = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}};
      return true;
    }
    if (key == "blank") {
      codes.categories = categories_of("zs");
      codes.add('\t');
      return true;
    }
    if (key == "punct") {
      codes.categories = categories_of("p") | categories_of("s");
      return true;
    }
    if (key == "lc") return (codes.categories = categories_of("lu") | categories_of("ll") | categories_of("lt")) != 0;
    if (key.size() == 1 || key.size() == 2) {
      codes.categories = categories_of(key);
      if (codes.categories != 0) return true;
    }
    const int script = unicode::script_named(name);
    if (script < 0) return false;
    codes.scripts.push_back(script);
    return true;
  }

  char32_t hexadecimal(std::size_t most) {
    char32_t value = 0;
    std::size_t digits = 0;
    for (; digits < most && more(); ++digits, ++at) {
      const char c = source[at];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) break;
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (digits == 0 || value > 0x10FFFF) malformed("code point that is none");
    return value;
  }

  char32_t character_escape() {
    ++at;
    if (!more()) malformed("ends in a backslash");
    const char c = source[at];
    switch (c) {
      case 't': return ++at, U'\t';
      case 'n': return ++at, U'\n';
      case 'r': return ++at, U'\r';
      case 'f': return ++at, U'\f';
      case 'v': return ++at, U'\v';
      case 'a': return ++at, U'\a';
      case 'e': return ++at, U'\x1B';
      case '0': return ++at, U'\0';
      case 'u': return ++at, hexadecimal(4);
      case 'x': {
        ++at;
        if (!accept("{")) {
          const char32_t code = hexadecimal(2);
          if (code > 0x7F) malformed("\\x" "80 and above is a lone byte of UTF-8");
          return code;
        }
        const char32_t code = hexadecimal(8);
        if (!accept("}")) malformed("\\x{ without '}'");
        return code;
      }
      default: return unicode::next(source, at);
    }
  }

  // Behind '['.
  detail::CodeSet bracket() {
    if (++depth > 128) unsupported("classes nested deeper than 128 levels");
    detail::CodeSet whole;
    const bool negated = accept("^");
    detail::CodeSet part;
    std::vector<detail::CodeSet> cuts;
    bool first = true;
    for (;; first = false) {
      if (!more()) malformed("class without ']'");
      if (source[at] == ']' && !first) {
        ++at;
        break;
      }
      if (accept("&&")) {
        cuts.push_back(std::move(part));
        part = detail::CodeSet();
        continue;
      }
      if (source.substr(at).starts_with("[:")) {
        const std::size_t end = source.find(":]", at);
        if (end != std::string_view::npos) {
          std::string_view name = source.substr(at + 2, end - at - 2);
          detail::CodeSet posix;
          posix.negated = name.starts_with('^');
          if (posix.negated) name.remove_prefix(1);
          if (!named(posix, name)) malformed("unknown class [:" + std::string(name) + ":]");
          part.nested.push_back(std::move(posix));
          at = end + 2;
          continue;
        }
      }
      if (source[at] == '[') {
        ++at;
        part.nested.push_back(bracket());
        continue;
      }
      detail::CodeSet codes;
      if (source[at] == '\\') {
        if (at + 1 >= source.size()) malformed("ends in a backslash");
        if (class_escape(codes)) {
          part.nested.push_back(std::move(codes));
          continue;
        }
      }
      const char32_t low = member();
      if (at + 1 < source.size() && source[at] == '-' && source[at + 1] != ']' && source[at + 1] != '[' &&
          !source.substr(at).starts_with("-&&")) {
        const std::size_t dash = at++;
        if (source[at] == '\\' && at + 1 < source.size() && class_escape(codes)) {  // [a-\d]: no range
          part.add(low);
          part.add('-');
          part.nested.push_back(std::move(codes));
          continue;
        }
        const char32_t high = member();
        if (high < low) {
          at = dash;
          malformed("empty range in class");
        }
        part.ranges.emplace_back(low, high);
      } else {
        part.add(low);
      }
    }
    --depth;
    if (cuts.empty()) {
      whole = std::move(part);
    } else {
      cuts.push_back(std::move(part));
      for (detail::CodeSet& cut : cuts) cut.caseless = caseless;
      whole.any = true;
      whole.also = std::move(cuts);
    }
    whole.negated = negated;
    whole.caseless = caseless;
    return whole;
  }

  char32_t member() {
    if (source[at] != '\\') return unicode::next(source, at);
    if (at + 1 < source.size() && source[at + 1] == 'b') return at += 2, U'\b';
    return character_escape();
  }

  // ---- tree to instructions

  std::uint32_t here() const { return static_cast<std::uint32_t>(program.code.size()); }
  std::uint32_t emit(Op op, std::uint32_t a = 0, std::uint32_t b = 0) {
    if (program.code.size() >= 65536) unsupported("more than 65536 instructions");
    program.code.push_back({op, a, b});
    return here() - 1;
  }

  static bool may_be_empty(const Node& node) {
    switch (node.kind) {
      case Kind::single: return false;
      case Kind::sequence: return std::all_of(node.parts.begin(), node.parts.end(), may_be_empty);
      case Kind::choice: return std::any_of(node.parts.begin(), node.parts.end(), may_be_empty);
      case Kind::atomic: return may_be_empty(node.parts[0]);
      case Kind::repeat: return node.low == 0 || may_be_empty(node.parts[0]);
      default: return true;
    }
  }

  // Code points that every match of the node has; none if they differ.
  static std::optional<std::uint32_t> length(const Node& node) {
    switch (node.kind) {
      case Kind::single: return 1;
      case Kind::sequence: {
        std::uint32_t sum = 0;
        for (const Node& part : node.parts) {
          const auto size = length(part);
          if (!size || sum > 100000) return std::nullopt;
          sum += *size;
        }
        return sum;
      }
      case Kind::choice: {
        const auto size = length(node.parts[0]);
        for (const Node& part : node.parts)
          if (length(part) != size) return std::nullopt;
        return size;
      }
      case Kind::atomic: return length(node.parts[0]);
      case Kind::repeat: {
        const auto size = length(node.parts[0]);
        if (!size || node.low != node.high || node.low > 1000) return std::nullopt;
        return *size * node.low;
      }
      default: return 0;
    }
  }

  void body(Op op, const Node& inner, std::uint32_t back = 0) {
    const std::uint32_t begin = emit(op, 0, back);
    write(inner);
    emit(Op::accept);
    program.code[begin].a = here();
  }

  void behind(const Node& node) {
    const Node& inner = node.parts[0];
    const bool negative = node.kind == Kind::not_behind;
    const Op op = negative ? Op::not_behind : Op::behind;
    const auto size = length(inner);
    if (size) return body(op, inner, *size);
    // Alternatives of different lengths: one assertion each.
    if (inner.kind != Kind::choice) unsupported("lookbehind of varying length");
    for (const Node& part : inner.parts)
      if (!length(part)) unsupported("lookbehind of varying length");
    if (negative) {
      for (const Node& part : inner.parts) body(op, part, *length(part));
      return;
    }
    std::vector<std::uint32_t> exits;
    for (std::size_t i = 0; i < inner.parts.size(); ++i) {
      const bool last = i + 1 == inner.parts.size();
      const std::uint32_t fork = last ? 0 : emit(Op::split, here() + 1);
      body(op, inner.parts[i], *length(inner.parts[i]));
      if (last) break;
      exits.push_back(emit(Op::jump));
      program.code[fork].b = here();
    }
    for (const std::uint32_t exit : exits) program.code[exit].a = here();
  }

  void repeat(const Node& node) {
    const Node& inner = node.parts[0];
    if (node.greed == Greed::possessive && inner.kind != Kind::single) {
      Node greedy = node;
      greedy.greed = Greed::greedy;
      return body(Op::atomic, greedy);
    }
    if (inner.kind == Kind::single && node.greed != Greed::lazy) {
      emit(node.greed == Greed::greedy ? Op::run : Op::run_possessive, node.low, node.high);
      program.code.push_back(inner.instruction);
      return;
    }
    for (std::uint32_t i = 0; i < node.low; ++i) write(inner);
    const bool lazy = node.greed == Greed::lazy;
    const auto fork = [&] { return emit(Op::split); };
    const auto aim = [&](std::uint32_t split, std::uint32_t into, std::uint32_t out) {
      program.code[split].a = lazy ? out : into;
      program.code[split].b = lazy ? into : out;
    };
    if (node.high == Program::unbounded) {
      const bool guard = may_be_empty(inner);
      const std::uint32_t loop = fork();
      const std::uint32_t mark = guard ? program.registers++ : 0;
      if (guard) emit(Op::mark, mark);
      write(inner);
      if (guard) emit(Op::progress, mark);
      emit(Op::jump, loop);
      aim(loop, loop + 1, here());
      return;
    }
    std::vector<std::uint32_t> forks;
    for (std::uint32_t i = node.low; i < node.high; ++i) {
      forks.push_back(fork());
      write(inner);
    }
    for (const std::uint32_t split : forks) aim(split, split + 1, here());
  }

  void write(const Node& node) {
    switch (node.kind) {
      case Kind::empty: break;
      case Kind::single:
      case Kind::assertion: emit(node.instruction.op, node.instruction.a, node.instruction.b); break;
      case Kind::sequence:
        for (const Node& part : node.parts) write(part);
        break;
      case Kind::choice: {
        std::vector<std::uint32_t> exits;
        for (std::size_t i = 0; i + 1 < node.parts.size(); ++i) {
          const std::uint32_t split = emit(Op::split, here() + 1);
          write(node.parts[i]);
          exits.push_back(emit(Op::jump));
          program.code[split].b = here();
        }
        write(node.parts.back());
        for (const std::uint32_t exit : exits) program.code[exit].a = here();
        break;
      }
      case Kind::repeat: repeat(node); break;
      case Kind::ahead: body(Op::ahead, node.parts[0]); break;
      case Kind::not_ahead: body(Op::not_ahead, node.parts[0]); break;
      case Kind::atomic: body(Op::atomic, node.parts[0]); break;
      case Kind::behind:
      case Kind::not_behind: behind(node); break;
    }
  }

  void compile() {
    const Node root = alternatives();
    if (more()) malformed("')' without a group");
    write(root);
    emit(Op::accept);
  }
};

CHIASM_INLINE Pattern::Pattern(std::string_view source) {
  auto program = std::make_shared<Program>();
  program->source = unicode::is_valid(source) ? std::string(source) : unicode::replace_invalid(source);
  Compiler(program->source, *program).compile();
  program->scanner = detail::scanner_for(program->source);
  program_ = std::move(program);
}

CHIASM_INLINE Pattern Pattern::literal(std::string_view text) {
  auto program = std::make_shared<Program>();
  program->source = std::string(text);
  for (std::size_t at = 0; at < text.size();) program->code.push_back({Program::Op::letter, unicode::next(text, at)});
  program->code.push_back({Program::Op::accept});
  Pattern pattern;
  pattern.program_ = std::move(program);
  return pattern;
}

CHIASM_INLINE Pattern::Search::Search(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) {}

CHIASM_INLINE std::optional<Pattern::Match> Pattern::Search::next() {
  if (const detail::Scanner scanner = pattern_.program_->scanner) {
    while (at_ < text_.size()) {
      const std::size_t begin = at_, end = scanner(text_, begin);
      if (end != begin) {
        at_ = end;
        return Match{begin, end};
      }
      unicode::next(text_, at_);
    }
    return std::nullopt;
  }
  if (marks_.size() != pattern_.program_->registers) marks_.assign(pattern_.program_->registers, 0);
  while (at_ <= text_.size()) {
    const std::size_t begin = at_;
    std::size_t end = begin;
    choices_.clear();
    const bool found = run(0, begin, end);
    if (!found || end == begin) {
      // The next attempt is one character on; an empty match right behind the last match does not count.
      if (at_ < text_.size()) {
        unicode::next(text_, at_);
      } else {
        ++at_;
      }
      if (!found || last_end_ == begin) continue;
    } else {
      at_ = end;
    }
    last_end_ = end;
    return Match{begin, end};
  }
  return std::nullopt;
}

CHIASM_INLINE bool Pattern::Search::run(std::uint32_t instruction, std::size_t at, std::size_t& end) {
  using Op = Program::Op;
  enum : std::uint32_t { resume, shrink, restore };  // kinds of Choice
  const Program& program = *pattern_.program_;
  const std::size_t base = choices_.size(), limit = 20'000'000 + 1024 * text_.size();
  const auto word = [&](std::size_t i) {  // whether a word character begins at i
    return i < text_.size() && unicode::is_word(unicode::next(text_, i));
  };
  const auto previous = [&](std::size_t i) {
    do --i;
    while (i > 0 && (static_cast<unsigned char>(text_[i]) & 0xC0U) == 0x80U);
    return i;
  };
  for (;;) {
    if (++steps_ > limit)
      throw UnsupportedError("pattern '" + program.source + "' on this text: more than " + std::to_string(limit) + " steps");
    const Program::Instruction& now = program.code[instruction];
    bool ok = true;
    switch (now.op) {
      case Op::letter:
      case Op::folded:
      case Op::set:
      case Op::any:
      case Op::all: ok = program.take(now, text_, at); break;
      case Op::split:
        choices_.push_back({resume, now.b, at, 0});
        instruction = now.a;
        continue;
      case Op::jump: instruction = now.a; continue;
      case Op::accept:
        end = at;
        choices_.resize(base);
        return true;
      case Op::line_begin: ok = at == 0 || (text_[at - 1] == '\n' && at < text_.size()); break;
      case Op::line_end: ok = at == text_.size() || text_[at] == '\n'; break;
      case Op::text_begin: ok = at == 0; break;
      case Op::text_end: ok = at == text_.size(); break;
      case Op::text_end_or_newline: ok = at == text_.size() || (at + 1 == text_.size() && text_[at] == '\n'); break;
      case Op::word_boundary:
      case Op::no_word_boundary: {
        const bool boundary = word(at) != (at > 0 && word(previous(at)));
        ok = boundary == (now.op == Op::word_boundary);
        break;
      }
      case Op::ahead:
      case Op::not_ahead:
      case Op::behind:
      case Op::not_behind:
      case Op::atomic: {
        const bool negative = now.op == Op::not_ahead || now.op == Op::not_behind;
        std::size_t from = at, inner_end = 0;
        bool fits = true;
        if (now.op == Op::behind || now.op == Op::not_behind) {
          for (std::uint32_t i = 0; i < now.b && fits; ++i) {
            fits = from > 0;
            if (fits) from = previous(from);
          }
        }
        ok = (fits && run(instruction + 1, from, inner_end)) != negative;
        if (ok) {
          if (now.op == Op::atomic) at = inner_end;
          instruction = now.a;
          continue;
        }
        break;
      }
      case Op::run:
      case Op::run_possessive: {
        const Program::Instruction& single = program.code[instruction + 1];
        std::uint32_t count = 0;
        std::size_t least = at;
        while (count < now.b && program.take(single, text_, at)) {
          ++count;
          if (count == now.a) least = at;
        }
        steps_ += count;
        ok = count >= now.a;
        if (ok && now.op == Op::run && at > least) choices_.push_back({shrink, instruction + 2, least, at});
        if (ok) {
          instruction += 2;
          continue;
        }
        break;
      }
      case Op::mark:
        choices_.push_back({restore, now.a, marks_[now.a], 0});
        marks_[now.a] = at;
        break;
      case Op::progress: ok = marks_[now.a] != at; break;
    }
    if (ok) {
      ++instruction;
      continue;
    }
    for (;;) {  // back to the last choice
      if (choices_.size() == base) return false;
      Choice& choice = choices_.back();
      if (choice.kind == restore) {
        marks_[choice.instruction] = choice.low;
        choices_.pop_back();
        continue;
      }
      instruction = choice.instruction;
      if (choice.kind == resume) {
        at = choice.low;
        choices_.pop_back();
      } else {
        at = choice.high = previous(choice.high);
        if (choice.high == choice.low) choices_.pop_back();
      }
      break;
    }
  }
}

}  // namespace chiasm
