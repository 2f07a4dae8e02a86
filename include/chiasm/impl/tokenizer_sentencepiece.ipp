#pragma once

#include <chiasm/io/file_map.hpp>

#include <chiasm/impl/tokenizer_description.ipp>

#include <bit>
#include <cmath>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// The fields of one protocol buffer message, one after the other. Groups, cut values and overlong numbers are refused.
class ProtoFields {
 public:
  ProtoFields(std::string_view message, std::uint64_t offset, const std::string& file) : message_(message), offset_(offset), file_(file) {}

  std::uint32_t number = 0;  // of the field that next() found
  bool next() {
    if (at_ >= message_.size()) return false;
    begin_ = at_;
    const std::uint64_t tag = varint();
    number = static_cast<std::uint32_t>(tag >> 3);
    if (tag >> 32 != 0 || number == 0) fail("no field number");
    wire_ = static_cast<unsigned>(tag & 7U);
    value_ = 0;
    bytes_ = {};
    if (wire_ == 0) {
      value_ = varint();
    } else if (wire_ == 1 || wire_ == 5) {
      const std::size_t size = wire_ == 1 ? 8 : 4;
      if (message_.size() - at_ < size) fail("a number is cut off");
      for (std::size_t i = 0; i < size; ++i) value_ |= std::uint64_t{static_cast<unsigned char>(message_[at_ + i])} << 8 * i;
      at_ += size;
    } else if (wire_ == 2) {
      const std::uint64_t size = varint();
      if (size > message_.size() - at_) fail("a field of " + std::to_string(size) + " bytes, " + std::to_string(message_.size() - at_) + " are left");
      bytes_ = message_.substr(at_, static_cast<std::size_t>(size));
      at_ += static_cast<std::size_t>(size);
    } else {
      fail("wire type " + std::to_string(wire_));
    }
    return true;
  }
  std::string_view bytes() const { return expect(2), bytes_; }
  ProtoFields message() const { return ProtoFields(bytes(), offset_ + at_ - bytes_.size(), file_); }
  bool boolean() const { return expect(0), value_ != 0; }
  std::int32_t integer() const { return expect(0), static_cast<std::int32_t>(static_cast<std::uint32_t>(value_)); }
  float number32() const { return expect(5), std::bit_cast<float>(static_cast<std::uint32_t>(value_)); }

  [[noreturn]] void fail(const std::string& what) const { throw FormatError(file_, offset_ + begin_, "no SentencePiece model: " + what); }

 private:
  void expect(unsigned wire) const {
    if (wire_ != wire) fail("field " + std::to_string(number) + " has wire type " + std::to_string(wire_) + ", expected " + std::to_string(wire));
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ >= message_.size()) fail("a number is cut off");
      const auto byte = static_cast<unsigned char>(message_[at_++]);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of more than 10 bytes");
  }

  std::string_view message_, bytes_;
  std::uint64_t offset_, value_ = 0;
  const std::string& file_;
  std::size_t at_ = 0, begin_ = 0;
  unsigned wire_ = 0;
};

