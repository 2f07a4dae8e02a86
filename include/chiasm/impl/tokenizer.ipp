#pragma once

#include <chiasm/io/tokenizer/tokenizer.hpp>

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/gguf_model.hpp>
#include <chiasm/io/json.hpp>

#include <chiasm/impl/tokenizer_decoders.ipp>
#include <chiasm/impl/tokenizer_files.ipp>
#include <chiasm/impl/tokenizer_gguf.ipp>
#include <chiasm/impl/tokenizer_models.ipp>

#include <filesystem>
#include <map>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// A token that is found in the text itself, before the model sees it.
struct AddedToken {
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
  bool operator==(const AddedToken&) const = default;

  static AddedToken read(const Json& json) {
    AddedToken token;
    token.content = json["content"].as<std::string>();
    token.single_word = json.get<bool>("single_word", false);
    token.lstrip = json.get<bool>("lstrip", false);
    token.rstrip = json.get<bool>("rstrip", false);
    token.special = json.get<bool>("special", false);
    token.normalized = json.get<bool>("normalized", !token.special);
    return token;
  }
};

/// The added tokens, and where they stand in a text: leftmost, longest.
class AddedVocabulary {
 public:
  /// Gives a new token the model's id, or the next free one, as `tokenizers` does; the same content again replaces the token.
  TokenId add(AddedToken token, const TokenModel& model) {
    if (token.content.empty()) return -1;
    TokenId id = find(token.content);
    if (id < 0) id = model.vocabulary.find(token.content);
    if (id < 0) {
      const auto size = static_cast<TokenId>(model.vocabulary.size());
      id = tokens_.empty() ? size : std::max(size, tokens_.rbegin()->first + 1);
      ++beyond_model_;
    }
    ids_[token.content] = id;
    tokens_[id] = std::move(token);
    return id;
  }
  void seal(const TextNormalizer& normalizer) {
    std::vector<std::pair<std::string_view, std::int32_t>> as_written, normalised;
    std::vector<std::string> rewritten;
    rewritten.reserve(tokens_.size());
    for (const auto& [id, token] : tokens_) {
      if (!token.normalized) {
        as_written.emplace_back(token.content, id);
        continue;
      }
      bool leading = true;
      normalizer.apply(rewritten.emplace_back(token.content), leading);
      if (!rewritten.back().empty()) normalised.emplace_back(rewritten.back(), id);
    }
    as_written_ = Trie(std::move(as_written));
    normalised_ = Trie(std::move(normalised));
  }

  TokenId find(std::string_view content) const {
    const auto found = ids_.find(content);
    return found == ids_.end() ? -1 : found->second;
  }
  const AddedToken* token(TokenId id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : &found->second;
  }
  std::size_t beyond_model() const { return beyond_model_; }

  /// Calls section(begin, end) for each stretch of text without added tokens and added(id) for each token, from left to right.
  template <class Section, class Added>
  void split(std::string_view text, bool normalised, Section section, Added added) const {
    const Trie& trie = normalised ? normalised_ : as_written_;
    std::size_t done = 0;
    if (!trie.empty()) {
      for (std::size_t at = 0; at < text.size();) {
        std::uint32_t node = trie.child(0, text[at]);
        if (node == 0) {
          ++at;
          continue;
        }
        std::size_t stop = at;
        TokenId id = Trie::none;
        for (std::size_t i = at + 1;; ++i) {
          if (trie.value(node) != Trie::none) {
            id = trie.value(node);
            stop = i;
          }
          if (i >= text.size()) break;
          node = trie.child(node, text[i]);
          if (node == 0) break;
        }
        if (id == Trie::none) {
          ++at;
          continue;
        }
        std::size_t start = at;
        at = stop;
        const AddedToken& token = tokens_.find(id)->second;
        if (token.single_word && (ends_in_word(text.substr(0, start)) || begins_with_word(text.substr(stop)))) continue;
        if (token.lstrip) start = done + TextNormalizer::trimmed(text.substr(done, start - done), false, true).second;
        if (token.rstrip) stop += TextNormalizer::trimmed(text.substr(stop), true, false).first;
        if (done < start) section(done, start);
        added(id);
        done = stop;
      }
    }
    if (done < text.size()) section(done, text.size());
  }

