#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/io/tokenizer/unicode.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {
namespace constrained {

/// Code points as ranges: sorted, disjoint, not adjacent. Surrogates may be in it; they are left out where it is spelled in bytes.
struct CharRange {
  char32_t low, high;
  auto operator<=>(const CharRange&) const = default;
};
using CharSet = std::vector<CharRange>;

inline constexpr char32_t last_char = 0x10FFFF;

inline CharSet tidy(CharSet set) {
  std::sort(set.begin(), set.end());
  CharSet tidied;
  for (const CharRange range : set) {
    if (!tidied.empty() && range.low <= tidied.back().high + 1)
      tidied.back().high = std::max(tidied.back().high, range.high);
    else
      tidied.push_back(range);
  }
  return tidied;
}
inline CharSet complement(const CharSet& set) {
  CharSet rest;
  char32_t next = 0;
  for (const CharRange range : set) {
    if (range.low > next) rest.push_back({next, range.low - 1});
    next = range.high + 1;
  }
  if (next <= last_char) rest.push_back({next, last_char});
  return rest;
}
inline CharSet unite(CharSet a, const CharSet& b) {
  a.insert(a.end(), b.begin(), b.end());
  return tidy(std::move(a));
}
inline CharSet intersect(const CharSet& a, const CharSet& b) {
  CharSet both;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const char32_t low = std::max(a[i].low, b[j].low), high = std::min(a[i].high, b[j].high);
    if (low <= high) both.push_back({low, high});
    if (a[i].high < b[j].high)
      ++i;
    else
      ++j;
  }
  return both;
}
inline CharSet without(const CharSet& a, const CharSet& b) { return intersect(a, complement(b)); }
inline bool contains(const CharSet& set, char32_t code) {
  return std::any_of(set.begin(), set.end(), [&](CharRange range) { return range.low <= code && code <= range.high; });
}

/// How a character stands in the text: as itself, or as in a JSON string. There each character has one spelling: the quote, the backslash and
/// the control characters are escaped (\b \f \n \r \t or \u00xx), all others stand for themselves.
enum class Spelling : std::uint8_t { plain, json };

/// A set of byte strings: rules that read bytes and call each other, as a machine with a stack does. Nodes are made from the end of a
/// text towards its beginning, so that a node's successors, but for loops, have smaller numbers than it has.
class Grammar {
 public:
  enum class Kind : std::uint8_t { byte, split, call, end, dead };
  struct Node {
    Kind kind = Kind::dead;
    std::uint8_t low = 0, high = 0;  // byte
    std::uint32_t a = 0, b = 0;      // byte: a is next. split: either. call: rule a, then node b.
  };
  static constexpr std::uint32_t end = 0, dead = 1;
  static constexpr std::size_t most_nodes = 1u << 20;

  std::vector<Node> nodes{{Kind::end}, {Kind::dead}};
  std::vector<std::uint32_t> rules;  // start nodes; the whole text is rule 0

  std::uint32_t add(Node node) {
    if (nodes.size() >= most_nodes) throw UnsupportedError("a constraint of more than " + std::to_string(most_nodes) + " states");
    nodes.push_back(node);
    return static_cast<std::uint32_t>(nodes.size() - 1);
  }
  std::uint32_t byte(unsigned low, unsigned high, std::uint32_t next) {
    if (next == dead) return dead;
    return add({Kind::byte, static_cast<std::uint8_t>(low), static_cast<std::uint8_t>(high), next, 0});
  }
  std::uint32_t text(std::string_view bytes, std::uint32_t next) {
    for (std::size_t i = bytes.size(); i > 0; --i) next = byte(static_cast<unsigned char>(bytes[i - 1]), static_cast<unsigned char>(bytes[i - 1]), next);
    return next;
  }
  std::uint32_t split(std::uint32_t a, std::uint32_t b) {
    if (a == dead || a == b) return b;
    if (b == dead) return a;
    return add({Kind::split, 0, 0, a, b});
  }
  std::uint32_t call(std::uint32_t rule, std::uint32_t next) {
    if (next == dead) return dead;
    return add({Kind::call, 0, 0, rule, next});
  }
  /// A node that goes nowhere until become() says where: for loops.
  std::uint32_t placeholder() { return add({Kind::split, 0, 0, dead, dead}); }
  void become(std::uint32_t placeholder, std::uint32_t a, std::uint32_t b = dead) { nodes[placeholder] = {Kind::split, 0, 0, a, b}; }
  std::uint32_t add_rule() {
    rules.push_back(dead);
    return static_cast<std::uint32_t>(rules.size() - 1);
  }

