// Weights that come through the window: finding, requesting and awaiting units.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cache/weights.h"
#include "core/clock.h"

namespace edgekit {

int32_t Weights::request(int32_t index, uint32_t unit) {
  const int32_t slot = window_.claim(index, unit);
  if (slot == kNone) return kNone;
  const Matrix& m = matrix(index);
  reader_.add(bundle_.file(m), m.offset + unit * m.unit_stride, m.unit_stride, window_.data(slot),
              static_cast<uint32_t>(slot));
  ++window_stats_.misses;
  return slot;
}

bool Weights::guess(int32_t index, uint32_t unit) {
  if (window_.find(index, unit) != kNone) return true;
  const int32_t slot = request(index, unit);
  if (slot == kNone) return false;
  window_.guess(slot) = guess_;
  ++guesses_.wrong;  // until it is wanted
  return true;
}

void Weights::want(int32_t slot) {
  window_.touch(slot);
  if (window_.guess(slot) == guess_) {
    --guesses_.wrong;
    ++guesses_.right;
  }
  window_.guess(slot) = 0;
}

// What was guessed is known now: reads in vain that have not begun must not hold up the others.
void Weights::end_guess() {
  arrived_.clear();
  reader_.withdraw([this](uint32_t slot) { return window_.guess(static_cast<int32_t>(slot)) == guess_; }, arrived_);
  for (uint32_t slot : arrived_) window_.drop(static_cast<int32_t>(slot));
  guesses_.wrong -= static_cast<uint32_t>(arrived_.size());
  window_stats_.misses -= arrived_.size();
  window_stats_.vain += guesses_.wrong;
  last_guesses_ = guesses_;
  guesses_ = {};
  guess_of_ = kNone;
  ++guess_;
}

void Weights::expect(const int32_t* matrices, uint32_t count) {
  if (plan_.slots == 0) return;
  window_.begin_round();
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t index = matrices[i];
    for (uint32_t u = plan_.resident_units[static_cast<size_t>(index)]; u < matrix(index).units; ++u) {
      const int32_t slot = window_.find(index, u);
      if (slot != kNone) want(slot);
    }
  }
  end_guess();
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t index = matrices[i];
    const Matrix& x = matrix(index);
    for (uint32_t u = plan_.resident_units[static_cast<size_t>(index)]; u < x.units; ++u) {
      if (window_.find(index, u) == kNone && request(index, u) == kNone) {
        reader_.flush();
        return;
      }
    }
  }
  reader_.flush();
}

void Weights::prefetch(int32_t index, const uint32_t* rows, uint32_t count) {
  if (plan_.slots == 0 || !window_.has(index)) return;
  const uint32_t per = matrix(index).rows_per_unit;
  uint32_t last = UINT32_MAX;
  guess_of_ = index;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t unit = rows[i] / per;
    if (unit == last) continue;
    last = unit;
    if (!guess(index, unit)) break;
  }
  reader_.flush();
}

void Weights::prefetch_all(int32_t index) {
  if (plan_.slots == 0 || !window_.has(index)) return;
  for (uint32_t u = 0; u < matrix(index).units; ++u) {
    if (!guess(index, u)) break;
  }
  reader_.flush();
}

void Weights::offer(int32_t index, uint32_t unit, const uint8_t* data) {
  if (plan_.slots == 0 || !window_.has(index) || window_.used() == window_.slots()) return;
  if (window_.find(index, unit) != kNone) return;
  const int32_t slot = window_.claim(index, unit);
  if (slot == kNone) return;
  std::memcpy(window_.data(slot), data, matrix(index).unit_stride);
  window_.state(slot) = Window::ready;
}

// Takes in what has arrived and checks it, several units at a time.
Outcome Weights::reap(bool wait) {
  arrived_.clear();
  failed_.clear();
  auto outcome = reader_.reap(wait, arrived_, failed_);
  for (uint32_t slot : failed_) window_.drop(static_cast<int32_t>(slot));
  std::atomic<uint32_t> bad{UINT32_MAX};
  const uint32_t count = static_cast<uint32_t>(arrived_.size());
  pool_.parallel_for(count, std::max(1u, count / (2 * pool_.size())), [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t i = begin; i < end; ++i) {
      const int32_t slot = static_cast<int32_t>(arrived_[i]);
      const Matrix& m = matrix(window_.matrix(slot));
      if (!bundle_.check_unit(m, window_.unit(slot), window_.data(slot)).ok()) bad.store(arrived_[i]);
      window_.state(slot) = Window::ready;
    }
  });
  if (outcome.ok() && bad.load() != UINT32_MAX) {
    const int32_t slot = static_cast<int32_t>(bad.load());
    outcome = bundle_.check_unit(matrix(window_.matrix(slot)), window_.unit(slot), window_.data(slot));
  }
  if (outcome.ok()) return outcome;
  // Whatever failed its check must not be taken for good later: forget all that came with it.
  for (uint32_t slot : arrived_) window_.drop(static_cast<int32_t>(slot));
  return outcome;
}