 private:
  static bool begins_with_word(std::string_view text) {
    std::size_t at = 0;
    return !text.empty() && unicode::is_word(unicode::next(text, at));
  }
  static bool ends_in_word(std::string_view text) {
    if (text.empty()) return false;
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
    return unicode::is_word(unicode::next(text, at));
  }

  std::map<TokenId, AddedToken> tokens_;
  std::map<std::string, TokenId, std::less<>> ids_;
  std::size_t beyond_model_ = 0;
  Trie as_written_, normalised_;
};

/// Joins one or two encodings and their special tokens.
class PostProcessor {
 public:
  using Encoding = Tokenizer::Encoding;
  PostProcessor() = default;
  explicit PostProcessor(const Json& json) {
    if (json.is_null()) return;
    const std::string type = json.get<std::string>("type", "");
    if (type == "Sequence") {
      kind_ = Kind::sequence;
      const Json steps = json["processors"];
      if (!steps.is_array()) steps.fail("is not an array");
      for (const Json step : steps) parts_.emplace_back(step);
    } else if (type == "ByteLevel") {
      kind_ = Kind::none;  // trims offsets only
    } else if (type == "TemplateProcessing") {
      kind_ = Kind::templates;
      read_template(json["single"], json.find("special_tokens"), single_);
      read_template(json["pair"], json.find("special_tokens"), pair_);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      // [CLS] A [SEP] B [SEP], or <s> A </s> </s> B </s> with a single type.
      kind_ = Kind::templates;
      const Item cls{-1, {named_id(json["cls"])}, 0}, sep{-1, {named_id(json["sep"])}, 0};
      const bool bert = type == "BertProcessing";
      single_ = {cls, Item{0, {}, 0}, sep};
      pair_ = single_;
      if (!bert) pair_.push_back(sep);
      pair_.push_back(Item{1, {}, bert ? 1 : 0});
      pair_.push_back(Item{-1, sep.ids, bert ? 1 : 0});
    } else {
      unknown_part(json, "post-processor");
    }
  }

  struct Special {
    TokenId id, type;
  };
  /// before A after, and before A between B after; the ids of B, and those after it, have type `second`.
  PostProcessor(std::vector<TokenId> before, std::vector<TokenId> after, std::vector<Special> between, TokenId second) : kind_(Kind::templates) {
    if (!before.empty()) single_.push_back({-1, std::move(before), 0});
    single_.push_back({0, {}, 0});
    pair_ = single_;
    for (const Special& special : between) pair_.push_back({-1, {special.id}, special.type});
    pair_.push_back({1, {}, second});
    if (after.empty()) return;
    single_.push_back({-1, after, 0});
    pair_.push_back({-1, std::move(after), second});
  }

  /// `texts`: one or two encodings in, one encoding or still two out.
  void apply(std::vector<Encoding>& texts, bool add_special_tokens) const {
    if (kind_ == Kind::sequence)
      for (const PostProcessor& part : parts_) part.apply(texts, add_special_tokens);
    if (kind_ != Kind::templates) return;
    // A later step of a sequence sees as many encodings as the one before left.
    std::vector<Encoding> pieces;
    for (const Item& item : texts.size() == 1 ? single_ : pair_) {
      if (item.sequence >= 0) {
        Encoding& text = texts[static_cast<std::size_t>(item.sequence)];
        pieces.push_back(text);
        pieces.back().type_ids.assign(text.ids.size(), item.type);
      } else if (add_special_tokens) {
        pieces.push_back({item.ids, std::vector<TokenId>(item.ids.size(), item.type)});
      }
    }
    texts.assign(1, joined(std::move(pieces)));
  }

  static Encoding joined(std::vector<Encoding> pieces) {
    if (pieces.size() == 1) return std::move(pieces[0]);
    Encoding whole;
    for (const Encoding& piece : pieces) {
      whole.ids.insert(whole.ids.end(), piece.ids.begin(), piece.ids.end());
      whole.type_ids.insert(whole.type_ids.end(), piece.type_ids.begin(), piece.type_ids.end());
    }
    return whole;
  }

