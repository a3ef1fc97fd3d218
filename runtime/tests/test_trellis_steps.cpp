// The vector steps of the trellis search choose and carry what the portable ones do.
#include <cmath>
#include <vector>

#include "cases.h"
#include "check.h"
#include "encode/steps.h"

using namespace edgekit;
using namespace edgekit::test;

namespace {

constexpr uint32_t kStateBits = 12, kStates = 1u << kStateBits;

std::vector<float> randoms(size_t count, Random& random) {
  std::vector<float> out(count);
  for (float& v : out) v = uniform(random);
  return out;
}

std::vector<const Steps*> other_steps() {
  std::vector<const Steps*> out;
#if defined(__x86_64__)
  if (find_kernels("avx2") != nullptr) out.push_back(&kAvx2Steps);
  if (find_kernels("avx512") != nullptr) out.push_back(&kAvx512Steps);
#endif
  return out;
}

struct After {
  std::vector<float> cost, records, wanted;
  std::vector<uint32_t> path;
  std::vector<uint8_t> oldest;
};

After step_with(const Steps& steps, Step step) {
  After after;
  after.cost.resize(kStates);
  after.records.resize(kStates * record_width(step.next_slot));
  after.wanted.resize(kStates);
  after.path.resize(kStates);
  after.oldest.resize(step.wanted == nullptr ? kStates >> step.bits : kStates);
  std::vector<float> offset(kStates), slope(kStates);
  step.offset = offset.data();
  step.slope = slope.data();
  step.next_cost = after.cost.data();
  step.next_records = after.records.data();
  step.next_wanted = after.wanted.data();
  step.next_path = after.path.data();
  step.oldest = after.oldest.data();
  steps.step(step);
  return after;
}

// Ways that cost the same but for rounding may be told apart otherwise; nearly none of random ways do.
void compare(const After& want, const After& got) {
  uint32_t same = 0;
  for (size_t i = 0; i < want.oldest.size(); ++i) same += want.oldest[i] == got.oldest[i];
  CHECK(same + 8 >= want.oldest.size());
  for (uint32_t s = 0; s < kStates; ++s) CHECK(std::fabs(want.cost[s] - got.cost[s]) < 1e-5f);
  if (want.oldest.size() != kStates) return;
  const size_t width = want.records.size() / kStates;
  for (uint32_t s = 0; s < kStates; ++s) {
    if (want.oldest[s] != got.oldest[s]) continue;
    CHECK(want.path[s] == got.path[s]);
    CHECK(std::fabs(want.wanted[s] - got.wanted[s]) < 1e-5f);
    for (size_t i = s * width; i < (s + 1) * width; ++i) {
      CHECK(std::fabs(want.records[i] - got.records[i]) < 1e-5f);
    }
  }
}

// Records and targets in plain sums, by a step's own choice of ways.
void check_sums(const Step& step, const After& after) {
  const uint32_t from = record_width(step.next_slot - 1), to = record_width(step.next_slot);
  for (uint32_t s = 0; s < kStates; ++s) {
    const uint32_t parent = s >> step.bits | static_cast<uint32_t>(after.oldest[s]) << (kStateBits - step.bits);
    const float error = step.target - step.scale * step.values[s];
    for (uint32_t column = step.next_slot; column < kTrellisBlock; ++column) {
      const uint32_t back = kTrellisBlock - column;
      const float sum = step.records[(parent + 1) * from - back] + error * step.spread[column];
      const float found =
          column == step.next_slot ? after.wanted[s] - step.next_target : after.records[(s + 1) * to - back];
      CHECK(std::fabs(found - sum) < 1e-5f);
    }
    CHECK(state_before(after.path[s], s, kStateBits, step.bits, 1) == parent);
    const uint32_t older = state_before(step.path[parent], parent, kStateBits, step.bits, 2);
    CHECK(state_before(after.path[s], s, kStateBits, step.bits, 3) == older);
  }
}

}  // namespace

