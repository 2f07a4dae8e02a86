#pragma once

#include <chiasm/impl/constraint_grammar.ipp>

#include <optional>

namespace chiasm::inline CHIASM_ABI {
namespace constrained {

/// An automaton over code points.
struct Letters {
  enum class Kind : std::uint8_t { letter, split, end, dead };
  struct Node {
    Kind kind = Kind::dead;
    std::uint32_t set = 0;         // letter: of sets
    std::uint32_t a = 0, b = 0;  // letter: a is next. split: either.
  };
  static constexpr std::uint32_t end = 0, dead = 1;
  static constexpr std::size_t most_nodes = 1u << 18;

  std::vector<CharSet> sets;
  std::vector<Node> nodes{{Kind::end}, {Kind::dead}};
  std::uint32_t start = dead;

  std::uint32_t add(Node node) {
    if (nodes.size() >= most_nodes) throw UnsupportedError("a regular expression that unfolds to more than " + std::to_string(most_nodes) + " states");
    nodes.push_back(node);
    return static_cast<std::uint32_t>(nodes.size() - 1);
  }
  std::uint32_t set(CharSet chars) {
    const auto [found, fresh] = set_of_.try_emplace(chars, static_cast<std::uint32_t>(sets.size()));
    if (fresh) sets.push_back(std::move(chars));
    return found->second;
  }
  std::uint32_t letter(CharSet chars, std::uint32_t next) {
    if (chars.empty() || next == dead) return dead;
    return add({Kind::letter, set(std::move(chars)), next, 0});
  }
  std::uint32_t split(std::uint32_t a, std::uint32_t b) {
    if (a == dead || a == b) return b;
    if (b == dead) return a;
    return add({Kind::split, 0, a, b});
  }

  /// Texts of `fewest` to `most` characters.
  static Letters length(std::size_t fewest, std::optional<std::size_t> most) {
    Letters letters;
    const std::uint32_t any = letters.set({{0, last_char}});
    std::uint32_t node = end;
    if (most) {
      for (std::size_t i = fewest; i < *most; ++i) {
        const std::uint32_t one = letters.add({Kind::letter, any, node, 0});
        node = letters.split(one, end);
      }
    } else {
      node = letters.add({Kind::split, 0, dead, end});
      letters.nodes[node].a = letters.add({Kind::letter, any, node, 0});
    }
    for (std::size_t i = 0; i < fewest; ++i) node = letters.add({Kind::letter, any, node, 0});
    letters.start = node;
    return letters;
  }

  /// What both accept.
  static Letters both(const Letters& x, const Letters& y) {
    Letters z;
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> known;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> open;
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> meets;
    const auto node = [&](std::uint32_t a, std::uint32_t b) {
      const Kind p = x.nodes[a].kind, q = y.nodes[b].kind;
      if (p == Kind::end && q == Kind::end) return end;
      if (p == Kind::dead || q == Kind::dead) return dead;
      if ((p == Kind::end && q == Kind::letter) || (p == Kind::letter && q == Kind::end)) return dead;
      const auto [found, fresh] = known.try_emplace({a, b}, 0);
      if (fresh) {
        found->second = z.add({});
        open.push_back({a, b});
      }
      return found->second;
    };
    z.start = node(x.start, y.start);
    while (!open.empty()) {
      const auto [a, b] = open.back();
      open.pop_back();
      const std::uint32_t at = known[{a, b}];
      const Node &p = x.nodes[a], &q = y.nodes[b];
      Node made;
      if (p.kind == Kind::split) {
        made = {Kind::split, 0, node(p.a, b), node(p.b, b)};
      } else if (q.kind == Kind::split) {
        made = {Kind::split, 0, node(a, q.a), node(a, q.b)};
      } else {
        const auto [found, fresh] = meets.try_emplace({p.set, q.set}, 0);
        if (fresh) found->second = z.set(intersect(x.sets[p.set], y.sets[q.set]));
        if (!z.sets[found->second].empty()) made = {Kind::letter, found->second, node(p.a, q.a), 0};
      }
      z.nodes[at] = made;
    }
    return z;
  }

