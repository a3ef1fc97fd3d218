#include "cache/plan.h"

#include <algorithm>
#include <string>

#include "cache/window.h"
#include "core/budget.h"
#include "select/select.h"

namespace edgekit {

namespace {

constexpr uint64_t kSlotTarget = 1 << 20;  // large enough for a device's full bandwidth
constexpr uint32_t kMinSlots = 2, kSlots = 8, kMaxSlots = 32;

// What is worth keeping first. Every dense byte is used once per token, so among those the order
// only decides which reads remain: FFN units are the ones laid out for reading. A table that is
// looked up row by row costs one read a token, so it comes last; what is not used at all never.
enum Class : int { attention, head, selector, ffn, lookup, classes, unused = classes };

std::vector<Class> classify(const Manifest& m, uint32_t select, uint32_t parts) {
  const bool all = parts == EDGEKIT_COMPUTE_ALL;
  const Class projections = parts == EDGEKIT_COMPUTE_FEED_FORWARD ? unused : attention;
  std::vector<Class> out(m.matrices.size(), all ? lookup : unused);
  const auto mark = [&](int32_t index, Class c) {
    if (index != kNone) out[static_cast<size_t>(index)] = c;
  };
  for (const Block& b : m.blocks) {
    b.for_each_projection([&](int32_t i) { mark(i, projections); });
    mark(b.router, attention);
    mark(b.output_gate, attention);
    for (int32_t i : {b.predict_down, b.predict_up}) mark(i, select == EDGEKIT_SELECT_PREDICTED ? attention : unused);
    for (int32_t i : b.matrices) mark(i, ffn);
    mark(b.selector, selector);
  }
  mark(m.embedding_project, projections);
  mark(m.layers.project, projections);
  mark(m.head_project, projections);
  mark(m.head, parts == EDGEKIT_COMPUTE_FEED_FORWARD ? unused : head);
  return out;
}

// Keeps `budget` bytes of a class: all of it, or else the same share of every matrix, so that
// reading and computing alternate evenly along the pass.
uint64_t keep(const Manifest& m, const std::vector<Class>& kinds, Class kind, uint64_t budget, Plan& plan) {
  const auto counts = [&](size_t i) { return kinds[i] == kind && plan.windowed[i] == 0; };
  uint64_t total = 0, kept = 0;
  for (size_t i = 0; i < kinds.size(); ++i) total += counts(i) ? m.matrices[i].bytes() : 0;
  const double share = total <= budget ? 1.0 : static_cast<double>(budget) / static_cast<double>(total);
  double owed = 0;  // fractions of units carry over, so that rounding does not waste the budget
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (!counts(i)) continue;
    const Matrix& x = m.matrices[i];
    owed += share * static_cast<double>(x.bytes());
    const uint64_t wish = share >= 1.0 ? x.units : static_cast<uint64_t>(owed) / x.unit_stride;
    const uint64_t units = std::min<uint64_t>({wish, x.units, (budget - kept) / x.unit_stride});
    plan.resident_units[i] = static_cast<uint32_t>(units);
    owed -= static_cast<double>(units * x.unit_stride);
    kept += units * x.unit_stride;
  }
  return kept;
}

uint64_t ring_bytes(const Plan& plan) { return Region::charge(plan.slots * plan.slot_bytes); }

// `most` is what the ring may take if it must. A deep one keeps the device busy while a layer's resident part is
// computed (docs/design/0002-flash.md); where a token's units come through the window, the memory is better there.
void choose_ring(Plan& plan, uint64_t most) {
  const uint32_t deepest = plan.window_most_bytes > 0 ? kSlots : kMaxSlots;
  plan.slot_bytes = std::max(plan.largest_unit, kSlotTarget);
  plan.slots = static_cast<uint32_t>(std::clamp<uint64_t>(most / 2 / plan.slot_bytes, kSlots, deepest));
  while (plan.slots > kMinSlots && ring_bytes(plan) > most) --plan.slots;
  while (plan.slot_bytes > plan.largest_unit && ring_bytes(plan) > most) {
    plan.slot_bytes = std::max(plan.largest_unit, plan.slot_bytes / 2);
  }
}

uint64_t table_bytes(const Manifest& m, const Plan& plan) {
  if (plan.window_most_bytes == 0) return 0;
  return Window::table_bytes(m, plan.windowed, plan.window_most_bytes / plan.window_slot_bytes);
}

// Decides which matrices go through the window, and the size of its slots.
void choose_windowed(const Manifest& m, Plan& plan) {
  plan.windowed.assign(m.matrices.size(), 0);
  for (const Block& b : m.blocks) {
    if (b.kind == Block::experts) {
      for (int32_t i : b.matrices) plan.windowed[static_cast<size_t>(i)] = 1;
    } else if (b.kind == Block::ffn && selects(b, plan.select)) {
      plan.windowed[static_cast<size_t>(b.matrices[0])] = 1;
      if (b.selector != kNone && !scans_selector(plan.select)) plan.windowed[static_cast<size_t>(b.selector)] = 1;
    }
  }
  uint64_t units = 0;
  for (size_t i = 0; i < plan.windowed.size(); ++i) {
    if (plan.windowed[i] == 0) continue;
    plan.window_slot_bytes = std::max(plan.window_slot_bytes, m.matrices[i].unit_stride);
    units += m.matrices[i].units;
  }
  plan.window_most_bytes = units * plan.window_slot_bytes;
}

// Hands out what the budget leaves: the window's least, then class by class, then the window's rest.
void distribute(const Manifest& m, Plan& plan, uint64_t left) {
  const std::vector<Class> kinds = classify(m, plan.select, plan.parts);
  plan.resident_units.assign(m.matrices.size(), 0);
  plan.resident_bytes = plan.streamed_bytes = plan.window_bytes = 0;
  if (plan.window_most_bytes > 0) {
    const uint64_t slot = plan.window_slot_bytes;
    const uint64_t least = std::max(plan.window_most_bytes / 16 / slot, uint64_t{kMinSlots}) * slot;
    plan.window_bytes =
        std::min(std::max(kMinSlots * slot, std::min(least, left / 4 / slot * slot)), left / slot * slot);
    left -= plan.window_bytes;
  }
  for (int c = 0; c < classes; ++c) {
    if (c == lookup && plan.window_most_bytes > 0) {
      const uint64_t slot = plan.window_slot_bytes;
      const uint64_t more = std::min(plan.window_most_bytes - plan.window_bytes, left / slot * slot);
      plan.window_bytes += more;
      left -= more;
    }
    const uint64_t kept = keep(m, kinds, static_cast<Class>(c), left, plan);
    plan.resident_bytes += kept;
    left -= kept;
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    const Matrix& x = m.matrices[i];
    if (kinds[i] < lookup && plan.windowed[i] == 0) {
      plan.streamed_bytes += (x.units - plan.resident_units[i]) * x.unit_stride;
    }
  }
}

Error too_small(uint64_t ram, const Plan& plan) {
  return fail(EDGEKIT_OVER_BUDGET, "a budget of " + std::to_string(ram) +
                                       " bytes is too small: this model needs at least " +
                                       std::to_string(plan.floor_bytes) + " bytes with a context of " +
                                       std::to_string(plan.context) + " tokens; raise the budget or lower the context");
}

}  // namespace

