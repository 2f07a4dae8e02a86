/// Tokenizer: text to token ids and back, as a tokenizer.json of Hugging Face's `tokenizers` says.
#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/core/token_id.hpp>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Checkpoint;
class Json;

/// A tokenizer: added tokens, normalizer, pre-tokenizer, model (BPE, Unigram, WordPiece, WordLevel), post-processor, decoder.
/// Equal to `tokenizers` 0.23 id for id; its `truncation` and `padding` blocks are not applied. Cheap to copy, const after
/// construction and shareable between threads.
class Tokenizer {
 public:
  /// Reads one tokenizer.json. Throws FileError, FormatError (not JSON), ConfigError (a part that makes no sense, named by its
  /// JSON pointer), UnsupportedError (a part that this library does not know, named).
  static Tokenizer from_file(const std::string& tokenizer_json);
  /// The same of a parsed document. Throws ConfigError, UnsupportedError.
  static Tokenizer from_json(const Json& tokenizer);
  /// A checkpoint's folder, or its tokenizer.json: also applies what stands beside it as transformers' AutoTokenizer does, the added and
  /// special tokens of tokenizer_config.json or special_tokens_map.json, and the tokenizer class where it decodes in a way of its own
  /// (CLIPTokenizer). The pipeline is always the file's (transformers 5 builds LlamaTokenizer's anew, without its normalizer).
  /// A file of another name is read alone. Throws as from_file does.
  static Tokenizer load(const std::string& folder_or_file);
  static Tokenizer load(const Checkpoint& checkpoint);

  struct Encoding {
    std::vector<TokenId> ids, type_ids;  // of equal length
  };

  /// Ids of `text`. Ill-formed UTF-8 is read as U+FFFD, one per maximal ill-formed subpart (as Python and WHATWG decode);
  /// added and special tokens that stand in the text become their ids; `add_special_tokens` runs the post-processor's template.
  /// Throws UnsupportedError if a pattern of the file backtracks without end on this text.
  std::vector<TokenId> encode(std::string_view text, bool add_special_tokens = true) const;
  /// Ids of two texts joined by the post-processor, and which text each id belongs to.
  Encoding encode_pair(std::string_view a, std::string_view b) const;

  /// Text of `ids`; unknown ids count as nothing. Bytes that are no UTF-8 come out as U+FFFD.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens = false) const;

  /// Id of a token as the vocabulary spells it ("▁the", "Ġthe", "<s>").
  std::optional<TokenId> id(std::string_view token) const;
  /// Spelling of an id in the vocabulary; empty for an id that is not there. Valid as long as a copy of this tokenizer lives.
  std::string_view token(TokenId id) const;
  /// Number of tokens, the added ones included.
  std::size_t size() const;
  /// Whether decode() leaves the token out when asked to skip special tokens.
  bool is_special(TokenId id) const;

  /// Named tokens of tokenizer_config.json or special_tokens_map.json; none unless load() found them there.
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  std::optional<TokenId> pad() const;
  std::optional<TokenId> unk() const;

 private:
  struct Pipeline;
  explicit Tokenizer(std::shared_ptr<const Pipeline> pipeline) : pipeline_(std::move(pipeline)) {}
  std::shared_ptr<const Pipeline> pipeline_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/tokenizer.ipp>
#endif
