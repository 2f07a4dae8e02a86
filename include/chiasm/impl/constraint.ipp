#pragma once

#include <chiasm/io/constraint.hpp>

#include <chiasm/impl/constraint_schema.ipp>
#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer/tokenizer.hpp>

#include <mutex>

namespace chiasm::inline CHIASM_ABI {
namespace constrained {

/// The texts of tokens as a tree, in the order of a walk: a node's children follow it, its subtree ends where `end` says.
class TokenTree {
 public:
  struct Node {
    std::uint32_t end = 0, tokens = 0;  // first of the tokens that end here; the next node's are behind them
    std::uint16_t depth = 0;
    std::uint8_t byte = 0;
  };
  std::vector<Node> nodes;      // [0] is the root, without a byte; one more at the end
  std::vector<TokenId> tokens;

  TokenTree() = default;
  /// Of `texts[id]`; empty ones are left out, but for `with_empty` ones, which stand at the root.
  TokenTree(const std::vector<std::string>& texts, const std::vector<char>& with_empty) {
    std::vector<TokenId> order;
    for (std::size_t id = 0; id < texts.size(); ++id)
      if (!texts[id].empty() && texts[id].size() < 60000) order.push_back(static_cast<TokenId>(id));
    const auto text = [&](TokenId id) -> const std::string& { return texts[static_cast<std::size_t>(id)]; };
    std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return text(a) != text(b) ? text(a) < text(b) : a < b; });
    nodes.push_back({});
    for (std::size_t id = 0; id < with_empty.size(); ++id)
      if (with_empty[id]) tokens.push_back(static_cast<TokenId>(id));
    std::vector<std::uint32_t> path{0};
    std::string_view before;
    const auto leave = [&](std::size_t depth) {
      for (; path.size() > depth + 1; path.pop_back()) nodes[path.back()].end = static_cast<std::uint32_t>(nodes.size());
    };
    for (const TokenId id : order) {
      const std::string& now = text(id);
      std::size_t common = 0;
      while (common < before.size() && common < now.size() && before[common] == now[common]) ++common;
      leave(common);
      for (std::size_t i = common; i < now.size(); ++i) {
        path.push_back(static_cast<std::uint32_t>(nodes.size()));
        nodes.push_back({0, static_cast<std::uint32_t>(tokens.size()), static_cast<std::uint16_t>(i + 1), static_cast<std::uint8_t>(now[i])});
      }
      tokens.push_back(id);
      before = now;
    }
    leave(0);
    nodes[0].end = static_cast<std::uint32_t>(nodes.size());
    nodes.push_back({0, static_cast<std::uint32_t>(tokens.size()), 0, 0});
  }

  /// Child of `node` along `byte`; 0: none.
  std::uint32_t child(std::uint32_t node, std::uint8_t byte) const {
    for (std::uint32_t i = node + 1; i < nodes[node].end; i = nodes[i].end)
      if (nodes[i].byte == byte) return i;
    return 0;
  }
  bool has_tokens(std::uint32_t node) const { return nodes[node].tokens < nodes[node + 1].tokens; }
};

}  // namespace constrained

class Constraint::Vocabulary {
 public:
  explicit Vocabulary(const Tokenizer& tokenizer) {
    // Ids need not be dense, but no table of a tokenizer is sparser than this.
    const std::size_t size = tokenizer.size(), most = size * 8 + 262144;
    std::size_t found = 0;
    std::vector<char> nothing, no_text;
    bool differs = false;
    for (std::size_t i = 0; i < most && found < size; ++i) {
      const auto id = static_cast<TokenId>(i);
      std::string inner, outer;
      bool empty = false;
      if (!tokenizer.token(id).empty()) {
        ++found;
        if (!tokenizer.is_special(id)) {
          inner = tokenizer.bytes(id, false);
          outer = tokenizer.bytes(id, true);
          empty = outer.empty() && !inner.empty();
        }
      }
      differs = differs || inner != outer;
      within.push_back(std::move(inner));
      first.push_back(std::move(outer));
      no_text.push_back(empty);
    }
    tree = constrained::TokenTree(within, {});
    if (differs)
      first_tree = constrained::TokenTree(first, no_text);
    else
      first.clear();
    for (const std::string& text : within)
      for (const char byte : text) anywhere[static_cast<unsigned char>(byte)] = true;
  }

