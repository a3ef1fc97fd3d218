#include "model/chosen_neurons.h"

#include "core/clock.h"
#include "select/select.h"

namespace edgekit {

Outcome ChosenNeurons::add(const Pass& pass, size_t block, const float* x, float* out) {
  const Block& b = w_.manifest().blocks[block];
  const double begin = seconds(), waited = w_.wait_seconds();
  linear_.prepare(x, s_.width.hidden, 1, s_.width.hidden);
  uint32_t count;
  EK_ASSIGN(count, choose(pass, block, x));
  const double chosen = seconds(), waited_to_choose = w_.wait_seconds();
  SelectionState& state = pass.selection;
  state.neurons += b.size;
  state.selected += count;
  EK_TRY(gathered_.add(b, b.matrices[0], count, x, out, [&] { return look_ahead_.read_ahead(pass, block); }));
  state.select_seconds += chosen - begin - (waited_to_choose - waited);
  state.ffn_seconds += seconds() - chosen - (w_.wait_seconds() - waited_to_choose);
  return Nothing{};
}

Result<uint32_t> ChosenNeurons::choose(const Pass& pass, size_t block, const float* x) {
  const Block& b = w_.manifest().blocks[block];
  const Selection& selection = *find_selection(w_.select());
  EK_TRY(prepare(b, selection.evidence, x));
  const Choice choice{w_.manifest(), block, s_.h.data(), w_.vector(b.cuts), sparsity_, pass.selection.usage};
  const uint32_t count = selection.choose(choice, s_.rows.data());
  const bool activated = selection.evidence == Evidence::activations;
  if (activated || b.selector == kNone) return count;
  return gathered_.keep_active(b, count, x);  // only active neurons need their other rows
}

Outcome ChosenNeurons::prepare(const Block& b, Evidence evidence, const float* x) {
  switch (evidence) {
    case Evidence::activations: return neurons_.activate_selector(b, x, 1);
    case Evidence::predictions: return predictor_.predict(b, x, s_.h.data());
    case Evidence::usage:
    case Evidence::router_scores: break;  // known before the block
  }
  return Nothing{};
}

}  // namespace edgekit
