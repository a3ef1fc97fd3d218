// A fixed pool of threads for short data-parallel loops; the caller's thread works too.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/result.h"

namespace edgekit {

class ThreadPool {
 public:
  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ~ThreadPool();

  Outcome start(uint32_t threads);
  uint32_t size() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls body(begin, end, worker) on disjoint ranges that cover [0, count), each a multiple of `grain` but
  // the last. Ranges are handed out first come, first served, so bodies must not depend on who
  // computes what: every result element is computed whole by one call. `worker` < size() tells the
  // threads apart, for scratch space.
  template <class Body>
  void parallel_for(uint32_t count, uint32_t grain, const Body& body) {
    auto call = [](const void* b, uint32_t begin, uint32_t end, uint32_t worker) {
      (*static_cast<const Body*>(b))(begin, end, worker);
    };
    run(count, grain, call, &body);
  }

 private:
  using Call = void (*)(const void* body, uint32_t begin, uint32_t end, uint32_t worker);
  static void* thread_main(void* pool);
  void run(uint32_t count, uint32_t grain, Call call, const void* body);
  void work(uint32_t worker);

  std::vector<pthread_t> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};  // bumping it starts a job
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> joined_{0};  // workers that have taken their number
  // The job at hand; written before generation_ is bumped.
  Call call_ = nullptr;
  const void* body_ = nullptr;
  uint32_t count_ = 0;
  uint32_t grain_ = 1;
  std::atomic<uint32_t> next_{0};
  std::atomic<uint32_t> busy_{0};
};

}  // namespace edgekit
