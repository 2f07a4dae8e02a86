#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/json.hpp>
#include <chiasm/io/tokenizer.hpp>

#include <algorithm>
#include <cstdlib>

// A tokenizer file of any format, then, behind a NUL byte where the format is text, more text: what is to be tokenised, or merges.txt behind a
// vocab.json. Whatever loads must encode any bytes into ids that decode into UTF-8.
namespace {

using namespace chiasm;

void use(const Tokenizer& tokenizer, std::string_view text) {
  if (text.empty()) text = "I've  seen <s>12 caf\xC3\xA9s\xFF\n \xE6\xBC\xA2 a\xCC\x81";
  text = text.substr(0, 256);
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
}

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\0'), input.size());
  const std::string_view head = input.substr(0, end), rest = input.substr(std::min(end + 1, size));
  const auto attempt = [](auto work) {
    try {
      work();
    } catch (const Error&) {
    }
  };
  const auto model = [&](const char* name) { attempt([&] { use(Tokenizer::load(Checkpoint::from_memory({{name, bytes(input)}})), {}); }); };
  if (input.starts_with('{')) {
    attempt([&] { use(Tokenizer::from_json(Json::parse(head)), rest); });
    attempt([&] { use(Tokenizer::load(Checkpoint::from_memory({{"vocab.json", bytes(head)}, {"merges.txt", bytes(rest)}})), {}); });
  } else if (input.starts_with('\n')) {
    for (const char* name : {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}) model(name);
  } else {
    for (const char* name : {"tokenizer.model", "qwen.tiktoken", "vocab.txt"}) model(name);
  }
  return 0;
}
