#include <chiasm/core/function_ref.hpp>

#include "support/catch.hpp"

#include <memory>
#include <string>

using namespace chiasm;

namespace {
int twice(FunctionRef<int(int)> f) { return f(f(1)); }
}  // namespace

TEST_CASE("a FunctionRef calls what it borrows") {
  int calls = 0;
  const auto add = [&calls](int x) {
    ++calls;
    return x + 2;
  };
  CHECK(twice(add) == 5);
  CHECK(calls == 2);
  CHECK(twice([](int x) { return x * 10; }) == 100);
}

TEST_CASE("a FunctionRef passes references and move-only values") {
  std::string text = "a";
  const auto append = [](std::string& to, std::unique_ptr<int> value) -> std::string& { return to += std::to_string(*value); };
  const FunctionRef<std::string&(std::string&, std::unique_ptr<int>)> call = append;
  CHECK(&call(text, std::make_unique<int>(7)) == &text);
  CHECK(text == "a7");
}

TEST_CASE("a FunctionRef takes only what fits") {
  static_assert(!std::is_constructible_v<FunctionRef<int(int)>, void (*)(std::string)>);
  static_assert(std::is_constructible_v<FunctionRef<void(int)>, int (&)(int)>);
  static_assert(sizeof(FunctionRef<void()>) == 2 * sizeof(void*));
  SUCCEED();
}

TEST_CASE("exceptions pass through a FunctionRef") {
  const auto fail = [](int) -> int { throw 5; };
  CHECK_THROWS_AS(twice(fail), int);
}