  const std::string& text(TokenId id, bool begins) const {
    static const std::string none;
    const std::vector<std::string>& texts = begins && !first.empty() ? first : within;
    return id >= 0 && static_cast<std::size_t>(id) < texts.size() ? texts[static_cast<std::size_t>(id)] : none;
  }
  const constrained::TokenTree& tokens(bool begins) const { return begins && !first.empty() ? first_tree : tree; }

  std::vector<std::string> within, first;  // bytes of each token behind others, and as the first of a text; `first` is empty if it is the same
  constrained::TokenTree tree, first_tree;
  std::array<bool, 256> anywhere{};  // bytes that are in some token
};

struct Constraint::Language {
  std::string source;
  std::shared_ptr<const constrained::Grammar> grammar;
};

/// A language on a vocabulary, and what has been found out about the two so far.
struct Constraint::Bound : std::enable_shared_from_this<Bound> {
  struct Mask {
    std::vector<std::uint64_t> bits;
    std::uint32_t dearest = 0;  // the most tokens that an end needs after one of these
  };
  static constexpr std::size_t most_mask_bytes = std::size_t{32} << 20, most_machine_bytes = std::size_t{64} << 20;

  Bound(std::shared_ptr<const Language> of, std::shared_ptr<const Vocabulary> words, bool behind_text)
      : language(std::move(of)), vocabulary(std::move(words)), continues(behind_text), machine(language->grammar, cost(*language->grammar, *vocabulary)) {}

  static std::vector<std::uint32_t> cost(const constrained::Grammar& grammar, const Vocabulary& words) {
    using constrained::Grammar;
    const auto reachable = [&](const Grammar::Node& node) {
      for (unsigned byte = node.low; byte <= node.high; ++byte)
        if (words.anywhere[byte]) return true;
      return false;
    };
    const auto runs = [&](std::uint32_t at, auto visit) {
      std::uint32_t token = 0;
      while (grammar.nodes[at].kind == Grammar::Kind::byte && grammar.nodes[at].low == grammar.nodes[at].high) {
        token = words.tree.child(token, grammar.nodes[at].low);
        if (token == 0) return;
        at = grammar.nodes[at].a;
        if (words.tree.has_tokens(token)) visit(at);
      }
    };
    return constrained::shortest(grammar, reachable, runs);
  }

  /// With the lock held, as all below.
  std::uint32_t follow(State& state, std::span<const TokenId> answer) {
    if (machine.memory() > most_machine_bytes) {
      machine.clear();
      masks.clear();
      mask_bytes = 0;
      ++epoch;
    }
    if (state.of_.get() != this || state.epoch_ != epoch) {
      state.ids_.clear();
      state.states_.assign(1, machine.start());
      state.of_ = shared_from_this();
      state.epoch_ = epoch;
    }
    const auto same = static_cast<std::size_t>(
        std::mismatch(state.ids_.begin(), state.ids_.end(), answer.begin(), answer.end()).first - state.ids_.begin());
    state.ids_.resize(same);
    state.states_.resize(same + 1);
    for (std::size_t i = same; i < answer.size(); ++i) {
      state.states_.push_back(advance(state.states_.back(), vocabulary->text(answer[i], i == 0 && !continues)));
      state.ids_.push_back(answer[i]);
    }
    return state.states_.back();
  }
  std::uint32_t advance(std::uint32_t state, std::string_view bytes) {
    for (const char byte : bytes) state = machine.step(state, static_cast<unsigned char>(byte));
    return state;
  }

