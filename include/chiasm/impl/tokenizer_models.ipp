#pragma once

#include <chiasm/io/json.hpp>

#include <chiasm/impl/tokenizer_vocabulary.ipp>
#include <chiasm/impl/unicode.ipp>

#include <array>
#include <functional>
#include <queue>
#include <span>
#include <tuple>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// Buffers of one encode call.
struct EncodeScratch {
  std::vector<TokenId> symbols, merged;
  std::vector<std::uint32_t> rank, previous, next;
  std::string text;
  struct Step {
    double score;
    TokenId id;
    std::uint32_t from;
  };
  std::vector<Step> path;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> spans;
};

/// A model turns one piece of pre-tokenised text into ids.
class TokenModel {
 public:
  virtual ~TokenModel() = default;
  /// Appends the ids of `piece` (well-formed UTF-8, not empty).
  virtual void encode(std::string_view piece, std::vector<TokenId>& ids, EncodeScratch& scratch) const = 0;
  /// Whether pieces may also be cut before each U+2581 that follows another character, without any change of the ids.
  virtual bool splits_at_metaspace() const { return false; }
  /// Whether pieces come as they are where the pre-tokenizer ends in ByteLevel, and are read byte by byte in its alphabet.
  virtual bool reads_bytes() const { return false; }
  Vocabulary vocabulary;
};

inline TokenId token_id(const Json& value) {
  const std::int64_t id = value.as_int();
  if (id < 0 || id >= std::numeric_limits<TokenId>::max()) value.fail("is " + std::to_string(id) + ", no token id");
  return static_cast<TokenId>(id);
}

inline void seal(Vocabulary& vocabulary, const Json& where) {
  if (!vocabulary.seal()) where.fail("has ids out of proportion to its " + std::to_string(vocabulary.size()) + " tokens");
}

inline Vocabulary read_vocabulary(const Json& json) {
  if (!json.is_object()) json.fail("is not an object of tokens and ids");
  Vocabulary vocabulary;
  vocabulary.reserve(json.size());
  for (const Json entry : json) vocabulary.insert(entry.key(), token_id(entry));
  seal(vocabulary, json);
  return vocabulary;
}

inline std::string byte_token(unsigned byte) {
  constexpr char digits[] = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">";
}

/// Byte pair encoding: Sennrich et al., arXiv:1508.07909. Always the pair that was merged first in training, the leftmost of several.
class Bpe final : public TokenModel {
 public:
  struct Options {
    bool bytes = false;  // see reads_bytes()
    bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
    std::optional<std::string> unk_token = {};
    std::string prefix = {}, suffix = {};  // of what continues, and of what ends a word
    // Symbols that are taken whole wherever they stand, before anything is merged: sentencepiece's files have them.
    std::vector<TokenId> user_defined = {};
  };

  /// `tokens` is sealed. Merges come by add(), in their order and at most `merges` of them.
  Bpe(Vocabulary tokens, const Options& options, std::size_t merges, std::string file)
      : bytes_(options.bytes),
        fuse_(options.fuse_unk),
        ignore_merges_(options.ignore_merges),
        has_unk_(options.unk_token.has_value()),
        prefix_(options.prefix),
        suffix_(options.suffix),
        file_(std::move(file)) {
    vocabulary = std::move(tokens);
    if (has_unk_) unk_ = vocabulary.find(*options.unk_token);
    if (options.byte_fallback)
      for (unsigned b = 0; b < 256; ++b) fallback_[b] = vocabulary.find(byte_token(b));
    std::vector<std::pair<std::string_view, std::int32_t>> symbols;
    for (const TokenId id : options.user_defined) symbols.emplace_back(vocabulary.text(id), id);
    user_defined_ = Trie(std::move(symbols));
    std::size_t size = 16;
    while (size * 3 < merges * 5) size *= 2;  // at most 3 in 5 places taken
    merges_.assign(size, Merge());
    metaspace_ = !bytes_ && prefix_.empty() && suffix_.empty() && !ignore_merges_ && user_defined_.empty() && vocabulary.find(metaspace) >= 0;
    for (unsigned b = 0; b < 256; ++b) {
      if (bytes_ || b < 128) {
        std::string letter;
        unicode::append(letter, bytes_ ? byte_alphabet.letter[b] : b);
        for (unsigned ends = 0; ends < 4; ++ends)
          single_[ends][b] = vocabulary.find((ends & 1 ? std::string() : prefix_) + letter + (ends & 2 ? suffix_ : std::string()));
      }
    }
  }

