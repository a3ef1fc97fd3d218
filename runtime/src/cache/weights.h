// The weights as the model sees them: rows of matrices, whether they are resident or on flash.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "cache/plan.h"
#include "cache/window.h"
#include "core/threads.h"
#include "io/async_reader.h"
#include "io/bundle.h"
#include "io/streamer.h"

namespace edgekit {

// Consecutive rows [begin, end) of a matrix in memory.
struct Rows {
  const Matrix* matrix = nullptr;
  const uint8_t* data = nullptr;  // the unit that holds row `begin`, which is its first row
  uint32_t begin = 0, end = 0;

  const uint8_t* row(uint32_t r) const {
    const uint32_t at = r - begin, per = matrix->rows_per_unit;
    return data + uint64_t{at / per} * matrix->unit_stride + uint64_t{at % per} * matrix->row_stride;
  }
};

// How the device is read.
struct IoSettings {
  uint32_t engine = 0;  // EDGEKIT_IO_ENGINE_*
  uint32_t threads = 4;
  uint32_t depth = 128;  // small reads under way
  uint32_t window = 0;   // tokens whose units stay in the window; 0: as many as fit
};

// What units did since the model was opened.
struct WindowStats {
  uint64_t hits = 0, misses = 0, vain = 0;
  double read_seconds = 0, manage_seconds = 0;
};

// Units that were read ahead.
struct Guesses {
  uint32_t right = 0, wrong = 0;
};

class Weights {
 public:
  // Loads the vectors and every resident unit.
  static Result<std::unique_ptr<Weights>> load(Bundle& bundle, Budget& budget, const Plan& plan, const IoSettings& io,
                                               ThreadPool& pool);
  // Sets the budget's limit, then gives back or loads units until memory is as the new plan says; no pass may be
  // under way. After an error plan and limit are what they were; only if units cannot be read again either, fewer
  // are resident and the others are streamed.
  Outcome replan(const Plan& plan, uint64_t limit);

  const Matrix& matrix(int32_t index) const { return bundle_.matrix(index); }
  // A named vector, or nullptr for kNone.
  const float* vector(int32_t index) const;
  // The palette that `row` of a part uses; nullptr when it has none.
  const uint16_t* lut(const Part& part, uint32_t row) const;
  const Plan& plan() const { return plan_; }
  uint32_t select() const { return plan_.select; }
  bool resident(int32_t index) const { return plan_.resident_units[static_cast<size_t>(index)] == matrix(index).units; }

  // Starts a pass over all blocks: reading begins, in order. With `head`, the head comes last. A
  // `selective` pass gets windowed matrices by `gather` alone, another one visits them whole.
  void begin_pass(bool head, bool selective);
  // The same for one feed-forward block alone, when the plan has nothing else.
  void begin_block(size_t block, bool selective);
  // The same for one matrix that is visited whole.
  void begin_matrix(int32_t index);
  // After a failed or cancelled pass: forget what was being read.
  void abandon_pass();
  // Announces that every unit of these windowed matrices [count] will be wanted next, in this order.
  void expect(const int32_t* matrices, uint32_t count);
  // Announces rows of a windowed matrix, ascending: their units are read while others compute.
  void prefetch(int32_t index, const uint32_t* rows, uint32_t count);
  void prefetch_all(int32_t index);
  // Takes in what has arrived and starts what waits, without blocking; called now and then while
  // something else is computed, so that the device always has work.
  Outcome poll() { return plan_.slots == 0 || reader_.idle() ? Outcome(Nothing{}) : reap(false); }
  // A unit that is in memory anyway, for the window if it has free room.
  void offer(int32_t index, uint32_t unit, const uint8_t* data);

  // Calls visit(Rows) -> Outcome for consecutive pieces that cover the matrix. Matrices of dense
  // blocks must be visited in the order of the pass.
  template <class Visit>
  Outcome visit(int32_t index, bool expert, const Visit& body) {
    const Matrix& m = matrix(index);
    const uint32_t kept = plan_.resident_units[static_cast<size_t>(index)];
    if (kept > 0) {
      EK_TRY(body(Rows{&m, resident_[static_cast<size_t>(index)].data(), 0, rows_until(m, kept)}));
    }
    for (uint32_t u = kept; u < m.units;) {
      const uint32_t count = expert ? 1 : chunk_units(m, u);
      EK_TRY(check_streams());
      const uint8_t* data;
      if (expert) {
        EK_ASSIGN(data, window_unit(index, u));
      } else {
        EK_ASSIGN(data, stream_.acquire());
      }
      EK_TRY(body(Rows{&m, data, rows_until(m, u), rows_until(m, u + count)}));
      if (!expert) stream_.release();
      u += count;
    }
    return Nothing{};
  }

