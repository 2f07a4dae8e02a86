#include <chiasm/io/constraint.hpp>

#include <chiasm/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>

// A regular expression or a schema's text: it compiles into something that reads any text, or is an error.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace chiasm;
  const std::string_view input(reinterpret_cast<const char*>(data), std::min<std::size_t>(size, 1024));
  for (const bool is_schema : {false, true}) {
    try {
      const Constraint constraint = is_schema ? Constraint::json_schema(input) : Constraint::regex(input);
      (void)constraint.matches(input);
      (void)constraint.matches("{\"a\":[1,2.5,null,\"x\"]}");
    } catch (const Error&) {
    }
  }
  return 0;
}
