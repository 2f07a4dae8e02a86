/// TokenStream: text of a growing sequence of tokens, piece by piece, never a part of a character. `tokenizers`' DecodeStream.
#pragma once

#include <chiasm/io/tokenizer/tokenizer.hpp>

namespace chiasm::inline CHIASM_ABI {

/// Decodes token by token. The pieces joined, with flush() at the end, are the text. Only the tokens behind the last piece
/// are decoded again, so a step costs the same at the end of a long text as at its beginning.
class TokenStream {
 public:
  explicit TokenStream(Tokenizer tokenizer, bool skip_special_tokens = true);

  /// Text that `token` completes: none while a character is unfinished or nothing new is to be seen. At most 1024 tokens are held back.
  std::optional<std::string> push(TokenId token);
  /// What is held back, U+FFFD where a character stayed unfinished; the stream is then as new.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  std::vector<TokenId> ids_;  // the last piece's tokens, then those held back
  std::string prefix_;        // text of the first `prefix_size_` ids
  std::size_t prefix_size_ = 0;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/tokenizer_stream.ipp>
#endif
