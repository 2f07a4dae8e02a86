#pragma once

#include <chiasm/core/token_id.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t h = (a ^ 0x9E3779B97F4A7C15U) * 0xD6E8FEB86659FD93U;
  h ^= h >> 32 ^ b;
  h *= 0xD6E8FEB86659FD93U;
  return h ^ h >> 29;
}
inline std::uint64_t hash(std::string_view text) noexcept {
  std::uint64_t h = text.size(), word = 0;
  while (text.size() >= 8) {
    std::memcpy(&word, text.data(), 8);
    h = mix(h, word);
    text.remove_prefix(8);
  }
  word = 0;
  if (text.size() >= 4) {  // two reads that overlap: a copy of unknown length is a call
    std::uint32_t head = 0, tail = 0;
    std::memcpy(&head, text.data(), 4);
    std::memcpy(&tail, text.data() + text.size() - 4, 4);
    word = std::uint64_t{tail} << 32 | head;
  } else {
    for (const char c : text) word = word << 8 | static_cast<unsigned char>(c);
  }
  return mix(h, word);
}

/// Strings and their ids, both ways. Open addressing; the spellings lie in one buffer.
class Vocabulary {
 public:
  static constexpr std::uint32_t none = 0xFFFFFFFF;

  void reserve(std::size_t count, std::size_t bytes = 0) {
    entries_.reserve(count);
    text_.reserve(bytes);
    grow(count);
  }
  /// The id of a spelling that is there already is replaced. Ids are below 2^31.
  void insert(std::string_view text, TokenId id) {
    if (slots_.size() < (entries_.size() + 1) * 2) grow((entries_.size() + 1) * 2);
    const std::uint64_t h = hash(text);
    for (std::size_t i = h & mask();; i = (i + 1) & mask()) {
      if (slots_[i].entry == none) {
        slots_[i] = {static_cast<std::uint32_t>(h >> 32), static_cast<std::uint32_t>(entries_.size())};
        entries_.push_back({static_cast<std::uint32_t>(text_.size()), static_cast<std::uint32_t>(text.size()), id});
        text_ += text;
        break;
      }
      if (matches(slots_[i], h, text)) {
        entries_[slots_[i].entry].id = id;
        break;
      }
    }
  }
  /// After the last insert: the way from ids to spellings. False if the ids are too far apart for a table.
  bool seal() {
    TokenId top = -1;
    for (const Entry& entry : entries_) top = std::max(top, entry.id);
    if (top > 262144 + static_cast<std::int64_t>(entries_.size()) * 8) return false;
    by_id_.assign(static_cast<std::size_t>(top + 1), none);
    for (std::size_t i = 0; i < entries_.size(); ++i) by_id_[static_cast<std::size_t>(entries_[i].id)] = static_cast<std::uint32_t>(i);
    return true;
  }
  TokenId find(std::string_view text) const noexcept { return find(text, hash(text)); }  // -1: not there
  TokenId find(std::string_view text, std::uint64_t h) const noexcept {
    if (slots_.empty()) return -1;
    for (std::size_t i = h & mask(); slots_[i].entry != none; i = (i + 1) & mask())
      if (matches(slots_[i], h, text)) return entries_[slots_[i].entry].id;
    return -1;
  }
  /// Three steps that bring what find() will need into the cache, for many texts at once: a table of 150'000 tokens is not in it.
  template <int step>
  void prefetch(std::uint64_t h) const noexcept {
    if (slots_.empty()) return;
    const Slot& slot = slots_[h & mask()];
    if constexpr (step == 0) {
      __builtin_prefetch(&slot);
    } else if (slot.entry != none) {
      const Entry& entry = entries_[slot.entry];
      __builtin_prefetch(step == 1 ? static_cast<const void*>(&entry) : text_.data() + entry.begin);
    }
  }
  bool contains(TokenId id) const noexcept {
    return id >= 0 && static_cast<std::size_t>(id) < by_id_.size() && by_id_[static_cast<std::size_t>(id)] != none;
  }
  std::string_view text(TokenId id) const noexcept {
    return contains(id) ? spelling(entries_[by_id_[static_cast<std::size_t>(id)]]) : std::string_view();
  }
  std::size_t size() const noexcept { return entries_.size(); }
  template <class Visit>
  void each(Visit visit) const {
    for (const Entry& entry : entries_) visit(spelling(entry), entry.id);
  }

 private:
  struct Entry {
    std::uint32_t begin, size;
    TokenId id;
  };
  struct Slot {
    std::uint32_t hash, entry;
  };
  std::size_t mask() const noexcept { return slots_.size() - 1; }
  std::string_view spelling(const Entry& entry) const noexcept { return std::string_view(text_).substr(entry.begin, entry.size); }
  bool matches(const Slot& slot, std::uint64_t h, std::string_view text) const noexcept {
    return slot.hash == static_cast<std::uint32_t>(h >> 32) && spelling(entries_[slot.entry]) == text;
  }
  void grow(std::size_t count) {
    std::size_t size = 16;
    while (size < count * 2) size *= 2;
    if (size <= slots_.size()) return;
    slots_.assign(size, {0, none});
    for (std::size_t e = 0; e < entries_.size(); ++e) {
      const std::uint64_t h = hash(spelling(entries_[e]));
      std::size_t i = h & mask();
      while (slots_[i].entry != none) i = (i + 1) & mask();
      slots_[i] = {static_cast<std::uint32_t>(h >> 32), static_cast<std::uint32_t>(e)};
    }
  }

  std::string text_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> by_id_;
};

/// A trie over bytes: children of a node side by side, their labels found with memchr.
class Trie {
 public:
  static constexpr std::int32_t none = -1;

