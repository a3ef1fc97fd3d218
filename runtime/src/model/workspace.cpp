#include "model/workspace.h"

#include <algorithm>

namespace edgekit {

namespace {
uint32_t pad(uint64_t n) { return static_cast<uint32_t>((n + kBlock - 1) / kBlock * kBlock); }

// Calls each(buffer, floats) for every buffer, so that sizes are told once.
template <class Each>
void for_each_buffer(const Manifest& m, const Widths& w, uint32_t batch, uint32_t context, uint32_t threads,
                     uint64_t unit_bytes, Workspace& s, const Each& each) {
  const uint64_t b = batch;
  each(s.x, b * w.hidden);
  each(s.before, w.parallel ? b * w.hidden : 0);
  each(s.normed, b * w.hidden);
  each(s.q, b * w.q);
  each(s.k, b * w.kv);
  each(s.v, b * w.kv);
  each(s.mixed, b * w.q);
  each(s.out, b * w.hidden);
  each(s.h, b * w.ffn);
  each(s.slices, uint64_t{kSlices} * w.hidden);
  each(s.embedded, w.embed != 0 ? b * w.embed : 0);
  each(s.rope, uint64_t{m.ropes.size()} * b * 2 * w.rope);
  each(s.sums, w.widest / kBlock);
  each(s.tiles, uint64_t{threads} * kTileNeurons * w.widest);
  each(s.scores, uint64_t{threads} * context);
  each(s.unit, unit_bytes / 4);
  each(s.rank, w.rank);
  const bool ahead = w.rank != 0 || w.experts != 0;
  each(s.ahead_x, ahead ? w.hidden : 0);
  each(s.ahead, ahead ? std::max(w.ffn, w.experts) : 0);
  each(s.ahead_rows, ahead ? std::max(w.ffn, w.experts) : 0);
  each(s.rows, w.ffn);
  each(s.list, w.ffn);
  each(s.at, uint64_t{2} * w.ffn);
  each(s.router, b * w.experts);
  each(s.picked_x, w.experts != 0 ? b * w.hidden : 0);
  each(s.picked_out, w.experts != 0 ? b * w.hidden : 0);
}
}  // namespace

Widths widths_of(const Manifest& m) {
  Widths w;
  w.hidden = pad(m.hidden_size);
  for (const Block& b : m.blocks) {
    w.q = std::max(w.q, pad(uint64_t{b.heads} * b.head_dim));
    w.kv = std::max(w.kv, pad(uint64_t{b.kv_heads} * b.head_dim));
    w.ffn = std::max(w.ffn, pad(b.size));
    w.parallel = w.parallel || b.parallel;
    if (b.predict_down != kNone) w.rank = std::max(w.rank, pad(m.matrices[static_cast<size_t>(b.predict_down)].rows));
    if (b.kind == Block::experts) {
      w.experts = std::max(w.experts, pad(b.matrices.size()));
      w.top_k = std::max(w.top_k, b.top_k);
    }
  }
  for (const Rope& r : m.ropes) w.rope = std::max(w.rope, pad(r.dim / 2));
  for (const Matrix& x : m.matrices) {
    for (int i = 0; i < x.part_count; ++i) w.widest = std::max(w.widest, pad(x.parts[i].cols));
  }
  if (m.embedding_project != kNone) {
    w.embed = pad(m.matrices[static_cast<size_t>(m.embedding)].parts[0].cols);
  }
  if (m.head_project != kNone) {
    w.embed = std::max(w.embed, pad(m.matrices[static_cast<size_t>(m.head_project)].rows));
  }
  return w;
}

uint64_t workspace_bytes(const Manifest& m, uint32_t batch, uint32_t context, uint32_t threads, uint64_t unit_bytes) {
  uint64_t total = 0;
  Workspace none;
  for_each_buffer(m, widths_of(m), batch, context, threads, unit_bytes, none,
                  [&](Buffer&, uint64_t floats) { total += Buffer::charge(floats * 4); });
  return total;
}

Outcome allocate_workspace(Budget& budget, const Manifest& m, uint32_t batch, uint32_t context, uint32_t threads,
                           uint64_t unit_bytes, Workspace& out) {
  out.width = widths_of(m);
  out.batch = batch;
  Error first;
  for_each_buffer(m, out.width, batch, context, threads, unit_bytes, out, [&](Buffer& buffer, uint64_t floats) {
    if (first.status != EDGEKIT_OK) return;
    auto made = Buffer::allocate(budget, floats * 4, "work buffers");
    if (made.ok()) {
      buffer = std::move(made.value());
    } else {
      first = made.error();
    }
  });
  return first.status == EDGEKIT_OK ? Outcome(Nothing{}) : Outcome(first);
}

}  // namespace edgekit
