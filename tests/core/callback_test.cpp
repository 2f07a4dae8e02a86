#include <chiasm/core/callback.hpp>

#include "support/catch.hpp"

#include <memory>
#include <string>
#include <string_view>

using namespace chiasm;

TEST_CASE("an empty callback is false") {
  const Callback<void()> none;
  CHECK_FALSE(none);
}

TEST_CASE("a callback owns its callable, copies share it") {
  auto life = std::make_shared<int>(0);
  const std::weak_ptr<int> watch = life;
  {
    Callback<int(int)> count = [life = std::move(life)](int by) { return *life += by; };
    CHECK(count);
    const Callback<int(int)> copy = count;
    CHECK(count(2) == 2);
    CHECK(copy(3) == 5);
    count = {};
    CHECK_FALSE(watch.expired());
    CHECK(copy(1) == 6);
  }
  CHECK(watch.expired());
}

TEST_CASE("a callback takes move-only callables and arguments") {
  const Callback<int(std::unique_ptr<int>)> call = [base = std::make_unique<int>(40)](std::unique_ptr<int> more) { return *base + *more; };
  CHECK(call(std::make_unique<int>(2)) == 42);
}

TEST_CASE("a callback of a piece of text says whether to go on") {
  std::string text;
  const Callback<bool(std::string_view)> on_text = [&text](std::string_view piece) {
    text += piece;
    return text.size() < 4;
  };
  CHECK(on_text("ab"));
  CHECK_FALSE(on_text("cd"));
  CHECK(text == "abcd");
}
