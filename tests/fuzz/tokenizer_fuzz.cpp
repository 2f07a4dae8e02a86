#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer.hpp>

#include <algorithm>
#include <cstdlib>

// A tokenizer.json, then perhaps a NUL byte and a text. Whatever loads must encode any bytes into ids that decode into UTF-8.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace chiasm;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\0'), input.size());
  std::string_view text = input.substr(std::min(end + 1, size));
  if (text.empty()) text = "I've  seen <s>12 caf\xC3\xA9s\xFF\n \xE6\xBC\xA2 a\xCC\x81";
  text = text.substr(0, 256);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(Json::parse(input.substr(0, end)));
    const auto ids = tokenizer.encode(text);
    if (!unicode::is_valid(tokenizer.decode(ids))) std::abort();
    const auto pair = tokenizer.encode_pair(text, "b");
    if (pair.ids.size() != pair.type_ids.size()) std::abort();
    TokenStream stream(tokenizer);
    for (const TokenId id : ids) {
      const auto piece = stream.push(id);
      if (piece && !unicode::is_valid(*piece)) std::abort();
    }
    stream.flush();
    for (TokenId id = -1; id < 8; ++id) tokenizer.token(id);
  } catch (const Error&) {
  }
  return 0;
}
