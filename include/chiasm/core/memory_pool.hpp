/// MemoryPool: recycled 64-byte aligned blocks. A tensor gives its block back when it dies, so that a loop over the same
/// shapes (a decode step) asks the system for nothing after its first turn.
#pragma once

#include <chiasm/version.hpp>

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class MemoryPool {
 public:
  static constexpr std::size_t alignment = 64;

  MemoryPool() = default;
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  ~MemoryPool() { trim(); }

  /// At least `bytes` bytes, aligned. Throws std::bad_alloc.
  void* acquire(std::size_t bytes) {
    const std::size_t index = size_class(bytes);
    {
      const Guard guard(*this);
      if (!free_[index].empty()) {
        void* block = free_[index].back();
        free_[index].pop_back();
        return block;
      }
    }
    return ::operator new(class_bytes(index), std::align_val_t(alignment));
  }

  /// Takes back a block that acquire(bytes) gave.
  void release(void* block, std::size_t bytes) noexcept {
    {
      const Guard guard(*this);
      if (!closed_) {
        try {
          free_[size_class(bytes)].push_back(block);
          return;
        } catch (...) {  // no room to remember it
        }
      }
    }
    ::operator delete(block, std::align_val_t(alignment));
  }

  /// Gives all free blocks back to the system.
  void trim() noexcept {
    const Guard guard(*this);
    for (auto& blocks : free_) {
      for (void* block : blocks) ::operator delete(block, std::align_val_t(alignment));
      blocks.clear();
    }
  }

  /// Keeps no block from now on. For the end of the pool's owner: a tensor that outlives it holds the pool, but nobody's free blocks.
  void close() noexcept {
    {
      const Guard guard(*this);
      closed_ = true;
    }
    trim();
  }

 private:
  // Four classes per power of two: at most a quarter of a block is unused.
  static constexpr std::size_t size_class(std::size_t bytes) noexcept {
    const std::size_t units = (bytes < 256 ? 256 : bytes) - 1;
    const auto shift = static_cast<std::size_t>(std::bit_width(units)) - 3;
    return (shift - 5) * 4 + ((units >> shift) & 3) + 1;
  }
  static constexpr std::size_t class_bytes(std::size_t index) noexcept {
    const std::size_t shift = (index - 1) / 4 + 5, quarter = (index - 1) % 4;
    return (quarter + 5) << shift;
  }

  struct Guard {  // a spin lock: held for a push or a pop
    explicit Guard(MemoryPool& pool) noexcept : busy(pool.busy_) {
      while (busy.test_and_set(std::memory_order_acquire)) {}
    }
    ~Guard() { busy.clear(std::memory_order_release); }
    std::atomic_flag& busy;
  };
  std::atomic_flag busy_;
  std::array<std::vector<void*>, 240> free_;
  bool closed_ = false;
};

}  // namespace chiasm