/// sentencepiece_model.proto, as far as text becomes ids by it. Views point into the file.
struct SentencePieceModel {
  enum Kind : std::int32_t { unigram = 1, bpe = 2, word = 3, character = 4 };
  enum Type : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6, added = 7 };  // added: later, beside the model
  struct Piece {
    std::string_view text;
    float score = 0;
    std::int32_t type = normal;
  };
  std::vector<Piece> pieces;
  Vocabulary ids;  // of the pieces, in their order; not sealed
  std::int32_t kind = unigram, bos = 1, eos = 2, pad = -1;
  std::size_t unk = 0;
  bool byte_fallback = false, suffix = false, dummy_prefix = true, strip = true, escape = true;
  std::string_view charsmap;
  std::string path;
  std::size_t file_size = 0;

  SentencePieceModel() = default;  // of another format
  explicit SentencePieceModel(const FileMap& file) : path(file.path()), file_size(file.size()) {
    const auto refuse = [&](const std::string& what) { throw FormatError(path, 0, "no SentencePiece model: " + what); };
    ProtoFields model(file.text(), 0, path);
    bool spec = false;
    while (model.next()) {
      if (model.number == 1) read_piece(model.message());
      if (model.number == 2) {
        spec = true;
        read_trainer(model.message());
      }
      if (model.number == 3) read_normalizer(model.message());
    }
    if (pieces.empty()) refuse("it has no pieces");
    if (!spec) refuse("it has no trainer_spec");
    if (kind == word) throw UnsupportedError("SentencePiece model of kind 'word' (" + path + ")");
    if (kind != unigram && kind != bpe && kind != character) refuse("model_type " + std::to_string(kind));
    if (suffix) throw UnsupportedError("SentencePiece model with treat_whitespace_as_suffix (" + path + ")");
    ids.reserve(pieces.size(), file_size);
    std::size_t unknowns = 0, bytes = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      append_token(ids, piece.text);
      if (ids.size() == i) refuse("piece '" + std::string(piece.text) + "' stands twice");
      bytes += piece.type == byte ? 1 : 0;
      if (piece.type == unknown) {
        unk = i;
        ++unknowns;
      }
    }
    if (unknowns != 1) refuse(std::to_string(unknowns) + " pieces of type UNKNOWN, expected 1");
    if (byte_fallback) {
      if (bytes != 256) refuse(std::to_string(bytes) + " pieces of type BYTE, byte_fallback needs 256");
      for (unsigned b = 0; b < 256; ++b)
        if (ids.find(byte_token(b)) < 0) refuse("no piece " + byte_token(b));
    }
  }

  /// Whether bos, eos or pad is one: their ids have defaults, which may be those of ordinary pieces.
  bool has(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < pieces.size() &&
           (pieces[static_cast<std::size_t>(id)].type == control || pieces[static_cast<std::size_t>(id)].type == user_defined);
  }
  std::string_view spelling(std::int32_t id) const { return pieces[static_cast<std::size_t>(id)].text; }

 private:
  void read_piece(ProtoFields fields) {
    Piece piece;
    while (fields.next()) {
      if (fields.number == 1) piece.text = fields.bytes();
      if (fields.number == 2) piece.score = fields.number32();
      if (fields.number == 3) piece.type = fields.integer();
    }
    if (piece.text.empty()) fields.fail("an empty piece");
    if (!unicode::is_valid(piece.text)) fields.fail("a piece that is no UTF-8");
    if (!std::isfinite(piece.score)) fields.fail("a score that is no number");
    if (piece.type < normal || piece.type > byte) fields.fail("piece type " + std::to_string(piece.type));
    pieces.push_back(piece);
  }
  void read_trainer(ProtoFields fields) {
    while (fields.next()) {
      if (fields.number == 3) kind = fields.integer();
      if (fields.number == 24) suffix = fields.boolean();
      if (fields.number == 35) byte_fallback = fields.boolean();
      if (fields.number == 41) bos = fields.integer();
      if (fields.number == 42) eos = fields.integer();
      if (fields.number == 43) pad = fields.integer();
    }
  }
  void read_normalizer(ProtoFields fields) {
    while (fields.next()) {
      if (fields.number == 2) charsmap = fields.bytes();
      if (fields.number == 3) dummy_prefix = fields.boolean();
      if (fields.number == 4) strip = fields.boolean();
      if (fields.number == 5) escape = fields.boolean();
    }
  }
};

/// How the pieces of a SentencePiece file are numbered and used, which the file itself does not say.
enum class SentencePieceUse : std::uint8_t {
  plain,        // as the file stands: Llama, Mistral, Gemma, InternLM
  metaspace,    // LlamaTokenizer with "legacy": false
  t5,           // sentinels behind the pieces, no blanks but single ones
  siglip,       // lower case, no punctuation
  xlm_roberta,  // fairseq's numbering
  kosmos2,      // the same, and tags for places in a picture
};

/// A SentencePiece file as a tokenizer.json without its post-processor.
class SentencePieceDescription {
 public:
  SentencePieceDescription(const SentencePieceModel& model, SentencePieceUse use, std::size_t sentinels = 0, bool lowercase = true)
      : model_(model), use_(use), sentinels_(use == SentencePieceUse::t5 ? sentinels : 0), fairseq_(use >= SentencePieceUse::xlm_roberta), lowercase_(lowercase) {
    if (fairseq_ && (model.pieces.size() < 3 || model.kind != SentencePieceModel::unigram))
      throw UnsupportedError("fairseq numbering of a SentencePiece model that is no Unigram model (" + model.path + ")");
    text_ += '{';
    write_added_tokens();
    write_pipeline();
    text_ += '}';
  }
  TokenizerDescription take(const std::string& names) const {
    return {text_, model_.path, model_.kind == SentencePieceModel::unigram ? make_unigram() : make_bpe(), names};
  }