  /// `bytes`: the pre-tokenizer ends in ByteLevel.
  static std::shared_ptr<const Bpe> read(const Json& json, bool bytes) {
    Vocabulary tokens = read_vocabulary(json["vocab"]);
    if (const Json dropout = json.find("dropout"); !dropout.is_null() && dropout.as_double() != 0)
      throw UnsupportedError("BPE with dropout " + dropout.dump());
    Options options;
    options.bytes = bytes;
    options.prefix = json.get<std::string>("continuing_subword_prefix", "");
    options.suffix = json.get<std::string>("end_of_word_suffix", "");
    options.fuse_unk = json.get<bool>("fuse_unk", false);
    options.ignore_merges = json.get<bool>("ignore_merges", false);
    options.byte_fallback = json.get<bool>("byte_fallback", false);
    if (const Json unk = json.find("unk_token"); !unk.is_null()) options.unk_token = unk.as<std::string>();
    const Json merges = json["merges"];
    if (!merges.is_array()) merges.fail("is not an array of merges");
    const auto model = std::make_shared<Bpe>(std::move(tokens), options, merges.size(), json.file());
    auto merge = merges.begin();
    std::size_t count = merges.size();
    const bool headed = count > 0 && (*merge).is_string() && (*merge).as_string().starts_with("#version");
    if (headed) ++merge, --count;
    model->add(
        count,
        [&](std::size_t) {
          const Json parts = *merge;
          ++merge;
          if (parts.is_array()) {
            if (parts.size() != 2) parts.fail("has " + std::to_string(parts.size()) + " parts, a merge has 2");
            auto part = parts.begin();
            const std::string_view left = (*part).as_string();
            return std::pair(left, (*++part).as_string());
          }
          const std::string_view text = parts.as_string();
          const std::size_t blank = text.find(' ');
          if (blank == std::string_view::npos || text.find(' ', blank + 1) != std::string_view::npos)
            parts.fail("is '" + std::string(text) + "', a merge is two tokens with a blank between");
          return std::pair(text.substr(0, blank), text.substr(blank + 1));
        },
        [&](std::size_t i, const std::string& what) { merges.at(i + (headed ? 1 : 0)).fail(what); });
    return model;
  }