// Begins a round and pins what is here already, so that making room for the rest does not evict it.
void Weights::hold(int32_t index, const uint32_t* rows, uint32_t count) {
  window_.begin_round();
  const uint32_t per = matrix(index).rows_per_unit;
  uint32_t last = UINT32_MAX;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t unit = rows[i] / per;
    if (unit == last || !window_.has(index)) continue;
    last = unit;
    const int32_t slot = window_.find(index, unit);
    if (slot != kNone) want(slot);
  }
}

Outcome Weights::start_round(int32_t index, const uint32_t* rows, uint32_t begin, uint32_t count, const uint8_t** at,
                             uint32_t* list, uint32_t& end, uint32_t& known) {
  const double start = seconds();
  const Matrix& m = matrix(index);
  const uint32_t kept = rows_until(m, plan_.resident_units[static_cast<size_t>(index)]);
  const uint8_t* base = resident_[static_cast<size_t>(index)].data();
  uint32_t last = UINT32_MAX;
  int32_t slot = kNone;
  queue_.clear();
  known = 0;
  if (plan_.slots != 0) {
    hold(index, rows + begin, count - begin);
    if (begin == 0 && index == guess_of_) end_guess();
  }
  for (end = begin; end < count;) {
    const uint32_t row = rows[end], unit = row / m.rows_per_unit;
    const uint64_t within = uint64_t{row % m.rows_per_unit} * m.row_stride;
    if (row < kept) {
      at[end] = base + unit * m.unit_stride + within;
      list[known++] = end++;
      continue;
    }
    if (unit != last) {
      slot = window_.find(index, unit);
      if (slot != kNone) {
        window_.touch(slot);
        ++window_stats_.hits;
      } else {
        slot = request(index, unit);
      }
      if (slot == kNone) {
        if (end > begin) break;  // the rest has a round of its own
        EK_TRY(reap(true));      // all room is taken by reads that nobody waits for, or by what comes later
        window_.begin_round();
        continue;
      }
      window_.use(slot);
      last = unit;
    }
    at[end] = window_.data(slot) + within;
    if (window_.state(slot) == Window::ready) {
      list[known++] = end++;
    } else {
      queue_.push_back({end++, slot});
    }
  }
  reader_.flush();
  waiting_ = static_cast<uint32_t>(queue_.size());
  window_stats_.manage_seconds += seconds() - start;
  return Nothing{};
}

Outcome Weights::next_arrivals(uint32_t* list, uint32_t& known) {
  const double start = seconds();
  auto outcome = reap(true);
  window_stats_.read_seconds += seconds() - start;
  EK_TRY(std::move(outcome));
  known = 0;
  uint32_t left = 0;
  for (const Waiting& w : queue_) {
    if (window_.state(w.slot) == Window::ready) {
      list[known++] = w.position;
    } else {
      queue_[left++] = w;
    }
  }
  queue_.resize(left);
  waiting_ = left;
  if (left > 0 && reader_.idle()) return fail(EDGEKIT_IO, "a read that was waited for had failed before");
  return Nothing{};
}

// A unit of a matrix that is visited whole, through the window.
Result<const uint8_t*> Weights::window_unit(int32_t index, uint32_t unit) {
  const double start = seconds();
  int32_t slot = window_.find(index, unit);
  if (slot == kNone) {
    window_.begin_round();
    for (uint32_t u = unit; u < matrix(index).units; ++u) {
      if (window_.find(index, u) == kNone && request(index, u) == kNone) break;
    }
    reader_.flush();
    slot = window_.find(index, unit);
  }
  while (slot == kNone) {
    EK_TRY(reap(true));
    window_.begin_round();
    slot = request(index, unit);
    reader_.flush();
  }
  window_.touch(slot);
  while (window_.state(slot) != Window::ready) EK_TRY(reap(true));
  window_stats_.read_seconds += seconds() - start;
  return const_cast<const uint8_t*>(window_.data(slot));
}

}  // namespace edgekit