  /// Into `grammar`, then `next`.
  std::uint32_t spell(Grammar& grammar, Spelling spelling, std::uint32_t next) const {
    std::vector<std::uint32_t> at(nodes.size(), Grammar::dead);
    at[end] = next;
    for (std::size_t i = 2; i < nodes.size(); ++i) at[i] = grammar.placeholder();
    for (std::size_t i = 2; i < nodes.size(); ++i) {
      const Node& node = nodes[i];
      if (node.kind == Kind::split) grammar.become(at[i], at[node.a], at[node.b]);
      if (node.kind == Kind::letter) {
        const std::uint32_t one = grammar.character(sets[node.set], spelling, at[node.a]);
        grammar.become(at[i], one);
      }
    }
    return at[start];
  }

  bool matches(std::string_view text) const {
    std::vector<std::uint32_t> now, next;
    std::vector<char> in(nodes.size(), 0);
    const auto reach = [&](std::uint32_t from, std::vector<std::uint32_t>& into) {
      std::vector<std::uint32_t> open{from};
      while (!open.empty()) {
        const std::uint32_t node = open.back();
        open.pop_back();
        if (in[node]) continue;
        in[node] = 1;
        into.push_back(node);
        if (nodes[node].kind == Kind::split) open.insert(open.end(), {nodes[node].a, nodes[node].b});
      }
    };
    reach(start, now);
    for (std::size_t at = 0; at < text.size();) {
      const char32_t code = unicode::next(text, at);
      std::fill(in.begin(), in.end(), char{0});
      next.clear();
      for (const std::uint32_t node : now)
        if (nodes[node].kind == Kind::letter && contains(sets[nodes[node].set], code)) reach(nodes[node].a, next);
      std::swap(now, next);
    }
    return std::find(now.begin(), now.end(), end) != now.end();
  }

 private:
  std::map<CharSet, std::uint32_t> set_of_;
};

/// A regular expression: as Python's `re.ASCII` reads it, whole texts only (`exact`); or as JSON Schema's `pattern`, which is looked for anywhere in a
/// text (`search`). Dialects differ there in \d \w \s and `.`: what is accepted is accepted by ECMAScript and by Python alike.
class Regex {
 public:
  enum class Mode : std::uint8_t { exact, search };

  static Letters compile(std::string_view pattern, Mode mode) {
    Regex regex(pattern, mode);
    Part whole = regex.alternatives(0);
    if (regex.at_ < pattern.size()) regex.malformed("')' without '('");
    if (mode == Mode::search)
      whole = regex.found_anywhere(std::move(whole));
    else
      regex.drop_anchors(whole, true, true);
    Letters letters;
    letters.start = build(letters, whole, Letters::end);
    return letters;
  }

 private:
  struct Part {
    enum class Kind : std::uint8_t { chars, sequence, either, repeat, begin, finish } kind = Kind::sequence;
    CharSet set;
    std::vector<Part> parts;
    std::size_t fewest = 0, most = 0, at = 0;
  };
  static constexpr std::size_t unbounded = std::numeric_limits<std::size_t>::max();

  Regex(std::string_view pattern, Mode mode) : pattern_(pattern), mode_(mode) {
    if (!unicode::is_valid(pattern)) malformed("ill-formed UTF-8");
  }

  [[noreturn]] void malformed(const std::string& what) const { throw FormatError("regular expression", at_, what); }
  [[noreturn]] void unsupported(const std::string& what, std::size_t at) const {
    throw UnsupportedError(what + " in a regular expression (byte " + std::to_string(at) + " of \"" + std::string(pattern_.substr(0, 200)) + "\")");
  }
  bool ahead(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!ahead(text)) return false;
    at_ += text.size();
    return true;
  }