  /// The next merges: parts(i) gives the two parts of each, in their order; fail(i, what), which throws, is called for one that makes no sense.
  template <class Parts, class Fail>
  void add(std::size_t count, Parts parts, Fail fail) {
    // In blocks, in which each step's memory is asked for before it is needed: 2.5 times as fast as one by one.
    struct Merging {
      std::string_view left, right;
      std::uint64_t left_hash, right_hash;
      TokenId a, b, whole;
    };
    std::array<Merging, 32> block;
    for (std::size_t from = 0; from < count; from += block.size()) {
      const std::span merges = std::span(block).first(std::min(block.size(), count - from));
      std::size_t i = from;
      for (Merging& merge : merges) {
        std::tie(merge.left, merge.right) = parts(i++);
        vocabulary.prefetch<0>(merge.left_hash = hash(merge.left));
        vocabulary.prefetch<0>(merge.right_hash = hash(merge.right));
      }
      for (const Merging& merge : merges) vocabulary.prefetch<1>(merge.left_hash), vocabulary.prefetch<1>(merge.right_hash);
      for (const Merging& merge : merges) vocabulary.prefetch<2>(merge.left_hash), vocabulary.prefetch<2>(merge.right_hash);
      i = from;
      for (Merging& merge : merges) {
        const auto refuse = [&](const std::string& what) { fail(i, what); };
        merge.a = vocabulary.find(merge.left, merge.left_hash);
        merge.b = vocabulary.find(merge.right, merge.right_hash);
        if (merge.a < 0 || merge.b < 0) refuse("merges '" + std::string(merge.a < 0 ? merge.left : merge.right) + "', which is not in the vocabulary");
        if (merge.right.size() < prefix_.size()) refuse("is shorter than continuing_subword_prefix");
        const std::string_view rest = merge.right.substr(prefix_.size());
        const auto is = [&](TokenId id) {
          const std::string_view token = vocabulary.text(id);
          return token.size() == merge.left.size() + rest.size() && token.starts_with(merge.left) && token.ends_with(rest);
        };
        // Most vocabularies are in the order of their merges.
        merge.whole = last_ + 1;
        if (!is(merge.whole) && !is(--merge.whole)) merge.whole = vocabulary.find(std::string(merge.left).append(rest));
        if (merge.whole < 0) refuse("gives '" + std::string(merge.left).append(rest) + "', which is not in the vocabulary");
        last_ = merge.whole;
        prefetch(merge.a, merge.b);
        ++i;
      }
      for (const Merging& merge : merges) add(merge.a, merge.b, merge.whole);
    }
  }
  /// The next merge.
  void add(TokenId a, TokenId b, TokenId whole) {
    if (metaspace_) {
      const std::string_view product = vocabulary.text(whole);
      for (std::size_t at = product.find(metaspace, 1); at != std::string_view::npos && metaspace_; at = product.find(metaspace, at + 1))
        metaspace_ = at >= metaspace.size() && product.substr(at - metaspace.size(), metaspace.size()) == metaspace;
    }
    const_cast<Merge&>(find(a, b)) = {key(a, b), ranks_++, whole};
  }
  void prefetch(TokenId a, TokenId b) const noexcept { __builtin_prefetch(&merges_[slot(key(a, b))]); }

  bool splits_at_metaspace() const override { return metaspace_; }
  bool reads_bytes() const override { return bytes_; }

  void encode(std::string_view piece, std::vector<TokenId>& ids, EncodeScratch& scratch) const override {
    if (user_defined_.empty()) return encode_run(piece, ids, scratch);
    std::size_t from = 0;
    for (std::size_t at = 0; at < piece.size();) {
      const auto [end, id] = user_defined_.longest(piece, at);
      if (id == Trie::none) {
        ++at;
        continue;
      }
      if (from < at) encode_run(piece.substr(from, at - from), ids, scratch);
      ids.push_back(id);
      from = at = end;
    }
    if (from < piece.size()) encode_run(piece.substr(from), ids, scratch);
  }

