#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/gguf.hpp>
#include <chiasm/io/tokenizer.hpp>

#include <cstdlib>

// A GGUF file, or its metadata alone. Whatever loads must encode any bytes into ids that decode into UTF-8, and name only tokens that are there.
namespace {

using namespace chiasm;

void use(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  if (!unicode::is_valid(tokenizer.decode(ids))) std::abort();
  TokenStream stream(tokenizer);
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= tokenizer.size()) std::abort();
    const auto piece = stream.push(id);
    if (piece && !unicode::is_valid(*piece)) std::abort();
  }
  stream.flush();
  for (const TokenId id : tokenizer.ends())
    if (tokenizer.token(id).empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Gguf file = Gguf::parse(FileMap(std::as_bytes(std::span(data, size)), "fuzz.gguf"));
    try {
      ChatTemplate::find(file);
    } catch (const Error&) {
    }
    const Tokenizer tokenizer = Tokenizer::from_gguf(file);
    use(tokenizer, "I've  seen <s>12 caf\xC3\xA9s\xFF\n \xE6\xBC\xA2 a\xCC\x81 [PAD901]<|im_end|>");
    // What stands in the file is the likeliest to be of its vocabulary.
    use(tokenizer, std::string_view(reinterpret_cast<const char*>(data), size).substr(0, 256));
  } catch (const Error&) {
  }
  return 0;
}
