/// ThreadPool: a fixed set of workers that share one loop at a time. The bodies are in impl/thread_pool.ipp.
#pragma once

#include <chiasm/core/function_ref.hpp>

#include <cstddef>
#include <memory>

namespace chiasm::inline CHIASM_ABI {

class ThreadPool {
 public:
  /// `threads` counts the calling thread; 0 takes CHIASM_THREADS, or else the processors that this process may use.
  explicit ThreadPool(std::size_t threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Threads that take part in a loop, the caller included.
  std::size_t size() const noexcept;

  /// Calls body(begin, end) on pieces of [0, count), each of at least `grain` (but the last), on all threads, and returns when all are done.
  /// Rethrows the first exception. A call from within a body, or while another thread uses the pool, runs on the calling thread alone.
  void parallel(std::size_t count, std::size_t grain, FunctionRef<void(std::size_t begin, std::size_t end)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/thread_pool.ipp>
#endif