 private:
  void encode_run(std::string_view piece, std::vector<TokenId>& ids, EncodeScratch& scratch) const {
    if (ignore_merges_) {
      TokenId whole = -1;
      if (bytes_) {
        scratch.text.clear();
        for (const char c : piece) unicode::append(scratch.text, byte_alphabet.letter[static_cast<unsigned char>(c)]);
        whole = vocabulary.find(scratch.text);
      } else {
        whole = vocabulary.find(piece);
      }
      if (whole >= 0) return ids.push_back(whole);
    }
    std::vector<TokenId>& symbols = scratch.symbols;
    symbols.clear();
    bool unknown = false;  // an unknown token waits, to be fused with those that follow
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t from = at;
      const auto byte = static_cast<unsigned char>(piece[at]);
      if (bytes_ || byte < 128) {
        ++at;
      } else {
        unicode::next(piece, at);
      }
      const unsigned ends = (from == 0 ? 1U : 0U) | (at == piece.size() ? 2U : 0U);
      TokenId id = -1;
      std::string_view spelling = piece.substr(from, at - from);
      if (bytes_ || byte < 128) {
        id = single_[ends][byte];
      } else if (prefix_.empty() && suffix_.empty()) {
        id = vocabulary.find(spelling);
      } else {
        scratch.text = (ends & 1 ? std::string() : prefix_) + std::string(spelling) + (ends & 2 ? suffix_ : std::string());
        id = vocabulary.find(scratch.text);
      }
      if (id >= 0) {
        if (unknown) symbols.push_back(unk_);
        unknown = false;
        symbols.push_back(id);
        continue;
      }
      if (fallback_[0x20] >= 0 || fallback_[0] >= 0) {
        if (bytes_ || !prefix_.empty() || !suffix_.empty()) {
          scratch.text = ends & 1 ? std::string() : prefix_;
          if (bytes_) {
            unicode::append(scratch.text, byte_alphabet.letter[byte]);
          } else {
            scratch.text += spelling;
          }
          if (ends & 2) scratch.text += suffix_;
          spelling = scratch.text;
        }
        if (std::all_of(spelling.begin(), spelling.end(), [&](char c) { return fallback_[static_cast<unsigned char>(c)] >= 0; })) {
          for (const char c : spelling) symbols.push_back(fallback_[static_cast<unsigned char>(c)]);
          continue;
        }
      }
      if (!has_unk_) continue;
      if (unk_ < 0) throw ConfigError(file_, "/model/unk_token", "is needed and not in the vocabulary");
      if (unknown && !fuse_) symbols.push_back(unk_);
      unknown = true;
    }
    if (unknown) symbols.push_back(unk_);
    merge(ids, scratch);
  }

  struct Merge {
    std::uint64_t pair = none;
    std::uint32_t rank = no_rank;
    TokenId id = -1;
    static constexpr std::uint64_t none = ~std::uint64_t{0};
  };
  static constexpr std::uint32_t no_rank = 0xFFFFFFFF;
  static constexpr std::string_view metaspace = "\xE2\x96\x81";
  static std::uint64_t key(TokenId a, TokenId b) noexcept {
    return std::uint64_t{static_cast<std::uint32_t>(a)} << 32 | static_cast<std::uint32_t>(b);
  }
  const Merge& find(TokenId a, TokenId b) const noexcept {
    const std::uint64_t pair = key(a, b);
    for (std::size_t i = slot(pair);; i = (i + 1) & (merges_.size() - 1))
      if (merges_[i].pair == pair || merges_[i].pair == Merge::none) return merges_[i];
  }
  std::size_t slot(std::uint64_t pair) const noexcept {
    const std::uint64_t h = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15U;
    return static_cast<std::size_t>(h >> 20) & (merges_.size() - 1);
  }

  void merge(std::vector<TokenId>& ids, EncodeScratch& scratch) const {
    // A scan over a short word's ranks beats a heap; a long word must not be quadratic. Buckets have to pay for themselves.
    constexpr std::size_t small = 40, large = 32768;
    if (scratch.symbols.size() <= small) return merge_small<small>(ids, scratch.symbols);
    if (scratch.symbols.size() <= std::max<std::size_t>(large, ranks_ / 2)) {
      merge_in_order<Heap>(ids, scratch);
    } else {
      merge_in_order<Buckets>(ids, scratch);
    }
  }

  template <std::size_t most>
  void merge_small(std::vector<TokenId>& ids, const std::vector<TokenId>& symbols) const {
    TokenId word[most + 1], into[most + 1];
    std::uint32_t rank[most + 1];
    std::size_t size = symbols.size();
    std::copy(symbols.begin(), symbols.end(), word);
    const auto look = [&](std::size_t i) {
      if (i + 1 >= size) {
        rank[i] = no_rank;
        return;
      }
      const Merge& merge = find(word[i], word[i + 1]);
      rank[i] = merge.rank;
      into[i] = merge.id;
    };
    for (std::size_t i = 0; i < size; ++i) look(i);
    while (size > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < size; ++i)
        if (rank[i] < rank[best]) best = i;
      if (rank[best] == no_rank) break;
      word[best] = into[best];
      --size;
      for (std::size_t i = best + 1; i < size; ++i) {
        word[i] = word[i + 1];
        rank[i] = rank[i + 1];
        into[i] = into[i + 1];
      }
      look(best);
      if (best > 0) look(best - 1);
    }
    ids.insert(ids.end(), word, word + size);
  }

  // Positions by rank, then from left to right: the next merge. A heap of both.
  class Heap {
   public:
    explicit Heap(std::size_t) {}
    void start(std::uint32_t rank, std::uint32_t at) { items_.push_back(std::uint64_t{rank} << 32 | at); }
    void started() { std::make_heap(items_.begin(), items_.end(), std::greater<>()); }
    void push(std::uint32_t rank, std::uint32_t at) {
      start(rank, at);
      std::push_heap(items_.begin(), items_.end(), std::greater<>());
    }
    bool pop(std::uint32_t& rank, std::uint32_t& at) {
      if (items_.empty()) return false;
      std::pop_heap(items_.begin(), items_.end(), std::greater<>());
      rank = static_cast<std::uint32_t>(items_.back() >> 32);
      at = static_cast<std::uint32_t>(items_.back());
      items_.pop_back();
      return true;
    }

   private:
    std::vector<std::uint64_t> items_;
  };

  // The same for a word of many thousand symbols, where a heap's jumps through memory cost more than its steps: a list of
  // positions per rank. Nearly all of a rank's positions are known before its turn comes and are then gone through in one sweep.
  class Buckets {
   public:
    explicit Buckets(std::size_t ranks) : buckets_(ranks) {}
    void start(std::uint32_t rank, std::uint32_t at) { push(rank, at); }
    void started() {}
    void push(std::uint32_t rank, std::uint32_t at) {
      Bucket& bucket = buckets_[rank];
      if (!bucket.open) {
        bucket.open = true;
        ranks_.push(rank);
      }
      if (!bucket.sweeping) {
        bucket.positions.push_back(at);
      } else {
        bucket.late.push_back(at);
        std::push_heap(bucket.late.begin(), bucket.late.end(), std::greater<>());
      }
    }
    bool pop(std::uint32_t& rank, std::uint32_t& at) {
      while (!ranks_.empty()) {
        rank = ranks_.top();
        Bucket& bucket = buckets_[rank];
        if (!bucket.sweeping) {
          if (!std::is_sorted(bucket.positions.begin(), bucket.positions.end())) std::sort(bucket.positions.begin(), bucket.positions.end());
          bucket.sweeping = true;
          bucket.done = 0;
        }
        const bool swept = bucket.done == bucket.positions.size();
        if (swept && bucket.late.empty()) {
          bucket = Bucket();
          ranks_.pop();
          continue;
        }
        if (swept || (!bucket.late.empty() && bucket.late.front() < bucket.positions[bucket.done])) {
          std::pop_heap(bucket.late.begin(), bucket.late.end(), std::greater<>());
          at = bucket.late.back();
          bucket.late.pop_back();
        } else {
          at = bucket.positions[bucket.done++];
        }
        return true;
      }
      return false;
    }

   private:
    struct Bucket {
      std::vector<std::uint32_t> positions, late;  // late: a heap of those that came while the bucket's turn was on
      std::size_t done = 0;
      bool open = false, sweeping = false;
    };
    std::vector<Bucket> buckets_;
    std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> ranks_;
  };

  template <class Queue>
  void merge_in_order(std::vector<TokenId>& ids, EncodeScratch& scratch) const {
    constexpr std::uint32_t end = 0xFFFFFFFF;
    std::vector<TokenId>& word = scratch.symbols;
    const auto size = static_cast<std::uint32_t>(word.size());
    scratch.rank.assign(size, no_rank);
    scratch.merged.resize(size);
    scratch.previous.resize(size);
    scratch.next.resize(size);
    Queue queue(ranks_);
    const auto look = [&](std::uint32_t i) {
      const std::uint32_t after = scratch.next[i];
      const std::uint32_t before = scratch.rank[i];
      scratch.rank[i] = no_rank;
      if (after != end) {
        const Merge& merge = find(word[i], word[after]);
        scratch.rank[i] = merge.rank;
        scratch.merged[i] = merge.id;
      }
      return scratch.rank[i] != no_rank && scratch.rank[i] != before;
    };
    for (std::uint32_t i = 0; i < size; ++i) {
      scratch.previous[i] = i == 0 ? end : i - 1;
      scratch.next[i] = i + 1 == size ? end : i + 1;
      if (look(i)) queue.start(scratch.rank[i], i);
    }
    queue.started();
    for (std::uint32_t rank = 0, at = 0; queue.pop(rank, at);) {
      if (scratch.rank[at] != rank) continue;  // that pair is gone
      const std::uint32_t right = scratch.next[at], after = scratch.next[right], before = scratch.previous[at];
      word[at] = scratch.merged[at];
      word[right] = -1;
      scratch.rank[right] = no_rank;
      scratch.rank[at] = no_rank;
      scratch.next[at] = after;
      if (after != end) scratch.previous[after] = at;
      if (look(at)) queue.push(scratch.rank[at], at);
      if (before != end && look(before)) queue.push(scratch.rank[before], before);
    }
    for (std::uint32_t i = 0; i != end; i = scratch.next[i]) ids.push_back(word[i]);
  }

  bool bytes_, fuse_ = false, ignore_merges_ = false, has_unk_ = false, metaspace_ = false;
  TokenId unk_ = -1, last_ = -1;  // last_: what the last merge gave
  std::uint32_t ranks_ = 0;       // that merges have
  std::string prefix_, suffix_, file_;
  Trie user_defined_;
  std::vector<Merge> merges_;
  std::array<std::array<TokenId, 256>, 4> single_{};  // by "first of the word" | "last of the word" << 1
  std::array<TokenId, 256> fallback_ = [] {
    std::array<TokenId, 256> none{};
    none.fill(-1);
    return none;
  }();
};

