#pragma once

#include <chiasm/io/tokenizer/token_stream.hpp>

namespace chiasm::inline CHIASM_ABI {

namespace detail {
// What `text` says beyond `said`, which the decoder may spell differently by now: ill-formed bytes that follow turn a run of byte
// tokens that read well until then into one U+FFFD per byte. What was handed out stays.
inline std::string_view beyond(std::string_view text, std::string_view said) {
  constexpr std::string_view replacement = "\xEF\xBF\xBD";
  std::size_t same = 0;
  while (same < said.size() && same < text.size() && text[same] == said[same]) ++same;
  while (same > 0 && same < text.size() && (static_cast<unsigned char>(text[same]) & 0xC0U) == 0x80U) --same;
  text.remove_prefix(same);
  for (std::size_t left = said.size() - same; left > 0 && text.starts_with(replacement); --left) text.remove_prefix(replacement.size());
  return text;
}
}  // namespace detail

CHIASM_INLINE TokenStream::TokenStream(Tokenizer tokenizer, bool skip_special_tokens)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special_tokens) {}

CHIASM_INLINE std::optional<std::string> TokenStream::push(TokenId token) {
  constexpr std::size_t most_held = 1024;
  const auto unfinished = [](std::string_view text) { return text.ends_with("\xEF\xBF\xBD"); };
  // A token that decodes to nothing must not lengthen the window.
  if (skip_special_ && tokenizer_.is_special(token)) return std::nullopt;
  if (prefix_.empty() && !ids_.empty()) {
    std::string text = tokenizer_.decode(ids_, skip_special_);
    if (!unfinished(text)) {
      prefix_ = std::move(text);
      prefix_size_ = ids_.size();
    }
  }
  ids_.push_back(token);
  const std::string text = tokenizer_.decode(ids_, skip_special_);
  const bool overdue = ids_.size() - prefix_size_ >= most_held;
  if (text.size() <= prefix_.size() || (unfinished(text) && !overdue)) return std::nullopt;
  std::string piece(detail::beyond(text, prefix_));
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(prefix_size_));
  prefix_size_ = ids_.size();
  prefix_ = tokenizer_.decode(ids_, skip_special_);
  return piece;
}

CHIASM_INLINE std::string TokenStream::flush() {
  const std::string text = tokenizer_.decode(ids_, skip_special_);
  std::string rest(detail::beyond(text, prefix_));
  ids_.clear();
  prefix_.clear();
  prefix_size_ = 0;
  return rest;
}

}  // namespace chiasm