  /// Tokens that lead from `from` to a state whose end is at most `limit` tokens away.
  void walk(std::uint32_t from, bool begins, std::uint32_t limit, Mask& mask) {
    const constrained::TokenTree& tree = vocabulary->tokens(begins);
    mask.bits.assign((vocabulary->within.size() + 63) / 64, 0);
    mask.dearest = 0;
    path.assign(1, from);
    const auto take = [&](std::uint32_t node, std::uint32_t state) {
      const std::uint32_t first = tree.nodes[node].tokens, last = tree.nodes[node + 1].tokens;
      if (first == last) return;
      const std::uint32_t cost = machine.cost(state);
      if (cost > limit) return;
      mask.dearest = std::max(mask.dearest, cost);
      for (std::uint32_t i = first; i < last; ++i) {
        const auto id = static_cast<std::size_t>(tree.tokens[i]);
        mask.bits[id / 64] |= std::uint64_t{1} << (id % 64);
      }
    };
    if (tree.nodes.empty()) return;
    take(0, from);
    const auto stop = static_cast<std::uint32_t>(tree.nodes.size() - 1);
    for (std::uint32_t i = 1; i < stop;) {
      const constrained::TokenTree::Node node = tree.nodes[i];
      const std::uint32_t state = machine.step(path[node.depth - 1u], node.byte);
      if (state == constrained::Machine::dead) {
        i = node.end;
        continue;
      }
      if (path.size() <= node.depth) path.resize(node.depth + 1u);
      path[node.depth] = state;
      take(i, state);
      ++i;
    }
  }

  const Mask& mask_of(std::uint32_t state, bool begins) {
    const std::uint64_t key = std::uint64_t{state} << 1 | (begins ? 1 : 0);
    if (const auto found = masks.find(key); found != masks.end()) return found->second;
    if (mask_bytes > most_mask_bytes) {
      masks.clear();
      mask_bytes = 0;
    }
    Mask& mask = masks[key];
    walk(state, begins, constrained::unreachable - 1, mask);
    mask_bytes += mask.bits.size() * 8 + 64;
    return mask;
  }

  std::shared_ptr<const Language> language;
  std::shared_ptr<const Vocabulary> vocabulary;
  bool continues;
  std::mutex lock;
  constrained::Machine machine;
  std::unordered_map<std::uint64_t, Mask> masks;
  std::size_t mask_bytes = 0;
  std::uint64_t epoch = 0;
  std::vector<std::uint32_t> path;
  Mask last_ways;
};

namespace constrained {

inline std::vector<std::uint32_t> byte_cost(const Grammar& grammar) {
  return shortest(grammar, [](const Grammar::Node&) { return true; }, [](std::uint32_t, auto) {});
}

}  // namespace constrained

CHIASM_INLINE Constraint Constraint::choices(std::vector<std::string> texts) {
  if (texts.empty()) throw ArgumentError("a constraint of no choices, must be at least one");
  std::string source = "choices";
  for (const std::string& text : texts) {
    if (!unicode::is_valid(text)) throw ArgumentError("a choice is ill-formed UTF-8: " + unicode::replace_invalid(text));
    source += '\0' + text;
  }
  auto grammar = std::make_shared<constrained::Grammar>();
  const std::uint32_t rule = grammar->add_rule();
  const std::uint32_t start = grammar->one_of(std::move(texts), constrained::Grammar::end);
  grammar->rules[rule] = start;
  return Constraint(std::make_shared<const Language>(Language{std::move(source), std::move(grammar)}));
}

CHIASM_INLINE Constraint Constraint::regex(std::string_view pattern) {
  const constrained::Letters letters = constrained::Regex::compile(pattern, constrained::Regex::Mode::exact);
  auto grammar = std::make_shared<constrained::Grammar>();
  const std::uint32_t rule = grammar->add_rule();
  const std::uint32_t start = letters.spell(*grammar, constrained::Spelling::plain, constrained::Grammar::end);
  grammar->rules[rule] = start;
  if (constrained::byte_cost(*grammar)[start] >= constrained::unreachable) throw FormatError("regular expression", 0, "no text matches it");
  return Constraint(std::make_shared<const Language>(Language{"regex" + std::string(1, '\0') + std::string(pattern), std::move(grammar)}));
}

CHIASM_INLINE Constraint Constraint::json_schema(const Json& schema) {
  auto grammar = std::make_shared<constrained::Grammar>();
  constrained::Schema::compile(*grammar, schema);
  if (constrained::byte_cost(*grammar)[grammar->rules[0]] >= constrained::unreachable) schema.fail("no document satisfies this schema");
  return Constraint(std::make_shared<const Language>(Language{"json" + std::string(1, '\0') + schema.dump(), std::move(grammar)}));
}
CHIASM_INLINE Constraint Constraint::json_schema(std::string_view schema) { return json_schema(Json::parse(schema, "<schema>")); }

