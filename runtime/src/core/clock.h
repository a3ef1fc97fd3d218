// Time for counters.
#pragma once

#include <chrono>

namespace edgekit {

inline double seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

}  // namespace edgekit
