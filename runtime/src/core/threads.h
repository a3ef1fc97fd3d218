// A fixed pool of threads for short data-parallel loops; the caller's thread works too.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/result.h"
#include "core/sharing.h"

namespace edgekit {

class ThreadPool {
 public:
  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ~ThreadPool();

  // `judges`: the caller computes alone while sharing makes loops no faster, as when other processes keep the cores
  // busy; otherwise every loop is shared.
  Outcome start(uint32_t threads, bool judges = true);
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
  // The loop at hand. A thread that comes late reads it while the next one is written, so it is made of atomics,
  // and what was read counts only once a range of that very job is claimed.
  struct Job {
    std::atomic<Call> call{nullptr};
    std::atomic<const void*> body{nullptr};
    std::atomic<uint32_t> count{0}, grain{1}, ranges{0};
  };
  static void* thread_main(void* pool);
  void run(uint32_t count, uint32_t grain, Call call, const void* body);
  void publish(uint32_t count, uint32_t grain, Call call, const void* body);
  // Computes ranges of the job at hand until all are claimed; returns how many this thread computed.
  uint32_t work(uint32_t worker);
  bool has_work() const;
  void await(uint32_t ranges);

  std::vector<pthread_t> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  // The job's number above, the next range to claim below: one word, so that nobody claims a range of one job
  // with the parameters of another. All ones below: no range can be claimed.
  std::atomic<uint64_t> next_{kClosed};
  static constexpr uint64_t kClosed = UINT32_MAX;
  Job job_;
  std::atomic<uint32_t> done_{0};      // ranges of the job that are computed
  std::atomic<uint32_t> sleepers_{0};  // workers that must be woken
  std::atomic<bool> waiting_{false};   // the caller must be woken
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> joined_{0};  // workers that have taken their number
  bool judges_ = true;
  Sharing sharing_;
};

}  // namespace edgekit
