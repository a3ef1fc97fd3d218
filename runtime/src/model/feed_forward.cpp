#include "model/feed_forward.h"

#include <algorithm>
#include <cmath>

#include "model/ops.h"
#include "select/select.h"

namespace edgekit {

Outcome FeedForward::forward(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  EK_TRY(compute(pass, block));
  return b.output_gate == kNone ? Outcome(Nothing{}) : apply_output_gate(pass, b);
}

// out[t] *= sigmoid(gate . x[t])
Outcome FeedForward::apply_output_gate(const Pass& pass, const Block& b) {
  float* gate = s_.gate.data();  // [count]
  EK_TRY(linear_.multiply(b.output_gate, s_.normed.data(), s_.width.hidden, pass.count, nullptr, gate, 1));
  for (uint32_t t = 0; t < pass.count; ++t) {
    const float scale = 1.0f / (1.0f + std::exp(-gate[t]));
    float* out = s_.out.row(t);
    for (uint32_t i = 0; i < w_.manifest().hidden_size; ++i) out[i] *= scale;
  }
  return Nothing{};
}

Outcome FeedForward::compute(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const float* bias = b.down_norm.kind == Norm::none ? w_.vector(b.down_bias) : nullptr;  // comes behind a norm
  for (uint32_t t = 0; t < pass.count; ++t) {
    float* out = s_.out.row(t);
    for (uint32_t i = 0; i < w_.manifest().hidden_size; ++i) out[i] = bias != nullptr ? bias[i] : 0.0f;
  }
  const float* x = s_.normed.data();
  if (pass.chooses && selects(b, w_.select())) return chosen_.add(pass, block, x, s_.out.data());
  EK_TRY(add_for_tokens(b, b.matrices[0], kNone, x, pass.count, s_.out.data()));
  pass.selection.usage.record(block, b.size, s_.h.data(), pass.count, s_.width.ffn);
  return Nothing{};
}

Outcome FeedForward::add_for_tokens(const Block& b, int32_t matrix, int32_t expert, const float* x, uint32_t tokens,
                                    float* out) {
  linear_.prepare(x, s_.width.hidden, tokens, s_.width.hidden);
  if (b.selector != kNone) EK_TRY(neurons_.activate_selector(b, x, tokens));
  LowRankSums& low_rank = linear_.low_rank();
  const uint32_t down = w_.matrix(matrix).part_count - 1u;
  low_rank.begin_neurons(matrix, down + 1, x, s_.width.hidden, tokens);
  neurons_.begin_output(tokens);
  neurons_.begin_norm(b, tokens);
  EK_TRY(w_.visit(matrix, expert != kNone, [&](const Rows& rows) -> Outcome {
    if (tokens == 1) {
      neurons_.add_rows(b, rows, x, static_cast<uint32_t>(std::max(expert, 0)), out);
      return Nothing{};
    }
    project_in(b, rows, expert, x, tokens);
    if (expert == kNone) offer_active(matrix, rows, tokens);
    neurons_.add_down(rows, tokens, out);
    return Nothing{};
  }));
  neurons_.end_output(tokens, out);
  low_rank.end_neurons();
  low_rank.add(matrix, down, s_.h.data(), s_.width.ffn, tokens, out, s_.width.hidden);
  neurons_.end_norm(b, tokens, out);
  linear_.show_input(matrix, 0, x, s_.width.hidden, tokens);
  linear_.show_input(matrix, down, s_.h.data(), s_.width.ffn, tokens);
  return Nothing{};
}

// Units that the last tokens of a prompt used are likely to be used again, and are in memory now.
void FeedForward::offer_active(int32_t matrix, const Rows& rows, uint32_t tokens) {
  constexpr uint32_t kLastTokens = 4;
  const Selection* selection = find_selection(w_.select());
  if (selection == nullptr || !selection->needs_nonzero) return;
  const uint32_t per = rows.matrix->rows_per_unit;
  for (uint32_t r0 = rows.begin; r0 < rows.end; r0 += per) {
    bool active = false;
    for (uint32_t t = tokens - std::min(tokens, kLastTokens); t < tokens && !active; ++t) {
      const float* h = s_.h.row(t);
      active = std::any_of(h + r0, h + std::min(r0 + per, rows.end), [](float v) { return v != 0.0f; });
    }
    if (active) w_.offer(matrix, r0 / per, rows.row(r0));
  }
}

// h[t][neuron] = act(gate . x + bias) * (up . x + bias), or act(up . x + bias) without a gate. With a
// selector h already holds its activation.
void FeedForward::project_in(const Block& b, const Rows& rows, int32_t expert, const float* x, uint32_t tokens) {
  if (b.selector != kNone && !b.gated) return;
  pool_.parallel_for(rows.end - rows.begin, kTileRows, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    for (uint32_t at = begin; at < end; at += kTileRows) {
      project_in_tile(b, rows, expert, rows.begin + at, std::min(kTileRows, end - at), x, tokens, worker);
    }
  });
}

// The same for rows [r0, r0 + n), n <= kTileRows.
void FeedForward::project_in_tile(const Block& b, const Rows& rows, int32_t expert, uint32_t r0, uint32_t n,
                                  const float* x, uint32_t tokens, uint32_t worker) {
  const bool activated = b.selector != kNone;
  const uint32_t ldx = s_.width.hidden, step = s_.width.widest;
  float* unpacked = s_.tiles.plane(worker);          // [kTileRows][hidden]
  float* ups = unpacked + size_t{kTileRows} * step;  // [step][kTileRows]
  const auto plus = [](float value, const float* more, size_t at) {
    return value + (more != nullptr ? more[at] : 0.0f);
  };
  const Part &first = rows.matrix->parts[0], &second = rows.matrix->parts[activated ? 0 : 1];
  const size_t bias_at = size_t{static_cast<uint32_t>(std::max(expert, 0))} * b.size + r0;
  const float *first_bias = w_.vector(b.gated ? b.gate_bias : b.up_bias), *up_bias = w_.vector(b.up_bias);
  if (!activated) {
    const Tile tile(linear_, first, rows, r0, n, tokens, unpacked);
    tile.multiply(x, ldx, 0, tokens, s_.h.data() + r0, s_.width.ffn);
  }
  const Tile tile(linear_, b.gated ? second : first, rows, r0, b.gated ? n : 0, tokens, unpacked);
  for (uint32_t t0 = 0; t0 < tokens; t0 += step) {
    const uint32_t count = std::min(step, tokens - t0);
    if (b.gated) tile.multiply(x, ldx, t0, count, ups, kTileRows);
    for (uint32_t t = 0; t < count; ++t) {
      float* h = s_.h.row(t0 + t) + r0;
      const float* first_more = activated ? nullptr : linear_.low_rank().of_neurons(0, t0 + t);
      const float* up_more = b.gated ? linear_.low_rank().of_neurons(activated ? 0 : 1, t0 + t) : nullptr;
      for (uint32_t i = 0; i < n; ++i) {
        const float in = activated ? h[i] : plus(plus(h[i], first_bias, bias_at + i), first_more, r0 + i);
        const float value = activated ? in : activate_gate(b, in);
        const float product = b.gated ? plus(ups[t * kTileRows + i], up_bias, bias_at + i) : 0.0f;
        const float up = b.gated ? limit_up(b, plus(product, up_more, r0 + i)) : 1.0f;
        h[i] = neurons_.weighted(b, t0 + t, r0 + i, value * up);
      }
    }
  }
}

}  // namespace edgekit
