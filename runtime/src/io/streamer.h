// Read-ahead: chunks of units are read in the order they will be needed, into a ring of slots, while the
// caller computes on the oldest one.
#pragma once

#include <deque>
#include <vector>

#include "core/budget.h"
#include "core/threads.h"
#include "io/async_reader.h"
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
  ~Streamer() { clear(); }

  // Everything that the system may refuse: threads that read, and address space. Charges nothing yet; may be called
  // again after an error. Checksums are compared by the pool.
  Outcome prepare(Bundle& bundle, Budget& budget, ThreadPool& pool, uint32_t slots, uint64_t slot_bytes,
                  uint32_t threads);
  // Charges the ring to the budget; then chunks can be pushed.
  Outcome start() { return ring_.resize(slots_.size() * slot_bytes_); }
  // Gives the ring back; until it is prepared again, nothing can be pushed.
  void stop() {
    clear();
    ring_ = Region();
    slots_.clear();
  }
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
    Chunk chunk;
    bool ready = false;  // arrived, or failed
    Error error;
  };
  uint8_t* data(uint64_t number) { return ring_.data() + number % slots_.size() * slot_bytes_; }
  void start_reads();
  void take_in();
  Outcome check(const Chunk& chunk, const uint8_t* units);

  Bundle* bundle_ = nullptr;
  ThreadPool* pool_ = nullptr;
  Region ring_;  // [slots][slot_bytes]
  uint64_t slot_bytes_ = 0;
  std::vector<Slot> slots_;
  std::deque<Chunk> queue_;  // chunks [claimed_, pushed)
  // Sequence numbers: released_ <= acquired_ <= claimed_; a chunk's slot is its number modulo slots.
  uint64_t claimed_ = 0, acquired_ = 0, released_ = 0;
  std::vector<uint32_t> arrived_, failed_;
  double wait_seconds_ = 0;
  AsyncReader reader_;  // declared after what it writes to
};

}  // namespace edgekit
