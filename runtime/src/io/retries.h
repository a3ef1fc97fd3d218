// How often a system call that was interrupted (EINTR) or refused for now (EAGAIN) is tried again.
#pragma once

#include <time.h>

#include <cerrno>

namespace edgekit {

// Counts tries in a row that brought nothing. After kMost of them the error is one like any other, so that
// nothing waits for ever.
class Retries {
 public:
  // Whether to try again after `code` (an errno); waits a moment first when the system was busy.
  bool again(int code) {
    if ((code != EINTR && code != EAGAIN && code != EBUSY) || ++count_ > kMost) return false;
    if (code != EINTR) {
      const timespec moment{0, 1000000};  // 1 ms
      nanosleep(&moment, nullptr);
    }
    return true;
  }
  void progress() { count_ = 0; }

 private:
  static constexpr int kMost = 500;
  int count_ = 0;
};

}  // namespace edgekit