  Part alternatives(int depth) {
    if (depth > 200) unsupported("groups nested more than 200 deep", at_);
    Part either;
    either.kind = Part::Kind::either;
    either.at = at_;
    do {
      Part sequence;
      sequence.at = at_;
      while (at_ < pattern_.size() && pattern_[at_] != '|' && pattern_[at_] != ')') sequence.parts.push_back(quantified(depth));
      either.parts.push_back(std::move(sequence));
    } while (take("|"));
    return either.parts.size() == 1 ? std::move(either.parts[0]) : either;
  }

  Part quantified(int depth) {
    Part part = atom(depth);
    const std::size_t at = at_;
    std::size_t fewest = 1, most = 1;
    if (!quantifier(fewest, most)) return part;
    if (part.kind == Part::Kind::begin || part.kind == Part::Kind::finish) unsupported("a repeated anchor", at);
    take("?");  // lazy: the same texts
    if (take("+")) unsupported("a possessive quantifier", at_ - 1);
    Part repeat;
    repeat.kind = Part::Kind::repeat;
    repeat.at = at;
    repeat.fewest = fewest;
    repeat.most = most;
    repeat.parts.push_back(std::move(part));
    const std::size_t next = at_;
    if (quantifier(fewest, most)) {
      at_ = next;
      malformed("a quantifier after a quantifier");
    }
    return repeat;
  }

  bool quantifier(std::size_t& fewest, std::size_t& most) {
    if (take("*")) return fewest = 0, most = unbounded, true;
    if (take("+")) return fewest = 1, most = unbounded, true;
    if (take("?")) return fewest = 0, most = 1, true;
    if (!ahead("{")) return false;
    const std::size_t start = at_;
    ++at_;
    const auto number = [&](std::size_t& value) {
      const std::size_t from = at_;
      value = 0;
      while (at_ < pattern_.size() && pattern_[at_] >= '0' && pattern_[at_] <= '9') {
        value = std::min<std::size_t>(1000000, value * 10 + static_cast<std::size_t>(pattern_[at_] - '0'));
        ++at_;
      }
      return at_ > from;
    };
    const bool low = number(fewest);
    if (take("}")) {
      if (low) return most = fewest, check_counts(fewest, most, start), true;
    } else if (take(",")) {
      const bool high = number(most);
      if (!high) most = unbounded;
      if (take("}") && (low || high)) return check_counts(fewest, most, start), true;
    }
    at_ = start;  // not a quantifier: the brace stands for itself
    return false;
  }
  void check_counts(std::size_t fewest, std::size_t most, std::size_t at) const {
    if (fewest > most) throw FormatError("regular expression", at, "a quantifier's least number is above its most");
  }

  Part atom(int depth) {
    Part part;
    part.at = at_;
    part.kind = Part::Kind::chars;
    const char c = pattern_[at_];
    switch (c) {
      case '(': return group(depth);
      case '[': part.set = bracket(); return part;
      case '.':
        ++at_;
        part.set = mode_ == Mode::exact ? complement({{'\n', '\n'}}) : complement({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}});
        return part;
      case '^': ++at_; part.kind = Part::Kind::begin; return part;
      case '$': ++at_; part.kind = Part::Kind::finish; return part;
      case '*':
      case '+':
      case '?': malformed("nothing to repeat");
      case '\\': {
        if (at_ + 1 >= pattern_.size()) malformed("a '\\' at the end");
        const char next = pattern_[at_ + 1];
        if (next == 'A' || next == 'Z' || next == 'z') {
          at_ += 2;
          part.kind = next == 'A' ? Part::Kind::begin : Part::Kind::finish;
          return part;
        }
        if (next == 'b' || next == 'B') unsupported("a word boundary", at_);
        const Chars chars = escape(false);
        part.set = chars.sure;
        return part;
      }
      default: break;
    }
    const char32_t code = unicode::next(pattern_, at_);
    part.set = {{code, code}};
    return part;
  }