  // Brings rows [count], ascending, of a matrix into memory. at[i] points to row rows[i] once
  // ready(list, n) was called with i in the list, and until done(begin, end) was called with
  // begin <= i < end; several rounds when the window is too small for all at once.
  // `meanwhile() -> Outcome` is called once, when all reads of the first round are under way.
  template <class Ready, class Done, class Meanwhile>
  Outcome gather(int32_t index, const uint32_t* rows, uint32_t count, const uint8_t** at, uint32_t* list,
                 const Ready& ready, const Done& done, const Meanwhile& meanwhile) {
    if (count == 0) EK_TRY(meanwhile());
    for (uint32_t begin = 0; begin < count;) {
      uint32_t end = begin, known = 0;
      EK_TRY(start_round(index, rows, begin, count, at, list, end, known));
      if (begin == 0) EK_TRY(meanwhile());
      if (known > 0) ready(list, known);
      while (waiting_ > 0) {
        EK_TRY(next_arrivals(list, known));
        if (known > 0) ready(list, known);
      }
      done(begin, end);
      begin = end;
    }
    return Nothing{};
  }

  // What the window learned, to a file and back (cache/warm.h); no pass may be under way. Without a window, loading
  // only checks the file. Loading reads no units: what a prompt uses fills the window better than what others used, and
  // the counts then say which of them go first (docs/results/warm.md).
  Outcome save_warm(const std::string& path);
  Outcome load_warm(const std::string& path);

  // One row, from memory or else from flash through `scratch` [unit_stride].
  Result<const uint8_t*> fetch_row(int32_t index, uint32_t row, uint8_t* scratch);

  const Manifest& manifest() const { return bundle_.manifest(); }
  uint64_t bytes_read() const { return bundle_.bytes_read(); }
  bool direct() const { return bundle_.direct(); }
  bool uring() const { return reader_.uring(); }
  uint64_t read_operations() const { return reader_.operations(); }
  double wait_seconds() const { return stream_.wait_seconds() + window_stats_.read_seconds; }
  const WindowStats& window_stats() const { return window_stats_; }
  // What became of the last guess that has been put to the test; once.
  Guesses take_guesses() { return std::exchange(last_guesses_, {}); }

 private:
  Weights(Bundle& bundle, Budget& budget, const Plan& plan, const IoSettings& io, ThreadPool& pool)
      : bundle_(bundle), budget_(budget), plan_(plan), io_(io), pool_(pool) {}
  Outcome load_resident(std::vector<uint32_t>& held, const Plan& plan);
  Outcome prepare_reading(const Plan& plan);
  Outcome start_reading(const Plan& plan);
  Outcome follow(const Plan& plan, std::vector<uint32_t>& held, bool starts);
  void stop_reading();
  void keep_held(const std::vector<uint32_t>& held);
  void list_chunks();
  void list(std::vector<Chunk>& chunks, int32_t index) const;
  void push(const std::vector<Chunk>& body, const std::vector<Chunk>& next, bool head);
  void begin_window();
  Outcome start_round(int32_t index, const uint32_t* rows, uint32_t begin, uint32_t count, const uint8_t** at,
                      uint32_t* list, uint32_t& end, uint32_t& known);
  // Reads a unit that will probably be wanted; false when there is no room.
  bool guess(int32_t index, uint32_t unit);
  void want(int32_t slot);
  void end_guess();
  void hold(int32_t index, const uint32_t* rows, uint32_t count);
  Outcome check_streams() const;
  Outcome next_arrivals(uint32_t* list, uint32_t& known);
  // Queues a unit that is not in the window; kNone when there is no room for it now.
  int32_t request(int32_t index, uint32_t unit);
  Outcome reap(bool wait);
  Result<const uint8_t*> window_unit(int32_t index, uint32_t unit);
  static uint32_t rows_until(const Matrix& m, uint32_t unit) {
    const uint64_t rows = uint64_t{unit} * m.rows_per_unit;
    return rows < m.rows ? static_cast<uint32_t>(rows) : m.rows;
  }
  uint32_t chunk_units(const Matrix& m, uint32_t from) const {
    const uint64_t fit = plan_.slot_bytes / m.unit_stride;
    return fit < m.units - from ? static_cast<uint32_t>(fit) : m.units - from;
  }

  Bundle& bundle_;
  Budget& budget_;
  Plan plan_;
  IoSettings io_;
  ThreadPool& pool_;
  Buffer vectors_;
  std::vector<Region> resident_;  // per matrix
  // The streamed chunks of a pass, in order: of one that visits everything, of one that selects, and
  // of the head.
  std::vector<Chunk> whole_, selective_, head_;
  struct BlockChunks {
    std::vector<Chunk> whole, selective;
  };
  std::vector<BlockChunks> blocks_;  // per block, when another engine computes the rest
  std::vector<Chunk> matrix_;        // of the matrix at hand
  size_t ahead_ = 0;                 // chunks of the next pass that were already pushed
  const std::vector<Chunk>* ahead_of_ = nullptr;
  bool selects_ = false;  // the two lists differ
  Streamer stream_;
  Window window_;
  AsyncReader reader_;  // declared after what it writes to
  struct Waiting {
    uint32_t position;
    int32_t slot;
  };
  std::vector<Waiting> queue_;
  uint32_t waiting_ = 0;  // entries of queue_ whose unit has not arrived
  std::vector<uint32_t> arrived_, failed_;
  WindowStats window_stats_;
  Guesses guesses_, last_guesses_;
  uint32_t guess_ = 1;        // number of the guess that `guesses_` counts
  int32_t guess_of_ = kNone;  // the matrix whose rows it names; none for experts
};

}  // namespace edgekit
