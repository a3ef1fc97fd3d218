#include "model/checkpoints.h"

#include <algorithm>
#include <cstring>

#include "cache/plan.h"

namespace edgekit {

namespace {
// Bytes of a copy; 0 if copies would not help, as a layer with a window of another kind needs more than they hold.
uint64_t copy_bytes(const Manifest& m, CacheType type) {
  uint64_t total = 0;
  for (const Block& b : m.blocks) {
    if (b.kind == Block::attention && b.window != 0) return 0;
    if (b.kind == Block::convolution) total += (b.window - 1) * cache_row_bytes(kv_type(b, type), b.head_dim);
  }
  return total + LinearStates::state_bytes(m);
}
uint32_t most_copies(const Manifest& m) {
  return LinearStates::state_bytes(m) != 0 ? Checkpoints::kMostStates : Checkpoints::kMost;
}
Shape copies_shape(const Manifest& m, uint64_t bytes) { return Shape(bytes != 0 ? most_copies(m) : 0, bytes); }
}  // namespace

uint64_t Checkpoints::charge(const Manifest& m, CacheType type) {
  return Array<uint8_t>::charge(copies_shape(m, copy_bytes(m, type)));
}

Result<Checkpoints> Checkpoints::allocate(Budget& budget, const Manifest& m, CacheType type) {
  Checkpoints out;
  out.manifest_ = &m;
  out.bytes_ = copy_bytes(m, type);
  out.most_ = most_copies(m);
  EK_ASSIGN(out.copies_, Array<uint8_t>::allocate(budget, copies_shape(m, out.bytes_), "checkpoints of state"));
  out.positions_.reserve(out.most_ + 1);
  out.slots_.reserve(out.most_ + 1);
  return out;
}

// Calls each(row in the cache, bytes, place in the copy) for what a pass at `position` looks back to.
template <class Each>
void Checkpoints::for_each_row(KvCache& cache, uint32_t position, uint8_t* copy, const Each& each) const {
  for (size_t i = 0; i < manifest_->blocks.size(); ++i) {
    const Block& b = manifest_->blocks[i];
    if (b.kind != Block::convolution) continue;
    const uint64_t bytes = cache.row_bytes(i);
    for (uint32_t back = 1; back < b.window; ++back, copy += bytes) {
      if (back <= position) each(cache.row(i, KvCache::keys, 0, position - back), bytes, copy);
    }
  }
  if (cache.recurrent()) each(cache.states().data(), cache.states().bytes(), copy);
}

uint8_t* Checkpoints::add(uint32_t position) {
  uint32_t slot = 0;
  while (std::find(slots_.begin(), slots_.end(), slot) != slots_.end()) ++slot;
  positions_.push_back(position);
  slots_.push_back(slot);
  return copies_.row(slot);
}

void Checkpoints::keep(KvCache& cache, uint32_t position) {
  if (bytes_ == 0 || position == 0) return;
  forget_behind(position - 1);
  if (positions_.size() == most_) {
    // The one without which the others lie most evenly; never the last.
    uint32_t worst = 0, least = UINT32_MAX;
    for (uint32_t i = 0; i + 1 < most_; ++i) {
      const uint32_t gap = positions_[i + 1] - (i == 0 ? 0 : positions_[i - 1]);
      if (gap < least) {
        least = gap;
        worst = i;
      }
    }
    positions_.erase(positions_.begin() + worst);
    slots_.erase(slots_.begin() + worst);
  }
  for_each_row(cache, position, add(position),
               [](const uint8_t* row, uint64_t bytes, uint8_t* copy) { std::memcpy(copy, row, bytes); });
}

bool Checkpoints::due(const KvCache& cache) const {
  if (bytes_ == 0 || !cache.recurrent() || cache.states().position() == LinearStates::kNowhere) return false;
  return cache.states().position() >= (positions_.empty() ? 0 : positions_.back()) + kSpacing;
}

uint32_t Checkpoints::nearest(uint32_t position) const {
  const auto behind = std::upper_bound(positions_.begin(), positions_.end(), position);
  return behind == positions_.begin() ? 0 : *(behind - 1);
}

void Checkpoints::restore(KvCache& cache, uint32_t position) {
  forget_behind(position);
  if (position == 0) return cache.clear();
  cache.restored(position, position);
  for_each_row(cache, position, data(static_cast<uint32_t>(positions_.size()) - 1),
               [](uint8_t* row, uint64_t bytes, const uint8_t* copy) { std::memcpy(row, copy, bytes); });
}

void Checkpoints::forget_behind(uint32_t position) {
  while (!positions_.empty() && positions_.back() > position) {
    positions_.pop_back();
    slots_.pop_back();
  }
}

void Checkpoints::copy_from(const Checkpoints& other) {
  positions_ = other.positions_;
  slots_ = other.slots_;
  for (uint32_t slot : slots_) std::copy_n(other.copies_.row(slot), bytes_, copies_.row(slot));
}

}  // namespace edgekit
