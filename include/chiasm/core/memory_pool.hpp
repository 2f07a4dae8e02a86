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

#if defined(__linux__)
#include <sys/mman.h>
#endif

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
    return allocate(class_bytes(index));
  }

  /// Takes back a block that acquire(bytes) gave.
  void release(void* block, std::size_t bytes) noexcept {
    const std::size_t index = size_class(bytes);
    {
      const Guard guard(*this);
      if (!closed_) {
        try {
          free_[index].push_back(block);
          return;
        } catch (...) {  // no room to remember it
        }
      }
    }
    deallocate(block, class_bytes(index));
  }

  /// Gives all free blocks back to the system.
  void trim() noexcept {
    const Guard guard(*this);
    for (std::size_t index = 0; index < free_.size(); ++index) {
      for (void* block : free_[index]) deallocate(block, class_bytes(index));
      free_[index].clear();
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

  // Large blocks are whole huge pages, where the system has them: products that read them are an eighth faster (bench/kernels/gemm_bench).
  static constexpr std::size_t huge_page = std::size_t{2} << 20;
  static constexpr bool is_large(std::size_t bytes) noexcept { return bytes >= huge_page / 2; }
  static constexpr std::align_val_t alignment_of(std::size_t bytes) noexcept { return std::align_val_t(is_large(bytes) ? huge_page : alignment); }
  static void* allocate(std::size_t bytes) {
    const std::size_t whole = is_large(bytes) ? (bytes + huge_page - 1) / huge_page * huge_page : bytes;
    void* const block = ::operator new(whole, alignment_of(bytes));
#if defined(__linux__)
    if (is_large(bytes)) ::madvise(block, whole, MADV_HUGEPAGE);  // a wish: without them all goes on as before
#endif
    return block;
  }
  static void deallocate(void* block, std::size_t bytes) noexcept { ::operator delete(block, alignment_of(bytes)); }

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
