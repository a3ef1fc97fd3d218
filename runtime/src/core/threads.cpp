#include "core/threads.h"

#include <algorithm>

namespace edgekit {

namespace {
// Loops inside a token follow each other within microseconds, so a worker looks for the next one
// for a while before it sleeps; longer would steal the core from the reader threads.
constexpr int kSpins = 2000;

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
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (pthread_t id : workers_) pthread_join(id, nullptr);
}

void* ThreadPool::thread_main(void* pool) {
  ThreadPool& self = *static_cast<ThreadPool*>(pool);
  const uint32_t worker = self.joined_.fetch_add(1) + 1;
  uint64_t seen = 0;
  while (true) {
    for (int i = 0; i < kSpins && self.generation_.load() == seen; ++i) pause_cpu();
    if (self.generation_.load() == seen) {
      std::unique_lock<std::mutex> lock(self.mutex_);
      self.wake_.wait(lock, [&] { return self.generation_.load() != seen; });
    }
    seen = self.generation_.load();
    if (self.stop_.load()) return nullptr;
    self.work(worker);
    self.busy_.fetch_sub(1);
  }
}

void ThreadPool::work(uint32_t worker) {
  while (true) {
    const uint32_t begin = next_.fetch_add(grain_);
    if (begin >= count_) return;
    call_(body_, begin, std::min(count_, begin + grain_), worker);
  }
}

void ThreadPool::run(uint32_t count, uint32_t grain, Call call, const void* body) {
  if (count == 0) return;
  if (workers_.empty() || count <= grain) {
    call(body, 0, count, 0);
    return;
  }
  call_ = call;
  body_ = body;
  count_ = count;
  grain_ = std::max(1u, grain);
  next_.store(0);
  busy_.store(static_cast<uint32_t>(workers_.size()));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  work(0);
  while (busy_.load() != 0) pause_cpu();
}

}  // namespace edgekit
