#include "encode/viterbi.h"

#include <algorithm>

#include "core/trellis.h"

namespace edgekit {
namespace {

constexpr float kNever = 1e30f;  // far above any cost, and finite, so that sums of it stay ordered

float* aligned(std::vector<float>& memory) {
  auto at = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + ((at + 63) / 64 * 64 - at) / sizeof(float);
}

}  // namespace

TrellisTables::TrellisTables(const TrellisShape& given, const float* feed, const float* pivot)
    : shape(given), feedback(feed), pivots(given.cols, 1.0f) {
  if (pivot != nullptr) std::copy(pivot, pivot + shape.cols, pivots.begin());
  values.resize(size_t{1} << shape.state_bits);
  for (uint32_t s = 0; s < values.size(); ++s) values[s] = kTrellisUnit * static_cast<float>(trellis_value(s));
  spread.assign(static_cast<size_t>(shape.cols) * shape.history, 0.0f);
  if (feedback == nullptr) return;
  for (uint32_t j = 0; j < shape.cols; ++j) {
    for (uint32_t i = j + 1; i < std::min(shape.cols, j + shape.history); ++i) {
      spread[static_cast<size_t>(j) * shape.history + i % shape.history] =
          feedback[static_cast<size_t>(i) * shape.cols + j];
    }
  }
}

TrellisSearch::TrellisSearch(const TrellisTables& tables)
    : tables_(tables), step_(find_step()), states_(1u << tables.shape.state_bits) {
  const size_t history = tables.shape.history;
  costs_.resize(2 * states_ + 16);
  scratch_.resize(2 * states_ + 16);
  wanted_.resize(2 * states_ + 16);
  pending_.resize(2 * states_ * history + 16);
  settled_.resize(tables.shape.cols);
  origins_.resize(2 * states_);
  oldest_.resize(static_cast<size_t>(states_) * tables.shape.cols);
  for (uint32_t half = 0; half < 2; ++half) {
    origin_[half] = origins_.data() + half * states_;
    cost_[half] = aligned(costs_) + half * states_;
    want_[half] = aligned(wanted_) + half * states_;
    pend_[half] = aligned(pending_) + half * states_ * history;
  }
}

// The first column's states need no step: each has one error and one cost.
void TrellisSearch::begin(const float* targets, float scale, int64_t ends) {
  const TrellisShape& shape = tables_.shape;
  std::fill(settled_.begin(), settled_.end(), 0.0f);
  for (uint32_t s = 0; s < states_; ++s) {
    const bool allowed = ends == kAnyEnds || s >> shape.bits == static_cast<uint64_t>(ends);
    const float error = targets[0] - scale * tables_.values[s];
    float* pending = pend_[0] + static_cast<size_t>(s) * shape.history;
    for (uint32_t i = 0; i < shape.history; ++i) pending[i] = error * tables_.spread[i];
    cost_[0][s] = allowed ? tables_.pivots[0] * error * error : kNever;
    want_[0][s] = targets[1] + pending[1];
    origin_[0][s] = 0;
    oldest_[s] = 0;
  }
}

uint32_t TrellisSearch::before(uint32_t step, uint32_t state) const {
  const TrellisShape& shape = tables_.shape;
  const uint32_t oldest = oldest_[static_cast<size_t>(step) * states_ + state];
  return state >> shape.bits | oldest << (shape.state_bits - shape.bits);
}

uint32_t TrellisSearch::best_state(int64_t ends) const {
  const float* cost = cost_[0];
  if (ends == kAnyEnds) {
    float least = cost[0];
    for (uint32_t s = 0; s < states_; ++s) least = std::min(least, cost[s]);
    return static_cast<uint32_t>(std::find(cost, cost + states_, least) - cost);
  }
  uint32_t best = static_cast<uint32_t>(ends);
  for (uint32_t s = best; s < states_; s += states_ >> tables_.shape.bits) {
    if (cost[s] < cost[best]) best = s;
  }
  return best;
}

// At checkpoints, a quarter of the history apart, paths that were elsewhere than the best path three checkpoints ago
// are dropped: all paths then agree on what they will forget before the next. Not near the end, which must stay within
// reach.
void TrellisSearch::agree(uint32_t i) {
  const TrellisShape& shape = tables_.shape;
  const uint32_t best = best_state(kAnyEnds);
  const float least = cost_[0][best];
  const bool near_end = i + 2 * shape.state_bits / shape.bits + 2 > shape.cols;
  const bool forgetting = tables_.feedback != nullptr && i >= shape.history && !near_end;
  const auto past = [&](uint32_t s) { return static_cast<uint16_t>(origin_[0][s] >> 32); };
  const uint16_t agreed = past(best);
  for (uint32_t s = 0; s < states_; ++s) {
    cost_[0][s] -= least;  // sums stay small, so that long rows lose no digits
    if (forgetting && past(s) != agreed) cost_[0][s] = kNever;
  }
  for (uint32_t s = 0; s < states_; ++s) origin_[0][s] = origin_[0][s] << 16 | s;
}

// Before step i: its paths will forget column i + 1 - history, so from now on the best path's error counts for all.
// Returns what errors that are decided add to the target of column i + 1.
float TrellisSearch::settle(uint32_t i, const float* targets, float scale) {
  const TrellisShape& shape = tables_.shape;
  if (i % (shape.history / 4) == 0) agree(i);
  if (tables_.feedback == nullptr || i + 1 < shape.history || i + 1 >= shape.cols) return 0;
  const uint32_t column = i + 1 - shape.history;
  uint32_t state = best_state(kAnyEnds);
  for (uint32_t j = i - 1; j > column; --j) state = before(j, state);
  settled_[column] = targets[column] - scale * tables_.values[state];
  const float* feedback = tables_.feedback + static_cast<size_t>(i + 1) * shape.cols;
  float sum = 0;
  for (uint32_t j = 0; j <= column; ++j) sum += feedback[j] * settled_[j];
  return sum;
}

void TrellisSearch::find(const float* targets, float scale, int64_t ends, uint8_t* codes) {
  const TrellisShape& shape = tables_.shape;
  begin(targets, scale, ends);
  Step step;
  step.state_bits = shape.state_bits;
  step.bits = shape.bits;
  step.history = shape.history;
  step.scale = scale;
  step.values = tables_.values.data();
  for (uint32_t i = 1; i < shape.cols; ++i) {
    const float settled = settle(i, targets, scale);
    step.target = targets[i];
    step.pivot = tables_.pivots[i];
    step.next_target = i + 1 < shape.cols ? targets[i + 1] + settled : 0;
    step.slot = i % shape.history;
    step.next_slot = (i + 1) % shape.history;
    step.spread = tables_.spread.data() + static_cast<size_t>(i) * shape.history;
    step.cost = cost_[0];
    step.wanted = want_[0];
    step.pending = pend_[0];
    step.offset = aligned(scratch_);
    step.slope = step.offset + states_;
    step.next_cost = cost_[1];
    step.next_wanted = want_[1];
    step.next_pending = pend_[1];
    step.origin = origin_[0];
    step.next_origin = origin_[1];
    step.oldest = oldest_.data() + static_cast<size_t>(i) * states_;
    step_(step);
    std::swap(cost_[0], cost_[1]);
    std::swap(want_[0], want_[1]);
    std::swap(pend_[0], pend_[1]);
    std::swap(origin_[0], origin_[1]);
  }
  uint32_t state = best_state(ends);
  for (uint32_t i = shape.cols; i-- > 0; state = before(i, state)) {
    codes[shape.column(i)] = static_cast<uint8_t>(state & ((1u << shape.bits) - 1));
  }
}

double TrellisSearch::cost(const float* errors) const {
  const uint32_t cols = tables_.shape.cols;
  double total = 0;
  for (uint32_t i = 0; i < cols; ++i) {
    float sum = errors[i];
    if (tables_.feedback != nullptr) {
      const float* feedback = tables_.feedback + static_cast<size_t>(i) * cols;
      for (uint32_t j = 0; j < i; ++j) sum += feedback[j] * errors[j];
    }
    total += static_cast<double>(tables_.pivots[i]) * sum * sum;
  }
  return total;
}

uint32_t TrellisSearch::state_of(const uint8_t* codes, uint32_t column) const {
  const TrellisShape& shape = tables_.shape;
  uint32_t state = 0;
  for (uint32_t read = 0; read < shape.state_bits; read += shape.bits) {
    state |= static_cast<uint32_t>(codes[column]) << read;
    column = column + 1 == shape.cols ? 0 : column + 1;
  }
  return state & (states_ - 1);
}

void TrellisSearch::decode(const uint8_t* codes, float* values) const {
  for (uint32_t j = 0; j < tables_.shape.cols; ++j) values[j] = tables_.values[state_of(codes, j)];
}

int64_t TrellisSearch::ends_of(const uint8_t* codes) const {
  const TrellisShape& shape = tables_.shape;
  return state_of(codes, shape.begin % shape.cols) & ((states_ >> shape.bits) - 1);
}

}  // namespace edgekit