 private:
  using Model = SentencePieceModel;

  void write_added_tokens() {
    text_ += "\"added_tokens\":[";
    bool first = true;
    const auto add = [&](std::string_view content, const char* flags) {
      text_ += first ? "{\"content\":" : ",{\"content\":";
      first = false;
      append_json(text_, content);
      text_ += flags;
    };
    constexpr const char* special = ",\"special\":true,\"normalized\":false}";
    constexpr const char* tag = ",\"special\":false,\"normalized\":false,\"lstrip\":true}";
    if (fairseq_) {
      for (const char* token : {"<s>", "<pad>", "</s>", "<unk>"}) add(token, special);
      add("<mask>", ",\"special\":true,\"normalized\":false,\"lstrip\":true}");
    } else {
      for (const Model::Piece& piece : model_.pieces)
        if (piece.type == Model::control || piece.type == Model::unknown || piece.type == Model::added)
          add(piece.text, piece.type == Model::added ? ",\"special\":false,\"normalized\":false}" : special);
    }
    for (std::size_t i = sentinels_; i > 0; --i) add(sentinel(i - 1), special);
    if (use_ == SentencePieceUse::kosmos2) {
      for (const char* token : {"</doc>", "<image>", "</image>", "</chunk>", "</line>", "<phrase>", "</phrase>", "<object>", "</object>",
                                "</delimiter_of_multi_objects/>", "<grounding>"})
        add(token, tag);
      for (std::size_t i = 0; i < 1024; ++i) {
        const std::string digits = std::to_string(10000 + i);
        add("<patch_index_" + digits.substr(1) + ">", tag);
      }
    }
    text_ += ']';
  }
  static std::string sentinel(std::size_t i) { return "<extra_id_" + std::to_string(i) + ">"; }

