#include "model/mixture.h"

#include <algorithm>

#include "model/ops.h"
#include "select/router.h"

namespace edgekit {

Outcome Mixture::forward(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  EK_TRY(route(pass, b));
  if (pass.count == 1) EK_TRY(look_ahead_.read_ahead(pass, block));
  std::fill_n(s_.out.data(), size_t{pass.count} * s_.width.hidden, 0.0f);
  for (uint32_t e = 0; e < b.matrices.size(); ++e) {
    if (s_.expert_used[e] != 0) EK_TRY(add_expert(pass, b, e));
  }
  return Nothing{};
}

// Fills the weights of all experts for each token, and starts reading those that any of them chose.
Outcome Mixture::route(const Pass& pass, const Block& b) {
  const uint32_t n = static_cast<uint32_t>(b.matrices.size()), stride = s_.width.experts;
  EK_TRY(linear_.multiply(b.router, s_.normed.data(), s_.width.hidden, pass.count, w_.vector(b.router_bias),
                          s_.router.data(), stride));
  std::fill_n(s_.expert_used.data(), n, uint8_t{0});
  for (uint32_t t = 0; t < pass.count; ++t) {
    score_experts(b, s_.router.row(t));
    choose_experts(b, w_.vector(b.choice_bias), s_.router.row(t), s_.expert_order.data(), s_.expert_used.data());
  }
  uint32_t used = 0;
  for (uint32_t e = 0; e < n; ++e) {
    if (s_.expert_used[e] != 0) s_.expert_matrices[used++] = b.matrices[e];
  }
  w_.expect(s_.expert_matrices.data(), used);
  return Nothing{};
}

// out[t] += weight of the expert * its output, for the tokens that chose it.
Outcome Mixture::add_expert(const Pass& pass, const Block& b, uint32_t expert) {
  const size_t hidden = s_.width.hidden;
  uint32_t picked = 0;
  for (uint32_t t = 0; t < pass.count; ++t) {
    if (s_.router.row(t)[expert] != 0.0f) std::copy_n(s_.normed.row(t), hidden, s_.picked_x.row(picked++));
  }
  EK_TRY(run_expert(b, expert, picked));
  picked = 0;
  for (uint32_t t = 0; t < pass.count; ++t) {
    const float weight = s_.router.row(t)[expert];
    if (weight == 0.0f) continue;
    const float* from = s_.picked_out.row(picked++);
    float* out = s_.out.row(t);
    for (size_t i = 0; i < hidden; ++i) out[i] += weight * from[i];
  }
  return Nothing{};
}

// picked_out [tokens][hidden] = the expert's output for picked_x [tokens][hidden].
Outcome Mixture::run_expert(const Block& b, uint32_t expert, uint32_t tokens) {
  const float* x = s_.picked_x.data();
  float* out = s_.picked_out.data();
  const uint32_t hidden = w_.manifest().hidden_size;
  std::fill_n(out, size_t{tokens} * s_.width.hidden, 0.0f);
  const float* bias = w_.vector(b.down_bias);  // [experts][hidden]
  for (uint32_t t = 0; t < tokens && bias != nullptr; ++t) {
    std::copy_n(bias + size_t{expert} * hidden, hidden, s_.picked_out.row(t));
  }
  if (tokens > 1) {
    return feed_forward_.add_for_tokens(b, b.matrices[expert], static_cast<int32_t>(expert), x, tokens, out);
  }
  // One token, or none when the weight of all that chose it is zero: the expert was announced, so it is read.
  linear_.prepare(x, s_.width.hidden, 1, s_.width.hidden);
  for (uint32_t r = 0; r < b.size; ++r) s_.rows[r] = r;
  return gathered_.add(b, b.matrices[expert], b.size, x, out, [] { return Outcome(Nothing{}); }, expert);
}

}  // namespace edgekit