CHIASM_INLINE bool Constraint::matches(std::string_view text) const {
  constrained::Machine machine(language_->grammar, constrained::byte_cost(*language_->grammar));
  std::uint32_t state = machine.start();
  for (const char byte : text) state = machine.step(state, static_cast<unsigned char>(byte));
  return machine.accepts(state);
}

CHIASM_INLINE const std::string& Constraint::source() const noexcept { return language_->source; }

CHIASM_INLINE std::shared_ptr<const Constraint::Vocabulary> Constraint::vocabulary(const Tokenizer& tokenizer) {
  return std::make_shared<const Vocabulary>(tokenizer);
}

CHIASM_INLINE Constraint Constraint::on(std::shared_ptr<const Vocabulary> vocabulary, bool continues) const {
  Constraint bound(language_);
  bound.bound_ = std::make_shared<Bound>(language_, std::move(vocabulary), continues);
  if (bound.shortest() >= constrained::unreachable) throw ArgumentError("the constraint cannot be spelled with the tokens of this vocabulary");
  return bound;
}
CHIASM_INLINE Constraint Constraint::on(const Tokenizer& tokenizer, bool continues) const { return on(vocabulary(tokenizer), continues); }

CHIASM_INLINE void Constraint::allowed(State& state, std::span<const TokenId> answer, std::span<const TokenId> ends, std::size_t remaining,
                                       std::vector<std::uint64_t>& mask) const {
  if (!bound_) throw ArgumentError("the constraint has no vocabulary: see Constraint::on");
  Bound& bound = *bound_;
  const std::scoped_lock guard(bound.lock);
  const std::uint32_t now = bound.follow(state, answer);
  if (now == constrained::Machine::dead) throw ArgumentError("the answer so far is not one that the constraint allows");
  const bool begins = answer.empty() && !bound.continues;
  const Bound::Mask& all = bound.mask_of(now, begins);
  mask = all.bits;
  if (all.dearest >= remaining) {
    bound.walk(now, begins, static_cast<std::uint32_t>(std::min<std::size_t>(remaining, constrained::unreachable)) - 1, bound.last_ways);
    const auto some = [](std::uint64_t word) { return word != 0; };
    // Not where the vocabulary lacks bytes and the estimate was wrong: then go on as far as it goes.
    if (std::any_of(bound.last_ways.bits.begin(), bound.last_ways.bits.end(), some) || bound.machine.accepts(now)) mask = bound.last_ways.bits;
  }
  for (const TokenId end : ends) {
    if (end < 0 || end > 0x3FFFFFFF) continue;
    const auto id = static_cast<std::size_t>(end);
    const bool fits = bound.machine.accepts(bound.advance(now, bound.vocabulary->text(end, begins)));
    if (mask.size() <= id / 64 && fits) mask.resize(id / 64 + 1, 0);
    if (fits)
      mask[id / 64] |= std::uint64_t{1} << (id % 64);
    else if (id / 64 < mask.size())
      mask[id / 64] &= ~(std::uint64_t{1} << (id % 64));
  }
  if (std::none_of(mask.begin(), mask.end(), [](std::uint64_t word) { return word != 0; }))
    throw UnsupportedError("no token of the vocabulary goes on from here within the constraint (it lacks some bytes or the end token)");
}

CHIASM_INLINE bool Constraint::complete(State& state, std::span<const TokenId> answer, std::span<const TokenId> ends, std::size_t remaining) const {
  if (!bound_) return false;
  Bound& bound = *bound_;
  const std::scoped_lock guard(bound.lock);
  const std::uint32_t now = bound.follow(state, answer);
  if (!bound.machine.accepts(now)) return false;
  if (bound.machine.complete(now)) return true;
  if (!ends.empty() || remaining == 0) return false;
  bound.walk(now, answer.empty() && !bound.continues, static_cast<std::uint32_t>(std::min<std::size_t>(remaining, constrained::unreachable)) - 1, bound.last_ways);
  return std::none_of(bound.last_ways.bits.begin(), bound.last_ways.bits.end(), [](std::uint64_t word) { return word != 0; });
}

CHIASM_INLINE std::size_t Constraint::shortest() const {
  if (!bound_) throw ArgumentError("the constraint has no vocabulary: see Constraint::on");
  const std::scoped_lock guard(bound_->lock);
  return bound_->machine.cost(bound_->machine.start());
}

}  // namespace chiasm
