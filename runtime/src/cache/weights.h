// The weights as the model sees them: rows of matrices, whether they are resident or on flash.
#pragma once

#include <memory>
#include <vector>

#include "cache/plan.h"
#include "core/threads.h"
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

class Weights {
 public:
  // Loads the vectors and every resident unit.
  static Result<std::unique_ptr<Weights>> load(Bundle& bundle, Budget& budget, const Plan& plan, uint32_t io_threads,
                                               ThreadPool& pool);

  const Matrix& matrix(int32_t index) const { return bundle_.matrix(index); }
  // A named vector, or nullptr for kNone.
  const float* vector(int32_t index) const;
  // The palette that `row` of a part uses; nullptr when it has none.
  const uint16_t* lut(const Part& part, uint32_t row) const;

  // Starts a pass over all blocks: reading begins, in order. With `head`, the head comes last.
  void begin_pass(bool head);
  // After a failed or cancelled pass: forget what was being read.
  void abandon_pass();
  // Announces the experts that will be visited next, in this order.
  void expect(const std::vector<int32_t>& matrices);

  // Calls visit(Rows) -> Outcome for consecutive pieces that cover the matrix. Matrices of dense
  // blocks must be visited in the order of the pass, experts in the order announced.
  template <class Visit>
  Outcome visit(int32_t index, bool expert, const Visit& body) {
    const Matrix& m = matrix(index);
    const uint32_t kept = plan_.resident_units[static_cast<size_t>(index)];
    if (kept > 0) {
      const uint32_t end = rows_until(m, kept);
      EK_TRY(body(Rows{&m, resident_[static_cast<size_t>(index)].data(), 0, end}));
    }
    Streamer& stream = expert ? expert_stream_ : stream_;
    for (uint32_t u = kept; u < m.units;) {
      const uint32_t count = chunk_units(m, u);
      const uint8_t* data;
      EK_ASSIGN(data, stream.acquire());
      EK_TRY(body(Rows{&m, data, rows_until(m, u), rows_until(m, u + count)}));
      stream.release();
      u += count;
    }
    return Nothing{};
  }

  // One row, from memory or else from flash through `scratch` [unit_stride].
  Result<const uint8_t*> fetch_row(int32_t index, uint32_t row, uint8_t* scratch);

  const Manifest& manifest() const { return bundle_.manifest(); }
  uint64_t bytes_read() const { return bundle_.bytes_read(); }
  bool direct() const { return bundle_.direct(); }
  double wait_seconds() const { return stream_.wait_seconds() + expert_stream_.wait_seconds(); }

 private:
  Weights(Bundle& bundle, const Plan& plan) : bundle_(bundle), plan_(plan) {}
  Outcome load_resident(Budget& budget, ThreadPool& pool);
  static uint32_t rows_until(const Matrix& m, uint32_t unit) {
    const uint64_t rows = uint64_t{unit} * m.rows_per_unit;
    return rows < m.rows ? static_cast<uint32_t>(rows) : m.rows;
  }
  uint32_t chunk_units(const Matrix& m, uint32_t from) const {
    const uint64_t fit = plan_.slot_bytes / m.unit_stride;
    return fit < m.units - from ? static_cast<uint32_t>(fit) : m.units - from;
  }

  Bundle& bundle_;
  Plan plan_;
  Buffer vectors_;
  std::vector<Buffer> resident_;    // per matrix
  std::vector<Chunk> body_, head_;  // the streamed chunks of a pass, in order
  size_t ahead_ = 0;                // chunks of the next pass that were already pushed
  Streamer stream_, expert_stream_;
};

}  // namespace edgekit
