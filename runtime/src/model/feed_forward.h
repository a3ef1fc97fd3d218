// Dense feed-forward blocks: all neurons, or those that the selection chooses.
#pragma once

#include "model/chosen_neurons.h"

namespace edgekit {

class FeedForward {
 public:
  FeedForward(const Resources& r, Linear& linear, Neurons& neurons, ChosenNeurons& chosen)
      : w_(r.weights), s_(r.workspace), pool_(r.pool), linear_(linear), neurons_(neurons), chosen_(chosen) {}

  // From the workspace's normed [count][hidden] to its out [count][hidden].
  Outcome forward(const Pass& pass, size_t block);
  // out[t] += down(act(gate x[t]) * up x[t]) for all neurons of one matrix: the block's, or one of its experts (kNone:
  // none). x, out [tokens][hidden].
  Outcome add_for_tokens(const Block& b, int32_t matrix, int32_t expert, const float* x, uint32_t tokens, float* out);

 private:
  Outcome compute(const Pass& pass, size_t block);
  Outcome apply_output_gate(const Pass& pass, const Block& b);
  void project_in(const Block& b, const Rows& rows, int32_t expert, const float* x, uint32_t tokens);
  void project_in_tile(const Block& b, const Rows& rows, int32_t expert, uint32_t r0, uint32_t n, const float* x,
                       uint32_t tokens, uint32_t worker);
  void offer_active(int32_t matrix, const Rows& rows, uint32_t tokens);

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  Linear& linear_;
  Neurons& neurons_;
  ChosenNeurons& chosen_;
};

}  // namespace edgekit