  Part group(int depth) {
    const std::size_t at = at_++;
    if (take("?")) {
      if (ahead("=") || ahead("!") || ahead("<=") || ahead("<!")) unsupported("lookaround", at);
      if (ahead(">")) unsupported("an atomic group", at);
      if (ahead("#")) unsupported("a comment", at);
      if (ahead("P=")) unsupported("a back reference", at);
      if (ahead("(")) unsupported("a conditional group", at);
      if (take("P<") || take("<") || take("'")) {
        const std::size_t close = pattern_.find(pattern_[at_ - 1] == '\'' ? '\'' : '>', at_);
        if (close == std::string_view::npos) malformed("a group's name without an end");
        at_ = close + 1;
      } else if (!take(":")) {
        unsupported("flags in a group", at);
      }
    }
    Part part = alternatives(depth + 1);
    if (!take(")")) {
      at_ = at;
      malformed("'(' without ')'");
    }
    return part;
  }

  /// Characters: those that every dialect takes, and those that some dialect takes.
  struct Chars {
    CharSet sure, maybe;
    bool is_one = false;  // a single character, which may begin a range
  };
  static Chars one(char32_t code) { return {{{code, code}}, {{code, code}}, true}; }

  template <class Predicate>
  static CharSet all(Predicate predicate) {
    CharSet set;
    for (char32_t code = 0; code <= last_char; ++code) {
      if (!predicate(code)) continue;
      if (!set.empty() && set.back().high + 1 == code)
        set.back().high = code;
      else
        set.push_back({code, code});
    }
    return set;
  }