  Trie() : nodes_(1), labels_(1) {}
  /// `words` need not be sorted; of equal ones the last counts; values are >= 0.
  explicit Trie(std::vector<std::pair<std::string_view, std::int32_t>> words) : Trie() {
    sort(words);
    struct Range {
      std::uint32_t node;
      std::size_t begin, end, depth;
    };
    std::vector<Range> open{{0, 0, words.size(), 0}};
    for (std::size_t next = 0; next < open.size(); ++next) {
      Range range = open[next];
      while (range.begin < range.end && words[range.begin].first.size() == range.depth) nodes_[range.node].value = words[range.begin++].second;
      nodes_[range.node].first = static_cast<std::uint32_t>(nodes_.size());
      while (range.begin < range.end) {
        const char label = words[range.begin].first[range.depth];
        std::size_t end = range.begin;
        while (end < range.end && words[end].first[range.depth] == label) ++end;
        open.push_back({static_cast<std::uint32_t>(nodes_.size()), range.begin, end, range.depth + 1});
        nodes_.emplace_back();
        labels_.push_back(label);
        ++nodes_[range.node].count;
        range.begin = end;
      }
    }
    for (std::uint32_t i = 0; i < nodes_[0].count; ++i) root_[static_cast<unsigned char>(labels_[nodes_[0].first + i])] = nodes_[0].first + i;
  }
  /// Node below `node` along `label`; 0 (the root, nobody's child) if there is none.
  std::uint32_t child(std::uint32_t node, char label) const noexcept {
    if (node == 0) return root_[static_cast<unsigned char>(label)];
    const Node& parent = nodes_[node];
    if (parent.count == 0) return 0;
    const char* first = labels_.data() + parent.first;
    const void* found = std::memchr(first, static_cast<unsigned char>(label), parent.count);
    return found == nullptr ? 0 : parent.first + static_cast<std::uint32_t>(static_cast<const char*>(found) - first);
  }
  std::int32_t value(std::uint32_t node) const noexcept { return nodes_[node].value; }
  /// End and value of the longest word at `at`; value none if there is none.
  std::pair<std::size_t, std::int32_t> longest(std::string_view text, std::size_t at) const noexcept {
    std::pair<std::size_t, std::int32_t> best{at, none};
    std::uint32_t node = 0;
    while (at < text.size() && (node = child(node, text[at])) != 0) {
      ++at;
      if (nodes_[node].value != none) best = {at, nodes_[node].value};
    }
    return best;
  }
  bool empty() const noexcept { return nodes_.size() == 1; }

 private:
  struct Node {
    std::uint32_t first = 0;
    std::int32_t value = none;
    std::uint32_t count = 0;
  };
  // By their bytes, stably. The first eight decide nearly always; comparing texts from the start takes four times as long.
  static void sort(std::vector<std::pair<std::string_view, std::int32_t>>& words) {
    struct Key {
      std::uint64_t head;
      std::uint32_t word;
    };
    std::vector<Key> keys;
    keys.reserve(words.size());
    for (const auto& [text, value] : words) {
      std::uint64_t head = 0;
      for (std::size_t i = 0; i < 8; ++i) head = head << 8 | (i < text.size() ? static_cast<unsigned char>(text[i]) : 0U);
      keys.push_back({head, static_cast<std::uint32_t>(keys.size())});
    }
    std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
      if (a.head != b.head) return a.head < b.head;
      const int order = words[a.word].first.compare(words[b.word].first);
      return order != 0 ? order < 0 : a.word < b.word;
    });
    std::vector<std::pair<std::string_view, std::int32_t>> sorted;
    sorted.reserve(words.size());
    for (const Key& key : keys) sorted.push_back(words[key.word]);
    words.swap(sorted);
  }
  std::vector<Node> nodes_;
  std::vector<char> labels_;
  std::vector<std::uint32_t> root_ = std::vector<std::uint32_t>(256, 0);
};

/// The bytes of a base64 text with or without its padding; none if it is no base64.
inline std::optional<std::string> from_base64(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  std::uint32_t bits = 0;
  unsigned count = 0;
  const std::size_t whole = text.size();
  while (text.ends_with('=')) text.remove_suffix(1);
  if (whole - text.size() > 2 || text.size() % 4 == 1) return std::nullopt;
  for (const char c : text) {
    const int value = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+' ? 62 : c == '/' ? 63 : -1;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if ((count += 6) >= 8) {
      count -= 8;
      bytes += static_cast<char>(static_cast<unsigned char>(bits >> count & 0xFFU));
    }
  }
  return bytes;
}
inline std::string to_base64(std::string_view bytes) {
  constexpr char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - at);
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i) bits = bits << 8 | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    for (std::size_t i = 0; i <= count; ++i) text += letters[bits >> (18 - 6 * i) & 63U];
    text.append(3 - count, '=');
  }
  return text;
}

/// GPT-2's bytes as visible characters: '!'..'~', U+00A1..U+00AC, U+00AE..U+00FF stand for themselves, the other 68 bytes are U+0100 upwards.
struct ByteAlphabet {
  char32_t letter[256] = {};
  std::int16_t byte[324] = {};  // -1: no letter of the alphabet
  constexpr ByteAlphabet() {
    for (std::int16_t& value : byte) value = -1;
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool visible = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      letter[b] = visible ? static_cast<char32_t>(b) : next++;
      byte[letter[b]] = static_cast<std::int16_t>(b);
    }
  }
};
inline constexpr ByteAlphabet byte_alphabet{};

}  // namespace detail
}  // namespace chiasm
