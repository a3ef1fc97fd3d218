// Layers' own embeddings of a token (Gemma 4), gated by the residual.
#pragma once

#include "model/linear.h"
#include "model/pass.h"

namespace edgekit {

class LayerInput {
 public:
  LayerInput(const Resources& r, Linear& linear) : w_(r.weights), s_(r.workspace), linear_(linear) {}

  // From the workspace's normed [count][hidden] and layers [count][inputs] to its out [count][hidden].
  Outcome forward(const Pass& pass, size_t block);

 private:
  Weights& w_;
  Workspace& s_;
  Linear& linear_;
};

}  // namespace edgekit