  /// One character of `set`.
  std::uint32_t character(const CharSet& set, Spelling spelling, std::uint32_t next) {
    if (set.empty() || next == dead) return dead;
    const bool simple = set.size() <= 3 && set.back().high < 0x80 &&
                        (spelling == Spelling::plain || intersect(set, escaped()).empty());
    if (simple) {
      std::uint32_t node = dead;
      for (const CharRange range : set) node = split(byte(range.low, range.high, next), node);
      return node;
    }
    const auto [found, is_new] = characters_.try_emplace({spelling, set}, 0);
    if (is_new) {
      const std::uint32_t rule = add_rule();
      found->second = rule;
      const std::uint32_t start = spell(set, spelling);
      rules[rule] = start;
    }
    return call(found->second, next);
  }

  /// One of `texts`.
  std::uint32_t one_of(std::vector<std::string> texts, std::uint32_t next) {
    std::sort(texts.begin(), texts.end());
    texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
    return texts.empty() ? dead : one_of(texts, 0, texts.size(), 0, next);
  }

  /// Characters that a JSON string escapes.
  static const CharSet& escaped() {
    static const CharSet set{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    return set;
  }

 private:
  std::uint32_t one_of(const std::vector<std::string>& texts, std::size_t begin, std::size_t stop, std::size_t depth, std::uint32_t next) {
    const std::string &first = texts[begin], &last = texts[stop - 1];
    std::size_t common = depth;
    while (common < first.size() && common < last.size() && first[common] == last[common]) ++common;
    std::uint32_t node = first.size() == common ? next : dead;
    for (std::size_t i = begin + (first.size() == common ? 1 : 0); i < stop;) {
      std::size_t j = i;
      while (j < stop && texts[j][common] == texts[i][common]) ++j;
      node = split(one_of(texts, i, j, common, next), node);
      i = j;
    }
    return text(std::string_view(first).substr(depth, common - depth), node);
  }

  std::uint32_t spell(CharSet set, Spelling spelling) {
    std::uint32_t node = dead;
    if (spelling == Spelling::json) {
      std::uint32_t escape = dead;
      std::array<std::uint32_t, 2> hex{dead, dead};  // of \u000x, \u001x
      for (const CharRange range : intersect(set, escaped()))
        for (char32_t code = range.low; code <= range.high; ++code) {
          constexpr std::string_view short_codes = "\b\f\n\r\t\"\\", short_names = "bfnrt\"\\";
          if (const std::size_t at = short_codes.find(static_cast<char>(code)); at != std::string_view::npos) {
            escape = split(byte(static_cast<unsigned char>(short_names[at]), static_cast<unsigned char>(short_names[at]), end), escape);
          } else {
            const unsigned digit = static_cast<unsigned char>("0123456789abcdef"[code & 15]);
            hex[code >> 4] = split(byte(digit, digit, end), hex[code >> 4]);
          }
        }
      std::uint32_t high = split(byte('0', '0', hex[0]), byte('1', '1', hex[1]));
      escape = split(text("u00", high), escape);
      node = byte('\\', '\\', escape);
      set = without(set, escaped());
    }
    for (const CharRange range : without(set, {{0xD800, 0xDFFF}})) {
      char32_t low = range.low;
      for (const char32_t limit : {char32_t{0x7F}, char32_t{0x7FF}, char32_t{0xFFFF}, last_char}) {
        if (low > range.high || low > limit) continue;
        const char32_t high = std::min(limit, range.high);
        node = split(utf8(low, high, limit == 0x7F ? 1 : limit == 0x7FF ? 2 : limit == 0xFFFF ? 3 : 4), node);
        low = high + 1;
      }
    }
    return node;
  }

  // Characters low..high, all of `size` bytes: cut where not all of a byte's successors are the same.
  std::uint32_t utf8(char32_t low, char32_t high, int size) {
    for (int i = 1; i < size; ++i) {
      const char32_t mask = (char32_t{1} << (6 * i)) - 1;
      if ((low & ~mask) == (high & ~mask)) continue;
      if ((low & mask) != 0) return split(utf8(low, low | mask, size), utf8((low | mask) + 1, high, size));
      if ((high & mask) != mask) return split(utf8(low, (high & ~mask) - 1, size), utf8(high & ~mask, high, size));
    }
    std::uint32_t node = end;
    for (int i = 0; i < size; ++i) {
      const unsigned lead = size == 1 ? 0 : size == 2 ? 0xC0 : size == 3 ? 0xE0 : 0xF0, mark = i + 1 < size ? 0x80 : lead;
      const char32_t bits = i + 1 < size ? 0x3F : 0xFF;
      node = byte(static_cast<unsigned>(low >> (6 * i) & bits) | mark, static_cast<unsigned>(high >> (6 * i) & bits) | mark, node);
    }
    return node;
  }

  std::map<std::pair<Spelling, CharSet>, std::uint32_t> characters_;
};

inline constexpr std::uint32_t unreachable = std::numeric_limits<std::uint32_t>::max() / 4;
inline std::uint32_t plus(std::uint32_t a, std::uint32_t b) { return std::min(unreachable, a + b); }

/// Least number of tokens from each node to the end of its rule. `runs(node, visit)` names the ways to go over several bytes with one token:
/// visit(node behind it). Where a byte stands alone it costs one token, or is out of reach.
template <class Reachable, class Runs>
std::vector<std::uint32_t> shortest(const Grammar& grammar, Reachable reachable, Runs runs) {
  const std::vector<Grammar::Node>& nodes = grammar.nodes;
  // Who looks at whose cost, as linked lists: what becomes nearer is told to them, from the end backwards.
  constexpr std::uint32_t none = 0xFFFFFFFF;
  struct Link {
    std::uint32_t node, next;
  };
  std::vector<std::uint32_t> lookers(nodes.size(), none);
  std::vector<Link> links;
  const auto looks_at = [&](std::uint32_t node, std::uint32_t at) {
    links.push_back({node, lookers[at]});
    lookers[at] = static_cast<std::uint32_t>(links.size() - 1);
  };
  for (std::uint32_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].kind == Grammar::Kind::byte) {
      looks_at(i, nodes[i].a);
      if (nodes[i].low == nodes[i].high) runs(i, [&](std::uint32_t behind) { looks_at(i, behind); });
    } else if (nodes[i].kind == Grammar::Kind::split) {
      looks_at(i, nodes[i].a);
      looks_at(i, nodes[i].b);
    } else if (nodes[i].kind == Grammar::Kind::call) {
      looks_at(i, grammar.rules[nodes[i].a]);
      looks_at(i, nodes[i].b);
    }
  }
  std::vector<std::uint32_t> cost(nodes.size(), unreachable);
  std::vector<char> waits(nodes.size(), 0);
  std::deque<std::uint32_t> waiting;
  const auto tell = [&](std::uint32_t at) {
    for (std::uint32_t link = lookers[at]; link != none; link = links[link].next) {
      if (std::exchange(waits[links[link].node], char{1}) == 0) waiting.push_back(links[link].node);
    }
  };
  cost[Grammar::end] = 0;
  tell(Grammar::end);
  while (!waiting.empty()) {
    const std::uint32_t i = waiting.front();
    waiting.pop_front();
    waits[i] = 0;
    const Grammar::Node& node = nodes[i];
    std::uint32_t now = cost[i];
    switch (node.kind) {
      case Grammar::Kind::byte:
        if (reachable(node)) now = std::min(now, plus(cost[node.a], 1));
        if (node.low == node.high) runs(i, [&](std::uint32_t behind) { now = std::min(now, plus(cost[behind], 1)); });
        break;
      case Grammar::Kind::split: now = std::min({now, cost[node.a], cost[node.b]}); break;
      case Grammar::Kind::call: now = std::min(now, plus(cost[grammar.rules[node.a]], cost[node.b])); break;
      case Grammar::Kind::end:
      case Grammar::Kind::dead: break;
    }
    if (now >= cost[i]) continue;
    cost[i] = now;
    tell(i);
  }
  return cost;
}

