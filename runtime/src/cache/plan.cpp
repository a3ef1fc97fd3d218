#include "cache/plan.h"

#include <algorithm>
#include <string>

#include "core/budget.h"
#include "model/workspace.h"

namespace edgekit {

namespace {

constexpr uint64_t kSlotTarget = 1 << 20;  // large enough for a device's full bandwidth
constexpr uint32_t kSlots = 8;
constexpr uint32_t kMinSlots = 2;

// What is worth keeping first. Every dense byte is used once per token, so among those the order
// only decides which reads remain: FFN units are the ones laid out for reading.
enum Class : int { attention, head, ffn, experts, lookup, classes };

std::vector<Class> classify(const Manifest& m) {
  std::vector<Class> out(m.matrices.size(), lookup);
  const auto mark = [&](int32_t index, Class c) {
    if (index != kNone) out[static_cast<size_t>(index)] = c;
  };
  for (const Block& b : m.blocks) {
    for (int32_t i : {b.q, b.k, b.v, b.o, b.router}) mark(i, attention);
    for (int32_t i : b.matrices) mark(i, b.kind == Block::experts ? experts : ffn);
  }
  mark(m.embedding_project, attention);
  mark(m.head_project, attention);
  mark(m.head, head);
  return out;
}

uint64_t ring_bytes(uint32_t rings, uint32_t slots, uint64_t slot_bytes) {
  return uint64_t{rings} * Buffer::charge(slots * slot_bytes);
}

// Keeps `budget` bytes of a class: all of it, or else the same share of every matrix, so that
// reading and computing alternate evenly along the pass.
uint64_t keep(const Manifest& m, const std::vector<Class>& kinds, Class kind, uint64_t budget,
              std::vector<uint32_t>& resident) {
  uint64_t total = 0, kept = 0;
  for (size_t i = 0; i < kinds.size(); ++i) total += kinds[i] == kind ? m.matrices[i].bytes() : 0;
  const double share = total <= budget ? 1.0 : static_cast<double>(budget) / static_cast<double>(total);
  double owed = 0;  // fractions of units carry over, so that rounding does not waste the budget
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] != kind) continue;
    const Matrix& x = m.matrices[i];
    owed += share * static_cast<double>(x.bytes());
    const uint64_t wish = share >= 1.0 ? x.units : static_cast<uint64_t>(owed) / x.unit_stride;
    uint64_t units = std::min<uint64_t>({wish, x.units, (budget - kept) / x.unit_stride});
    resident[i] = static_cast<uint32_t>(units);
    owed -= static_cast<double>(units * x.unit_stride);
    kept += units * x.unit_stride;
  }
  return kept;
}

}  // namespace

uint64_t kv_cache_bytes(const Manifest& m, uint32_t context, uint32_t value_bytes) {
  uint64_t values = 0;
  for (const Block& b : m.blocks) {
    if (b.kind == Block::attention) values += uint64_t{2} * b.kv_heads * b.head_dim * context;
  }
  // A forged manifest may ask for the absurd: stay far from overflow, no budget has that much.
  return Buffer::charge(std::min<uint64_t>(values, uint64_t{1} << 44) * value_bytes);
}

Outcome make_plan(const Manifest& m, const PlanRequest& r, Plan& plan) {
  const std::vector<Class> kinds = classify(m);
  const bool has_experts = std::count(kinds.begin(), kinds.end(), experts) > 0;
  plan = Plan{};
  plan.context = r.context;
  plan.rings = has_experts ? 2 : 1;
  plan.resident_units.assign(m.matrices.size(), 0);
  uint64_t largest_unit = 0;
  for (const Matrix& x : m.matrices) {
    plan.weight_bytes += x.bytes();
    largest_unit = std::max(largest_unit, x.unit_stride);
  }
  plan.kv_bytes = kv_cache_bytes(m, r.context, r.kv_bytes);
  const uint64_t fixed =
      r.fixed_bytes + Buffer::charge(m.vectors_bytes) + (plan.kv_bytes + r.session_bytes) * r.sessions;
  const auto work = [&](uint32_t batch) { return workspace_bytes(m, batch, r.context, r.threads, largest_unit); };
  plan.floor_bytes = std::max(r.opening_bytes, fixed + work(1) + ring_bytes(plan.rings, kMinSlots, largest_unit));

  plan.max_batch = std::min(r.max_batch != 0 ? r.max_batch : 128u, r.context);
  const uint64_t everything = fixed + work(plan.max_batch) + plan.weight_bytes;
  if (r.ram_bytes == 0 || everything <= r.ram_bytes) {
    plan.budget_bytes = r.ram_bytes != 0 ? r.ram_bytes : everything;
    const uint64_t all = std::max(r.opening_bytes, fixed + work(1) + plan.weight_bytes);
    plan.floor_bytes = std::min(plan.floor_bytes, all);
    plan.activation_bytes = work(plan.max_batch);
    plan.resident_bytes = plan.weight_bytes;
    for (size_t i = 0; i < kinds.size(); ++i) plan.resident_units[i] = m.matrices[i].units;
    return Nothing{};
  }
  plan.budget_bytes = r.ram_bytes;
  if (r.ram_bytes < plan.floor_bytes) {
    return fail(EDGEKIT_OVER_BUDGET, "a budget of " + std::to_string(r.ram_bytes) +
                                         " bytes is too small: this model needs at least " +
                                         std::to_string(plan.floor_bytes) + " bytes with a context of " +
                                         std::to_string(r.context) + " tokens; raise the budget or lower the context");
  }
  // Work buffers and ring may take an eighth of the budget each, or else shrink to their least.
  while (plan.max_batch > 1 && work(plan.max_batch) > r.ram_bytes / 8) plan.max_batch /= 2;
  plan.slot_bytes = std::max(largest_unit, kSlotTarget);
  plan.slots = kSlots;
  while (plan.slots > kMinSlots && ring_bytes(plan.rings, plan.slots, plan.slot_bytes) > r.ram_bytes / 8) {
    --plan.slots;
  }
  while (plan.slot_bytes > largest_unit && ring_bytes(plan.rings, plan.slots, plan.slot_bytes) > r.ram_bytes / 8) {
    plan.slot_bytes = std::max(largest_unit, plan.slot_bytes / 2);
  }
  const auto overhead = [&] {
    return fixed + work(plan.max_batch) + ring_bytes(plan.rings, plan.slots, plan.slot_bytes);
  };
  while (overhead() > r.ram_bytes && plan.max_batch > 1) plan.max_batch /= 2;
  while (overhead() > r.ram_bytes && plan.slots > kMinSlots) --plan.slots;
  if (overhead() > r.ram_bytes) plan.slot_bytes = largest_unit;

  plan.activation_bytes = work(plan.max_batch);
  plan.stream_bytes = ring_bytes(plan.rings, plan.slots, plan.slot_bytes);
  uint64_t left = r.ram_bytes - overhead();
  for (int c = 0; c < classes; ++c) {
    const uint64_t kept = keep(m, kinds, static_cast<Class>(c), left, plan.resident_units);
    plan.resident_bytes += kept;
    left -= kept;
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    const Matrix& x = m.matrices[i];
    if (kinds[i] != lookup && kinds[i] != experts) {
      plan.streamed_bytes += (x.units - plan.resident_units[i]) * x.unit_stride;
    }
  }
  return Nothing{};
}

}  // namespace edgekit
