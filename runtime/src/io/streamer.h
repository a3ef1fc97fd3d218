// Read-ahead: chunks of units are read in the order they will be needed, into a ring of slots, by
// threads of their own, while the caller computes on the oldest one.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "core/budget.h"
#include "io/bundle.h"

namespace edgekit {

struct Chunk {
  int32_t matrix = kNone;
  uint32_t unit = 0;   // first
  uint32_t count = 0;  // units
};

class Streamer {
 public:
  Streamer() = default;
  Streamer(const Streamer&) = delete;
  ~Streamer();

  Outcome start(Bundle& bundle, Budget& budget, uint32_t slots, uint64_t slot_bytes, uint32_t threads);
  // Appends a chunk to the order of reading.
  void push(Chunk chunk);
  // Forgets what was pushed and not yet acquired; waits for reads under way.
  void clear();
  // Waits for the oldest chunk; it stays valid until `release`. The caller must have pushed it.
  Result<const uint8_t*> acquire();
  void release();
  double wait_seconds() const { return wait_seconds_; }

 private:
  struct Slot {
    bool ready = false;
    Error error;
  };
  static void* thread_main(void* self);
  void read_loop();

  Bundle* bundle_ = nullptr;
  Buffer ring_;
  uint64_t slot_bytes_ = 0;
  std::vector<Slot> slots_;
  std::vector<pthread_t> threads_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Chunk> queue_;  // chunks [claimed_, pushed)
  // Sequence numbers: released_ <= acquired_ <= claimed_; a chunk's slot is its number modulo slots.
  uint64_t claimed_ = 0, acquired_ = 0, released_ = 0;
  uint32_t reading_ = 0;
  bool stop_ = false;
  double wait_seconds_ = 0;
};

}  // namespace edgekit
