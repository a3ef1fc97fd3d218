#include "io/streamer.h"

#include <algorithm>
#include <atomic>

#include "core/clock.h"
#include "edgekit/edgekit.h"

namespace edgekit {

Outcome Streamer::start(Bundle& bundle, Budget& budget, ThreadPool& pool, uint32_t slots, uint64_t slot_bytes,
                        uint32_t threads) {
  bundle_ = &bundle;
  pool_ = &pool;
  slot_bytes_ = slot_bytes;
  EK_ASSIGN(ring_, Buffer::allocate(budget, slots * slot_bytes, "read-ahead buffer"));
  slots_.resize(slots);
  // Submitting a large read takes long (its pages are pinned one by one): better by threads than by this one.
  return reader_.start(EDGEKIT_IO_ENGINE_THREADS, slots, threads);
}

void Streamer::start_reads() {
  while (!queue_.empty() && claimed_ < released_ + slots_.size()) {
    Slot& slot = slots_[claimed_ % slots_.size()];
    slot = {queue_.front(), false, {}};
    queue_.pop_front();
    const Matrix& m = bundle_->matrix(slot.chunk.matrix);
    reader_.add(bundle_->file(m), m.offset + slot.chunk.unit * m.unit_stride, slot.chunk.count * m.unit_stride,
                data(claimed_), static_cast<uint32_t>(claimed_ % slots_.size()));
    ++claimed_;
  }
  reader_.flush();
}

void Streamer::push(Chunk chunk) {
  queue_.push_back(chunk);
  start_reads();
}

// Waits for a read. One that failed is its chunk's error, and nobody else's: it may never be needed.
void Streamer::take_in() {
  arrived_.clear();
  failed_.clear();
  const auto outcome = reader_.reap(true, arrived_, failed_);
  for (uint32_t at : arrived_) slots_[at].ready = true;
  for (uint32_t at : failed_) {
    slots_[at].ready = true;
    slots_[at].error = outcome.error();
  }
}

void Streamer::clear() {
  queue_.clear();
  while (!reader_.idle()) take_in();
  acquired_ = released_ = claimed_;
}

Result<const uint8_t*> Streamer::acquire() {
  Slot& slot = slots_[acquired_ % slots_.size()];
  if (!slot.ready) {
    const double begin = seconds();
    while (!slot.ready && !reader_.idle()) take_in();
    if (!slot.ready) return fail(EDGEKIT_IO, "a chunk was wanted that nobody had asked for");
    wait_seconds_ += seconds() - begin;
  }
  if (slot.error.status != EDGEKIT_OK) return slot.error;
  const uint8_t* units = data(acquired_);
  EK_TRY(check(slot.chunk, units));
  ++acquired_;
  return units;
}

Outcome Streamer::check(const Chunk& chunk, const uint8_t* units) {
  const Matrix& m = bundle_->matrix(chunk.matrix);
  std::atomic<uint32_t> bad{UINT32_MAX};
  const uint32_t grain = std::max(1u, chunk.count / (2 * pool_->size()));
  pool_->parallel_for(chunk.count, grain, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t i = begin; i < end; ++i) {
      if (!bundle_->check_unit(m, chunk.unit + i, units + i * m.unit_stride).ok()) bad.store(i);
    }
  });
  if (bad.load() == UINT32_MAX) return Nothing{};
  return bundle_->check_unit(m, chunk.unit + bad.load(), units + bad.load() * m.unit_stride);
}

void Streamer::release() {
  ++released_;
  start_reads();
}

}  // namespace edgekit