/// Runs a grammar over bytes. A state is the set of all ways to have read the text so far; states, and where a byte leads from each, are made when
/// they are first met and kept. Not for use from several threads at once.
class Machine {
 public:
  static constexpr std::uint32_t dead = 0;

  /// `cost` as shortest() says; nodes that are unreachable there are left out.
  Machine(std::shared_ptr<const Grammar> grammar, std::vector<std::uint32_t> cost) : grammar_(std::move(grammar)), cost_(std::move(cost)) {
    std::array<bool, 257> edge{};
    for (const Grammar::Node& node : grammar_->nodes)
      if (node.kind == Grammar::Kind::byte) edge[node.low] = edge[node.high + 1u] = true;
    for (std::size_t b = 0; b < 256; ++b) {
      if (b > 0 && edge[b]) ++classes_;
      class_of_[b] = static_cast<std::uint8_t>(classes_ - 1);
    }
    clear();
  }

  void clear() {
    frames_.assign(1, {Grammar::end, 0, 0});
    frame_of_.clear();
    states_.clear();
    state_of_.clear();
    next_.clear();
    add_state({}, false);
    begin();
    reach(std::uint64_t{grammar_->rules[0]} << 32);
    start_ = close();
  }
  /// Bytes held, about.
  std::size_t memory() const noexcept { return next_.size() * 4 + held_ * 8 + frames_.size() * 40 + states_.size() * 64; }

