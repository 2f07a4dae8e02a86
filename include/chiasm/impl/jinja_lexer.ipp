// Jinja's lexer: a template's text as tokens, with the white space control of trim_blocks, lstrip_blocks, `-` and `+`.
#pragma once

#include <chiasm/impl/jinja_value.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

struct Token {
  enum class Kind : std::uint8_t { end, data, print_begin, print_end, tag_begin, tag_end, name, string, integer, number, op };
  Kind kind = Kind::end;
  std::uint32_t line = 1;
  std::uint64_t byte = 0;
  std::string text;
  Value value;  // of an integer or number
};

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& file) : file_(file) {
    source_.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
      source_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) data();
    add(Token::Kind::end, at_, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::size_t at, const std::string& what) {
    throw FormatError(file_, at, "line " + std::to_string(line(at)) + ": " + what);
  }
  std::uint32_t line(std::size_t at) {
    at = std::min(at, source_.size());
    if (at < counted_) counted_ = 0, line_ = 1;
    line_ += static_cast<std::uint32_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(counted_),
                                                   source_.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    counted_ = at;
    return line_;
  }
  Token& add(Token::Kind kind, std::size_t at, std::string text) {
    Token& token = tokens_.emplace_back();
    token.kind = kind;
    token.line = line(at);
    token.byte = at;
    token.text = std::move(text);
    return token;
  }
  bool starts(std::size_t at, std::string_view what) const { return std::string_view(source_).substr(at, what.size()) == what; }
  void move(std::size_t to) {
    if (to > at_) line_starting_ = source_[to - 1] == '\n';
    at_ = to;
  }

  // Text up to the next {{, {% or {#, and what that opens.
  void data() {
    std::size_t open = at_;
    for (;; ++open) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        open = std::string::npos;
        break;
      }
      const char next = source_[open + 1];
      if (next == '{' || next == '%' || next == '#') break;
    }
    if (open == std::string::npos) {
      add(Token::Kind::data, at_, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    const char type = source_[open + 1];
    std::size_t inside = open + 2;
    const char sign = inside < source_.size() && (source_[inside] == '-' || source_[inside] == '+') ? source_[inside++] : '\0';
    add_data(at_, open, sign, type != '{');
    const std::size_t raw = type == '%' ? raw_begin(inside) : 0;
    move(raw ? raw : inside);
    if (raw) return raw_block(open);
    if (type == '#') return comment(open);
    add(type == '{' ? Token::Kind::print_begin : Token::Kind::tag_begin, open, "");
    inside_tag(type == '{' ? '}' : '%', open);
  }

  void add_data(std::size_t begin, std::size_t end, char sign, bool is_tag) {
    std::string_view text = std::string_view(source_).substr(begin, end - begin);
    if (sign == '-') {
      text = strip(text, nullptr, false, true);
    } else if (sign == '\0' && is_tag) {  // lstrip_blocks
      const std::size_t newline = text.rfind('\n');
      const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && skip_space(text, start) == text.size()) text = text.substr(0, start);
    }
    if (!text.empty()) add(Token::Kind::data, begin, std::string(text));
  }

  // {% raw %}: where its text begins, or 0.
  std::size_t raw_begin(std::size_t at) {
    at = skip_space(source_, at);
    if (!starts(at, "raw")) return 0;
    at = skip_space(source_, at + 3);
    if (starts(at, "-%}")) return skip_space(source_, at + 3);
    return starts(at, "%}") ? at + 2 : 0;
  }
  void raw_block(std::size_t open) {
    for (std::size_t end = source_.find("{%", at_); end != std::string::npos; end = source_.find("{%", end + 2)) {
      std::size_t inside = end + 2;
      const char sign = inside < source_.size() && (source_[inside] == '-' || source_[inside] == '+') ? source_[inside++] : '\0';
      inside = skip_space(source_, inside);
      if (!starts(inside, "endraw")) continue;
      inside = skip_space(source_, inside + 6);
      if (const std::size_t after = close(inside, '%')) {
        add_data(at_, end, sign, true);
        return move(after);
      }
    }
    fail(open, "'raw' without 'endraw'");
  }
  void comment(std::size_t open) {
    for (std::size_t at = at_; at < source_.size(); ++at)
      if (const std::size_t after = close(at, '#')) return move(after);
    fail(open, "comment without '#}'");
  }
  // If a tag, print or comment closes at `at`: where the text after it begins, otherwise 0.
  std::size_t close(std::size_t at, char type) {
    const std::array<char, 2> mark{type, '}'};
    const std::string_view end(mark.data(), 2);
    if (starts(at, "-") && starts(at + 1, end)) return skip_space(source_, at + 3);
    if (type != '}' && starts(at, "+") && starts(at + 1, end)) return at + 3;
    if (!starts(at, end)) return 0;
    return at + 2 + (type != '}' && starts(at + 2, "\n") ? 1 : 0);  // trim_blocks
  }

  void inside_tag(char type, std::size_t open) {
    std::string brackets;
    while (at_ < source_.size()) {
      if (brackets.empty()) {
        if (const std::size_t after = close(at_, type)) {
          add(type == '}' ? Token::Kind::print_end : Token::Kind::tag_end, at_, "");
          return move(after);
        }
      }
      const std::size_t word = skip_space(source_, at_);
      if (word != at_) {
        move(word);
        continue;
      }
      token(brackets);
    }
    fail(open, std::string("'{") + (type == '}' ? '{' : type) + "' is not closed");
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_word(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
  }

  void token(std::string& brackets) {
    const char c = source_[at_];
    if (is_digit(c)) return number_token();
    if (is_word(c)) {
      std::size_t end = at_;
      while (end < source_.size() && is_word(source_[end])) ++end;
      add(Token::Kind::name, at_, source_.substr(at_, end - at_));
      return move(end);
    }
    if (c == '\'' || c == '"') return string_token(c);
    constexpr std::array<std::string_view, 27> ops = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]",
                                                      "(",  ")",  "{",  "}",  ">",  "<",  "=", ".", ":", "|", ",", ";", "!"};
    for (const std::string_view op : ops) {
      if (!starts(at_, op) || op == "!") continue;
      if (op == "(" || op == "[" || op == "{") brackets += op == "(" ? ')' : op == "[" ? ']' : '}';
      if (op == ")" || op == "]" || op == "}") {
        if (brackets.empty()) fail(at_, "'" + std::string(op) + "' closes nothing");
        if (brackets.back() != op[0]) fail(at_, "'" + std::string(op) + "' where '" + brackets.back() + "' is expected");
        brackets.pop_back();
      }
      add(Token::Kind::op, at_, std::string(op));
      return move(at_ + op.size());
    }
    fail(at_, "unexpected character '" + source_.substr(at_, code_point(source_, at_).size) + "'");
  }

  // Digits with single underscores between them; the place after them.
  std::size_t digits(std::size_t at) const {
    while (at < source_.size() &&
           (is_digit(source_[at]) || (source_[at] == '_' && at + 1 < source_.size() && is_digit(source_[at + 1]))))
      ++at;
    return at;
  }
  void number_token() {
    const std::size_t begin = at_;
    std::size_t end = at_;
    int base = 10;
    bool real = false;
    if (source_[at_] == '0' && at_ + 2 < source_.size()) {
      const char mark = static_cast<char>(source_[at_ + 1] | 0x20);
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    }
    if (base != 10) {
      end = at_ + 2;
      const auto fits = [&](char c) {
        const char low = static_cast<char>(c | 0x20);
        const int digit = is_digit(c) ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : 99;
        return digit < base || c == '_';
      };
      while (end < source_.size() && fits(source_[end])) ++end;
    } else {
      end = digits(end);
      const auto digit_at = [&](std::size_t at) { return at < source_.size() && is_digit(source_[at]); };
      // x.0.1 indexes twice: no fraction behind a dot.
      if (begin == 0 || source_[begin - 1] != '.') {
        if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) real = true, end = digits(end + 1);
        if (end < source_.size() && (source_[end] | 0x20) == 'e') {
          std::size_t power = end + 1;
          if (power < source_.size() && (source_[power] == '+' || source_[power] == '-')) ++power;
          if (digit_at(power)) real = true, end = digits(power);
        }
      }
    }
    std::string text = source_.substr(begin, end - begin);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    if (real) {
      double value = 0;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      if (result.ec == std::errc::result_out_of_range) value = std::strtod(text.c_str(), nullptr);
      add(Token::Kind::number, begin, text).value = Value(value);
    } else {
      std::int64_t value = 0;
      const char* first = text.data() + (base == 10 ? 0 : 2);
      const auto result = std::from_chars(first, text.data() + text.size(), value, base);
      if (result.ec == std::errc::result_out_of_range) fail(begin, "integer " + text + " beyond 64 bits");
      if (result.ec != std::errc() || result.ptr != text.data() + text.size()) fail(begin, "bad number '" + text + "'");
      if (base == 10 && text.size() > 1 && text[0] == '0' && value != 0) fail(begin, "bad number '" + text + "'");
      add(Token::Kind::integer, begin, text).value = Value(value);
    }
    move(end);
  }

  std::uint32_t escape_digits(std::size_t& at, std::size_t end, std::size_t most, int base, std::size_t least) {
    std::uint32_t value = 0;
    const std::size_t stop = std::min(end, at + most);
    const auto result = std::from_chars(source_.data() + at, source_.data() + stop, value, base);
    const auto read = static_cast<std::size_t>(result.ptr - (source_.data() + at));
    if (result.ec != std::errc() || read < least) fail(at, "bad escape in a string");
    at += read;
    return value;
  }
  void string_token(char quote) {
    const std::size_t begin = at_;
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail(begin, "string is not closed");
    std::string text;
    for (std::size_t at = begin + 1; at < end;) {
      if (source_[at] != '\\') {
        text += source_[at++];
        continue;
      }
      const char c = source_[at + 1];
      at += 2;
      constexpr std::string_view from = "abfnrtv\\'\"", to = "\a\b\f\n\r\t\v\\'\"";
      if (const std::size_t simple = from.find(c); simple != std::string_view::npos) {
        text += to[simple];
      } else if (c == '\n') {  // a line continued
      } else if (c >= '0' && c <= '7') {
        --at;
        append_code_point(text, escape_digits(at, end, 3, 8, 1));
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        std::uint32_t value = escape_digits(at, end, count, 16, count);
        if (value >= 0xD800 && value < 0xDC00 && starts(at, "\\u")) {  // a surrogate pair, as JSON writers spell it
          at += 2;
          const std::uint32_t low = escape_digits(at, end, 4, 16, 4);
          if (low >= 0xDC00 && low < 0xE000) value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
        }
        if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) fail(at, "escape is no Unicode character");
        append_code_point(text, value);
      } else if (c == 'N') {
        throw UnsupportedError(file_ + ": line " + std::to_string(line(at)) + ": escape \\N{...} in a string");
      } else {
        text += '\\';
        text += c;
      }
    }
    add(Token::Kind::string, begin, std::move(text));
    move(end + 1);
  }

  const std::string& file_;
  std::string source_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0, counted_ = 0;
  std::uint32_t line_ = 1;
  bool line_starting_ = true;
};

}  // namespace detail::jinja
}  // namespace chiasm::inline CHIASM_ABI
