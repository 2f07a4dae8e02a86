#pragma once

#include <chiasm/io/gguf.hpp>

#include <chiasm/impl/tokenizer_sentencepiece.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// How the texts of a byte-level BPE model are cut, by tokenizer.ggml.pre: what the models' own tokenizer.json files say, which a GGUF file leaves out.
struct GgufPreTokenizer {
  enum Flags : std::uint8_t { nfc = 1, ignore_merges = 2, add_bos = 4, roberta = 8, gpt2 = 16, digits = 32, punctuation = 64 };
  std::string_view names;  // each between blanks
  std::uint8_t flags;      // gpt2: ByteLevel's own pattern, behind single digits, or (falcon) behind punctuation
  std::array<std::string_view, 5> patterns = {};

  static constexpr std::string_view llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static constexpr std::string_view qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static constexpr std::string_view bloom = R"( ?[^(\s|[.,!?…。，、।۔،])]+)";

  static const GgufPreTokenizer* find(std::string_view name) {
    static constexpr GgufPreTokenizer known[] = {
        {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", ignore_merges | add_bos, {llama3}},
        {" smaug-bpe dbrx glm4 chatglm-bpe ", 0, {llama3}},
        {" qwen2 deepseek-r1-qwen megrez kormo f2llmv2 ", nfc, {qwen2}},
        {" stablelm2 hunyuan grok-2 solar-open ", 0, {qwen2}},
        {" qwen35 ", nfc, {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {" gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum jais exaone4 trillion granite-docling ", gpt2},
        {" mpt olmo modern-bert ", gpt2 | nfc},
        {" roberta-bpe jina-v1-en jina-v2-code ", gpt2 | roberta},
        {" starcoder refact smollm codeshell exaone minerva-7b mellum2 ", gpt2 | digits},
        {" command-r ", gpt2 | digits | nfc},
        {" falcon ", gpt2 | punctuation},
        {" deepseek-coder ", 0, {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[一-龥ࠀ-一가-퟿]+", R"(\p{N})"}},
        {" deepseek-v3 hunyuan-dense ", 0,
         {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
          R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {" tekken ", ignore_merges | add_bos,
         {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {" gpt-4o llama4 kanana2 ", 0,
         {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {" bloom poro-chat gpt3-finnish ", 0, {bloom}},
        {" viking ", 0, {bloom, R"(\p{N})"}},
        {" seed-coder ", 0, {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {" bailingmoe bailingmoe2 llada-moe ", 0, {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"}}};
    if (name.empty() || name.find(' ') != std::string_view::npos) return nullptr;
    const std::string wanted = " " + std::string(name) + " ";
    for (const GgufPreTokenizer& entry : known)
      if (entry.names.find(wanted) != std::string_view::npos) return &entry;
    return nullptr;
  }

  /// "normalizer", "pre_tokenizer" and "decoder" of a tokenizer.json.
  std::string text() const {
    std::string steps;
    if ((flags & digits) != 0) steps += R"({"type":"Digits","individual_digits":true},)";
    if ((flags & punctuation) != 0) steps += R"({"type":"Punctuation","behavior":"Contiguous"},)";
    for (const std::string_view pattern : patterns) {
      if (pattern.empty()) continue;
      steps += R"({"type":"Split","pattern":{"Regex":)";
      append_json(steps, pattern);
      steps += R"(},"behavior":"Isolated","invert":false},)";
    }
    steps += std::string(R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":)") + ((flags & gpt2) != 0 ? "true}" : "false}");
    if ((flags & punctuation) != 0) steps += R"(,{"type":"Digits","individual_digits":false},{"type":"Split","pattern":{"Regex":"[0-9][0-9][0-9]"},"behavior":"Isolated","invert":false})";
    return std::string(R"("normalizer":)") + ((flags & nfc) != 0 ? R"({"type":"NFC"})" : "null") + R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + steps +
           R"(]},"decoder":{"type":"ByteLevel"})";
  }
};

/// A tokenizer as a GGUF file's metadata describe it: tokenizer.ggml.*.
class GgufVocabulary {
 public:
  explicit GgufVocabulary(const Gguf& file) : file_(file), tokens_(file["tokenizer.ggml.tokens"]) {
    if (tokens_.element_type() != Gguf::Type::string || !tokens_.is_array()) tokens_.fail("is " + tokens_.describe() + ", expected an array of strings");
    if (tokens_.size() == 0) tokens_.fail("is empty");
    if (tokens_.size() > 1U << 24) tokens_.fail("has " + std::to_string(tokens_.size()) + " tokens, at most 16777216");
    if (const Gguf::Value* const types = file.find("tokenizer.ggml.token_type")) {
      types_ = types->as_vector<std::int32_t>();
      if (types_.size() != tokens_.size())
        types->fail("has " + std::to_string(types_.size()) + " elements, tokenizer.ggml.tokens has " + std::to_string(tokens_.size()));
    }
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view token = tokens_[i].as_string();
      if (!unicode::is_valid(token)) tokens_.fail("has token " + std::to_string(i) + ", which is no UTF-8");
      bytes_ += token.size() + 8;
    }
  }

  TokenizerDescription read() const {
    const std::string_view model = file_["tokenizer.ggml.model"].as_string();
    if (model == "llama" || model == "t5") return read_sentencepiece(model == "t5");
    if (model == "gpt2") return read_bpe();
    if (model == "bert") return read_words();
    throw UnsupportedError("tokenizer.ggml.model '" + std::string(model) + "' (" + file_.file() + ")");
  }

  /// Tokens after which an answer is complete: those that the file names, and those by which published models end a turn. (The one end token
  /// of many files is that of a text, not of a turn.)
  std::vector<TokenId> ends(const Vocabulary& vocabulary) const {
    std::vector<TokenId> ids;
    const auto add = [&](TokenId id) {
      if (id >= 0 && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    };
    for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) add(id(key));
    // In the harmony format <|end|> ends a message, behind which others of the same turn may follow.
    const bool harmony = vocabulary.find("<|return|>") >= 0 && vocabulary.find("<|call|>") >= 0;
    for (const char* token : {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>",
                              "<|end_of_text|>", "<end_of_utterance>", "<\uFF5Cend\u2581of\u2581sentence\uFF5C>"}) {
      const TokenId found = vocabulary.find(token);
      if (found >= 0 && type(static_cast<std::size_t>(found)) != Model::normal && !(harmony && std::string_view(token) == "<|end|>")) add(found);
    }
    return ids;
  }

 private:
  using Model = SentencePieceModel;

  std::int32_t type(std::size_t i) const { return i < types_.size() ? types_[i] : std::int32_t{Model::normal}; }
  /// What converters fill up a vocabulary with: "[PAD32001]". No model's tokenizer finds it in a text.
  static bool is_filler(std::string_view token) {
    return token.size() > 5 && token.starts_with("[PAD") && token.ends_with(']') && token.find_first_not_of("0123456789", 4) == token.size() - 1;
  }
  static std::string_view named(std::string_view token, std::string& storage, std::size_t id) {
    if (!token.empty()) return token;
    storage = "[EMPTY_" + std::to_string(id) + "]";
    return storage;
  }

  /// The id that a key names, -1 for none.
  TokenId id(const char* key) const {
    const Gguf::Value* const value = file_.find(std::string("tokenizer.ggml.") + key);
    if (value == nullptr) return -1;
    const std::int64_t number = value->as_int();
    if (number == -1 || number == 0xFFFFFFFF) return -1;  // written for "none"
    if (number < 0 || static_cast<std::uint64_t>(number) >= tokens_.size())
      value->fail("is " + std::to_string(number) + ", the vocabulary has " + std::to_string(tokens_.size()) + " tokens");
    return static_cast<TokenId>(number);
  }
  bool flag(const char* key, bool fallback) const { return file_.get<bool>(std::string("tokenizer.ggml.") + key, fallback); }

  /// In RoBERTa's family, the mask takes the blank before it, which a GGUF file does not say.
  std::string names(bool add_bos, bool add_eos, bool roberta = false) const {
    std::string text = "{";
    for (const auto& [name, key] : {std::pair("bos_token", "bos_token_id"), {"eos_token", "eos_token_id"}, {"unk_token", "unknown_token_id"},
                                    {"pad_token", "padding_token_id"}, {"cls_token", "cls_token_id"}})
      append_name(text, name, id(key));
    if (roberta && id("mask_token_id") >= 0) {
      append_name(text += R"("mask_token":{"lstrip":true,"special":true,"normalized":false,)", "content", id("mask_token_id"));
      text.back() = '}';
      text += ',';
    } else {
      append_name(text, "mask_token", id("mask_token_id"));
    }
    // "seperator" is how the key is spelled.
    append_name(text, "sep_token", file_.contains("tokenizer.ggml.seperator_token_id") ? id("seperator_token_id") : id("separator_token_id"));
    return text + "\"add_bos_token\":" + (add_bos ? "true" : "false") + ",\"add_eos_token\":" + (add_eos ? "true}" : "false}");
  }
  void append_name(std::string& text, const char* name, TokenId id) const {
    if (id < 0) return;
    text += std::string("\"") + name + "\":";
    append_json(text, tokens_[static_cast<std::size_t>(id)].as_string());
    text += ',';
  }

  /// All tokens, of which none may stand twice; `spell(i, token)` is how the model spells them.
  template <class Spell>
  Vocabulary vocabulary(Spell spell) const {
    Vocabulary vocabulary;
    vocabulary.reserve(tokens_.size(), bytes_);
    std::string storage;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      append_token(vocabulary, named(spell(i, tokens_[i].as_string()), storage, i));
      if (vocabulary.size() == i + 1) continue;
      tokens_.fail("has '" + std::string(tokens_[i].as_string()) + "' twice, the second time as token " + std::to_string(i));
    }
    vocabulary.seal();
    return vocabulary;
  }

  // Byte-level BPE, spelled in GPT-2's letters.
  TokenizerDescription read_bpe() const {
    const GgufPreTokenizer& pre = pre_tokenizer();
    Bpe::Options options;
    options.bytes = (pre.flags & GgufPreTokenizer::punctuation) == 0;  // falcon cuts behind ByteLevel
    options.ignore_merges = (pre.flags & GgufPreTokenizer::ignore_merges) != 0;
    const Gguf::Value& merges = file_["tokenizer.ggml.merges"];
    if (!merges.is_array() || merges.element_type() != Gguf::Type::string) merges.fail("is " + merges.describe() + ", expected an array of strings");
    const auto model = std::make_shared<Bpe>(vocabulary([](std::size_t, std::string_view token) { return token; }), options, merges.size(), file_.file());
    const auto fail = [&](std::size_t i, const std::string& what) { merges.fail("element " + std::to_string(i) + ", " + merges[i].describe() + ", " + what); };
    model->add(
        merges.size(),
        [&](std::size_t i) {
          const std::string_view merge = merges[i].as_string();
          const std::size_t blank = merge.find(' ', 1);
          if (blank == std::string_view::npos) fail(i, "is no merge: two tokens with a blank between");
          return std::pair(merge.substr(0, blank), merge.substr(blank + 1));
        },
        fail);
    const bool roberta = (pre.flags & GgufPreTokenizer::roberta) != 0;
    const TokenId mask = roberta ? id("mask_token_id") : -1;
    std::string text = "{\"added_tokens\":[";
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view token = tokens_[i].as_string();
      const std::int32_t kind = type(i);
      if ((kind != Model::control && kind != Model::user_defined && kind != Model::unknown) || token.empty() || is_filler(token) || static_cast<TokenId>(i) == mask) continue;
      if (text.back() != '[') text += ',';
      text += "{\"content\":";
      append_json(text, token);
      text += kind == Model::user_defined ? R"(,"special":false,"normalized":false})" : R"(,"special":true,"normalized":false})";
    }
    TokenizerDescription description(text + "]," + pre.text() + "}", file_.file(), model,
                                     names(flag("add_bos_token", (pre.flags & GgufPreTokenizer::add_bos) != 0), flag("add_eos_token", false), roberta));
    if (roberta) description.frame = Frame::roberta;
    return description;
  }

  const GgufPreTokenizer& pre_tokenizer() const {
    std::string name = file_.get<std::string>("tokenizer.ggml.pre", "");
    // Files made before the key was, or without knowing: the family has one.
    const std::string family = file_.get<std::string>("general.architecture", "");
    if (name.empty() || name == "default") {
      for (const auto& [architecture, usual] : {std::pair("gptneox", "mpt"), {"mpt", "mpt"}, {"gpt2", "gpt-2"}, {"starcoder", "starcoder"}, {"starcoder2", "starcoder"},
                                                {"qwen2", "qwen2"}, {"qwen2moe", "qwen2"}, {"qwen2vl", "qwen2"}, {"qwen3", "qwen2"}, {"qwen3moe", "qwen2"},
                                                {"falcon", "falcon"}, {"olmo", "olmo"}, {"command-r", "command-r"}, {"bloom", "bloom"}, {"phi2", "phi-2"}})
        if (family == architecture) name = usual;
      if (family == "llama" && tokens_.size() >= 128000 && tokens_.size() <= 128512 && tokens_[128000].as_string() == "<|begin_of_text|>") name = "llama-bpe";
    }
    if (const GgufPreTokenizer* const pre = GgufPreTokenizer::find(name)) return *pre;
    if (name.empty()) throw ConfigError(file_.file(), "tokenizer.ggml.pre", "missing, and architecture '" + family + "' does not say how texts are cut before BPE");
    throw UnsupportedError("tokenizer.ggml.pre '" + name + "' (" + file_.file() + ")");
  }

  // SentencePiece: "llama" is a BPE model by scores, "t5" a Unigram model.
  TokenizerDescription read_sentencepiece(bool unigram) const {
    const Gguf::Value& scores = file_["tokenizer.ggml.scores"];
    if (!scores.is_array() || (scores.element_type() != Gguf::Type::f32 && scores.element_type() != Gguf::Type::i32))
      scores.fail("is " + scores.describe() + ", expected an array of f32");
    if (scores.size() != tokens_.size())
      scores.fail("has " + std::to_string(scores.size()) + " elements, tokenizer.ggml.tokens has " + std::to_string(tokens_.size()));
    Model model;
    model.ids = vocabulary([](std::size_t, std::string_view token) { return token; });
    model.path = file_.file();
    model.file_size = bytes_;
    model.kind = unigram ? Model::unigram : Model::bpe;
    model.dummy_prefix = flag("add_space_prefix", true);
    model.strip = flag("remove_extra_whitespaces", unigram);
    const TokenId unknown = file_.contains("tokenizer.ggml.unknown_token_id") ? id("unknown_token_id") : unigram ? 2 : 0;
    if (unknown < 0 || static_cast<std::size_t>(unknown) >= tokens_.size())
      throw ConfigError(file_.file(), "tokenizer.ggml.unknown_token_id", "names no token, a SentencePiece model needs one");
    model.unk = static_cast<std::size_t>(unknown);
    std::deque<std::string> storage;
    model.pieces.reserve(tokens_.size());
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      Model::Piece piece{tokens_[i].as_string(), static_cast<float>(scores[i].as_double()), type(i)};
      if (!std::isfinite(piece.score)) scores.fail("has element " + std::to_string(i) + ", which is no number");
      if (piece.text.empty()) piece = {named({}, storage.emplace_back(), i), 0, Model::unused};
      // Converters give what was added beside the model this score.
      constexpr float of_added = -1000;
      const bool added = piece.type == Model::user_defined && piece.score == of_added;
      if (piece.type < Model::normal || piece.type > Model::byte || is_filler(piece.text)) piece.type = Model::unused;
      if (added && piece.type == Model::user_defined) piece.type = Model::added;
      model.pieces.push_back(piece);
    }
    if (types_.empty()) {  // of the first files: what is special, they say by name only
      for (const char* key : {"bos_token_id", "eos_token_id", "padding_token_id"})
        if (const TokenId special = id(key); special >= 0) model.pieces[static_cast<std::size_t>(special)].type = Model::control;
      model.pieces[model.unk].type = Model::unknown;
    }
    model.byte_fallback = true;
    for (unsigned b = 0; b < 256; ++b) model.byte_fallback = model.byte_fallback && model.ids.find(byte_token(b)) >= 0;
    std::string charsmap;
    if (const Gguf::Value* const map = file_.find("tokenizer.ggml.precompiled_charsmap")) {
      if (!map->is_array() || (map->element_type() != Gguf::Type::u8 && map->element_type() != Gguf::Type::i8))
        map->fail("is " + map->describe() + ", expected an array of u8");
      charsmap.reserve(map->size());
      for (std::size_t i = 0; i < map->size(); ++i) charsmap += static_cast<char>((*map)[i].as_int());
      model.charsmap = charsmap;
    }
    const bool roberta = unigram && flag("add_bos_token", false) && flag("add_eos_token", true) && id("mask_token_id") >= 0;
    if (roberta) model.pieces[static_cast<std::size_t>(id("mask_token_id"))].type = Model::unused;
    const SentencePieceDescription use(model, unigram ? SentencePieceUse::t5 : SentencePieceUse::plain);
    TokenizerDescription description = use.take(names(flag("add_bos_token", !unigram), flag("add_eos_token", unigram), roberta));
    if (roberta) description.frame = Frame::roberta;
    return description;
  }

  // BERT's words: those that begin a word have a U+2581 in front, those that go on have lost their "##".
  TokenizerDescription read_words() const {
    constexpr std::string_view mark = "\xE2\x96\x81";
    std::string spelling;
    bool capitals = false;
    Vocabulary words = vocabulary([&](std::size_t i, std::string_view token) -> std::string_view {
      if (type(i) != Model::normal || token.empty() || (token.starts_with('[') && token.ends_with(']'))) return token;
      capitals = capitals || std::any_of(token.begin(), token.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
      if (token.starts_with(mark) && token != mark) return token.substr(mark.size());
      spelling.assign("##").append(token);
      return spelling;
    });
    const TokenId named = id("unknown_token_id"), unk = named >= 0 ? named : words.find("[UNK]");
    if (unk < 0) throw ConfigError(file_.file(), "tokenizer.ggml.unknown_token_id", "missing, and there is no '[UNK]'");
    const bool lowercase = flag("normalizer.lowercase", !capitals), accents = flag("normalizer.strip_accents", lowercase);
    std::string text = std::string(R"({"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"lowercase":)") +
                       (lowercase ? "true" : "false") + ",\"strip_accents\":" + (accents ? "true" : "false") +
                       R"(},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##"}})";
    std::string names = this->names(false, false);
    // Files that leave the frame out mean BERT's.
    for (const auto& [name, usual] : {std::pair("cls_token", "[CLS]"), {"sep_token", "[SEP]"}, {"pad_token", "[PAD]"}, {"mask_token", "[MASK]"}})
      if (words.find(usual) >= 0 && names.find(std::string("\"") + name) == std::string::npos) names.insert(1, std::string("\"") + name + "\":\"" + usual + "\",");
    TokenizerDescription description(text, file_.file(), std::make_shared<WordPiece>(std::move(words), unk), names);
    description.frame = Frame::bert;
    return description;
  }

  const Gguf& file_;
  const Gguf::Value& tokens_;
  std::vector<std::int32_t> types_;
  std::size_t bytes_ = 0;
};

}  // namespace detail
}  // namespace chiasm
