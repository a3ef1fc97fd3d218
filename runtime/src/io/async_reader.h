// Many small reads under way at once: units are queued, neighbours in the file become one read, and
// completions are reaped in whatever order the device answers. io_uring where the kernel has it, else
// a pool of threads with preadv.
#pragma once

#include <sys/uio.h>

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "io/file.h"
#include "io/retries.h"

namespace edgekit {

// One read: `count` pieces that lie one after another in the file.
struct ReadOp {
  static constexpr uint32_t kPieces = 32;
  File* file = nullptr;
  uint64_t offset = 0;
  uint64_t bytes = 0, done = 0;
  uint32_t count = 0;
  iovec pieces[kPieces];
  uint32_t tags[kPieces];
  int fd = -1;  // that the read at hand goes through
  Retries retries;
  Error error;
};

// The engine below the queue: carries out at most `depth` ops at a time.
class ReadEngine {
 public:
  virtual ~ReadEngine() = default;
  virtual void submit(ReadOp* op) = 0;
  // Hands over finished ops (whole, or with their error); blocks for the first one when `wait`.
  virtual void reap(bool wait, std::vector<ReadOp*>& finished) = 0;
  virtual void flush() {}  // submitted ops must be on their way when this returns
};
// nullptr when the kernel refuses io_uring.
std::unique_ptr<ReadEngine> make_uring_engine(uint32_t depth);
Result<std::unique_ptr<ReadEngine>> make_pool_engine(uint32_t threads);

class AsyncReader {
 public:
  ~AsyncReader();
  // `engine` is EDGEKIT_IO_ENGINE_*; `depth` ops under way at most.
  Outcome start(uint32_t engine, uint32_t depth, uint32_t threads);
  // Queues one piece; it is merged with the one before when it follows it in the file.
  void add(File& file, uint64_t offset, uint64_t bytes, uint8_t* to, uint32_t tag);
  // Takes back reads that were queued, not started, and of which every piece is `unwanted(tag)`; appends their tags.
  void withdraw(const std::function<bool(uint32_t)>& unwanted, std::vector<uint32_t>& tags);
  // Starts what waits, as far as the depth allows.
  void flush();
  // Appends the tags of pieces that have arrived. Blocks for at least one when `wait` and any is
  // under way. After an error everything under way is awaited and `failed` holds the tags not read.
  Outcome reap(bool wait, std::vector<uint32_t>& arrived, std::vector<uint32_t>& failed);
  bool idle() const { return waiting_.empty() && in_flight_ == 0; }
  bool uring() const { return uring_; }
  uint64_t operations() const { return operations_; }

 private:
  std::unique_ptr<ReadEngine> engine_;
  std::vector<std::unique_ptr<ReadOp>> ops_;  // depth of them, and as many as wait
  std::vector<ReadOp*> free_, finished_;
  std::deque<ReadOp*> waiting_;
  uint32_t depth_ = 0, in_flight_ = 0;
  uint64_t operations_ = 0;
  bool uring_ = false;
};

// Takes `got` bytes off an op. Returns true when it is finished, with or without an error.
bool advance(ReadOp& op, int64_t got);
// Reads what an op still lacks, here and now.
void read_rest(ReadOp& op);

}  // namespace edgekit