  Chars shorthand(char kind) const {
    static const CharSet digits{{'0', '9'}}, words{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, spaces{{'\t', '\r'}, {' ', ' '}};
    const char lower = static_cast<char>(kind | 0x20);
    Chars chars;
    chars.sure = lower == 'd' ? digits : lower == 'w' ? words : spaces;
    chars.maybe = chars.sure;
    if (mode_ == Mode::search) {
      using unicode::Category;
      static const CharSet any_digits = all([](char32_t code) { return unicode::category(code) == Category::Nd; });
      static const CharSet any_words = unite(words, all([](char32_t code) {
        const Category category = unicode::category(code);
        return unicode::is_letter(code) || unicode::is_number(code) || unicode::is_word(code) || category == Category::Mn || category == Category::Mc;
      }));
      static const CharSet any_spaces = unite(all([](char32_t code) { return unicode::is_space(code); }), {{0x1C, 0x1F}, {0xFEFF, 0xFEFF}});
      chars.maybe = lower == 'd' ? any_digits : lower == 'w' ? any_words : any_spaces;
    }
    if (lower == 's' && mode_ == Mode::exact) chars.sure = chars.maybe = {{'\t', '\r'}, {' ', ' '}};
    if (kind != lower) {
      CharSet sure = complement(chars.maybe);
      chars.maybe = complement(chars.sure);
      chars.sure = std::move(sure);
    }
    return chars;
  }

  char32_t hex(std::size_t digits) {
    char32_t code = 0;
    for (std::size_t i = 0; i < digits; ++i, ++at_) {
      const char c = at_ < pattern_.size() ? pattern_[at_] : ' ';
      const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (value < 0) malformed("not a hexadecimal digit");
      code = code * 16 + static_cast<char32_t>(value);
    }
    return code;
  }

  // At a '\' that is no anchor.
  Chars escape(bool in_class) {
    const std::size_t at = at_;
    ++at_;
    if (at_ >= pattern_.size()) malformed("a '\\' at the end");
    const char c = pattern_[at_];
    if (c == 'd' || c == 'D' || c == 'w' || c == 'W' || c == 's' || c == 'S') return ++at_, shorthand(c);
    switch (c) {
      case 'n': return ++at_, one('\n');
      case 't': return ++at_, one('\t');
      case 'r': return ++at_, one('\r');
      case 'f': return ++at_, one('\f');
      case 'v': return ++at_, one('\v');
      case 'a': return ++at_, one('\a');
      case 'b':
        if (in_class) return ++at_, one('\b');
        break;
      case 'x':
      case 'u': {
        ++at_;
        char32_t code = 0;
        if (take("{")) {
          const std::size_t close = pattern_.find('}', at_);
          if (close == std::string_view::npos || close == at_ || close - at_ > 6) malformed("a character's number is not closed");
          code = hex(close - at_);
          ++at_;
        } else {
          code = hex(c == 'x' ? 2 : 4);
          if (code >= 0xD800 && code < 0xDC00 && take("\\u")) {
            const char32_t low = hex(4);
            if (low < 0xDC00 || low > 0xDFFF) malformed("half of a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          }
        }
        if (code > last_char || (code >= 0xD800 && code <= 0xDFFF)) malformed("not a character's number");
        return one(code);
      }
      case 'p':
      case 'P': return property(c == 'P', at);
      case 'k': unsupported("a back reference", at);
      case '0':
        if (at_ + 1 < pattern_.size() && pattern_[at_ + 1] >= '0' && pattern_[at_ + 1] <= '9') unsupported("an octal number", at);
        return ++at_, one(0);
      default: break;
    }
    if (c >= '1' && c <= '9') unsupported(in_class ? "an octal number" : "a back reference", at);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) unsupported(std::string("'\\") + c + "'", at);
    return one(unicode::next(pattern_, at_));
  }

  Chars property(bool negated, std::size_t at) {
    ++at_;
    std::string_view name;
    if (take("{")) {
      const std::size_t close = pattern_.find('}', at_);
      if (close == std::string_view::npos) malformed("a property without an end");
      name = pattern_.substr(at_, close - at_);
      at_ = close + 1;
    } else {
      name = pattern_.substr(at_, 1);
      at_ += name.size();
    }
    static constexpr std::string_view names[] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
                                                 "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};
    const auto fits = [&](unicode::Category category) { return !name.empty() && names[static_cast<std::size_t>(category)].starts_with(name); };
    bool known = false;
    for (const std::string_view other : names) known = known || (!name.empty() && other.starts_with(name));
    if (!known) unsupported("the property '" + std::string(name) + "'", at);
    const auto [found, fresh] = properties_.try_emplace(std::string(name));
    if (fresh) found->second = all([&](char32_t code) { return fits(unicode::category(code)); });
    const CharSet set = negated ? complement(found->second) : found->second;
    return {set, set, false};
  }

  CharSet bracket() {
    const std::size_t open = at_++;
    const bool negated = take("^");
    Chars whole;
    for (bool first = true;; first = false) {
      if (at_ >= pattern_.size()) {
        at_ = open;
        malformed("'[' without ']'");
      }
      if (pattern_[at_] == ']' && !first) {
        ++at_;
        break;
      }
      const std::size_t at = at_;
      Chars low = pattern_[at_] == '\\' ? escape(true) : one(unicode::next(pattern_, at_));
      if (ahead("-") && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']') {
        ++at_;
        const Chars high = pattern_[at_] == '\\' ? escape(true) : one(unicode::next(pattern_, at_));
        if (!low.is_one || !high.is_one || high.sure[0].low < low.sure[0].low) {
          at_ = at;
          malformed("not a range of characters");
        }
        low.sure = low.maybe = {{low.sure[0].low, high.sure[0].low}};
      }
      whole.sure.insert(whole.sure.end(), low.sure.begin(), low.sure.end());
      whole.maybe.insert(whole.maybe.end(), low.maybe.begin(), low.maybe.end());
    }
    return negated ? complement(tidy(std::move(whole.maybe))) : tidy(std::move(whole.sure));
  }

  /// Anchors at the ends of a text that is matched as a whole say nothing; elsewhere they are not supported.
  void drop_anchors(Part& part, bool at_begin, bool at_end) const {
    switch (part.kind) {
      case Part::Kind::chars: break;
      case Part::Kind::begin:
      case Part::Kind::finish:
        if (!(part.kind == Part::Kind::begin ? at_begin : at_end))
          unsupported(part.kind == Part::Kind::begin ? "'^' behind the beginning" : "'$' before the end", part.at);
        part.kind = Part::Kind::sequence;
        break;
      case Part::Kind::either:
        for (Part& alternative : part.parts) drop_anchors(alternative, at_begin, at_end);
        break;
      case Part::Kind::repeat: drop_anchors(part.parts[0], at_begin && part.most <= 1, at_end && part.most <= 1); break;
      case Part::Kind::sequence: {
        const auto is_anchor = [](const Part& p) { return p.kind == Part::Kind::begin || p.kind == Part::Kind::finish; };
        std::size_t first = 0, last = part.parts.size();
        while (first < part.parts.size() && is_anchor(part.parts[first])) ++first;
        while (last > 0 && is_anchor(part.parts[last - 1])) --last;
        for (std::size_t i = 0; i < part.parts.size(); ++i) drop_anchors(part.parts[i], at_begin && i <= first, at_end && i + 1 >= last);
        break;
      }
    }
  }

  Part found_anywhere(Part part) const {
    if (part.kind == Part::Kind::either) {
      for (Part& alternative : part.parts) alternative = found_anywhere(std::move(alternative));
      return part;
    }
    if (part.kind == Part::Kind::sequence && part.parts.size() == 1) return found_anywhere(std::move(part.parts[0]));
    Part sequence;
    if (part.kind == Part::Kind::sequence)
      sequence = std::move(part);
    else
      sequence.parts.push_back(std::move(part));
    std::vector<Part>& parts = sequence.parts;
    Part anything;
    anything.kind = Part::Kind::repeat;
    anything.most = unbounded;
    anything.parts.resize(1);
    anything.parts[0].kind = Part::Kind::chars;
    anything.parts[0].set = {{0, last_char}};
    const bool from_begin = !parts.empty() && parts.front().kind == Part::Kind::begin, to_end = !parts.empty() && parts.back().kind == Part::Kind::finish;
    drop_anchors(sequence, from_begin, to_end);
    if (!from_begin) parts.insert(parts.begin(), anything);
    if (!to_end) parts.push_back(anything);
    return sequence;
  }

  static std::uint32_t build(Letters& letters, const Part& part, std::uint32_t next) {
    switch (part.kind) {
      case Part::Kind::chars: return letters.letter(part.set, next);
      case Part::Kind::begin:
      case Part::Kind::finish: return next;
      case Part::Kind::sequence:
        for (std::size_t i = part.parts.size(); i > 0; --i) next = build(letters, part.parts[i - 1], next);
        return next;
      case Part::Kind::either: {
        std::uint32_t node = Letters::dead;
        for (std::size_t i = part.parts.size(); i > 0; --i) node = letters.split(build(letters, part.parts[i - 1], next), node);
        return node;
      }
      case Part::Kind::repeat: {
        std::uint32_t node = next;
        if (part.most == unbounded) {
          node = letters.add({Letters::Kind::split, 0, Letters::dead, next});
          const std::uint32_t body = build(letters, part.parts[0], node);
          letters.nodes[node].a = body;
        } else {
          for (std::size_t i = part.fewest; i < part.most; ++i) {
            const std::size_t before = letters.nodes.size();
            node = letters.split(build(letters, part.parts[0], node), next);
            if (letters.nodes.size() == before) break;  // nothing in it: once is as good as often
          }
        }
        for (std::size_t i = 0; i < part.fewest; ++i) {
          const std::size_t before = letters.nodes.size();
          node = build(letters, part.parts[0], node);
          if (letters.nodes.size() == before) break;
        }
        return node;
      }
    }
    return next;
  }

  std::string_view pattern_;
  Mode mode_;
  std::map<std::string, CharSet> properties_;
  std::size_t at_ = 0;
};

}  // namespace constrained
}  // namespace chiasm
