#pragma once

#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/json.hpp>

#include <chiasm/impl/tokenizer_normalizers.ipp>
#include <chiasm/impl/tokenizer_sentencepiece.ipp>
#include <chiasm/impl/tokenizer_tiktoken.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// Finds the tokenizer's files in a checkpoint, and out which family they belong to: from tokenizer_class, else model_type, else from the
/// files themselves.
class TokenizerFiles {
 public:
  explicit TokenizerFiles(const Checkpoint& checkpoint) : checkpoint_(checkpoint), config_(checkpoint.tokenizer_config()) {
    const Json model = checkpoint.json("config.json");
    class_ = config_.get<std::string>("tokenizer_class", "");
    if (class_.empty()) class_ = model.get<std::string>("tokenizer_class", "");
    if (class_.ends_with("Fast")) class_.erase(class_.size() - 4);
    model_type_ = model.get<std::string>("model_type", "");
    for (const char* part : {"text_config", "language_config", "llm_config"})
      if (const Json text = model.find(part); text.is_object() && text.find("model_type").is_string() && !one_of(model_type_, {"clip", "siglip", "kosmos-2"}))
        model_type_ = text["model_type"].as<std::string>();
  }

  /// The name of the file that holds the tokens, by the family's custom where there are several; empty if there is none.
  std::string find() const {
    const bool pairs = has("vocab.json") && has("merges.txt");
    if (one_of(class_, {"GPT2Tokenizer", "RobertaTokenizer", "CLIPTokenizer", "Qwen2Tokenizer", "WhisperTokenizer", "GPTNeoXTokenizer"}) && pairs) return "vocab.json";
    for (const char* file : {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"})
      if (has(file)) return file;
    if (pairs) return "vocab.json";
    for (const char* file : {"qwen.tiktoken", "tiktoken.model", "vocab.txt"})
      if (has(file)) return file;
    return {};
  }

  /// Reads that file, and merges.txt beside a vocab.json.
  TokenizerDescription read(const std::string& name) const {
    const FileMap file = checkpoint_.file(name);
    if (name.ends_with(".json") || name == "merges.txt") return read_merges(name == "merges.txt" ? "vocab.json" : name);
    if (name.ends_with(".txt")) return read_words(file);
    // A SentencePiece file begins with the tag of its first piece, a tiktoken file with base64.
    if (file.text().starts_with('\n')) return read_sentencepiece(file, name);
    if (!file.text().empty()) return read_tiktoken(file, name);
    throw FormatError(file.path(), 0, "an empty file, expected tokens");
  }

 private:
  static bool one_of(std::string_view name, std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); }
  bool has(const char* file) const { return checkpoint_.has(file); }
  bool is(std::string_view class_name, std::initializer_list<std::string_view> model_types) const {
    return class_.empty() ? one_of(model_type_, model_types) : class_ == class_name;
  }
  // GPT-2's two files: {"token": id} and lines of "left right".
  TokenizerDescription read_merges(const std::string& name) const {
    const FileMap vocab = checkpoint_.file(name), merges = checkpoint_.file("merges.txt");
    const Json words = Json::parse(vocab.text(), vocab.path());
    if (!words.is_object()) throw ConfigError(vocab.path(), "", "is not an object of tokens and ids");
    const auto known = [&](std::string_view token) { return words.contains(token); };
    enum { gpt2, opt, roberta, clip, qwen2, whisper, neox } family = gpt2;
    if (is("CLIPTokenizer", {"clip", "clip_text_model", "clipseg", "owlvit", "owlv2", "groupvit", "xclip", "oneformer"})) {
      family = clip;
    } else if (one_of(class_, {"BartTokenizer", "LEDTokenizer", "LongformerTokenizer"}) ||
               is("RobertaTokenizer", {"roberta", "bart", "bridgetower", "clap", "longformer", "led", "lilt", "data2vec-text", "roberta-prelayernorm", "florence2"})) {
      family = roberta;
    } else if (class_.starts_with("Qwen2") || (class_.empty() && (model_type_.starts_with("qwen2") || model_type_.starts_with("qwen3")))) {
      family = qwen2;
    } else if (is("WhisperTokenizer", {"whisper"})) {
      family = whisper;
    } else if (is("GPTNeoXTokenizer", {"gpt_neox", "mpt", "olmo", "olmoe", "mamba"})) {
      family = neox;
    } else if (class_.empty() && model_type_ == "opt") {
      family = opt;
    } else if (!one_of(class_, {"GPT2Tokenizer", "CodeGenTokenizer"}) && !one_of(model_type_, {"gpt2", "gpt_neo", "gptj", "codegen", "opt", "phi"})) {
      // By what only their vocabularies have.
      if (known("<|startoftext|>") || known("a</w>")) {
        family = clip;
      } else if (known("<s>") && known("</s>") && known("<mask>")) {
        family = roberta;
      } else if (!known("<|endoftext|>")) {
        family = known("") ? whisper : qwen2;
      }
    }

    const bool space = config_.get<bool>("add_prefix_space", false);
    const std::string byte_level = std::string(R"({"type":"ByteLevel","add_prefix_space":)") + (space ? "true" : "false");
    std::string normalizer = "null", pre_tokenizer = byte_level + "}", suffix;
    if (family == clip) {
      suffix = "</w>";
      normalizer = R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "},{"type":"Lowercase"}]})";
      pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)";
      append_json(pre_tokenizer, R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)");
      pre_tokenizer += R"(},"behavior":"Removed","invert":true},{"type":"ByteLevel","add_prefix_space":false}]})";
    } else if (family == qwen2) {
      normalizer = R"({"type":"NFC"})";
      pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)";
      append_json(pre_tokenizer, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
      pre_tokenizer += R"(},"behavior":"Isolated","invert":false},)" + byte_level + R"(,"use_regex":false}]})";
    } else if (family == neox) {
      normalizer = R"({"type":"NFC"})";
    }

    const std::string text = "{\"normalizer\":" + normalizer + ",\"pre_tokenizer\":" + pre_tokenizer + R"(,"decoder":{"type":"ByteLevel"}})";
    Bpe::Options options;
    options.bytes = true;
    options.suffix = suffix;
    if (family == clip) options.unk_token = unknown_token("<|endoftext|>");

    constexpr const char* names[] = {
        R"({"bos_token":"<|endoftext|>","eos_token":"<|endoftext|>","unk_token":"<|endoftext|>"})",
        R"({"bos_token":"</s>","eos_token":"</s>","unk_token":"</s>","pad_token":"<pad>","add_bos_token":true})",
        R"({"bos_token":"<s>","eos_token":"</s>","unk_token":"<unk>","sep_token":"</s>","pad_token":"<pad>","cls_token":"<s>","mask_token":{"content":"<mask>","lstrip":true,"special":true,"normalized":true}})",
        R"({"bos_token":{"content":"<|startoftext|>","special":true,"normalized":true},"eos_token":"<|endoftext|>","unk_token":"<|endoftext|>","pad_token":"<|endoftext|>"})",
        R"({"eos_token":"<|endoftext|>","unk_token":"<|endoftext|>","pad_token":"<|endoftext|>"})",
        R"({"bos_token":"<|endoftext|>","eos_token":"<|endoftext|>","unk_token":"<|endoftext|>"})",
        R"({"bos_token":"<|endoftext|>","eos_token":"<|endoftext|>","unk_token":"<|endoftext|>","pad_token":"<|padding|>"})"};
    TokenizerDescription description(text, vocab.path(), read_bpe(read_vocabulary(words), options, merges), names[family]);
    description.frame = family == roberta || family == clip ? Frame::roberta : family == whisper ? Frame::whisper : Frame::bos_eos;
    description.word_suffix = suffix;
    return description;
  }

