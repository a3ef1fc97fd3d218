#include "cache/weights.h"

#include <algorithm>
#include <mutex>

namespace edgekit {

Result<std::unique_ptr<Weights>> Weights::load(Bundle& bundle, Budget& budget, const Plan& plan, uint32_t io_threads,
                                               ThreadPool& pool) {
  std::unique_ptr<Weights> out(new Weights(bundle, plan));
  EK_ASSIGN(out->vectors_, Buffer::allocate(budget, bundle.manifest().vectors_bytes, "vectors"));
  if (out->vectors_.size() > 0) EK_TRY(bundle.read_vectors(out->vectors_.data()));
  EK_TRY(out->load_resident(budget, pool));
  if (plan.slots > 0) {
    EK_TRY(out->stream_.start(bundle, budget, plan.slots, plan.slot_bytes, io_threads));
    if (plan.rings > 1) {
      EK_TRY(out->expert_stream_.start(bundle, budget, plan.slots, plan.slot_bytes, io_threads));
    }
  }
  const Manifest& m = bundle.manifest();
  const auto list = [&](std::vector<Chunk>& chunks, int32_t index) {
    if (index == kNone) return;
    const Matrix& x = bundle.matrix(index);
    for (uint32_t u = plan.resident_units[static_cast<size_t>(index)]; u < x.units;) {
      const uint32_t count = out->chunk_units(x, u);
      chunks.push_back({index, u, count});
      u += count;
    }
  };
  list(out->body_, m.embedding_project);
  for (const Block& b : m.blocks) {
    for (int32_t i : {b.q, b.k, b.v, b.o, b.router}) list(out->body_, i);
    if (b.kind == Block::ffn) list(out->body_, b.matrices[0]);
  }
  list(out->head_, m.head_project);
  list(out->head_, m.head);
  return out;
}

// Reads large pieces in the order of the file, several at a time.
Outcome Weights::load_resident(Budget& budget, ThreadPool& pool) {
  constexpr uint64_t kPiece = 4 << 20;
  const auto& matrices = bundle_.manifest().matrices;
  resident_.resize(matrices.size());
  std::vector<Chunk> pieces;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Matrix& m = matrices[i];
    const uint32_t kept = plan_.resident_units[i];
    EK_ASSIGN(resident_[i], Buffer::allocate(budget, kept * m.unit_stride, "weights"));
    const uint32_t step = static_cast<uint32_t>(std::max<uint64_t>(1, kPiece / m.unit_stride));
    for (uint32_t u = 0; u < kept; u += step) {
      pieces.push_back({static_cast<int32_t>(i), u, std::min(step, kept - u)});
    }
  }
  Error first;
  std::mutex mutex;
  pool.parallel_for(static_cast<uint32_t>(pieces.size()), 1, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t p = begin; p < end; ++p) {
      const Chunk& c = pieces[p];
      const Matrix& m = bundle_.matrix(c.matrix);
      uint8_t* at = resident_[static_cast<size_t>(c.matrix)].data() + c.unit * m.unit_stride;
      auto outcome = bundle_.read_units(m, c.unit, c.count, at);
      if (outcome.ok()) continue;
      std::lock_guard<std::mutex> lock(mutex);
      if (first.status == EDGEKIT_OK) first = outcome.error();
    }
  });
  return first.status == EDGEKIT_OK ? Outcome(Nothing{}) : Outcome(first);
}

const float* Weights::vector(int32_t index) const {
  if (index == kNone) return nullptr;
  const Vector& v = manifest().vectors[static_cast<size_t>(index)];
  return reinterpret_cast<const float*>(vectors_.data() + v.offset);
}

const uint16_t* Weights::lut(const Part& part, uint32_t row) const {
  if (part.lut == kNone) return nullptr;
  const Vector& v = manifest().vectors[static_cast<size_t>(part.lut)];
  const uint64_t table = row / part.lut_rows;
  return reinterpret_cast<const uint16_t*>(vectors_.data() + v.offset) +
         (table << kCodecBits[static_cast<int>(part.codec)]);
}

void Weights::begin_pass(bool head) {
  if (plan_.slots == 0) return;
  for (size_t i = ahead_; i < body_.size(); ++i) stream_.push(body_[i]);
  if (head) {
    for (const Chunk& c : head_) stream_.push(c);
  }
  // Every pass begins alike, so its first chunks can be read while this one ends.
  ahead_ = std::min<size_t>(body_.size(), plan_.slots);
  for (size_t i = 0; i < ahead_; ++i) stream_.push(body_[i]);
}

void Weights::abandon_pass() {
  if (plan_.slots == 0) return;
  stream_.clear();
  ahead_ = 0;
  if (plan_.rings > 1) expert_stream_.clear();
}

void Weights::expect(const std::vector<int32_t>& matrices) {
  if (plan_.slots == 0) return;
  for (int32_t index : matrices) {
    const Matrix& x = matrix(index);
    for (uint32_t u = plan_.resident_units[static_cast<size_t>(index)]; u < x.units;) {
      const uint32_t count = chunk_units(x, u);
      expert_stream_.push({index, u, count});
      u += count;
    }
  }
}

Result<const uint8_t*> Weights::fetch_row(int32_t index, uint32_t row, uint8_t* scratch) {
  const Matrix& m = matrix(index);
  const uint32_t unit = row / m.rows_per_unit;
  const uint64_t within = uint64_t{row % m.rows_per_unit} * m.row_stride;
  if (unit < plan_.resident_units[static_cast<size_t>(index)]) {
    const uint8_t* base = resident_[static_cast<size_t>(index)].data();
    return base + unit * m.unit_stride + within;
  }
  EK_TRY(bundle_.read_units(m, unit, 1, scratch));
  return const_cast<const uint8_t*>(scratch + within);
}

}  // namespace edgekit
