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

// In lanes, which the compiler may not make of one sum.
float dot(const float* a, const float* b, uint32_t count) {
  constexpr uint32_t kLanes = 16;
  float sums[kLanes] = {};
  uint32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (uint32_t k = 0; k < kLanes; ++k) sums[k] += a[i + k] * b[i + k];
  }
  for (; i < count; ++i) sums[i % kLanes] += a[i] * b[i];
  float total = 0;
  for (float sum : sums) total += sum;
  return total;
}

// The place of the least of `count` numbers, a multiple of 16; of equal ones the first.
uint32_t least_of(const float* values, uint32_t count) {
  constexpr uint32_t kLanes = 16;
  float least[kLanes];
  std::copy_n(values, kLanes, least);
  for (uint32_t i = kLanes; i < count; i += kLanes) {
    for (uint32_t k = 0; k < kLanes; ++k) least[k] = values[i + k] < least[k] ? values[i + k] : least[k];
  }
  const float found = *std::min_element(least, least + kLanes);
  return static_cast<uint32_t>(std::find(values, values + count, found) - values);
}

}  // namespace

TrellisTables::TrellisTables(const TrellisShape& given, const float* feed, const float* pivot)
    : shape(given), feedback(feed), pivots(given.cols, 1.0f) {
  if (pivot != nullptr) std::copy(pivot, pivot + shape.cols, pivots.begin());
  values.resize(size_t{1} << shape.state_bits);
  for (uint32_t s = 0; s < values.size(); ++s) values[s] = kTrellisUnit * static_cast<float>(trellis_value(s));
  if (feedback == nullptr) return;
  within.assign(static_cast<size_t>(shape.cols) * kTrellisBlock, 0.0f);
  ahead.assign(static_cast<size_t>(shape.cols) * shape.history, 0.0f);
  for (uint32_t j = 0; j < shape.cols; ++j) {
    const uint32_t next = (j / kTrellisBlock + 1) * kTrellisBlock;  // the next block's first column
    float* record = within.data() + static_cast<size_t>(j) * kTrellisBlock;
    float* later = ahead.data() + static_cast<size_t>(j) * shape.history;
    for (uint32_t i = j + 1; i < std::min(shape.cols, next + shape.history); ++i) {
      (i < next ? record[i % kTrellisBlock] : later[i - next]) = feedback[static_cast<size_t>(i) * shape.cols + j];
    }
  }
}

TrellisSearch::TrellisSearch(const TrellisTables& tables)
    : tables_(tables), steps_(find_steps()), states_(1u << tables.shape.state_bits) {
  costs_.resize(2 * states_ + 16);
  scratch_.resize(2 * states_ + 16);
  oldest_.resize(static_cast<size_t>(tables.shape.cols) * (alike() ? states_ >> tables.shape.bits : states_));
  for (uint32_t half = 0; half < 2; ++half) cost_[half] = aligned(costs_) + half * states_;
  if (alike()) return;
  wanted_.resize(2 * states_ + 16);
  records_.resize(2 * states_ * kTrellisBlock + 16);
  errors_.resize(states_ * kTrellisBlock);
  far_.resize(2 * states_ * far_width());
  settled_.resize(tables.shape.cols);
  origins_.resize(states_);
  paths_.resize(2 * states_);
  parents_.resize(states_);
  lineage_.resize(2 * states_ * blocks());
  marked_.resize(states_);
  for (uint32_t half = 0; half < 2; ++half) {
    want_[half] = aligned(wanted_) + half * states_;
    record_[half] = aligned(records_) + half * states_ * kTrellisBlock;
    path_[half] = paths_.data() + half * states_;
    far_at_[half] = far_.data() + half * states_ * far_width();
    lineage_at_[half] = lineage_.data() + half * states_ * blocks();
  }
}

