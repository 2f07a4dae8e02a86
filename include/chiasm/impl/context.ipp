#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/dispatch.hpp>

#include <algorithm>

#if CHIASM_X86
#include <xmmintrin.h>
#endif

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Denormal numbers count as zero while it lives (MXCSR's bits FTZ and DAZ); then the thread's own setting is back.
class NoDenormals {
#if CHIASM_X86
 public:
  NoDenormals() noexcept : own_(_mm_getcsr()) { _mm_setcsr(own_ | 0x8040u); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;
  ~NoDenormals() { _mm_setcsr(own_); }

 private:
  unsigned own_;
#endif
};

}  // namespace detail

CHIASM_INLINE Context::Context(ContextOptions options) : Context(std::make_shared<ThreadPool>(options.threads), options) {}

CHIASM_INLINE Context::Context(std::shared_ptr<ThreadPool> pool, ContextOptions options)
    : options_(std::move(options)), pool_(std::move(pool)), kernels_(&kernels::active(options_.isa)) {
  if (pool_ == nullptr) throw ArgumentError("Context: no thread pool");
  options_.isa = {};  // borrowed from the caller, who may be gone; kernels_ knows
}

CHIASM_INLINE void Context::parallel(std::size_t count, std::size_t grain, FunctionRef<void(std::size_t, std::size_t)> body) {
  pool_->parallel(count, grain, [&](std::size_t begin, std::size_t end) {
    [[maybe_unused]] const detail::NoDenormals quick;
    body(begin, end);
  });
}

CHIASM_INLINE std::size_t Context::most_steps() const noexcept {
  constexpr std::size_t most = 16;  // guesses of more tokens are hardly ever right to their end
  return std::min(most, kernels_->gemv_tokens[static_cast<std::size_t>(options_.compute)][static_cast<std::size_t>(DType::f32)]);
}

CHIASM_INLINE std::string_view Context::isa() const noexcept { return name(kernels_->isa); }

}  // namespace chiasm