  std::uint32_t start() const noexcept { return start_; }
  std::uint32_t step(std::uint32_t state, unsigned char byte) {
    const std::size_t at = state * classes_ + class_of_[byte];
    if (next_[at] == unknown) {
      begin();
      // By index: reach() and close() never touch the configurations of a state that is there.
      for (std::size_t i = 0; i < states_[state].ways.size(); ++i) {
        const std::uint64_t way = states_[state].ways[i];
        const Grammar::Node& node = grammar_->nodes[way >> 32];
        if (node.low <= byte && byte <= node.high) reach(std::uint64_t{node.a} << 32 | (way & 0xFFFFFFFFu));
      }
      const std::uint32_t next = close();
      next_[at] = next;
    }
    return next_[at];
  }
  bool accepts(std::uint32_t state) const noexcept { return states_[state].accepts; }
  /// Whether no byte can follow.
  bool complete(std::uint32_t state) const noexcept { return states_[state].ways.empty(); }
  /// Least number of tokens that make the text complete.
  std::uint32_t cost(std::uint32_t state) const noexcept { return states_[state].cost; }

 private:
  static constexpr std::uint32_t unknown = 0xFFFFFFFF;
  static constexpr std::size_t most_ways = 20000;
  struct Frame {
    std::uint32_t node, parent, cost;
  };
  struct State {
    std::vector<std::uint64_t> ways;  // node << 32 | frame; all are byte nodes
    bool accepts;
    std::uint32_t cost;
  };