// The first column's states need no step: each has one error and one cost.
void TrellisSearch::begin(const float* targets, float scale, int64_t ends) {
  const TrellisShape& shape = tables_.shape;
  for (uint32_t s = 0; s < states_; ++s) {
    const bool allowed = ends == kAnyEnds || s >> shape.bits == static_cast<uint64_t>(ends);
    const float error = targets[0] - scale * tables_.values[s];
    cost_[0][s] = allowed ? tables_.pivots[0] * error * error : kNever;
    if (alike()) continue;
    static_assert(record_width(1) == kTrellisBlock);
    float* record = record_[0] + static_cast<size_t>(s) * kTrellisBlock;
    for (uint32_t i = 0; i < kTrellisBlock; ++i) record[i] = error * tables_.within[i];
    want_[0][s] = targets[1] + record[1];
  }
  if (alike()) return;
  // Before the row all paths were at one place, where nothing was added.
  for (uint32_t k = 0; k < kTrellisBlock; ++k) errors_[static_cast<size_t>(k) * states_] = 0;
  std::fill_n(far_at_[0], far_width(), 0.0f);
  std::fill_n(lineage_at_[0], blocks(), uint16_t{0});
  parents_[0] = 0;
  std::copy_n(targets, kTrellisBlock, block_targets_);
}

uint32_t TrellisSearch::before(uint32_t step, uint32_t state) const {
  const TrellisShape& shape = tables_.shape;
  const uint32_t older = state >> shape.bits;
  const uint32_t oldest = alike() ? oldest_[static_cast<size_t>(step) * (states_ >> shape.bits) + older]
                                  : oldest_[static_cast<size_t>(step) * states_ + state];
  return older | oldest << (shape.state_bits - shape.bits);
}

uint32_t TrellisSearch::best_state(int64_t ends) const {
  const float* cost = cost_[0];
  if (ends == kAnyEnds) return least_of(cost, states_);
  uint32_t best = static_cast<uint32_t>(ends);
  for (uint32_t s = best; s < states_; s += states_ >> tables_.shape.bits) {
    if (cost[s] < cost[best]) best = s;
  }
  return best;
}

// Before column i: the anchors that are left, each with where its path was when earlier blocks began.
void TrellisSearch::trace_anchors(uint32_t i) {
  anchors_.clear();
  for (uint32_t s = 0; s < states_; ++s) {
    const uint32_t then = state_before(path_[0][s], s, tables_.shape.state_bits, tables_.shape.bits, kTrellisBlock);
    const uint16_t anchor = i == kTrellisBlock ? uint16_t{0} : static_cast<uint16_t>(then);
    origins_[s] = anchor;
    if (marked_[anchor] != 0) continue;
    marked_[anchor] = 1;
    anchors_.push_back(anchor);
  }
  for (uint16_t anchor : anchors_) {
    marked_[anchor] = 0;
    uint16_t* next = lineage_at_[1] + static_cast<size_t>(anchor) * blocks();
    std::copy_n(lineage_at_[0] + static_cast<size_t>(parents_[anchor]) * blocks(), blocks() - 1, next + 1);
    next[0] = anchor;
  }
  std::swap(lineage_at_[0], lineage_at_[1]);
}

// Before column i, where a block begins: the errors of the columns that paths forget are those of the best path from
// now on, and paths that were elsewhere then are dropped. Not near the end, which must stay within reach.
void TrellisSearch::settle(uint32_t i, const float* targets, float scale) {
  const TrellisShape& shape = tables_.shape;
  const uint32_t best = best_state(kAnyEnds);
  const float least = cost_[0][best];
  for (uint32_t s = 0; s < states_; ++s) cost_[0][s] -= least;  // so that long rows lose no digits
  if (alike()) return;
  trace_anchors(i);
  std::copy_n(targets + i, kTrellisBlock, block_targets_);
  if (i <= shape.history) return;
  const auto past = [&](uint32_t s) {
    return lineage_at_[0][static_cast<size_t>(origins_[s]) * blocks() + blocks() - 1];
  };
  const bool near_end = i + 2 * shape.state_bits / shape.bits + 2 > shape.cols;
  const uint16_t agreed = past(best);
  for (uint32_t s = 0; s < states_ && !near_end; ++s) {
    if (past(s) != agreed) cost_[0][s] = kNever;
  }
  const uint32_t decided = i - shape.history;  // columns
  uint32_t state = best;
  for (uint32_t j = i - 1; j + kTrellisBlock >= decided; --j) {
    if (j < decided) settled_[j] = targets[j] - scale * tables_.values[state];
    if (j == 0) break;
    state = before(j, state);
  }
  for (uint32_t k = 0; k < kTrellisBlock; ++k) {
    block_targets_[k] += dot(tables_.feedback + static_cast<size_t>(i + k) * shape.cols, settled_.data(), decided);
  }
}

