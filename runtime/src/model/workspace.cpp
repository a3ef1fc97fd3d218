#include "model/workspace.h"

#include <algorithm>

#include "model/attention_tiles.h"
#include "model/pass.h"

namespace edgekit {

namespace {
uint32_t pad(uint64_t n) { return static_cast<uint32_t>((n + kBlock - 1) / kBlock * kBlock); }

// Calls each(array, shape) for every array, so that a shape stands in one place.
template <class Each>
void for_each_array(const Manifest& m, const Widths& w, uint32_t batch, uint32_t threads, uint64_t unit_bytes,
                    const Adapter* adapter, Workspace& s, const Each& each) {
  const uint64_t b = batch, mixed = w.experts != 0 ? b : 0;
  const uint64_t ahead = w.rank != 0 || w.experts != 0 ? std::max(w.ffn, w.experts) : 0;
  each(s.x, Shape(b, w.hidden));
  each(s.before, Shape(w.parallel ? b : 0, w.hidden));
  each(s.normed, Shape(b, w.hidden));
  each(s.q, Shape(b, w.q));
  each(s.mixed, Shape(b, w.q));
  each(s.k, Shape(b, w.kv));
  each(s.v, Shape(b, w.kv));
  each(s.state, Shape(w.state != 0 ? threads : 0, w.state));
  each(s.layers, Shape(w.layers != 0 ? b : 0, w.layers));
  each(s.out, Shape(b, w.hidden));
  each(s.h, Shape(b, w.ffn));
  each(s.unweighted, Shape(w.down_norm ? b : 0, w.ffn));
  each(s.group_sums, Shape(kGroupSums, w.hidden));
  each(s.open_sum, Shape(b, w.hidden));
  each(s.gate, Shape(w.output_gate ? b : 0));
  each(s.embedded, Shape(b, w.embed));
  each(s.rope, Shape(m.ropes.size(), b, 2 * w.rope));
  each(s.quantized, Shape(b, quantized_bytes(w.quantized)));
  each(s.tiles, Shape(threads, kTileNeurons, w.widest));
  each(s.attention, Shape(threads, w.attention));
  each(s.scores, Shape(m.bidirectional ? threads : 0, b * kQueries));
  each(s.low_rank, Shape(adapter != nullptr ? b : 0, adapter != nullptr ? pad(adapter->most_rank()) : 0));
  each(s.low_rank_neurons, Shape(adapter != nullptr && adapter->changes_neurons() ? 2 : 0, b, w.ffn));
  each(s.unit, Shape(unit_bytes));
  each(s.rank, Shape(w.rank));
  each(s.ahead_x, Shape(ahead != 0 ? w.hidden : 0));
  each(s.ahead_scores, Shape(ahead));
  each(s.ahead_rows, Shape(ahead));
  each(s.rows, Shape(w.ffn));
  each(s.arrived, Shape(w.ffn));
  each(s.row_at, Shape(w.ffn));
  each(s.router, Shape(b, w.experts));
  each(s.expert_order, Shape(w.experts));
  each(s.expert_used, Shape(w.experts));
  each(s.expert_matrices, Shape(w.experts));
  each(s.picked_x, Shape(mixed, w.hidden));
  each(s.picked_out, Shape(mixed, w.hidden));
}
}  // namespace

Widths widths_of(const Manifest& m, Activations activations) {
  Widths w;
  w.hidden = pad(m.hidden_size);
  for (const Block& b : m.blocks) {
    w.q = std::max(w.q, pad(uint64_t{b.heads} * b.head_dim));
    w.kv = std::max(w.kv, pad(uint64_t{b.kv_heads} * b.head_dim));
    if (b.kind == Block::convolution) w.q = std::max(w.q, w.hidden);
    if (b.kind == Block::linear_attention) {
      w.q = std::max(w.q, pad(b.channels()));
      w.kv = std::max({w.kv, pad(uint64_t{b.heads} * b.head_dim), pad(2 * b.heads)});
      w.state = std::max(w.state, pad((uint64_t{b.key_dim} + 1) * b.head_dim));
    }
    if (b.kind == Block::attention && b.causal) w.attention = std::max(w.attention, attention_work(b.head_dim));
    w.ffn = std::max(w.ffn, pad(b.size));
    w.parallel = w.parallel || b.parallel;
    w.output_gate = w.output_gate || b.output_gate != kNone;
    w.down_norm = w.down_norm || b.down_norm.kind != Norm::none;
    if (b.predict_down != kNone) w.rank = std::max(w.rank, pad(m.matrices[static_cast<size_t>(b.predict_down)].rows));
    if (b.kind == Block::experts) {
      w.experts = std::max(w.experts, pad(b.matrices.size()));
      w.top_k = std::max(w.top_k, b.top_k);
    }
  }
  w.layers = pad(uint64_t{m.layers.count} * m.layers.dim);
  w.q = std::max(w.q, pad(m.layers.dim));
  for (const Rope& r : m.ropes) w.rope = std::max(w.rope, pad(r.dim / 2));
  for (const Matrix& x : m.matrices) {
    for (int i = 0; i < x.part_count; ++i) {
      const Part& p = x.parts[i];
      w.widest = std::max(w.widest, pad(p.cols));
      if (uses_integers(activations, p.codec)) w.quantized = std::max(w.quantized, pad(p.cols));
    }
  }
  if (m.output == Output::image) {
    // Room for the patches of a pass, and for what becomes of them between two projections.
    w.embed = pad(m.matrices[static_cast<size_t>(m.embedding_project)].parts[0].cols);
    if (m.head_project != kNone) {
      const uint64_t inner = pad(m.matrices[static_cast<size_t>(m.head_project)].rows);
      w.embed = std::max(w.embed, pad((inner + m.merge.patches - 1) / m.merge.patches));
    }
  } else if (m.embedding_project != kNone) {
    w.embed = pad(m.matrices[static_cast<size_t>(m.embedding)].parts[0].cols);
  }
  if (m.head_project != kNone && m.writes()) {
    w.embed = std::max(w.embed, pad(m.matrices[static_cast<size_t>(m.head_project)].rows));
  }
  return w;
}

void Workspace::clear_tails(uint32_t tokens, uint32_t used) {
  for (uint32_t t = 0; t < tokens; ++t) std::fill(mixed.row(t) + used, mixed.row(t) + pad(used), 0.0f);
}

uint64_t workspace_bytes(const Manifest& m, Activations activations, uint32_t batch, uint32_t threads,
                         uint64_t unit_bytes, const Adapter* adapter) {
  uint64_t total = 0;
  Workspace none;
  for_each_array(m, widths_of(m, activations), batch, threads, unit_bytes, adapter, none,
                 [&](auto& array, Shape shape) { total += array.charge(shape); });
  return total;
}

Outcome allocate_workspace(Budget& budget, const Manifest& m, Activations activations, uint32_t batch,
                           uint32_t sessions, uint32_t threads, uint64_t unit_bytes, const Adapter* adapter,
                           Workspace& out) {
  out.width = widths_of(m, activations);
  out.batch = batch;
  out.texts = std::min({batch, sessions, kMostTexts});
  Error first;
  for_each_array(m, out.width, batch, threads, unit_bytes, adapter, out, [&](auto& array, Shape shape) {
    if (first.status != EDGEKIT_OK) return;
    auto made = array.allocate(budget, shape, "work buffers");
    if (made.ok()) {
      array = std::move(made.value());
    } else {
      first = made.error();
    }
  });
  return first.status == EDGEKIT_OK ? Outcome(Nothing{}) : Outcome(first);
}

}  // namespace edgekit
