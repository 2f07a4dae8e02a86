#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/dispatch.hpp>

namespace chiasm::inline CHIASM_ABI {

CHIASM_INLINE Context::Context(ContextOptions options) : Context(std::make_shared<ThreadPool>(options.threads), options) {}

CHIASM_INLINE Context::Context(std::shared_ptr<ThreadPool> pool, ContextOptions options)
    : options_(std::move(options)), pool_(std::move(pool)), kernels_(&kernels::active(options_.isa)) {
  if (pool_ == nullptr) throw ArgumentError("Context: no thread pool");
  options_.isa = {};  // borrowed from the caller, who may be gone; kernels_ knows
}

CHIASM_INLINE std::string_view Context::isa() const noexcept { return name(kernels_->isa); }

}  // namespace chiasm
