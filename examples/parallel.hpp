/// Many independent questions to one small model: a thread each serves better than all threads on one of them.
#pragma once

#include "options.hpp"

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace examples {

/// Calls work(ctx, i) for each i below `count`, on as many threads as the pipeline has, with a progress line. The first exception ends it and is thrown.
template <class Work>
void in_parallel(const chiasm::Pipeline& vlm, const Options& options, const std::string& label, std::size_t count, Work work) {
  std::atomic<std::size_t> next{0};
  std::size_t done = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  Progress progress(label);
  const auto run = [&] {
    try {
      chiasm::Context ctx(std::make_shared<chiasm::ThreadPool>(1), {.isa = options.isa, .compute = vlm.new_context().compute()});
      for (std::size_t i; (i = next++) < count;) {
        work(ctx, i);
        const std::lock_guard lock(mutex);
        progress("", ++done, count);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t t = 1; t < vlm.new_context().threads(); ++t) threads.emplace_back(run);
  run();
  threads.clear();
  progress.clear();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace examples