  void write_pipeline() {
    const std::string charsmap = model_.charsmap.empty() ? "" : "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"" + to_base64(model_.charsmap) + "\"}";
    const auto replace = [](const char* kind, const char* what, const char* with) {
      return std::string("{\"type\":\"Replace\",\"pattern\":{\"") + kind + "\":\"" + what + "\"},\"content\":\"" + with + "\"}";
    };
    constexpr const char* metaspace = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"always\",\"split\":true}";
    std::vector<std::string> steps;  // of the normalizer
    std::string pre_tokenizer = "null", decoder = metaspace;
    switch (use_) {
      case SentencePieceUse::t5:
      case SentencePieceUse::xlm_roberta:
        steps = {charsmap};
        pre_tokenizer = std::string("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},") + metaspace + "]}";
        break;
      case SentencePieceUse::kosmos2:
        steps = {charsmap, replace("Regex", " {2,}", " ")};
        pre_tokenizer = metaspace;
        break;
      case SentencePieceUse::siglip:
        steps = {replace("String", "\u2581", " "), lowercase_ ? "{\"type\":\"Lowercase\"}" : "", replace("Regex", R"([!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~])", ""),
                 replace("Regex", "\\\\s+", " "), "{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", charsmap,
                 "{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}", replace("String", " ", "\u2581")};
        break;
      case SentencePieceUse::metaspace:
      case SentencePieceUse::plain: {
        // Exactly sentencepiece's order: the map, blanks stripped and joined, the blank in front, U+2581 for blanks.
        const bool split = use_ == SentencePieceUse::metaspace && model_.dummy_prefix;
        steps = {charsmap};
        if (model_.strip) {
          steps.push_back(replace("Regex", " {2,}", " "));
          steps.push_back(replace("Regex", "\\\\A | \\\\z", ""));
        }
        if (split) {
          pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\",\"split\":false}";
        } else {
          if (model_.dummy_prefix) steps.push_back(std::string("{\"type\":\"Prepend\",\"prepend\":\"") + (model_.escape ? "\u2581" : " ") + "\"}");
          if (model_.escape) steps.push_back(replace("String", " ", "\u2581"));
          // At the end U+2581 counts as a blank. (Looking behind, and not back, keeps long runs of it cheap.)
          if (model_.strip && model_.escape) steps.push_back(replace("Regex", "(?<!\u2581)\u2581++\\\\z", ""));
        }
        decoder = "{\"type\":\"Sequence\",\"decoders\":[" + replace("String", "\u2581", " ") + (model_.byte_fallback ? ",{\"type\":\"ByteFallback\"}" : "") +
                  ",{\"type\":\"Fuse\"}" + (model_.dummy_prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "") + "]}";
        break;
      }
    }
    text_ += ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[";
    bool first = true;
    for (const std::string& step : steps) {
      if (step.empty()) continue;
      if (!first) text_ += ',';
      first = false;
      text_ += step;
    }
    text_ += "]},\"pre_tokenizer\":" + pre_tokenizer + ",\"decoder\":" + decoder;
  }

  std::shared_ptr<const TokenModel> make_unigram() const {
    Vocabulary ids;
    ids.reserve(model_.pieces.size() + sentinels_ + 8, model_.pieces.size() * 8);
    std::vector<double> scores;
    scores.reserve(model_.pieces.size() + sentinels_ + 8);
    Unigram::Options options;
    const auto entry = [&](std::string_view piece, double score) {
      ids.insert(piece, static_cast<TokenId>(scores.size()));
      scores.push_back(score);
    };
    if (fairseq_)
      for (const char* token : {"<s>", "<pad>", "</s>", "<unk>"}) entry(token, 0);
    float best = -std::numeric_limits<float>::max();
    for (const Model::Piece& piece : model_.pieces)
      if (piece.type == Model::normal) best = std::max(best, piece.score);
    for (std::size_t i = fairseq_ ? 3 : 0; i < model_.pieces.size(); ++i) {
      const Model::Piece& piece = model_.pieces[i];
      if (piece.type == Model::user_defined) options.user_defined.push_back(static_cast<TokenId>(scores.size()));
      // A user-defined symbol beats whatever its bytes could be otherwise.
      const bool wins = piece.type == Model::user_defined && best > -std::numeric_limits<float>::max();
      entry(piece.text, wins ? static_cast<double>(piece.text.size()) * double{best} - 0.1 : double{piece.score});
    }
    if (fairseq_) entry("<mask>", 0);
    for (std::size_t i = sentinels_; i > 0; --i) entry(sentinel(i - 1), 0);
    ids.seal();
    options.unk = fairseq_ ? 3 : static_cast<TokenId>(model_.unk);
    options.byte_fallback = model_.byte_fallback;
    return std::make_shared<Unigram>(std::move(ids), std::move(scores), options, model_.path);
  }

  std::shared_ptr<const TokenModel> make_bpe() const {
    Vocabulary ids = model_.ids;
    for (std::size_t i = sentinels_; i > 0; --i) append_token(ids, sentinel(i - 1));
    ids.seal();
    Bpe::Options options;
    for (std::size_t i = 0; i < model_.pieces.size(); ++i)
      if (model_.pieces[i].type == Model::user_defined) options.user_defined.push_back(static_cast<TokenId>(i));
    options.unk_token = model_.pieces[model_.unk].text;
    options.fuse_unk = true;
    options.byte_fallback = model_.byte_fallback;
    std::vector<MergeDerivation::Merge> merges;
    if (model_.kind == Model::bpe) {
      // The pieces in the order in which sentencepiece prefers them; it never builds a control, unknown or byte piece from parts.
      std::vector<std::size_t> order;
      MergeDerivation derivation(model_.ids, model_.path, model_.file_size);
      for (std::size_t i = 0; i < model_.pieces.size(); ++i) {
        const Model::Piece& piece = model_.pieces[i];
        const bool closed = piece.type == Model::control || piece.type == Model::unknown || piece.type == Model::byte || piece.type == Model::added;
        derivation.closed.push_back(closed);
        if (!closed) order.push_back(i);
      }
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return model_.pieces[a].score > model_.pieces[b].score; });
      for (const std::size_t i : order) derivation.add(model_.pieces[i].text, static_cast<TokenId>(i), false);
      merges = std::move(derivation.merges);
    }
    return detail::make_bpe(std::move(ids), options, merges, model_.path);
  }

  const Model& model_;
  SentencePieceUse use_;
  std::size_t sentinels_;
  bool fairseq_, lowercase_;
  std::string text_;
};

}  // namespace detail
}  // namespace chiasm
