// The low-rank predictor of a block: which neurons will be active (arXiv 2312.11514, section 3.1).
#pragma once

#include "model/linear.h"

namespace edgekit {

class Predictor {
 public:
  Predictor(const Resources& r, Linear& linear) : w_(r.weights), s_(r.workspace), linear_(linear) {}

  // scores [ffn] = up (down x) + bias for x [hidden]. x is prepared afterwards.
  Outcome predict(const Block& b, const float* x, float* scores);

 private:
  Weights& w_;
  Workspace& s_;
  Linear& linear_;
};

}  // namespace edgekit
