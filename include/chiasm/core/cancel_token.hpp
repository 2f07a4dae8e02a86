/// CancelToken: a shared flag by which another thread stops a running call. Copies share the flag.
#pragma once

#include <chiasm/core/error.hpp>

#include <atomic>
#include <memory>

namespace chiasm::inline CHIASM_ABI {

class CancelToken {
 public:
  void cancel() noexcept { flag_->store(true, std::memory_order_relaxed); }
  void reset() noexcept { flag_->store(false, std::memory_order_relaxed); }
  bool cancelled() const noexcept { return flag_->load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace chiasm
