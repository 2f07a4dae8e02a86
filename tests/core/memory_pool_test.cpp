#include <chiasm/core/memory_pool.hpp>

#include "support/catch.hpp"

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

using namespace chiasm;

TEST_CASE("blocks are aligned, large enough, and come again") {
  MemoryPool pool;
  for (std::size_t bytes : {0u, 1u, 255u, 256u, 257u, 320u, 321u, 4096u, 4097u, 100'000u, 1u << 20}) {
    void* const block = pool.acquire(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(block) % MemoryPool::alignment == 0);
    std::memset(block, 1, bytes);
    pool.release(block, bytes);
    void* const again = pool.acquire(bytes);
    CHECK(again == block);
    pool.release(again, bytes);
  }
}

TEST_CASE("a block of every size holds it") {
  MemoryPool pool;  // AddressSanitizer would see a write past the end
  for (std::size_t bytes = 1; bytes < 9000; bytes += 13) {
    void* const block = pool.acquire(bytes);
    std::memset(block, 2, bytes);
    pool.release(block, bytes);
  }
  pool.trim();
}

TEST_CASE("a pool serves threads at the same time") {
  MemoryPool pool;
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const std::size_t bytes = 64 + static_cast<std::size_t>(i % 7) * 200;
        auto* const block = static_cast<unsigned char*>(pool.acquire(bytes));
        std::memset(block, t, bytes);
        for (std::size_t k = 0; k < bytes; k += 50) wrong[static_cast<std::size_t>(t)] += block[k] != t;
        pool.release(block, bytes);
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}
