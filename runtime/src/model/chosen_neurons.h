// Feed-forward blocks of which one token gets only some neurons. Which, is the selection's business (select/).
#pragma once

#include "model/gathered.h"
#include "model/look_ahead.h"
#include "select/selection.h"

namespace edgekit {

class ChosenNeurons {
 public:
  ChosenNeurons(const Resources& r, Linear& linear, Neurons& neurons, Gathered& gathered, Predictor& predictor,
                LookAhead& look_ahead, float sparsity)
      : w_(r.weights),
        s_(r.workspace),
        linear_(linear),
        neurons_(neurons),
        gathered_(gathered),
        predictor_(predictor),
        look_ahead_(look_ahead),
        sparsity_(sparsity) {}

  // out [hidden] += the neurons of the block that the selection chooses for x [hidden].
  Outcome add(const Pass& pass, size_t block, const float* x, float* out);

 private:
  // Fills the workspace's rows with the neurons to compute, ascending, and returns how many. With a selector, h holds
  // their activations afterwards.
  Result<uint32_t> choose(const Pass& pass, size_t block, const float* x);
  // Computes what a selection decides by, into h [ffn].
  Outcome prepare(const Block& b, Evidence evidence, const float* x);

  Weights& w_;
  Workspace& s_;
  Linear& linear_;
  Neurons& neurons_;
  Gathered& gathered_;
  Predictor& predictor_;
  LookAhead& look_ahead_;
  const float sparsity_;
};

}  // namespace edgekit
