#include "core/threads.h"

#include <sched.h>

#include <algorithm>

#include "core/clock.h"

namespace edgekit {

namespace {
// Loops inside a token follow each other within microseconds, so a thread looks for what it waits for for a while
// before it sleeps; longer would steal the core from the reader threads. Now and then it lets others have the core: the
// one that it waits for may be among them.
constexpr int kSpins = 2000, kSpinsUntilYield = 50;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a moment until `ready()`; returns whether it is.
template <class Ready>
bool spin_until(const Ready& ready) {
  for (int i = 1; i <= kSpins; ++i) {
    if (ready()) return true;
    if (i % kSpinsUntilYield == 0) {
      sched_yield();
    } else {
      pause_cpu();
    }
  }
  return ready();
}

// Loops with one name take about the same time.
template <class Call>
uint64_t name_of(Call call, uint32_t count) {
  return (reinterpret_cast<uintptr_t>(call) ^ uint64_t{count} << 32) * 0x9E3779B97F4A7C15u | 1;
}
}  // namespace

Outcome ThreadPool::start(uint32_t threads, bool judges) {
  judges_ = judges;
  sharing_ = Sharing(threads);
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
    if (!spin_until([&] { return self.has_work(); })) {
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
  if (spin_until([&] { return done_.load() == ranges; })) return;
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
  Sharing::Kind& kind = sharing_.find(name_of(call, count));
  const double begin = seconds();
  if (!sharing_.shares(kind, begin) && judges_) {
    call(body, 0, count, 0);
    sharing_.count_alone(kind, seconds() - begin);
    return;
  }
  const uint32_t ranges = (count - 1) / grain + 1;
  publish(count, grain, call, body);
  const uint32_t computed = work(0);
  double end = seconds();
  const double guess = (end - begin) / std::max(1u, computed) * ranges;
  if (done_.load() != ranges) {
    await(ranges);
    end = seconds();
  }
  sharing_.count_shared(kind, end - begin, guess, end);
}

}  // namespace edgekit