/// Unigram language model: the most probable segmentation. Kudo, arXiv:1804.10959. Scores are summed in double precision and the first of
/// equally good paths wins, as in `tokenizers` (sentencepiece sums floats).
class Unigram final : public TokenModel {
 public:
  struct Options {
    TokenId unk = -1;
    bool byte_fallback = false;
    // Symbols whose score is one that always wins: it says nothing about what an unknown character costs.
    std::vector<TokenId> user_defined = {};
  };

  /// `pieces` is sealed; `scores` by id.
  Unigram(Vocabulary pieces, std::vector<double> scores, const Options& options, std::string file)
      : file_(std::move(file)), scores_(std::move(scores)), unk_(options.unk), byte_fallback_(options.byte_fallback) {
    vocabulary = std::move(pieces);
    std::vector<std::pair<std::string_view, std::int32_t>> words;
    words.reserve(vocabulary.size());
    vocabulary.each([&](std::string_view text, TokenId id) {
      if (!text.empty()) words.emplace_back(text, id);
    });
    trie_ = Trie(std::move(words));
    std::vector<bool> counts(scores_.size(), true);
    for (const TokenId id : options.user_defined) counts[static_cast<std::size_t>(id)] = false;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < scores_.size(); ++i)
      if (counts[i]) least = std::min(least, scores_[i]);
    unknown_score_ = least - 10.0;
    if (byte_fallback_)
      for (unsigned b = 0; b < 256; ++b) fallback_[b] = vocabulary.find(byte_token(b));
  }

  static std::shared_ptr<const Unigram> read(const Json& json) {
    const Json vocab = json["vocab"];
    if (!vocab.is_array()) vocab.fail("is not an array of pieces and scores");
    if (vocab.size() == 0) vocab.fail("is empty");
    Vocabulary pieces;
    pieces.reserve(vocab.size());
    std::vector<double> scores;
    scores.reserve(vocab.size());
    for (const Json entry : vocab) {
      if (!entry.is_array() || entry.size() != 2) entry.fail("is not a piece and its score");
      auto part = entry.begin();
      pieces.insert((*part).as_string(), static_cast<TokenId>(scores.size()));
      scores.push_back((*++part).as_double());
    }
    seal(pieces, vocab);
    Options options;
    if (const Json unk = json.find("unk_id"); !unk.is_null()) {
      options.unk = token_id(unk);
      if (static_cast<std::size_t>(options.unk) >= scores.size()) unk.fail("is " + std::to_string(options.unk) + ", no piece of the vocabulary");
    }
    options.byte_fallback = json.get<bool>("byte_fallback", false);
    return std::make_shared<Unigram>(std::move(pieces), std::move(scores), options, json.file());
  }

  void encode(std::string_view piece, std::vector<TokenId>& ids, EncodeScratch& scratch) const override {
    constexpr std::uint32_t unreached = 0xFFFFFFFF;
    auto& path = scratch.path;
    path.assign(piece.size() + 1, {0, -1, unreached});
    const auto offer = [&](std::size_t end, std::size_t from, TokenId id, double score) {
      if (path[end].from == unreached || score > path[end].score) path[end] = {score, id, static_cast<std::uint32_t>(from)};
    };
    for (std::size_t from = 0; from < piece.size();) {
      std::size_t behind = from;
      unicode::next(piece, behind);
      const double score = path[from].score;
      bool single = false;
      std::uint32_t node = 0;
      for (std::size_t at = from; at < piece.size();) {
        node = trie_.child(node, piece[at++]);
        if (node == 0) break;
        const std::int32_t id = trie_.value(node);
        if (id == Trie::none) continue;
        offer(at, from, id, scores_[static_cast<std::size_t>(id)] + score);
        single = single || at == behind;
      }
      if (!single) {
        if (unk_ < 0) throw ConfigError(file_, "/model/unk_id", "is needed and not there");
        offer(behind, from, unk_, unknown_score_ + score);
      }
      from = behind;
    }
    // Back along the best path; unknown neighbours are one.
    auto& spans = scratch.spans;
    spans.clear();
    bool unknown = false;
    for (std::size_t end = piece.size(); end > 0; end = path[end].from) {
      const bool now_unknown = path[end].id == unk_;
      if (now_unknown && unknown) {
        spans.back().first = path[end].from;
      } else {
        spans.emplace_back(path[end].from, static_cast<std::uint32_t>(end));
      }
      unknown = now_unknown;
    }
    for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
      const std::string_view text = piece.substr(span->first, span->second - span->first);
      const TokenId id = path[span->second].id;
      if (id != unk_) {
        ids.push_back(id);
        continue;
      }
      const TokenId known = vocabulary.find(text);
      if (known >= 0) {
        ids.push_back(known);
      } else if (byte_fallback_ &&
                 std::all_of(text.begin(), text.end(), [&](char c) { return fallback_[static_cast<unsigned char>(c)] >= 0; })) {
        for (const char c : text) ids.push_back(fallback_[static_cast<unsigned char>(c)]);
      } else {
        ids.push_back(unk_);
      }
    }
  }

 private:
  std::string file_;
  std::vector<double> scores_;
  Trie trie_;
  double unknown_score_ = 0;
  TokenId unk_ = -1;
  bool byte_fallback_ = false;
  std::array<TokenId, 256> fallback_{};
};