uint32_t kv_parts(const Block& b) {
  if (b.kind == Block::attention) return b.causal && b.source == kNone ? 2 : 0;
  return b.kind == Block::convolution ? 1 : 0;
}

uint32_t kv_rows(const KvKept& kept, uint32_t context, uint32_t batch) {
  if (kept.window == 0) return context;
  const uint64_t rows = uint64_t{kept.sinks} + kept.window - 1 + std::max(batch, kRewindRoom);
  return static_cast<uint32_t>(std::min<uint64_t>(rows, context));
}

CacheType kv_type(const Block& b, CacheType type) {
  return b.kind == Block::convolution && type != CacheType::f32 ? CacheType::f16 : type;
}

uint64_t kv_cache_bytes(const Manifest& m, uint32_t context, uint32_t batch, CacheType type, const KvPolicy& policy) {
  uint64_t bytes = 0;
  for (const Block& b : m.blocks) {
    if (kv_parts(b) != 0) {
      bytes += kv_parts(b) * b.kv_heads * cache_row_bytes(kv_type(b, type), b.head_dim) *
               kv_rows(policy.kept(b), context, batch);
    }
  }
  // A forged manifest may ask for the absurd: stay far from overflow, no budget has that much.
  return Buffer::charge(std::min<uint64_t>(bytes, uint64_t{1} << 46));
}