 private:
  enum class Kind : std::uint8_t { none, sequence, templates };
  struct Item {
    int sequence;  // 0, 1; -1: special tokens
    std::vector<TokenId> ids;
    TokenId type;
  };

  // ["</s>", 2]
  static TokenId named_id(const Json& json) {
    if (!json.is_array() || json.size() != 2) json.fail("is not a token and its id");
    return token_id(json.at(1));
  }

  static void read_template(const Json& json, const Json& specials, std::vector<Item>& items) {
    if (!json.is_array()) json.fail("is not an array");
    for (const Json entry : json) {
      if (const Json sequence = entry.find("Sequence"); !sequence.is_null()) {
        const std::string_view name = sequence["id"].as_string();
        if (name != "A" && name != "B") sequence.fail("is sequence '" + std::string(name) + "', there are A and B");
        items.push_back({name == "A" ? 0 : 1, {}, sequence.get<TokenId>("type_id", 0)});
        continue;
      }
      const Json special = entry["SpecialToken"];
      Item item{-1, {}, special.get<TokenId>("type_id", 0)};
      const Json declared = specials.find(special["id"].as_string());
      if (declared.is_null()) special.fail("is not among special_tokens");
      const Json ids = declared["ids"];
      if (!ids.is_array()) ids.fail("is not an array");
      for (const Json id : ids) item.ids.push_back(token_id(id));
      items.push_back(std::move(item));
    }
  }

  Kind kind_ = Kind::none;
  std::vector<Item> single_, pair_;
  std::vector<PostProcessor> parts_;
};

/// Ids of pieces seen before in the same call: words repeat. Direct-mapped and of fixed size, so that it is bounded whatever the text.
class WordCache {
 public:
  explicit WordCache(std::size_t text_size) {
    if (text_size >= 1024) entries_.resize(text_size >= 32768 ? 8192 : 512);
  }
  template <class Encode>
  void operator()(std::string_view piece, std::vector<TokenId>& ids, Encode encode) {
    if (entries_.empty() || piece.size() > sizeof(Entry::key)) return encode();
    Entry& entry = entries_[hash(piece) & (entries_.size() - 1)];
    const std::size_t first = ids.size();
    if (entry.size == piece.size() && std::memcmp(entry.key, piece.data(), piece.size()) == 0) {
      ids.resize(first + entry.count);
      std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(entry.first), entry.count, ids.begin() + static_cast<std::ptrdiff_t>(first));
      return;
    }
    encode();
    if (ids.size() - first > 255) return;
    entry.size = static_cast<std::uint8_t>(piece.size());
    std::memcpy(entry.key, piece.data(), piece.size());
    entry.first = static_cast<std::uint32_t>(first);
    entry.count = static_cast<std::uint8_t>(ids.size() - first);
  }

 private:
  struct Entry {  // 32 bytes, two to a cache line
    std::uint32_t first = 0;  // in the ids of this call
    std::uint8_t count = 0, size = 0;
    char key[26] = {};
  };
  std::vector<Entry> entries_;
};

}  // namespace detail

struct Tokenizer::Pipeline {
  detail::TextNormalizer normalizer;
  detail::PreTokenizer pre_tokenizer;
  std::shared_ptr<const detail::TokenModel> model;
  detail::AddedVocabulary added;
  detail::PostProcessor post_processor;
  detail::TokenDecoder decoder;
  bool bytes = false;       // the model reads bytes, see Bpe
  std::string word_suffix;  // CLIPTokenizer.decode: this becomes a blank, and the text is stripped
  TokenId bos = -1, eos = -1, pad = -1, unk = -1, sep = -1, cls = -1;
  std::vector<TokenId> ends;  // see Tokenizer::ends(), where it is more than eos

