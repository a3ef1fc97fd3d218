// Reads what the next block of one token will probably want while this block and attention compute: its predictor or
// router is asked with what is known before them, as consecutive layers see nearly the same residual. A wrong
// guess costs a read, never a result.
#pragma once

#include "model/norms.h"
#include "model/pass.h"
#include "model/predictor.h"

namespace edgekit {

class LookAhead {
 public:
  LookAhead(const Resources& r, Linear& linear, Norms& norms, Predictor& predictor, float sparsity, bool enabled)
      : w_(r.weights),
        s_(r.workspace),
        linear_(linear),
        norms_(norms),
        predictor_(predictor),
        sparsity_(sparsity),
        enabled_(enabled) {}

  // Called while `block` computes, of whose input the workspace holds the block sums, also afterwards.
  Outcome read_ahead(const Pass& pass, size_t block);

 private:
  Outcome read_neurons(const Pass& pass, size_t block);
  Outcome read_experts(const Pass& pass, size_t block);

  Weights& w_;
  Workspace& s_;
  Linear& linear_;
  Norms& norms_;
  Predictor& predictor_;
  const float sparsity_;
  const bool enabled_;
};

}  // namespace edgekit