  void begin() {
    pending_.clear();
    seen_.clear();
    seen_more_.clear();
    ways_.clear();
    accepted_ = false;
  }
  bool is_new(std::uint64_t way) {
    constexpr std::size_t few = 48;
    if (seen_.size() < few) {
      if (std::find(seen_.begin(), seen_.end(), way) != seen_.end()) return false;
      seen_.push_back(way);
      return true;
    }
    if (seen_more_.empty()) seen_more_.insert(seen_.begin(), seen_.end());
    if (seen_more_.size() > most_ways)
      throw UnsupportedError("a constraint with more than " + std::to_string(most_ways) + " ways to read a text at once");
    return seen_more_.insert(way).second;
  }
  /// Follows everything that reads no byte.
  void reach(std::uint64_t way) {
    pending_.push_back(way);
    while (!pending_.empty()) {
      const std::uint64_t now = pending_.back();
      pending_.pop_back();
      const auto index = static_cast<std::uint32_t>(now >> 32), frame = static_cast<std::uint32_t>(now);
      if (cost_[index] >= unreachable || !is_new(now)) continue;
      const Grammar::Node& node = grammar_->nodes[index];
      switch (node.kind) {
        case Grammar::Kind::byte: ways_.push_back(now); break;
        case Grammar::Kind::split:
          pending_.push_back(std::uint64_t{node.b} << 32 | frame);
          pending_.push_back(std::uint64_t{node.a} << 32 | frame);
          break;
        case Grammar::Kind::call: {
          // A call that is its rule's last word needs no frame: what refers to itself at its end stays finite.
          const std::uint32_t inner = node.b == Grammar::end ? frame : frame_for(node.b, frame);
          if (frames_[inner].cost < unreachable) pending_.push_back(std::uint64_t{grammar_->rules[node.a]} << 32 | inner);
          break;
        }
        case Grammar::Kind::end:
          if (frame == 0)
            accepted_ = true;
          else
            pending_.push_back(std::uint64_t{frames_[frame].node} << 32 | frames_[frame].parent);
          break;
        case Grammar::Kind::dead: break;
      }
    }
  }
  std::uint32_t frame_for(std::uint32_t node, std::uint32_t parent) {
    const auto [found, fresh] = frame_of_.try_emplace(std::uint64_t{node} << 32 | parent, static_cast<std::uint32_t>(frames_.size()));
    if (fresh) frames_.push_back({node, parent, plus(cost_[node], frames_[parent].cost)});
    return found->second;
  }
  std::uint32_t close() {
    std::sort(ways_.begin(), ways_.end());
    std::uint64_t hash = accepted_ ? 0x9E3779B97F4A7C15u : 0x2545F4914F6CDD1Du;
    for (const std::uint64_t way : ways_) hash = (hash ^ way) * 0xD6E8FEB86659FD93u, hash ^= hash >> 29;
    for (;; ++hash) {
      const auto [found, fresh] = state_of_.try_emplace(hash, static_cast<std::uint32_t>(states_.size()));
      if (fresh) return add_state(ways_, accepted_);
      if (states_[found->second].accepts == accepted_ && states_[found->second].ways == ways_) return found->second;
    }
  }
  std::uint32_t add_state(const std::vector<std::uint64_t>& ways, bool accepts) {
    std::uint32_t cost = accepts ? 0 : unreachable;
    for (const std::uint64_t way : ways) cost = std::min(cost, plus(cost_[way >> 32], frames_[way & 0xFFFFFFFFu].cost));
    if (states_.empty() && state_of_.empty()) state_of_.emplace(dead_hash(), 0);
    states_.push_back({ways, accepts, cost});
    held_ += ways.size();
    next_.resize(next_.size() + classes_, ways.empty() ? dead : unknown);
    return static_cast<std::uint32_t>(states_.size() - 1);
  }
  static constexpr std::uint64_t dead_hash() { return 0x2545F4914F6CDD1Du; }

  std::shared_ptr<const Grammar> grammar_;
  std::vector<std::uint32_t> cost_;
  std::array<std::uint8_t, 256> class_of_{};
  std::size_t classes_ = 1, held_ = 0;
  std::vector<Frame> frames_;
  std::unordered_map<std::uint64_t, std::uint32_t> frame_of_, state_of_;
  std::vector<State> states_;
  std::vector<std::uint32_t> next_;
  std::uint32_t start_ = dead;

  // One step's.
  std::vector<std::uint64_t> pending_, seen_, ways_;
  std::unordered_set<std::uint64_t> seen_more_;
  bool accepted_ = false;
};

}  // namespace constrained
}  // namespace chiasm