Outcome make_plan(const Manifest& m, const PlanRequest& r, Plan& plan) {
  plan = Plan{};
  plan.context = r.context;
  plan.parts = r.parts;
  for (const Matrix& x : m.matrices) plan.largest_unit = std::max(plan.largest_unit, x.unit_stride);
  const uint64_t largest_unit = plan.largest_unit;
  const auto kv = [&](uint32_t batch) {
    return r.parts != EDGEKIT_COMPUTE_ALL ? 0 : kv_cache_bytes(m, r.context, batch, r.cache_type, r.kv_policy);
  };
  const auto fixed = [&](uint32_t batch) {
    return r.fixed_bytes + Buffer::charge(m.vectors_bytes) + (kv(batch) + r.session_bytes) * r.sessions;
  };
  const auto work = [&](uint32_t batch) { return r.workspace_bytes(batch, largest_unit); };
  const uint32_t least = std::min(r.least_batch, r.context);
  plan.max_batch = std::max(least, std::min(r.max_batch != 0 ? r.max_batch : 128u, r.context));
  plan.kv_bytes = kv(least);

  // As if everything fitted.
  Plan whole = plan;
  EK_ASSIGN(whole.select, resolve_select(m, r.select, true));
  whole.windowed.assign(m.matrices.size(), 0);
  for (Class c : classify(m, whole.select, r.parts)) {
    const Matrix& x = m.matrices[whole.resident_units.size()];
    whole.resident_units.push_back(c == unused ? 0 : x.units);
    whole.weight_bytes += x.bytes();
    whole.resident_bytes += c == unused ? 0 : x.bytes();
  }
  const uint64_t all = fixed(least) + work(least) + whole.resident_bytes;
  const uint64_t everything = fixed(plan.max_batch) + work(plan.max_batch) + whole.resident_bytes;

  plan.weight_bytes = whole.weight_bytes;
  EK_ASSIGN(plan.select, resolve_select(m, r.select, false));
  choose_windowed(m, plan);
  const uint64_t tables = table_bytes(m, plan);
  plan.floor_bytes = fixed(least) + work(least) + tables + Region::charge(kMinSlots * largest_unit) +
                     Region::charge(kMinSlots * plan.window_slot_bytes);
  plan.floor_bytes = std::max(r.opening_bytes, std::min(plan.floor_bytes, all));
  const auto keep_all = [&](uint32_t batch) {
    whole.floor_bytes = plan.floor_bytes;
    whole.max_batch = batch;
    whole.kv_bytes = kv(batch);
    whole.activation_bytes = work(batch);
    whole.fixed_bytes = fixed(batch) + whole.activation_bytes;
    whole.budget_bytes = r.ram_bytes != 0 ? r.ram_bytes : everything;
    plan = whole;
    return Outcome(Nothing{});
  };
  if (r.ram_bytes == 0 || everything <= r.ram_bytes) return keep_all(plan.max_batch);
  plan.budget_bytes = r.ram_bytes;
  if (r.ram_bytes < plan.floor_bytes) return too_small(r.ram_bytes, plan);

  // Work buffers and ring may take an eighth of the budget each, or else shrink to their least.
  // A row for each session that may be continued is worth more: without it the weights are read several times.
  const auto halve = [&](uint32_t to) { plan.max_batch = std::max(to, plan.max_batch / 2); };
  const uint32_t rows = std::max(least, std::min(r.texts, plan.max_batch));
  while (plan.max_batch > rows && work(plan.max_batch) > r.ram_bytes / 8) halve(rows);
  choose_ring(plan, r.ram_bytes / 8);
  const auto overhead = [&] {
    return fixed(plan.max_batch) + work(plan.max_batch) + tables + ring_bytes(plan) +
           Region::charge(kMinSlots * plan.window_slot_bytes);
  };
  while (overhead() > r.ram_bytes && plan.max_batch > least) halve(least);
  while (overhead() > r.ram_bytes && plan.slots > kMinSlots) --plan.slots;
  if (overhead() > r.ram_bytes) plan.slot_bytes = largest_unit;
  // A model smaller than the buffers it would be streamed through: the floor is that of keeping it.
  if (overhead() > r.ram_bytes) return keep_all(least);
  plan.kv_bytes = kv(plan.max_batch);
  plan.activation_bytes = work(plan.max_batch);
  plan.stream_bytes = ring_bytes(plan);
  plan.fixed_bytes = fixed(plan.max_batch) + plan.activation_bytes + tables;
  distribute(m, plan, r.ram_bytes - plan.fixed_bytes - plan.stream_bytes);
  return Nothing{};
}

Outcome change_budget(const Manifest& m, uint64_t ram_bytes, Plan& plan) {
  Plan next = plan;
  next.budget_bytes = ram_bytes;
  if (plan.slots == 0) {
    if (ram_bytes == 0 || ram_bytes >= plan.fixed_bytes + plan.resident_bytes) {
      plan.budget_bytes = ram_bytes != 0 ? ram_bytes : plan.fixed_bytes + plan.resident_bytes;
      return Nothing{};
    }
    choose_windowed(m, next);
    next.fixed_bytes += table_bytes(m, next);
    choose_ring(next, ram_bytes > next.fixed_bytes ? (ram_bytes - next.fixed_bytes) / 8 : 0);
    next.stream_bytes = ring_bytes(next);
  }
  if (ram_bytes == 0) {
    next.budget_bytes = ram_bytes = next.fixed_bytes + next.stream_bytes + next.weight_bytes + next.window_most_bytes;
  }
  next.floor_bytes = next.fixed_bytes + next.stream_bytes + Region::charge(kMinSlots * next.window_slot_bytes);
  if (ram_bytes < next.floor_bytes) return too_small(ram_bytes, next);
  distribute(m, next, ram_bytes - next.fixed_bytes - next.stream_bytes);
  plan = std::move(next);
  return Nothing{};
}

}  // namespace edgekit
