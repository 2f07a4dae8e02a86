#pragma once

#include <chiasm/core/error.hpp>

#include <chiasm/impl/tokenizer_models.ipp>

#include <cstdio>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

// Readers of files other than tokenizer.json build the model, and write all that stands around it as the text of a tokenizer.json: one
// description, one tokenizer. (Tokens and merges as text would take four times as long as the rest.)

/// What a tokenizer puts around a text.
enum class Frame : std::uint8_t {
  bos_eos,  // bos A eos, where the configuration (or the default) adds them
  bert,     // [CLS] A [SEP] B [SEP]
  roberta,  // <s> A </s> </s> B </s>
  whisper,  // <|startoftranscript|> <|notimestamps|> A <|endoftext|>
};

/// A tokenizer read from other files than tokenizer.json.
struct TokenizerDescription {
  Json json;      // a tokenizer.json without model and post-processor
  std::shared_ptr<const TokenModel> model;
  Json defaults;  // the named tokens and add_bos_token, add_eos_token that count where tokenizer_config.json does not say
  Frame frame = Frame::bos_eos;
  std::string word_suffix;  // see Tokenizer::Pipeline

  TokenizerDescription(const std::string& text, const std::string& file, std::shared_ptr<const TokenModel> with, const std::string& defaults_text)
      : json(Json::parse(text, file)), model(std::move(with)), defaults(Json::parse(defaults_text, "<defaults>")) {}
};

/// Tokens in their order, of ids 0, 1, 2, ...
inline void append_token(Vocabulary& vocabulary, std::string_view text) { vocabulary.insert(text, static_cast<TokenId>(vocabulary.size())); }

/// Appends a JSON string. `text` is well-formed UTF-8.
inline void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  out += '"';
}

/// The bytes of a string in GPT-2's letters.
inline std::string byte_letters(std::string_view bytes) {
  std::string letters;
  for (const char c : bytes) unicode::append(letters, byte_alphabet.letter[static_cast<unsigned char>(c)]);
  return letters;
}

/// Merges of a vocabulary that only has an order: every way to put a token together from two others, tokens in the order given,
/// the ways of one token by the ids of its parts. Bounded, since a hostile file's long tokens would make quadratic work.
class MergeDerivation {
 public:
  MergeDerivation(const Vocabulary& tokens, const std::string& file, std::size_t file_size)
      : tokens_(tokens), file_(file), work_(64 * file_size + (std::size_t{1} << 20)), room_(file_size + (std::size_t{1} << 16)) {}

  struct Merge {
    TokenId left, right, whole;
  };
  std::vector<Merge> merges;
  std::vector<bool> closed;  // tokens that are no parts; empty: all are

  /// The merges that give `token`. With `bytes` it may be cut within a character.
  void add(std::string_view token, TokenId id, bool bytes) {
    const std::size_t first = merges.size();
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      if (!bytes && (static_cast<unsigned char>(token[cut]) & 0xC0U) == 0x80U) continue;
      spend(work_, token.size());
      const TokenId left = part(token.substr(0, cut));
      if (left < 0) continue;
      const TokenId right = part(token.substr(cut));
      if (right >= 0) merges.push_back({left, right, id});
    }
    spend(room_, merges.size() - first);
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(),
              [](const Merge& a, const Merge& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
  }

 private:
  void spend(std::size_t& budget, std::size_t amount) const {
    if (amount > budget) throw FormatError(file_, 0, "tokens so long that their merges are out of proportion to the file");
    budget -= amount;
  }
  TokenId part(std::string_view text) const noexcept {
    const TokenId id = tokens_.find(text);
    return id >= 0 && !closed.empty() && closed[static_cast<std::size_t>(id)] ? -1 : id;
  }
  const Vocabulary& tokens_;
  const std::string& file_;
  std::size_t work_, room_;
};

inline std::shared_ptr<const Bpe> make_bpe(Vocabulary tokens, const Bpe::Options& options, const std::vector<MergeDerivation::Merge>& merges, const std::string& file) {
  const auto model = std::make_shared<Bpe>(std::move(tokens), options, merges.size(), file);
  constexpr std::size_t ahead = 16;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    if (i + ahead < merges.size()) model->prefetch(merges[i + ahead].left, merges[i + ahead].right);
    model->add(merges[i].left, merges[i].right, merges[i].whole);
  }
  return model;
}

}  // namespace detail
}  // namespace chiasm
