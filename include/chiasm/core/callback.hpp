/// Callback: an owned callable, as std::function without its header.
#pragma once

#include <chiasm/version.hpp>

#include <memory>
#include <type_traits>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

template <class Signature>
class Callback;

template <class Result, class... Args>
class Callback<Result(Args...)> {
 public:
  Callback() = default;
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, Callback> && std::is_invocable_r_v<Result, std::remove_cvref_t<F>&, Args...>)
  Callback(F&& f) : target_(std::make_shared<Holder<std::remove_cvref_t<F>>>(std::forward<F>(f))) {}  // NOLINT: implicit

  explicit operator bool() const noexcept { return target_ != nullptr; }
  Result operator()(Args... args) const { return target_->call(std::forward<Args>(args)...); }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual Result call(Args... args) = 0;
  };
  template <class F>
  struct Holder final : Base {
    template <class G>
    explicit Holder(G&& g) : f(std::forward<G>(g)) {}
    Result call(Args... args) override { return f(std::forward<Args>(args)...); }
    F f;
  };
  std::shared_ptr<Base> target_;
};

}  // namespace chiasm
