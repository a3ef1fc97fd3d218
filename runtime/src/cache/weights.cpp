#include "cache/weights.h"

#include <algorithm>
#include <mutex>

#include "format/tables.h"

namespace edgekit {

Result<std::unique_ptr<Weights>> Weights::load(Bundle& bundle, Budget& budget, const Plan& plan, const IoSettings& io,
                                               ThreadPool& pool) {
  std::unique_ptr<Weights> out(new Weights(bundle, budget, plan, io, pool));
  const auto& matrices = bundle.manifest().matrices;
  EK_ASSIGN(out->vectors_, Buffer::allocate(budget, bundle.manifest().vectors_bytes, "vectors"));
  if (out->vectors_.size() > 0) EK_TRY(bundle.read_vectors(out->vectors_.data()));
  EK_TRY(check_tables(bundle.manifest(), out->vectors_.data()));
  for (const Matrix& m : matrices) {
    Region region;
    EK_ASSIGN(region, Region::reserve(budget, m.bytes(), "weights"));
    out->resident_.push_back(std::move(region));
  }
  std::vector<uint32_t> held(matrices.size(), 0);
  EK_TRY(out->load_resident(held, plan));
  if (plan.slots > 0) {
    EK_TRY(out->prepare_reading(plan));
    EK_TRY(out->start_reading(plan));
  }
  out->list_chunks();
  return out;
}

// What the ring and the window need of the system, which may refuse it. Charges nothing to the budget.
Outcome Weights::prepare_reading(const Plan& plan) {
  EK_TRY(stream_.prepare(bundle_, budget_, pool_, plan.slots, plan.slot_bytes, io_.threads));
  if (plan.window_most_bytes == 0) return Nothing{};
  EK_TRY(window_.prepare(budget_, bundle_.manifest(), plan.windowed, plan.window_slot_bytes, plan.window_most_bytes));
  return reader_.start(io_.engine, io_.depth, io_.threads);
}

// Their memory, which the plan has room for.
Outcome Weights::start_reading(const Plan& plan) {
  EK_TRY(stream_.start());
  return plan.window_most_bytes > 0 ? window_.start(plan.window_bytes) : Outcome(Nothing{});
}

// The chunks of a matrix that are not resident.
void Weights::list(std::vector<Chunk>& chunks, int32_t index) const {
  if (index == kNone) return;
  const Matrix& x = bundle_.matrix(index);
  for (uint32_t u = plan_.resident_units[static_cast<size_t>(index)]; u < x.units;) {
    const uint32_t count = chunk_units(x, u);
    chunks.push_back({index, u, count});
    u += count;
  }
}

void Weights::list_chunks() {
  const Manifest& m = bundle_.manifest();
  whole_.clear();
  selective_.clear();
  head_.clear();
  blocks_.assign(plan_.parts != EDGEKIT_COMPUTE_ALL ? m.blocks.size() : 0, {});
  selects_ = plan_.select != EDGEKIT_SELECT_ALL && plan_.select != EDGEKIT_SELECT_ROUTER;
  if (plan_.slots == 0) return;
  const auto both = [&](std::vector<Chunk>& whole, std::vector<Chunk>& selective, int32_t index) {
    list(whole, index);
    if (index != kNone && plan_.windowed[static_cast<size_t>(index)] == 0) list(selective, index);
  };
  const auto block_chunks = [&](const Block& b, std::vector<Chunk>& whole, std::vector<Chunk>& selective) {
    both(whole, selective, b.router);
    if (plan_.select == EDGEKIT_SELECT_PREDICTED && b.predict_up != kNone) {
      // Only passes that select look at predictors.
      list(selective, b.predict_down);
      list(selective, b.predict_up);
    }
    if (b.kind != Block::ffn) return;
    both(whole, selective, b.selector);
    both(whole, selective, b.matrices[0]);
    both(whole, selective, b.output_gate);
  };
  if (plan_.parts != EDGEKIT_COMPUTE_ALL) {
    for (size_t i = 0; i < m.blocks.size(); ++i) block_chunks(m.blocks[i], blocks_[i].whole, blocks_[i].selective);
    return;
  }
  both(whole_, selective_, m.embedding_project);
  both(whole_, selective_, m.layers.project);
  for (const Block& b : m.blocks) {
    b.for_each_projection([&](int32_t i) { both(whole_, selective_, i); });
    block_chunks(b, whole_, selective_);
  }
  list(head_, m.head_project);
  list(head_, m.head);
}

// Brings every matrix from its first `held` units to what the plan keeps; reads large pieces in the
// order of the file, several at a time.
Outcome Weights::load_resident(std::vector<uint32_t>& held, const Plan& plan) {
  constexpr uint64_t kPiece = 4 << 20;
  const auto& matrices = bundle_.manifest().matrices;
  std::vector<Chunk> pieces;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Matrix& m = matrices[i];
    const uint32_t kept = plan.resident_units[i];
    EK_TRY(resident_[i].resize(kept * m.unit_stride));
    const uint32_t step = static_cast<uint32_t>(std::max<uint64_t>(1, kPiece / m.unit_stride));
    for (uint32_t u = held[i]; u < kept; u += step) {
      pieces.push_back({static_cast<int32_t>(i), u, std::min(step, kept - u)});
    }
  }
  Error first;
  std::mutex mutex;
  pool_.parallel_for(static_cast<uint32_t>(pieces.size()), 1, [&](uint32_t begin, uint32_t end, uint32_t) {
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
  if (first.status != EDGEKIT_OK) return first;
  held = plan.resident_units;
  return Nothing{};
}

void Weights::stop_reading() {
  stream_.stop();
  window_ = Window();
}

Outcome Weights::replan(const Plan& plan, uint64_t limit) {
  abandon_pass();
  // Reads ahead are awaited, for they write to memory that may be given back; one that fails is nobody's loss.
  while (!reader_.idle()) (void)reap(true);
  // What the system may refuse comes first, while nothing is given up yet.
  const bool starts = plan_.slots == 0 && plan.slots != 0;
  if (starts) {
    auto prepared = prepare_reading(plan);
    if (!prepared.ok()) {
      stop_reading();
      return prepared;
    }
  }
  const uint64_t old_limit = budget_.limit();
  std::vector<uint32_t> held = plan_.resident_units;
  budget_.set_limit(limit);
  auto outcome = follow(plan, held, starts);
  if (outcome.ok()) {
    plan_ = plan;
  } else {
    budget_.set_limit(old_limit);
    if (starts) stop_reading();
    if (!follow(plan_, held, false).ok()) keep_held(held);
  }
  list_chunks();
  return outcome;
}

// Makes memory what the plan says; `held` are the units that are in it, per matrix, and stays true on an error.
Outcome Weights::follow(const Plan& plan, std::vector<uint32_t>& held, bool starts) {
  // First everything that shrinks, so that what grows finds the room.
  const auto& matrices = bundle_.manifest().matrices;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const uint32_t kept = std::min(held[i], plan.resident_units[i]);
    held[i] = kept;
    const uint64_t bytes = plan.resident_units[i] * matrices[i].unit_stride;
    if (bytes < resident_[i].size()) EK_TRY(resident_[i].resize(bytes));
  }
  if (starts) EK_TRY(start_reading(plan));
  const bool window = !starts && plan.slots > 0 && plan.window_most_bytes > 0;
  if (window) EK_TRY(window_.resize(plan.window_bytes));
  return load_resident(held, plan);
}

// The plan in force, with no more resident than what is in memory: the rest is streamed.
void Weights::keep_held(const std::vector<uint32_t>& held) {
  const auto& matrices = bundle_.manifest().matrices;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const uint64_t lost = (plan_.resident_units[i] - held[i]) * matrices[i].unit_stride;
    plan_.resident_units[i] = held[i];
    plan_.resident_bytes -= lost;
    if (plan_.slots == 0 || plan_.windowed[i] == 0) plan_.streamed_bytes += lost;
    (void)resident_[i].resize(held[i] * matrices[i].unit_stride);
  }
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

void Weights::begin_pass(bool head, bool selective) {
  if (plan_.slots == 0) return;
  // Passes of a kind begin alike, so the next one's first chunks can be read while this one ends.
  push(selective && selects_ ? selective_ : whole_, selects_ ? selective_ : whole_, head);
  begin_window();
}

void Weights::begin_block(size_t block, bool selective) {
  if (plan_.slots == 0) return;
  const auto& all = manifest().blocks;
  const auto later = [&](size_t i) {
    do i = (i + 1) % all.size();
    while (!all[i].feed_forward());
    return i;
  };
  const size_t next = later(block);
  const BlockChunks &body = blocks_[block], &ahead = blocks_[next];
  push(selective && selects_ ? body.selective : body.whole, selective && selects_ ? ahead.selective : ahead.whole,
       false);
  if (block == later(all.size() - 1)) begin_window();
}

void Weights::begin_matrix(int32_t index) {
  if (plan_.slots == 0 || resident(index)) return;
  abandon_pass();  // what was read ahead for the next block comes again: projections are kept before blocks are
  matrix_.clear();
  list(matrix_, index);
  for (const Chunk& c : matrix_) stream_.push(c);
}

// Reads `body`, less what was begun already, the head if wanted, and then the beginning of `next`.
void Weights::push(const std::vector<Chunk>& body, const std::vector<Chunk>& next, bool head) {
  if (ahead_ > 0 && ahead_of_ != &body) abandon_pass();
  for (size_t i = ahead_; i < body.size(); ++i) stream_.push(body[i]);
  if (head) {
    for (const Chunk& c : head_) stream_.push(c);
  }
  ahead_of_ = &next;
  ahead_ = std::min<size_t>(next.size(), plan_.slots);
  for (size_t i = 0; i < ahead_; ++i) stream_.push(next[i]);
}

void Weights::begin_window() {
  if (plan_.window_most_bytes > 0)
    window_.begin_pass(io_.window == EDGEKIT_WINDOW_NONE ? 0 : io_.window == 0 ? UINT32_MAX : io_.window);
}

void Weights::abandon_pass() {
  if (plan_.slots == 0) return;
  stream_.clear();
  ahead_ = 0;
  waiting_ = 0;
  queue_.clear();
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