/// WordPiece: the longest known beginning, again and again. Wu et al., arXiv:1609.08144; BERT.
class WordPiece final : public TokenModel {
 public:
  /// `tokens` is sealed, and has `unk`.
  WordPiece(Vocabulary tokens, TokenId unk, std::string prefix = "##", std::size_t max_input_chars_per_word = 100)
      : prefix_(std::move(prefix)), most_(max_input_chars_per_word), unk_(unk) {
    vocabulary = std::move(tokens);
    std::vector<std::pair<std::string_view, std::int32_t>> words;
    words.reserve(vocabulary.size());
    vocabulary.each([&](std::string_view text, TokenId id) { words.emplace_back(text, id); });
    trie_ = Trie(std::move(words));
    // Continuations are found below the prefix's node.
    for (const char c : prefix_) {
      inner_ = trie_.child(inner_, c);
      if (inner_ == 0) {
        has_inner_ = false;
        break;
      }
    }
  }
  static std::shared_ptr<const WordPiece> read(const Json& json) {
    Vocabulary tokens = read_vocabulary(json["vocab"]);
    const std::string unk = json.get<std::string>("unk_token", "[UNK]");
    const TokenId id = tokens.find(unk);
    if (id < 0) json.fail("has unk_token '" + unk + "', which is not in the vocabulary");
    return std::make_shared<WordPiece>(std::move(tokens), id, json.get<std::string>("continuing_subword_prefix", "##"),
                                       json.get<std::size_t>("max_input_chars_per_word", 100));
  }

