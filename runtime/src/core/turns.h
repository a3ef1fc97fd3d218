// A lock that is granted in the order it was asked for. A mutex may be taken again and again by the thread that has
// just given it back, so that a generation would keep other sessions and a change of the budget waiting.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace edgekit {

class Turns {
 public:
  void lock() {
    std::unique_lock<std::mutex> hold(mutex_);
    const uint64_t mine = tickets_++;
    called_.wait(hold, [&] { return serving_ == mine; });
  }

  void unlock() {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      ++serving_;
    }
    called_.notify_all();
  }

  // Threads that hold it or wait for it.
  uint64_t queue() {
    std::lock_guard<std::mutex> hold(mutex_);
    return tickets_ - serving_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable called_;
  uint64_t tickets_ = 0;
  uint64_t serving_ = 0;
};

}  // namespace edgekit
