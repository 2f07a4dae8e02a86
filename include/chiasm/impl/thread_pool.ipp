#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/core/thread_pool.hpp>

#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace chiasm::inline CHIASM_ABI {

namespace detail {

inline std::size_t usable_processors() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<std::size_t>(CPU_COUNT(&set));
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : count;
}

inline std::size_t default_threads() {
  const char* setting = std::getenv("CHIASM_THREADS");
  if (setting == nullptr || *setting == '\0') return usable_processors();
  const std::string_view text = setting;
  std::size_t threads = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threads);
  if (error != std::errc() || end != text.data() + text.size() || threads == 0 || threads > 1024)
    throw ArgumentError("CHIASM_THREADS is '" + std::string(text) + "', expected a number from 1 to 1024");
  return threads;
}

inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

}  // namespace detail

struct ThreadPool::State {
  using Body = FunctionRef<void(std::size_t, std::size_t)>;

  std::vector<std::thread> workers;
  std::atomic_flag busy;
  // One loop. `turn` announces it: workers spin on it for a while, then sleep.
  std::atomic<std::uint64_t> turn{0};
  // The caller waits only for workers that are inside: one that woke too late finds the loop closed and stays out.
  std::atomic<bool> open{false};
  std::atomic<std::size_t> next{0}, inside{0};
  std::size_t count = 0, piece = 1;
  const Body* body = nullptr;
  std::atomic<bool> failed{false}, stop{false};
  std::exception_ptr failure;
  std::mutex mutex;
  std::condition_variable wake;

  void take_pieces() noexcept {
    for (;;) {
      const std::size_t begin = next.fetch_add(piece, std::memory_order_relaxed);
      if (begin >= count) return;
      try {
        (*body)(begin, begin + (count - begin < piece ? count - begin : piece));
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
        next.store(count, std::memory_order_relaxed);
        return;
      }
    }
  }

  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      // A decode step comes round every few hundred microseconds: spinning that long saves two context switches a loop.
      // On a box with other work the spin must end soon.
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
      while (turn.load(std::memory_order_acquire) == seen) {
        for (int i = 0; i < 32 && turn.load(std::memory_order_acquire) == seen; ++i) detail::pause();
        if (std::chrono::steady_clock::now() < until) continue;
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return turn.load(std::memory_order_acquire) != seen; });
      }
      seen = turn.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      inside.fetch_add(1, std::memory_order_seq_cst);
      if (open.load(std::memory_order_seq_cst)) take_pieces();
      inside.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void announce() {
    {
      const std::lock_guard lock(mutex);
      turn.fetch_add(1, std::memory_order_acq_rel);
    }
    wake.notify_all();
  }
};

CHIASM_INLINE ThreadPool::ThreadPool(std::size_t threads) : state_(std::make_unique<State>()) {
  if (threads == 0) threads = detail::default_threads();
  if (threads > 1024) throw ArgumentError("ThreadPool: " + std::to_string(threads) + " threads, at most 1024");
  try {
    for (std::size_t i = 1; i < threads; ++i) state_->workers.emplace_back([state = state_.get()] { state->work(); });
  } catch (const std::exception&) {
    // The system gives no more threads: work with those that there are.
  }
}

CHIASM_INLINE ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->announce();
  for (std::thread& worker : state_->workers) worker.join();
}

CHIASM_INLINE std::size_t ThreadPool::size() const noexcept { return state_->workers.size() + 1; }

CHIASM_INLINE void ThreadPool::parallel(std::size_t count, std::size_t grain, FunctionRef<void(std::size_t, std::size_t)> body) {
  if (count == 0) return;
  if (grain == 0) grain = 1;
  State& state = *state_;
  if (count <= grain || state.workers.empty() || state.busy.test_and_set(std::memory_order_acquire)) return body(0, count);
  // Four pieces a thread: a thread that loses its processor for a while holds the others up less.
  const std::size_t piece = (count + size() * 4 - 1) / (size() * 4);
  state.count = count;
  state.piece = piece < grain ? grain : (piece + grain - 1) / grain * grain;
  state.body = &body;
  state.failed.store(false, std::memory_order_relaxed);
  state.next.store(0, std::memory_order_relaxed);
  state.open.store(true, std::memory_order_seq_cst);
  state.announce();
  state.take_pieces();
  state.open.store(false, std::memory_order_seq_cst);
  for (int spins = 0; state.inside.load(std::memory_order_seq_cst) != 0; ++spins)
    spins < 2000 ? detail::pause() : std::this_thread::yield();
  std::exception_ptr failure = std::move(state.failure);
  state.failure = nullptr;
  const bool failed = state.failed.load(std::memory_order_acquire);
  state.busy.clear(std::memory_order_release);
  if (failed) std::rethrow_exception(failure);
}

}  // namespace chiasm