TEST(trellis_steps_match_the_portable_ones) {
  Random random(5);
  const std::vector<float> values = randoms(kStates, random), cost = randoms(kStates, random),
                           wanted = randoms(kStates, random), spread = randoms(kTrellisBlock, random),
                           records = randoms(kStates * kTrellisBlock, random);
  std::vector<uint32_t> path(kStates);
  for (uint32_t& p : path) p = static_cast<uint32_t>(random.uniform() * 4294967040.0);
  Step step;
  step.state_bits = kStateBits;
  step.target = 0.3f;
  step.pivot = 0.8f;
  step.scale = 1.2f;
  step.values = values.data();
  step.cost = cost.data();
  step.next_target = 0.1f;
  step.spread = spread.data();
  step.records = records.data();
  step.path = path.data();
  for (uint32_t bits : {2u, 3u, 4u}) {
    step.bits = bits;
    step.wanted = nullptr;
    for (const Steps* steps : other_steps()) compare(step_with(kPortableSteps, step), step_with(*steps, step));
    step.wanted = wanted.data();
    for (uint32_t slot = 1; slot < kTrellisBlock; ++slot) {
      step.next_slot = slot;
      const After after = step_with(kPortableSteps, step);
      check_sums(step, after);
      for (const Steps* steps : other_steps()) compare(after, step_with(*steps, step));
    }
  }
}

TEST(trellis_renewals_match_the_portable_one) {
  Random random(6);
  constexpr uint32_t kBlocks = 3, kStride = 4 * kTrellisBlock, kWidth = kBlocks * kTrellisBlock;
  const std::vector<float> far = randoms(kStates * kWidth, random), older = randoms(kTrellisBlock * kStride, random),
                           newer = randoms(kTrellisBlock * kStride, random), values = randoms(kStates, random),
                           targets = randoms(kTrellisBlock, random), errors = randoms(kStates * kTrellisBlock, random);
  const std::vector<uint16_t> anchors = {7, 1000, 4095};
  std::vector<uint16_t> parents(kStates), origin(kStates);
  std::vector<uint32_t> path(kStates);
  for (uint32_t s = 0; s < kStates; ++s) {
    parents[s] = static_cast<uint16_t>(random.uniform() * kStates);
    origin[s] = anchors[s % anchors.size()];
    path[s] = static_cast<uint32_t>(random.uniform() * 4294967040.0);
  }
  const auto renew_with = [&](const Steps& steps) {
    std::vector<float> next_far(kStates * kWidth), passed = errors, wanted(kStates), after(kStates * kTrellisBlock);
    Renewal r;
    r.state_bits = kStateBits;
    r.bits = 3;
    r.blocks = kBlocks;
    r.anchors = anchors.data();
    r.anchor_count = static_cast<uint32_t>(anchors.size());
    r.parents = parents.data();
    r.far = far.data();
    r.next_far = next_far.data();
    r.stride = kStride;
    r.older = older.data() + kTrellisBlock;
    r.newer = newer.data();
    r.origin = origin.data();
    r.path = path.data();
    r.values = values.data();
    r.scale = 1.1f;
    std::copy(targets.begin(), targets.end(), r.passed);
    r.records = after.data();
    r.errors = passed.data();
    r.target = 0.2f;
    r.wanted = wanted.data();
    steps.renew(r);
    after.insert(after.end(), next_far.begin(), next_far.end());
    after.insert(after.end(), passed.begin(), passed.end());
    after.insert(after.end(), wanted.begin(), wanted.end());
    return after;
  };
  const std::vector<float> want = renew_with(kPortableSteps);
  // What the errors between an anchor and its parent add, and the last block's errors, in plain sums.
  float sum = far[parents[7] * kWidth + kTrellisBlock];
  for (uint32_t k = 0; k < kTrellisBlock; ++k) sum += errors[k * kStates + 7] * older[k * kStride + kTrellisBlock];
  for (uint32_t k = 0; k < kTrellisBlock; ++k) {
    const float value = values[state_before(path[0], 0, kStateBits, 3, kTrellisBlock - 1 - k)];
    sum += (targets[k] - 1.1f * value) * newer[k * kStride];
  }
  CHECK(origin[0] == 7 && std::fabs(want[0] - sum) < 1e-5f);
  for (const Steps* steps : other_steps()) {
    const std::vector<float> got = renew_with(*steps);
    for (size_t i = 0; i < want.size(); ++i) CHECK(std::fabs(want[i] - got[i]) < 1e-5f);
  }
}