  /// `with`: the model, where it is not in the document.
  explicit Pipeline(const Json& json, std::shared_ptr<const detail::TokenModel> with = nullptr) : model(std::move(with)) {
    if (!json.is_object()) json.fail("is not an object");
    normalizer = detail::TextNormalizer(json.find("normalizer"));
    pre_tokenizer = detail::PreTokenizer(json.find("pre_tokenizer"));
    if (!model) model = detail::read_model(json["model"], pre_tokenizer.ends_in_bytes());
    bytes = model->reads_bytes() && pre_tokenizer.ends_in_bytes();
    post_processor = detail::PostProcessor(json.find("post_processor"));
    decoder = detail::TokenDecoder(json.find("decoder"));
    const Json tokens = json.find("added_tokens");
    if (!tokens.is_null() && !tokens.is_array()) tokens.fail("is not an array");
    for (const Json token : tokens) added.add(detail::AddedToken::read(token), *model);
    added.seal(normalizer);
  }

  /// The added and special tokens that stand beside a tokenizer's file, as transformers 5 joins them. `defaults` are the named tokens of
  /// the tokenizer's class, `old_added` is added_tokens.json; both are null beside a tokenizer.json.
  void configure(const Json& config, const Json& special_map, const std::string& suffix, const Json& defaults = {}, const Json& old_added = {}) {
    using detail::AddedToken;
    const Json decoder_tokens = config.find("added_tokens_decoder");
    std::map<std::int64_t, Json> by_id;
    if (decoder_tokens.is_null()) add_old(config, special_map, defaults, old_added);
    for (const Json token : decoder_tokens) {
      std::int64_t id = 0;
      for (const char c : token.key()) {
        if (c < '0' || c > '9' || id > 1'000'000'000) token.fail("has a key that is no token id");
        id = id * 10 + (c - '0');
      }
      by_id.insert_or_assign(id, token);
    }
    for (const auto& [id, token] : by_id) added.add(AddedToken::read(token), *model);
    // An old checkpoint's special_tokens_map.json counts where the configuration lists no tokens.
    const auto named = [&](std::string_view key) {
      const Json other = special_map.find(key);
      if (decoder_tokens.is_null() && !other.is_null()) return other;
      return config.contains(key) ? config.find(key) : defaults.find(key);
    };
    const auto content = [](const Json& token) { return token.is_object() ? token.find("content") : token; };
    const auto declare = [&](const Json& token, bool always) {
      const Json spelling = content(token);
      if (!spelling.is_string()) return TokenId{-1};
      const TokenId known = added.find(spelling.as_string());
      if (known >= 0 && !(always && token.is_string())) return known;
      AddedToken special;
      if (token.is_object()) special = AddedToken::read(token);
      special.content = spelling.as<std::string>();
      special.special = true;
      return added.add(std::move(special), *model);
    };
    bos = declare(named("bos_token"), false);
    eos = declare(named("eos_token"), false);
    unk = declare(named("unk_token"), false);
    sep = declare(named("sep_token"), false);
    pad = declare(named("pad_token"), false);
    cls = declare(named("cls_token"), false);
    declare(named("mask_token"), false);
    for (const Json entry : config) {  // image_token and the like
      constexpr std::string_view usual[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
      if (entry.is_string() && entry.key().ends_with("_token") && std::find(std::begin(usual), std::end(usual), entry.key()) == std::end(usual))
        declare(entry, true);
    }
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"})
      for (const Json token : named(key)) declare(token, old_added.is_null());
    if (config.get<std::string>("tokenizer_class", "").starts_with("CLIPTokenizer")) word_suffix = suffix;
    added.seal(normalizer);
  }

  /// {"token": id} as transformers wrote it before tokenizer_config.json listed added tokens; those that are named, or extra, are special.
  void add_old(const Json& config, const Json& special_map, const Json& defaults, const Json& old_added) {
    std::map<std::int64_t, std::string> by_id;
    for (const Json entry : old_added) by_id.insert_or_assign(detail::token_id(entry), std::string(entry.key()));
    const auto named = [&](const std::string& token) {
      const auto is = [&](const Json& value) {
        const Json spelling = value.is_object() ? value.find("content") : value;
        return spelling.is_string() && spelling.as_string() == token;
      };
      for (const Json& names : {special_map, config, defaults}) {
        for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
          if (is(names.find(key))) return true;
        for (const Json extra : names.find("extra_special_tokens"))
          if (is(extra)) return true;
      }
      return false;
    };
    for (const auto& [id, content] : by_id) {
      detail::AddedToken token;
      token.content = content;
      token.special = named(content);
      token.normalized = !token.special;
      added.add(std::move(token), *model);
    }
  }

  /// What a tokenizer of that kind puts around a text, where no tokenizer.json says it.
  void enclose(detail::Frame frame, const Json& config, const Json& defaults) {
    using Post = detail::PostProcessor;
    const auto present = [](std::initializer_list<TokenId> ids) {
      std::vector<TokenId> there;
      for (const TokenId id : ids)
        if (id >= 0) there.push_back(id);
      return there;
    };
    const auto specials = [](std::initializer_list<Post::Special> all) {
      std::vector<Post::Special> there;
      for (const Post::Special& special : all)
        if (special.id >= 0) there.push_back(special);
      return there;
    };
    switch (frame) {
      case detail::Frame::bos_eos: {
        const auto wanted = [&](const char* key) { return config.get<bool>(key, defaults.get<bool>(key, false)); };
        const TokenId first = wanted("add_bos_token") ? bos : -1, last = wanted("add_eos_token") ? eos : -1;
        // T5 has no first token, and one type for both texts.
        const TokenId second = defaults.get<bool>("add_eos_token", false) ? 0 : 1;
        post_processor = Post(present({first}), present({last}), specials({{last, 0}, {first, second}}), second);
        break;
      }
      case detail::Frame::bert: post_processor = Post(present({cls}), present({sep}), specials({{sep, 0}}), 1); break;
      case detail::Frame::roberta: {
        const TokenId first = cls >= 0 ? cls : bos, last = sep >= 0 ? sep : eos;
        post_processor = Post(present({first}), present({last}), specials({{last, 0}, {last, 0}}), 0);
        break;
      }
      case detail::Frame::whisper:
        post_processor = Post(present({added.find("<|startoftranscript|>"), added.find("<|notimestamps|>")}), present({eos}), {}, 1);
        break;
    }
  }

  void encode(std::string_view input, std::vector<TokenId>& ids) const {
    std::string repaired;
    if (!unicode::is_valid(input)) {
      repaired = unicode::replace_invalid(input);
      input = repaired;
    }
    if (input.size() > 0x3FFFFFFF) throw ArgumentError("text of " + std::to_string(input.size()) + " bytes, at most 1 GiB is tokenised at once");
    detail::EncodeScratch scratch;
    detail::WordCache cache(input.size());
    detail::PieceList list;
    std::string normalised;
    const auto words = [&](std::string_view section, bool first) {
      list.text = section;
      list.pieces.assign(1, {0, static_cast<std::uint32_t>(section.size()), first});
      pre_tokenizer.apply(list, bytes);
      for (const auto& piece : list.pieces) {
        const std::string_view text = list[piece];
        const auto encode_piece = [&](std::string_view word) {
          cache(word, ids, [&] { model->encode(word, ids, scratch); });
        };
        if (!model->splits_at_metaspace()) {
          if (!text.empty()) encode_piece(text);
          continue;
        }
        constexpr std::string_view mark = "\xE2\x96\x81";
        std::size_t from = 0;
        for (std::size_t at = text.find(mark, 1); at != std::string_view::npos; at = text.find(mark, at + mark.size())) {
          if (at >= mark.size() && text.substr(at - mark.size(), mark.size()) == mark) continue;
          encode_piece(text.substr(from, at - from));
          from = at;
        }
        if (from < text.size()) encode_piece(text.substr(from));
      }
    };
    const auto token = [&](TokenId id) { ids.push_back(id); };
    added.split(
        input, false,
        [&](std::size_t begin, std::size_t end) {
          std::string_view section = input.substr(begin, end - begin);
          bool first = begin == 0;
          if (!normalizer.is_identity()) {
            normalised = section;
            normalizer.apply(normalised, first);
            section = normalised;
          }
          added.split(
              section, true, [&](std::size_t from, std::size_t to) { words(section.substr(from, to - from), first && from == 0); }, token);
        },
        token);
  }

  std::string_view spelling(TokenId id) const {
    if (const detail::AddedToken* token = added.token(id)) return token->content;
    return model->vocabulary.text(id);
  }
};

CHIASM_INLINE Tokenizer Tokenizer::from_json(const Json& tokenizer) { return Tokenizer(std::make_shared<const Pipeline>(tokenizer)); }

CHIASM_INLINE Tokenizer Tokenizer::from_file(const std::string& tokenizer_json) { return from_json(Json::read(tokenizer_json)); }

CHIASM_INLINE Tokenizer Tokenizer::load(const Checkpoint& checkpoint) {
  if (const GgufModel* const model = checkpoint.gguf()) return from_gguf(model->text);
  const Json json = checkpoint.json("tokenizer.json");
  if (json.is_null()) {
    const std::string file = detail::TokenizerFiles(checkpoint).find();
    if (!file.empty()) return load(checkpoint, file);
    if (checkpoint.has("vocab.json")) throw FileError(checkpoint.path("merges.txt"), "is not there, but vocab.json is");
    throw FileError(checkpoint.path("tokenizer.json"), "is not there, nor is a tokenizer.model, spiece.model, vocab.json, vocab.txt or qwen.tiktoken");
  }
  auto pipeline = std::make_shared<Pipeline>(json);
  pipeline->configure(checkpoint.tokenizer_config(), checkpoint.json("special_tokens_map.json"),
                      json["model"].get<std::string>("end_of_word_suffix", ""));
  return Tokenizer(std::move(pipeline));
}

CHIASM_INLINE Tokenizer Tokenizer::load(const Checkpoint& checkpoint, const std::string& file) {
  if (!checkpoint.has(file)) throw FileError(checkpoint.path(file), "is not there");
  if (file == "tokenizer.json") return load(checkpoint);
  if (file.ends_with(".json") && file != "vocab.json") return from_json(checkpoint.json(file));
  if (file.ends_with(".gguf")) return from_gguf(Gguf::parse(checkpoint.file(file)));
  const detail::TokenizerDescription description = detail::TokenizerFiles(checkpoint).read(file);
  auto pipeline = std::make_shared<Pipeline>(description.json, description.model);
  const Json config = checkpoint.tokenizer_config();
  pipeline->configure(config, checkpoint.json("special_tokens_map.json"), "", description.defaults, checkpoint.json("added_tokens.json"));
  pipeline->word_suffix = description.word_suffix;
  pipeline->enclose(description.frame, config, description.defaults);
  return Tokenizer(std::move(pipeline));
}

CHIASM_INLINE Tokenizer Tokenizer::from_gguf(const Gguf& file) {
  const detail::GgufVocabulary vocabulary(file);
  const detail::TokenizerDescription description = vocabulary.read();
  auto pipeline = std::make_shared<Pipeline>(description.json, description.model);
  pipeline->configure({}, {}, "", description.defaults);
  pipeline->enclose(description.frame, {}, description.defaults);
  pipeline->ends = vocabulary.ends(description.model->vocabulary);
  return Tokenizer(std::move(pipeline));
}

CHIASM_INLINE Tokenizer Tokenizer::with_special_tokens(std::span<const std::string> tokens) const {
  auto pipeline = std::make_shared<Pipeline>(*pipeline_);
  for (const std::string& token : tokens) {
    detail::AddedToken special;
    special.content = token;
    special.special = true;
    special.normalized = false;
    pipeline->added.add(std::move(special), *pipeline->model);
  }
  pipeline->added.seal(pipeline->normalizer);
  return Tokenizer(std::move(pipeline));
}

CHIASM_INLINE Tokenizer Tokenizer::load(const std::string& folder_or_file) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path path(folder_or_file);
  if (fs::is_directory(path, error)) return load(Checkpoint::open(folder_or_file));
  const std::string name = path.filename().string();
  // Of another name, a file is read alone; what it is, its name's end and its content say.
  for (const char* usual : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt", "qwen.tiktoken"})
    if (name == usual) return load(Checkpoint::open(path.has_parent_path() ? path.parent_path().string() : "."), name);
  if (name.ends_with(".json")) return from_file(folder_or_file);
  if (name.ends_with(".gguf")) return from_gguf(Gguf::open(folder_or_file));
  const FileMap file = FileMap::open(folder_or_file);
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  return load(Checkpoint::from_memory({{name, file.bytes()}}, {}, folder, file.owner()), name);
}

CHIASM_INLINE std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::vector<Encoding> texts(1);
  pipeline_->encode(text, texts[0].ids);
  texts[0].type_ids.assign(texts[0].ids.size(), 0);
  pipeline_->post_processor.apply(texts, add_special_tokens);
  return std::move(texts[0].ids);
}

CHIASM_INLINE Tokenizer::Encoding Tokenizer::encode_pair(std::string_view a, std::string_view b) const {
  std::vector<Encoding> texts(2);
  pipeline_->encode(a, texts[0].ids);
  pipeline_->encode(b, texts[1].ids);
  for (std::size_t i = 0; i < 2; ++i) texts[i].type_ids.assign(texts[i].ids.size(), static_cast<TokenId>(i));
  pipeline_->post_processor.apply(texts, true);
  return detail::PostProcessor::joined(std::move(texts));
}

CHIASM_INLINE std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const TokenId id : ids) {
    if (const detail::AddedToken* token = pipeline_->added.token(id)) {
      if (!skip_special_tokens || !token->special) tokens.push_back(token->content);
    } else if (pipeline_->model->vocabulary.contains(id)) {
      tokens.emplace_back(pipeline_->model->vocabulary.text(id));
    }
  }
  std::string text = pipeline_->decoder(std::move(tokens));
  if (!pipeline_->word_suffix.empty()) {
    text = detail::replace_all(text, pipeline_->word_suffix, " ");
    // Python's str.strip counts U+001C..U+001F as white space.
    const auto blank = [](char32_t code) { return unicode::is_space(code) || (code >= 0x1C && code <= 0x1F); };
    std::size_t begin = 0, end = 0;
    for (std::size_t at = 0; at < text.size();) {
      if (blank(unicode::next(text, at))) {
        if (end == 0) begin = at;
      } else {
        end = at;
      }
    }
    text = end == 0 ? std::string() : text.substr(begin, end - begin);
  }
  return text;
}

