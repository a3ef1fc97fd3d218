#include "cache/window.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgekit {

uint64_t Window::table_bytes(const Manifest& m, const std::vector<uint8_t>& windowed, uint64_t slots) {
  uint64_t units = 0;
  for (size_t i = 0; i < windowed.size(); ++i) units += windowed[i] != 0 ? m.matrices[i].units : 0;
  return Region::charge(units * sizeof(int32_t)) + Region::charge(units * sizeof(Score)) +
         Region::charge(slots * sizeof(Slot));
}

Outcome Window::prepare(Budget& budget, const Manifest& m, const std::vector<uint8_t>& windowed, uint64_t slot_bytes,
                        uint64_t most_bytes) {
  uint64_t units = 0;
  first_.assign(windowed.size(), kNone);
  for (size_t i = 0; i < windowed.size(); ++i) {
    if (windowed[i] == 0) continue;
    first_[i] = static_cast<int32_t>(units);
    units += m.matrices[i].units;
  }
  if (units > INT32_MAX) return fail(EDGEKIT_UNSUPPORTED, "the model has too many units for a window");
  slot_bytes_ = slot_bytes;
  units_ = units;
  EK_ASSIGN(table_, Region::reserve(budget, units * sizeof(int32_t), "the window's table"));
  EK_ASSIGN(scores_, Region::reserve(budget, units * sizeof(Score), "the window's scores"));
  EK_ASSIGN(info_, Region::reserve(budget, most_bytes / slot_bytes * sizeof(Slot), "the window's slots"));
  EK_ASSIGN(pool_, Region::reserve(budget, most_bytes, "the window"));
  return Nothing{};
}

Outcome Window::start(uint64_t bytes) {
  EK_TRY(table_.resize(units_ * sizeof(int32_t)));
  std::fill(slot_of(), slot_of() + units_, kNone);
  EK_TRY(scores_.resize(units_ * sizeof(Score)));
  return resize(bytes);
}

void Window::unlink(int32_t slot) {
  const Slot& s = slots_info()[slot];
  (s.newer != kNone ? slots_info()[s.newer].older : newest_) = s.older;
  (s.older != kNone ? slots_info()[s.older].newer : oldest_) = s.newer;
}

void Window::link_newest(int32_t slot) {
  Slot& s = slots_info()[slot];
  s.newer = kNone;
  s.older = newest_;
  if (newest_ != kNone) slots_info()[newest_].newer = slot;
  newest_ = slot;
  if (oldest_ == kNone) oldest_ = slot;
}

void Window::touch(int32_t slot) {
  Slot& s = slots_info()[slot];
  s.round = round_;
  s.pass = pass_;
  if (newest_ == slot) return;
  unlink(slot);
  link_newest(slot);
}

namespace {
constexpr float kHalfLife = 32;  // passes after which a use counts half
constexpr int kSample = 16;      // slots looked at to find one to evict
}  // namespace

float Window::score_of(uint32_t key) {
  const Score& s = scores()[key];
  return s.uses * std::exp2(-static_cast<float>(pass_ - s.pass) / kHalfLife);
}

void Window::use(int32_t slot) {
  const float old = score(slot);
  Score& s = scores()[slots_info()[slot].key];
  if (s.pass != pass_ || s.uses == 0) s.uses = old + 1;
  s.pass = pass_;
}

int32_t Window::victim() {
  const auto free_to_go = [&](int32_t slot) {
    const Slot& s = slots_info()[slot];
    return s.round != round_ && s.state == ready;
  };
  int32_t worst = kNone;
  float lowest = 0;
  for (int i = 0; i < kSample; ++i) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const int32_t slot = static_cast<int32_t>(random_ % used_);
    if (!free_to_go(slot)) continue;
    const float value = score(slot);
    if (worst == kNone || value < lowest) {
      worst = slot;
      lowest = value;
    }
  }
  if (worst != kNone) return worst;
  for (int32_t slot = oldest_; slot != kNone; slot = slots_info()[slot].newer) {
    if (free_to_go(slot)) return slot;
  }
  return kNone;
}

void Window::drop(int32_t slot) {
  Slot& s = slots_info()[slot];
  slot_of()[s.key] = kNone;
  unlink(slot);
  s.matrix = kNone;
  s.state = empty;
  s.older = free_;
  free_ = slot;
  ++free_count_;
}

void Window::begin_pass(uint32_t keep) {
  ++pass_;
  begin_round();
  while (oldest_ != kNone && pass_ - slots_info()[oldest_].pass > keep) {
    if (slots_info()[oldest_].state == loading) break;
    drop(oldest_);
  }
}

int32_t Window::claim(int32_t matrix, uint32_t unit) {
  int32_t slot = kNone;
  if (free_ == kNone && used_ < slots_) {
    slot = static_cast<int32_t>(used_++);
  } else {
    if (free_ == kNone) {
      const int32_t evicted = victim();
      if (evicted == kNone) return kNone;
      drop(evicted);
    }
    slot = free_;
    free_ = slots_info()[slot].older;
    --free_count_;
  }
  Slot& s = slots_info()[slot];
  s.key = key(matrix, unit);
  s.matrix = matrix;
  s.round = round_;
  s.pass = pass_;
  s.state = loading;
  s.guess = 0;
  slot_of()[s.key] = slot;
  link_newest(slot);
  return slot;
}

void Window::move(int32_t from, int32_t to) {
  std::memcpy(data(to), data(from), slot_bytes_);
  Slot& s = slots_info()[to];
  s = slots_info()[from];
  slot_of()[s.key] = to;
  (s.newer != kNone ? slots_info()[s.newer].older : newest_) = to;
  (s.older != kNone ? slots_info()[s.older].newer : oldest_) = to;
}

Outcome Window::resize(uint64_t bytes) {
  const uint32_t wanted = static_cast<uint32_t>(std::min<uint64_t>(bytes / slot_bytes_, INT32_MAX));
  if (wanted > slots_) {
    EK_TRY(info_.resize(wanted * sizeof(Slot)));
    auto grown = pool_.resize(wanted * slot_bytes_);
    if (!grown.ok()) {
      EK_TRY(info_.resize(slots_ * sizeof(Slot)));
      return grown.error();
    }
    slots_ = wanted;
    return Nothing{};
  }
  begin_round();
  while (used() > wanted) {
    const int32_t evicted = victim();
    drop(evicted != kNone ? evicted : oldest_);
  }
  // Holes below the new end take the rows above it.
  std::vector<int32_t> holes;
  for (int32_t slot = free_; slot != kNone; slot = slots_info()[slot].older) {
    if (static_cast<uint32_t>(slot) < wanted) holes.push_back(slot);
  }
  for (uint32_t from = wanted; from < used_; ++from) {
    if (slots_info()[from].state == empty) continue;
    move(static_cast<int32_t>(from), holes.back());
    holes.pop_back();
  }
  free_ = kNone;
  free_count_ = static_cast<uint32_t>(holes.size());
  for (int32_t slot : holes) {
    slots_info()[slot].older = free_;
    free_ = slot;
  }
  used_ = std::min(used_, wanted);
  slots_ = wanted;
  EK_TRY(pool_.resize(wanted * slot_bytes_));
  return info_.resize(wanted * sizeof(Slot));
}

}  // namespace edgekit
