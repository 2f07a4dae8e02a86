/// Tokenizer: text to token ids and back, as a tokenizer.json of Hugging Face's `tokenizers` says, or the files that came before it.
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
class Gguf;
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
  /// A checkpoint's tokenizer: a GGUF checkpoint's as from_gguf(); tokenizer.json, and where there is none vocab.json and merges.txt (GPT-2, OPT, RoBERTa, Qwen2, CLIP, Whisper), a
  /// SentencePiece tokenizer.model, spiece.model or sentencepiece.bpe.model, tiktoken's text as tokenizer.model or qwen.tiktoken, or vocab.txt (BERT).
  /// Also applies what stands beside it as transformers' AutoTokenizer does: the added and special tokens of tokenizer_config.json,
  /// special_tokens_map.json or added_tokens.json, and the tokenizer class where it decodes in a way of its own (CLIPTokenizer). A tokenizer.json's
  /// pipeline is always the file's (transformers 5 builds LlamaTokenizer's anew, without its normalizer). For the other files it is the one
  /// of tokenizer_class, else of config.json's model_type, else what the file itself speaks for; a SentencePiece BPE file gives
  /// sentencepiece's ids, also where transformers' conversion does not (its merges split "a  b" otherwise), unless "legacy" is false.
  /// Throws as from_file does; FileError where there is none of these files, FormatError for one that is malformed.
  static Tokenizer load(const Checkpoint& checkpoint);
  /// The same of one of these files, by its name in the checkpoint, whichever others there are.
  static Tokenizer load(const Checkpoint& checkpoint, const std::string& file);
  /// A folder, or one of these files in it. A file of another name is read alone: *.json as tokenizer.json, *.gguf as from_gguf(), *.txt as
  /// vocab.txt, and else what its content is.
  static Tokenizer load(const std::string& folder_or_file);

  /// The tokenizer in a GGUF file's metadata: tokenizer.ggml.model "llama" and "t5" (SentencePiece), "gpt2" (byte-level BPE; tokenizer.ggml.pre says how
  /// texts are cut) or "bert" (WordPiece). It gives the ids of the model's own tokenizer, also where llama.cpp reads a text a little differently:
  /// normal forms (NFC for Qwen2, MPT, OLMo) are the model's. Fillers ("[PAD32001]") are never found in a text. Throws ConfigError (a key that is
  /// missing or makes no sense, named), UnsupportedError (another model, another tokenizer.ggml.pre).
  static Tokenizer from_gguf(const Gguf& file);

  /// The same with more special tokens, as transformers' add_special_tokens: one that the vocabulary has keeps its id, others get the next free ones.
  Tokenizer with_special_tokens(std::span<const std::string> tokens) const;

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
  /// What a token adds to a text, in bytes ("Ġthe" is " the", <0xE2> is a byte and no character yet); `first`: as the first token of a text. Empty for
  /// an id that is not there. Throws UnsupportedError: a decoder by which that depends on the tokens around it (CTC, BPEDecoder, CLIP's).
  std::string bytes(TokenId id, bool first = false) const;

  /// Named tokens of tokenizer_config.json or special_tokens_map.json; none unless load() found them there.
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  std::optional<TokenId> pad() const;
  std::optional<TokenId> unk() const;
  /// Tokens after which an answer is complete. Of a GGUF file: its end-of-text, end-of-turn and end-of-message tokens, named or known by their spelling
  /// ("<|im_end|>"); else eos(), if there is one.
  std::vector<TokenId> ends() const;

 private:
  struct Pipeline;
  explicit Tokenizer(std::shared_ptr<const Pipeline> pipeline) : pipeline_(std::move(pipeline)) {}
  std::shared_ptr<const Pipeline> pipeline_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/tokenizer.ipp>
#endif
