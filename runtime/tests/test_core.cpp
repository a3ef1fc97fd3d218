// Half floats, budget, threads, checksums.
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>
#include <vector>

#include "check.h"
#include "core/budget.h"
#include "core/checksum.h"
#include "core/half.h"
#include "core/threads.h"
#include "core/turns.h"

using namespace edgekit;

TEST(every_half_survives_the_way_to_float_and_back) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = f16_to_float(static_cast<uint16_t>(h));
    if (std::isnan(f)) continue;
    CHECK(float_to_f16(f) == h);
  }
}

TEST(floats_round_to_the_nearest_half) {
  for (uint32_t h = 0; h < 0x7BFF; ++h) {
    const float low = f16_to_float(static_cast<uint16_t>(h)), high = f16_to_float(static_cast<uint16_t>(h + 1));
    const float middle = low + (high - low) / 2;  // exact: one more bit of mantissa
    CHECK(float_to_f16(std::nextafterf(middle, 0.0f)) == h);
    CHECK(float_to_f16(std::nextafterf(middle, 1e9f)) == h + 1);
    CHECK(float_to_f16(middle) == (h % 2 == 0 ? h : h + 1));  // ties to even
  }
  CHECK(float_to_f16(1e9f) == 0x7C00);
  CHECK(float_to_f16_saturated(1e9f) == 0x7BFF && float_to_f16_saturated(-1e9f) == 0xFBFF);
  CHECK(float_to_f16_saturated(INFINITY) == 0x7BFF && float_to_f16_saturated(1.0f) == 0x3C00);
  CHECK(std::isnan(f16_to_float(float_to_f16_saturated(NAN))));
}

TEST(budget_refuses_what_does_not_fit_and_counts_the_peak) {
  Budget budget(3 * 4096);
  {
    auto a = Buffer::allocate(budget, 4097, "a");
    CHECK(a.ok() && a.value().size() == 8192 && budget.used() == 8192);
    auto b = Buffer::allocate(budget, 4097, "b");
    CHECK(!b.ok() && b.error().status == EDGEKIT_OVER_BUDGET);
    CHECK(Buffer::allocate(budget, ~uint64_t{0}, "c").ok() == false);
  }
  CHECK(budget.used() == 0 && budget.peak() == 8192);
}

TEST(parallel_for_visits_everything_once) {
  for (uint32_t threads : {1u, 2u, 4u}) {
    ThreadPool pool;
    CHECK(pool.start(threads).ok());
    for (uint32_t count : {0u, 1u, 7u, 1000u}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        std::vector<std::atomic<int>> seen(count);
        pool.parallel_for(count, 3, [&](uint32_t begin, uint32_t end, uint32_t worker) {
          CHECK(worker < threads);
          for (uint32_t i = begin; i < end; ++i) seen[i].fetch_add(1);
        });
        for (auto& s : seen) CHECK(s.load() == 1);
      }
    }
  }
}

TEST(checksum_catches_every_flipped_bit_and_every_length) {
  std::vector<uint8_t> data(200);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 37);
  const uint64_t sum = lane64(data.data(), data.size());
  for (size_t i = 0; i < data.size() * 8; ++i) {
    data[i / 8] = static_cast<uint8_t>(data[i / 8] ^ 1u << i % 8);
    CHECK(lane64(data.data(), data.size()) != sum);
    data[i / 8] = static_cast<uint8_t>(data[i / 8] ^ 1u << i % 8);
  }
  for (size_t n = 0; n < data.size(); ++n) CHECK(lane64(data.data(), n) != sum);
}

TEST(turns_are_granted_in_the_order_they_were_asked_for) {
  Turns turns;
  std::vector<int> order;
  std::vector<std::thread> waiting;
  turns.lock();
  for (int i = 0; i < 8; ++i) {
    waiting.emplace_back([&turns, &order, i] {
      std::lock_guard<Turns> turn(turns);
      order.push_back(i);
    });
    while (turns.queue() < static_cast<uint64_t>(i) + 2) std::this_thread::yield();
  }
  turns.unlock();
  for (auto& thread : waiting) thread.join();
  CHECK(order == std::vector<int>({0, 1, 2, 3, 4, 5, 6, 7}));
  CHECK(turns.queue() == 0);
}
