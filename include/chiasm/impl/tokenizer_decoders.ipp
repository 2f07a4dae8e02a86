#pragma once

#include <chiasm/impl/tokenizer_pretokenizers.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// How spellings of tokens become text again.
class TokenDecoder {
 public:
  TokenDecoder() = default;
  explicit TokenDecoder(const Json& json) {
    if (json.is_null()) return;
    const std::string type = json.get<std::string>("type", "");
    if (type == "Sequence") {
      kind_ = Kind::sequence;
      const Json steps = json["decoders"];
      if (!steps.is_array()) steps.fail("is not an array");
      for (const Json step : steps) parts_.emplace_back(step);
    } else if (type == "ByteLevel") {
      kind_ = Kind::byte_level;
    } else if (type == "ByteFallback") {
      kind_ = Kind::byte_fallback;
    } else if (type == "Fuse") {
      kind_ = Kind::fuse;
    } else if (type == "Replace") {
      kind_ = Kind::replace;
      const Json pattern = json["pattern"];
      if (const Json text = pattern.find("String"); text.is_string() && !text.as_string().empty()) {
        mark_ = text.as<std::string>();
      } else {
        pattern_ = std::make_shared<const Pattern>(read_pattern(pattern));
      }
      content_ = json["content"].as<std::string>();
    } else if (type == "Strip") {
      kind_ = Kind::strip;
      content_ = PreTokenizer::one_character(json["content"]);
      start_ = json["start"].as<std::size_t>();
      stop_ = json["stop"].as<std::size_t>();
    } else if (type == "Metaspace") {
      kind_ = Kind::metaspace;
      PreTokenizer::Scheme scheme{};
      PreTokenizer::read_metaspace(json, mark_, scheme);
      flag_ = scheme != PreTokenizer::Scheme::never;
    } else if (type == "WordPiece") {
      kind_ = Kind::word_piece;
      mark_ = json.get<std::string>("prefix", "##");
      flag_ = json.get<bool>("cleanup", true);
    } else if (type == "BPEDecoder") {
      kind_ = Kind::bpe;
      mark_ = json.get<std::string>("suffix", "</w>");
    } else if (type == "CTC") {
      kind_ = Kind::ctc;
      mark_ = json.get<std::string>("pad_token", "<pad>");
      content_ = json.get<std::string>("word_delimiter_token", "|");
      flag_ = json.get<bool>("cleanup", true);
    } else {
      unknown_part(json, "decoder");
    }
  }

  std::string operator()(std::vector<std::string> tokens) const {
    if (kind_ == Kind::none) {
      std::string text;
      for (const std::string& token : tokens) {
        if (&token != tokens.data()) text += ' ';
        text += token;
      }
      return text;
    }
    apply(tokens);
    if (tokens.size() == 1) return std::move(tokens[0]);
    std::string text;
    for (const std::string& token : tokens) text += token;
    return text;
  }

  /// A token's spelling becomes what it adds to a text, in bytes: those of an unfinished character too. `first`: nothing stands before it. `joined`: a step
  /// before this one has made one text of all tokens. False where what it adds depends on the tokens around it.
  bool to_bytes(std::string& token, bool first, bool& joined) const {
    switch (kind_) {
      case Kind::none:
        if (!first) token.insert(0, " ");
        return true;
      case Kind::sequence: return std::all_of(parts_.begin(), parts_.end(), [&](const TokenDecoder& part) { return part.to_bytes(token, first, joined); });
      case Kind::byte_level: {
        std::string bytes;
        append_bytes(bytes, token);
        token = std::move(bytes);
        joined = true;
        return true;
      }
      case Kind::byte_fallback:
        if (const int byte = byte_of(token); byte >= 0) token.assign(1, static_cast<char>(static_cast<unsigned char>(byte)));
        return true;
      case Kind::fuse: joined = true; return true;
      case Kind::replace:
        token = pattern_ ? replace_all(token, *pattern_, content_) : replace_all(token, mark_, content_);
        return !joined;
      case Kind::strip:
        if (joined && stop_ > 0) return false;
        if (joined && !first) return true;
        strip(token);
        return true;
      case Kind::metaspace: token = replace_all(token, mark_, first && flag_ ? "" : " "); return true;
      case Kind::word_piece:
        if (!first && token.starts_with(mark_))
          token.erase(0, mark_.size());
        else if (!first)
          token.insert(0, " ");
        if (flag_) clean_up(token);
        return true;
      case Kind::bpe:
      case Kind::ctc: return false;
    }
    return false;
  }

 private:
  enum class Kind : std::uint8_t { none, sequence, byte_level, byte_fallback, fuse, replace, strip, metaspace, word_piece, bpe, ctc };