void TrellisSearch::renew(uint32_t i, const float* targets, float scale) {
  const size_t stride = tables_.shape.history;
  Renewal r;
  r.state_bits = tables_.shape.state_bits;
  r.bits = tables_.shape.bits;
  r.blocks = blocks() - 1;
  r.anchors = anchors_.data();
  r.anchor_count = static_cast<uint32_t>(anchors_.size());
  r.parents = parents_.data();
  r.far = far_at_[0];
  r.next_far = far_at_[1];
  r.stride = tables_.shape.history;
  const size_t last = i - kTrellisBlock;
  r.newer = tables_.ahead.data() + last * stride;
  // Before the first block there were no errors: any factors do.
  r.older = (last == 0 ? r.newer : r.newer - kTrellisBlock * stride) + kTrellisBlock;
  r.origin = origins_.data();
  r.path = path_[0];
  r.values = tables_.values.data();
  r.scale = scale;
  std::copy_n(targets + last, kTrellisBlock, r.passed);
  r.errors = errors_.data();
  r.records = record_[0];
  r.target = block_targets_[0];
  r.wanted = want_[0];
  steps_.renew(r);
  std::swap(far_at_[0], far_at_[1]);
  parents_.swap(origins_);
}

void TrellisSearch::advance(uint32_t i, float target, float scale) {
  Step step;
  step.state_bits = tables_.shape.state_bits;
  step.bits = tables_.shape.bits;
  step.target = target;
  step.pivot = tables_.pivots[i];
  step.scale = scale;
  step.values = tables_.values.data();
  step.cost = cost_[0];
  step.offset = aligned(scratch_);
  step.slope = step.offset + states_;
  step.next_cost = cost_[1];
  if (alike()) {
    step.oldest = oldest_.data() + static_cast<size_t>(i) * (states_ >> step.bits);
  } else {
    step.oldest = oldest_.data() + static_cast<size_t>(i) * states_;
    step.next_slot = (i + 1) % kTrellisBlock;  // where a block ends, `wanted` is made anew
    step.next_target = block_targets_[step.next_slot];
    step.spread = tables_.within.data() + static_cast<size_t>(i) * kTrellisBlock;
    step.wanted = want_[0];
    step.next_wanted = want_[1];
    step.records = record_[0];
    step.next_records = record_[1];
    step.path = path_[0];
    step.next_path = path_[1];
  }
  steps_.step(step);
  std::swap(cost_[0], cost_[1]);
  std::swap(want_[0], want_[1]);
  std::swap(record_[0], record_[1]);
  std::swap(path_[0], path_[1]);
}

void TrellisSearch::find(const float* targets, float scale, int64_t ends, uint8_t* codes) {
  const TrellisShape& shape = tables_.shape;
  begin(targets, scale, ends);
  for (uint32_t i = 1; i < shape.cols; ++i) {
    if (i % kTrellisBlock == 0) {
      settle(i, targets, scale);
      if (!alike()) renew(i, targets, scale);
    }
    advance(i, targets[i], scale);
  }
  uint32_t state = best_state(ends);
  for (uint32_t i = shape.cols; i-- > 0; state = i > 0 ? before(i, state) : 0) {
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
      sum += dot(feedback, errors, i);
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