  void encode(std::string_view piece, std::vector<TokenId>& ids, EncodeScratch&) const override {
    std::size_t characters = 0;
    for (const char c : piece) characters += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
    if (characters > most_) return ids.push_back(unk_);
    const std::size_t before = ids.size();
    for (std::size_t from = 0; from < piece.size();) {
      TokenId longest = -1;
      std::size_t end = from;
      if (from == 0 || has_inner_) {
        std::uint32_t node = from == 0 ? 0 : inner_;
        for (std::size_t at = from; at < piece.size();) {
          node = trie_.child(node, piece[at++]);
          if (node == 0) break;
          if (trie_.value(node) != Trie::none) {
            longest = trie_.value(node);
            end = at;
          }
        }
      }
      if (longest < 0) {
        ids.resize(before);
        return ids.push_back(unk_);
      }
      ids.push_back(longest);
      from = end;
    }
  }

 private:
  std::string prefix_;
  std::size_t most_ = 100;
  TokenId unk_ = -1;
  Trie trie_;
  std::uint32_t inner_ = 0;
  bool has_inner_ = true;
};

/// WordLevel: each piece is a token or unknown.
class WordLevel final : public TokenModel {
 public:
  explicit WordLevel(const Json& json) : file_(json.file()) {
    vocabulary = read_vocabulary(json["vocab"]);
    unk_ = vocabulary.find(json.get<std::string>("unk_token", "<unk>"));
  }
  void encode(std::string_view piece, std::vector<TokenId>& ids, EncodeScratch&) const override {
    const TokenId id = vocabulary.find(piece);
    if (id < 0 && unk_ < 0) throw ConfigError(file_, "/model/unk_token", "is needed and not in the vocabulary");
    ids.push_back(id >= 0 ? id : unk_);
  }

 private:
  std::string file_;
  TokenId unk_ = -1;
};

inline std::shared_ptr<const TokenModel> read_model(const Json& json, bool bytes) {
  if (!json.is_object()) json.fail("is not an object");
  std::string type = json.get<std::string>("type", "");
  if (type.empty()) {  // old files leave the type out
    type = json.contains("merges")                     ? "BPE"
           : json.find("vocab").is_array()             ? "Unigram"
           : json.contains("max_input_chars_per_word") ? "WordPiece"
                                                       : "WordLevel";
  }
  if (type == "BPE") return Bpe::read(json, bytes);
  if (type == "Unigram") return Unigram::read(json);
  if (type == "WordPiece") return WordPiece::read(json);
  if (type == "WordLevel") return std::make_shared<WordLevel>(json);
  throw UnsupportedError("tokenizer model '" + type + "' (" + json.file() + ")");
}

}  // namespace detail
}  // namespace chiasm
