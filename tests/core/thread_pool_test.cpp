#include <chiasm/core/error.hpp>
#include <chiasm/core/thread_pool.hpp>

#include "support/catch.hpp"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace chiasm;

TEST_CASE("a loop visits every index once, in pieces of at least the grain") {
  for (const std::size_t threads : {1u, 2u, 3u, 8u}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (const std::size_t count : {0u, 1u, 2u, 7u, 64u, 1000u, 1001u})
      for (const std::size_t grain : {0u, 1u, 5u, 2000u}) {
        std::vector<std::atomic<int>> visits(count);
        std::atomic<int> small{0};
        pool.parallel(count, grain, [&](std::size_t begin, std::size_t end) {
          if (end - begin < grain && end != count) ++small;
          for (std::size_t i = begin; i < end; ++i) ++visits[i];
        });
        int wrong = 0;
        for (const auto& visit : visits) wrong += visit != 1;
        CHECK(wrong == 0);
        CHECK(small == 0);
      }
  }
}

TEST_CASE("thousands of short loops in a row") {
  ThreadPool pool(4);
  std::atomic<std::size_t> total{0};
  for (int i = 0; i < 3000; ++i) pool.parallel(16, 1, [&](std::size_t begin, std::size_t end) { total += end - begin; });
  CHECK(total == 48000);
}

TEST_CASE("loops with a pause between them: workers that sleep wake up") {
  ThreadPool pool(3);
  std::atomic<std::size_t> total{0};
  for (int i = 0; i < 20; ++i) {
    pool.parallel(9, 1, [&](std::size_t begin, std::size_t end) { total += end - begin; });
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(total == 180);
}

TEST_CASE("the first exception comes out, and the pool lives on") {
  ThreadPool pool(4);
  for (int i = 0; i < 50; ++i) {
    CHECK_THROWS_AS(pool.parallel(100, 1, [](std::size_t begin, std::size_t) { if (begin >= 20) throw std::out_of_range("x"); }), std::out_of_range);
    std::atomic<int> sum{0};
    pool.parallel(10, 1, [&](std::size_t begin, std::size_t end) { sum += static_cast<int>(end - begin); });
    CHECK(sum == 10);
  }
}

TEST_CASE("a loop inside a loop runs on its own thread") {
  ThreadPool pool(4);
  std::atomic<int> inner{0};
  pool.parallel(8, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
      pool.parallel(10, 1, [&](std::size_t from, std::size_t to) { inner += static_cast<int>(to - from); });
  });
  CHECK(inner == 80);
}

TEST_CASE("two threads may use one pool") {
  ThreadPool pool(3);
  std::atomic<int> total{0};
  std::vector<std::thread> users;
  for (int t = 0; t < 3; ++t)
    users.emplace_back([&] {
      for (int i = 0; i < 300; ++i) pool.parallel(12, 1, [&](std::size_t begin, std::size_t end) { total += static_cast<int>(end - begin); });
    });
  for (std::thread& user : users) user.join();
  CHECK(total == 3 * 300 * 12);
}

TEST_CASE("an absurd number of threads is refused") { CHECK_THROWS_AS(ThreadPool(100'000), ArgumentError); }