  void apply(std::vector<std::string>& tokens) const {
    switch (kind_) {
      case Kind::none: break;
      case Kind::sequence:
        for (const TokenDecoder& part : parts_) part.apply(tokens);
        break;
      case Kind::byte_level: {
        std::string bytes;
        for (const std::string& token : tokens) append_bytes(bytes, token);
        tokens.assign(1, unicode::is_valid(bytes) ? std::move(bytes) : unicode::replace_invalid(bytes));
        break;
      }
      case Kind::byte_fallback: join_bytes(tokens); break;
      case Kind::fuse: {
        std::string text;
        for (const std::string& token : tokens) text += token;
        tokens.assign(1, std::move(text));
        break;
      }
      case Kind::replace:
        for (std::string& token : tokens) token = pattern_ ? replace_all(token, *pattern_, content_) : replace_all(token, mark_, content_);
        break;
      case Kind::strip:
        for (std::string& token : tokens) strip(token);
        break;
      case Kind::metaspace:
        for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = replace_all(tokens[i], mark_, i == 0 && flag_ ? "" : " ");
        break;
      case Kind::word_piece:
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          if (i > 0 && tokens[i].starts_with(mark_)) {
            tokens[i].erase(0, mark_.size());
          } else if (i > 0) {
            tokens[i].insert(0, " ");
          }
          if (flag_) clean_up(tokens[i]);
        }
        break;
      case Kind::bpe:
        for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = replace_all(tokens[i], mark_, i + 1 == tokens.size() ? "" : " ");
        break;
      case Kind::ctc: {
        std::vector<std::string> kept;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          if (i > 0 && tokens[i] == tokens[i - 1]) continue;
          std::string token = replace_all(tokens[i], mark_, "");
          if (flag_) {
            clean_up(token);
            token = replace_all(token, content_, " ");
          }
          if (!token.empty()) kept.push_back(std::move(token));
        }
        tokens = std::move(kept);
        break;
      }
    }
  }

  // The bytes that a token's letters stand for, or its own if one of them is no letter of the alphabet.
  static void append_bytes(std::string& bytes, std::string_view token) {
    const std::size_t before = bytes.size();
    for (std::size_t at = 0; at < token.size();) {
      const char32_t code = unicode::next(token, at);
      const int byte = code < std::size(byte_alphabet.byte) ? byte_alphabet.byte[code] : -1;
      if (byte < 0) {
        bytes.resize(before);
        bytes += token;
        return;
      }
      bytes += static_cast<char>(static_cast<unsigned char>(byte));
    }
  }

  void strip(std::string& token) const {
    std::size_t begin = 0, end = token.size();
    for (std::size_t i = 0; i < start_ && std::string_view(token).substr(begin).starts_with(content_); ++i) begin += content_.size();
    for (std::size_t i = 0; i < stop_ && std::string_view(token).substr(begin, end - begin).ends_with(content_); ++i) end -= content_.size();
    if (begin > 0 || end < token.size()) token = token.substr(begin, end - begin);
  }

  // The byte that <0xNN> stands for, -1 for other spellings.
  static int byte_of(std::string_view token) {
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
    const bool is_byte = token.size() == 6 && token.starts_with("<0x") && token[5] == '>' && digit(token[4]) >= 0 && (digit(token[3]) >= 0 || token[3] == '+');
    if (!is_byte) return -1;
    return (token[3] == '+' ? 0 : digit(token[3])) * 16 + digit(token[4]);
  }

  // Runs of <0xNN> become the text of those bytes, or one U+FFFD per byte where they are none.
  static void join_bytes(std::vector<std::string>& tokens) {
    std::vector<std::string> joined;
    joined.reserve(tokens.size());
    std::string run;
    const auto close = [&] {
      if (run.empty()) return;
      if (unicode::is_valid(run)) {
        joined.push_back(run);
      } else {
        for (std::size_t i = 0; i < run.size(); ++i) joined.emplace_back("\xEF\xBF\xBD");
      }
      run.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        run += static_cast<char>(static_cast<unsigned char>(byte));
        continue;
      }
      close();
      joined.push_back(std::move(token));
    }
    close();
    tokens = std::move(joined);
  }

  static void clean_up(std::string& text) {
    static constexpr std::pair<std::string_view, std::string_view> rules[] = {
        {" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"}, {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : rules)
      if (text.find(from) != std::string::npos) text = replace_all(text, from, to);
  }

  Kind kind_ = Kind::none;
  bool flag_ = false;
  std::size_t start_ = 0, stop_ = 0;
  std::string mark_, content_;
  std::shared_ptr<const Pattern> pattern_;
  std::vector<TokenDecoder> parts_;
};

}  // namespace detail
}  // namespace chiasm
