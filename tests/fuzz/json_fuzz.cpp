#include <chiasm/io/json.hpp>

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto duplicates : {chiasm::Json::Duplicates::last_wins, chiasm::Json::Duplicates::error}) {
    try {
      const chiasm::Json json = chiasm::Json::parse(text, "fuzz", duplicates);
      const std::string again = json.dump();
      if (chiasm::Json::parse(again).dump() != again) std::abort();
      for (const chiasm::Json child : json) child.pointer();
    } catch (const chiasm::FormatError&) {
    }
  }
  return 0;
}