  std::string unknown_token(const char* usual) const {
    const Json unk = config_.find("unk_token");
    return unk.is_string() ? unk.as<std::string>() : unk.find("content").is_string() ? unk["content"].as<std::string>() : usual;
  }

  static std::shared_ptr<const Bpe> read_bpe(Vocabulary tokens, const Bpe::Options& options, const FileMap& file) {
    const std::string_view text = file.text();
    std::vector<std::string_view> lines;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      std::string_view line = text.substr(at, end - at);
      if (line.ends_with('\r')) line.remove_suffix(1);
      const bool comment = line.starts_with("#version"), last = line.empty() && end + 1 >= text.size();
      if (!comment && !last) lines.push_back(line);
      at = end + 1;
    }
    const auto model = std::make_shared<Bpe>(std::move(tokens), options, lines.size(), file.path());
    const auto byte = [&](std::size_t i) { return static_cast<std::uint64_t>(lines[i].data() - text.data()); };
    model->add(
        lines.size(),
        [&](std::size_t i) {
          const std::string_view line = lines[i];
          const std::size_t blank = line.find(' ');
          if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
            throw FormatError(file.path(), byte(i), "no merge: a merge is two tokens with a blank between");
          if (!unicode::is_valid(line)) throw FormatError(file.path(), byte(i), "no UTF-8");
          return std::pair(line.substr(0, blank), line.substr(blank + 1));
        },
        [&](std::size_t i, const std::string& what) {
          throw ConfigError(file.path(), "", "byte " + std::to_string(byte(i)) + ": '" + std::string(lines[i]) + "' " + what);
        });
    return model;
  }

  // BERT's vocab.txt: a token per line, the number of the line is its id; of equal ones the last counts.
  TokenizerDescription read_words(const FileMap& file) const {
    const std::string_view text = file.text();
    TokenId lines = 0;
    Vocabulary ids;
    bool capitals = false;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      const std::string_view line = text.substr(at, end - at);
      if (!unicode::is_valid(line)) throw FormatError(file.path(), at, "no UTF-8");
      const std::string_view word = line.substr(0, TextNormalizer::trimmed(line, false, true).second);
      ids.insert(word, lines++);
      if (!word.starts_with('[')) capitals = capitals || std::any_of(word.begin(), word.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
      at = end + 1;
    }
    if (lines == 0) throw FormatError(file.path(), 0, "an empty file, expected tokens");
    const auto flag = [&](const char* key, bool fallback) { return config_.get<bool>(key, fallback) ? "true" : "false"; };
    // A vocabulary with capitals is of a cased model; only the file can say so where there is no configuration.
    std::string description = std::string(R"({"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":)") + flag("tokenize_chinese_chars", true) +
                              ",\"lowercase\":" + flag("do_lower_case", config_.is_object() || !capitals);
    if (const Json accents = config_.find("strip_accents"); accents.is_bool()) description += std::string(",\"strip_accents\":") + (accents.as_bool() ? "true" : "false");
    description += R"(},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##"}})";
    ids.seal();
    const std::string unknown = unknown_token("[UNK]");
    const TokenId unk = ids.find(unknown);
    if (unk < 0) throw ConfigError(file.path(), "", "has no '" + unknown + "', the token for unknown words");
    TokenizerDescription result(description, file.path(), std::make_shared<WordPiece>(std::move(ids), unk),
                                R"({"unk_token":"[UNK]","sep_token":"[SEP]","pad_token":"[PAD]","cls_token":"[CLS]","mask_token":"[MASK]"})");
    result.frame = Frame::bert;
    return result;
  }

  TokenizerDescription read_sentencepiece(const FileMap& file, const std::string& name) const {
    // Their numbering or segmentation is their own.
    for (const std::string_view other : {"AlbertTokenizer", "BarthezTokenizer", "BigBirdTokenizer", "CamembertTokenizer", "DebertaV2Tokenizer", "FNetTokenizer",
                                         "M2M100Tokenizer", "MBartTokenizer", "MBart50Tokenizer", "MarianTokenizer", "NllbTokenizer", "PegasusTokenizer", "ReformerTokenizer",
                                         "RemBertTokenizer", "SeamlessM4TTokenizer", "UdopTokenizer", "XGLMTokenizer", "XLNetTokenizer"})
      if (class_ == other) throw UnsupportedError(class_ + " from " + name + " without tokenizer.json (" + checkpoint_.name() + ")");
    const SentencePieceModel model(file);
    SentencePieceUse use = SentencePieceUse::plain;
    const bool unigram = model.kind == SentencePieceModel::unigram, hint = !class_.empty() || !model_type_.empty();
    const std::string processor = config_.get<std::string>("processor_class", "");
    constexpr std::size_t kosmos2_pieces = 64000;
    if (processor.starts_with("Kosmos2") || model_type_ == "kosmos-2") {
      use = SentencePieceUse::kosmos2;
    } else if (is("XLMRobertaTokenizer", {"xlm-roberta", "xlm-roberta-xl", "metaclip_2", "xmod", "gte"})) {
      use = SentencePieceUse::xlm_roberta;
    } else if (is("T5Tokenizer", {"t5", "mt5", "umt5", "switch_transformers", "musicgen"})) {
      use = SentencePieceUse::t5;
    } else if (is("SiglipTokenizer", {"siglip", "siglip_text_model"})) {
      use = SentencePieceUse::siglip;
    } else if (!unigram && class_.find("Llama") != std::string::npos && config_.find("legacy").is_bool() && !config_["legacy"].as_bool()) {
      use = SentencePieceUse::metaspace;
    } else if (!hint && unigram && name == "sentencepiece.bpe.model") {
      use = model.pieces.size() == kosmos2_pieces ? SentencePieceUse::kosmos2 : SentencePieceUse::xlm_roberta;
    } else if (!hint && unigram && name == "spiece.model" && !model.has(model.bos) && model.has(model.eos)) {
      use = SentencePieceUse::t5;
    }
    const bool fairseq = use == SentencePieceUse::xlm_roberta || use == SentencePieceUse::kosmos2;
    std::size_t sentinels = 0;
    if (use == SentencePieceUse::t5 && !std::any_of(model.pieces.begin(), model.pieces.end(), [](const auto& piece) { return piece.text == "<extra_id_0>"; })) {
      const Json count = config_.find("extra_ids");
      sentinels = config_.get<std::size_t>("extra_ids", 100);
      if (sentinels > 65536) count.fail("is " + std::to_string(sentinels) + " sentinels, at most 65536");
    }
    std::string names = "{";
    const auto token = [&](const char* key, std::string_view spelling) {
      names += std::string(names.size() > 1 ? "," : "") + "\"" + key + "\":";
      append_json(names, spelling);
    };
    if (fairseq) {
      names = R"({"bos_token":"<s>","eos_token":"</s>","unk_token":"<unk>","sep_token":"</s>","pad_token":"<pad>","cls_token":"<s>","mask_token":"<mask>")";
    } else {
      token("unk_token", model.pieces[model.unk].text);
      if (model.has(model.bos)) token("bos_token", model.spelling(model.bos));
      if (model.has(model.eos)) token("eos_token", model.spelling(model.eos));
      if (model.has(model.pad)) token("pad_token", model.spelling(model.pad));
      // What sentencepiece files are made for: language models begin with bos, T5's encoder, which has none, ends with eos.
      names += std::string(",\"add_bos_token\":") + (model.has(model.bos) ? "true" : "false");
      names += std::string(",\"add_eos_token\":") + (!model.has(model.bos) && model.has(model.eos) ? "true" : "false");
    }
    TokenizerDescription description = SentencePieceDescription(model, use, sentinels, config_.get<bool>("do_lower_case", true)).take(names + "}");
    if (fairseq) description.frame = Frame::roberta;
    return description;
  }

  TokenizerDescription read_tiktoken(const FileMap& file, const std::string& name) const {
    const TiktokenFile tokens(file);
    const bool qwen = name.ends_with(".tiktoken") ? class_.empty() || class_ == "QWenTokenizer" : class_ == "QWenTokenizer" || model_type_ == "qwen";
    // Llama 3's special tokens stand in no file; where the configuration lists some, those count.
    const bool llama3 = !qwen && tokens.tokens.size() == 128000 && !config_.contains("added_tokens_decoder");
    std::string added = "[", names = "{";
    const auto add = [&](const std::string& token) {
      if (added.size() > 1) added += ',';
      added += "{\"content\":\"" + token + "\",\"special\":true,\"normalized\":false}";
    };
    if (qwen) {
      for (const char* token : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) add(token);
      for (int i = 0; i <= 204; ++i) add("<|extra_" + std::to_string(i) + "|>");
      for (const char* token : {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"}) add(token);
      names += R"("eos_token":"<|endoftext|>","pad_token":"<|endoftext|>")";
    } else if (llama3) {
      for (const char* token : {"<|begin_of_text|>", "<|end_of_text|>"}) add(token);
      for (int i = 0; i <= 3; ++i) add("<|reserved_special_token_" + std::to_string(i) + "|>");
      for (const char* token : {"<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"}) add(token);
      for (int i = 5; i <= 250; ++i) add("<|reserved_special_token_" + std::to_string(i) + "|>");
      names += R"("bos_token":"<|begin_of_text|>","eos_token":"<|end_of_text|>","add_bos_token":true)";
    }
    return tokens.description(qwen ? 1 : 3, qwen, !qwen, added + "]", names + "}");
  }

  const Checkpoint& checkpoint_;
  Json config_;
  std::string class_, model_type_;
};

}  // namespace detail
}  // namespace chiasm