namespace detail {
inline std::optional<TokenId> known(TokenId id) { return id < 0 ? std::nullopt : std::optional<TokenId>(id); }
}  // namespace detail

CHIASM_INLINE std::optional<TokenId> Tokenizer::id(std::string_view token) const {
  const TokenId added = pipeline_->added.find(token);
  return detail::known(added >= 0 ? added : pipeline_->model->vocabulary.find(token));
}
CHIASM_INLINE std::string_view Tokenizer::token(TokenId id) const { return pipeline_->spelling(id); }
CHIASM_INLINE std::size_t Tokenizer::size() const { return pipeline_->model->vocabulary.size() + pipeline_->added.beyond_model(); }
CHIASM_INLINE bool Tokenizer::is_special(TokenId id) const {
  const detail::AddedToken* token = pipeline_->added.token(id);
  return token != nullptr && token->special;
}
CHIASM_INLINE std::string Tokenizer::bytes(TokenId id, bool first) const {
  std::string text(pipeline_->spelling(id));
  if (text.empty()) return text;
  bool joined = false;
  if (!pipeline_->word_suffix.empty() || !pipeline_->decoder.to_bytes(text, first, joined))
    throw UnsupportedError("the bytes of a single token: this tokenizer's decoder makes them depend on the tokens around it");
  return text;
}
CHIASM_INLINE std::optional<TokenId> Tokenizer::bos() const { return detail::known(pipeline_->bos); }
CHIASM_INLINE std::optional<TokenId> Tokenizer::eos() const { return detail::known(pipeline_->eos); }
CHIASM_INLINE std::optional<TokenId> Tokenizer::pad() const { return detail::known(pipeline_->pad); }
CHIASM_INLINE std::optional<TokenId> Tokenizer::unk() const { return detail::known(pipeline_->unk); }
CHIASM_INLINE std::vector<TokenId> Tokenizer::ends() const {
  return !pipeline_->ends.empty() || pipeline_->eos < 0 ? pipeline_->ends : std::vector<TokenId>{pipeline_->eos};
}

}  // namespace chiasm
