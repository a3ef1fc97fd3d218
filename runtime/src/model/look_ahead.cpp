#include "model/look_ahead.h"

#include <algorithm>

#include "select/router.h"
#include "select/select.h"

namespace edgekit {

Outcome LookAhead::read_ahead(const Pass& pass, size_t block) {
  if (!enabled_) return Nothing{};
  const Guesses last = w_.take_guesses();
  pass.selection.ahead[block].learn(last.right, last.wrong);
  EK_TRY(read_experts(pass, block));
  if (!decides_by(w_.select(), Evidence::predictions)) return Nothing{};
  return read_neurons(pass, block);
}

// The next block with a predictor.
Outcome LookAhead::read_neurons(const Pass& pass, size_t block) {
  const auto& blocks = w_.manifest().blocks;
  size_t i = block + 1;
  while (i < blocks.size() && blocks[i].predict_up == kNone) ++i;
  if (i == blocks.size()) return Nothing{};
  const Block& next = blocks[i];
  if (!w_.resident(next.predict_down) || !w_.resident(next.predict_up)) return Nothing{};
  float *x = s_.ahead_x.data(), *scores = s_.ahead_scores.data();
  uint32_t* rows = s_.ahead_rows.data();
  norms_.apply_input(next, s_.x.data(), 1, x);
  EK_TRY(predictor_.predict(next, x, scores));
  const Choice choice{w_.manifest(), i, scores, nullptr, sparsity_, pass.selection.usage};
  const uint32_t count = find_selection(w_.select())->choose(choice, rows);
  // Only the surer ones: a read in vain takes the device's time from a read that is waited for.
  const uint32_t sure = pass.selection.ahead[i].surest(count);
  std::nth_element(rows, rows + sure, rows + count, [&](uint32_t a, uint32_t c) { return scores[a] > scores[c]; });
  std::sort(rows, rows + sure);
  w_.prefetch(next.selector != kNone ? next.selector : next.matrices[0], rows, sure);
  linear_.prepare(s_.normed.data(), s_.width.hidden, 1, s_.width.hidden);
  return Nothing{};
}

// The next mixture, when only what looks at other tokens and dense blocks beside a mixture lie before it.
Outcome LookAhead::read_experts(const Pass& pass, size_t block) {
  const auto& blocks = w_.manifest().blocks;
  size_t i = block + 1;
  while (i < blocks.size() && (!blocks[i].feed_forward() || blocks[i].parallel)) ++i;
  if (i == blocks.size() || blocks[i].kind != Block::experts || !w_.resident(blocks[i].router)) return Nothing{};
  const Block& next = blocks[i];
  const uint32_t n = static_cast<uint32_t>(next.matrices.size());
  float *x = s_.ahead_x.data(), *scores = s_.ahead_scores.data();
  uint32_t* order = s_.ahead_rows.data();
  norms_.apply_input(next, s_.x.data(), 1, x);
  EK_TRY(linear_.multiply(next.router, x, s_.width.hidden, 1, w_.vector(next.router_bias), scores, s_.width.experts));
  const float* bias = w_.vector(next.choice_bias);
  if (bias != nullptr) {
    score_experts(next, scores);
    for (uint32_t e = 0; e < n; ++e) scores[e] += bias[e];
  }
  for (uint32_t e = 0; e < n; ++e) order[e] = e;
  const uint32_t sure = pass.selection.ahead[i].surest(next.top_k);
  std::partial_sort(order, order + sure, order + n, [&](uint32_t a, uint32_t c) { return scores[a] > scores[c]; });
  for (uint32_t k = 0; k < sure; ++k) w_.prefetch_all(next.matrices[order[k]]);
  linear_.prepare(s_.normed.data(), s_.width.hidden, 1, s_.width.hidden);  // the product above left those of x
  return Nothing{};
}

}  // namespace edgekit
