#include "core/threads.h"

#include <algorithm>

#include "core/clock.h"

namespace edgekit {

namespace {
// Loops inside a token follow each other within microseconds, so a worker looks for the next one
// for a while before it sleeps; longer would steal the core from the reader threads.
constexpr int kSpins = 2000;
// After the caller has lost time to a thread that got no core, it computes alone for so many times as long: then
// no more than a tenth is lost when the cores are busy with something else, and they are soon tried again.
constexpr double kAlone = 10;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
}  // namespace

Outcome ThreadPool::start(uint32_t threads) {
  for (uint32_t i = 1; i < threads; ++i) {
    pthread_t id;
    if (pthread_create(&id, nullptr, thread_main, this) != 0) {
      return fail(EDGEKIT_NO_MEMORY,
                  "cannot start compute thread " + std::to_string(i) + "; lower the number of threads");
    }
    workers_.push_back(id);
  }
  return Nothing{};
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (pthread_t id : workers_) pthread_join(id, nullptr);
}

bool ThreadPool::has_work() const { return static_cast<uint32_t>(next_.load()) < job_.ranges.load() || stop_.load(); }

void* ThreadPool::thread_main(void* pool) {
  ThreadPool& self = *static_cast<ThreadPool*>(pool);
  const uint32_t worker = self.joined_.fetch_add(1) + 1;
  while (true) {
    for (int i = 0; i < kSpins && !self.has_work(); ++i) pause_cpu();
    if (!self.has_work()) {
      std::unique_lock<std::mutex> lock(self.mutex_);
      self.sleepers_.fetch_add(1);
      self.wake_.wait(lock, [&] { return self.has_work(); });
      self.sleepers_.fetch_sub(1);
    }
    if (self.stop_.load()) return nullptr;
    self.work(worker);
  }
}

uint32_t ThreadPool::work(uint32_t worker) {
  uint32_t computed = 0;
  uint64_t at = next_.load();
  while (true) {
    const uint32_t range = static_cast<uint32_t>(at), ranges = job_.ranges.load();
    const uint32_t count = job_.count.load(), grain = job_.grain.load();
    const Call call = job_.call.load();
    const void* body = job_.body.load();
    if (range >= ranges) return computed;
    // Succeeds only while this job is open, so what was read above belongs to it.
    if (!next_.compare_exchange_strong(at, at + 1)) continue;
    const uint32_t begin = range * grain;
    call(body, begin, begin + std::min(grain, count - begin), worker);
    ++computed;
    if (done_.fetch_add(1) + 1 == ranges && waiting_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      finished_.notify_one();
    }
    at = next_.load();
  }
}

// Every range of the job before is computed, so only threads that claim nothing may still look at it.
void ThreadPool::publish(uint32_t count, uint32_t grain, Call call, const void* body) {
  const uint64_t number = (next_.load() >> 32) + 1;
  next_.store(number << 32 | kClosed);
  job_.call.store(call);
  job_.body.store(body);
  job_.count.store(count);
  job_.grain.store(grain);
  job_.ranges.store((count - 1) / grain + 1);
  done_.store(0);
  next_.store(number << 32);
  if (sleepers_.load() == 0) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
  }  // whoever saw no work is asleep once this was held
  wake_.notify_all();
}

// Waits for ranges that others compute: a moment awake, then asleep, so that they can have this core.
void ThreadPool::await(uint32_t ranges) {
  for (int i = 0; i < kSpins && done_.load() != ranges; ++i) pause_cpu();
  if (done_.load() == ranges) return;
  std::unique_lock<std::mutex> lock(mutex_);
  waiting_.store(true);
  finished_.wait(lock, [&] { return done_.load() == ranges; });
  waiting_.store(false);
}

void ThreadPool::run(uint32_t count, uint32_t grain, Call call, const void* body) {
  if (count == 0) return;
  grain = std::max(1u, grain);
  if (workers_.empty() || count <= grain) {
    call(body, 0, count, 0);
    return;
  }
  const double begin = seconds();
  if (begin < alone_until_) {
    call(body, 0, count, 0);
    return;
  }
  const uint32_t ranges = (count - 1) / grain + 1;
  publish(count, grain, call, body);
  const uint32_t computed = work(0);
  if (done_.load() == ranges) return;
  const double idle = seconds();
  await(ranges);
  // Who has a core ends about one range after the caller; what is longer than two was lost.
  const double end = seconds();
  const double lost = end - idle - 2 * (idle - begin) / std::max(1u, computed);
  if (computed > 0 && lost > 0) alone_until_ = end + kAlone * lost;
}

}  // namespace edgekit
