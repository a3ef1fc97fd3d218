// Norms over the residual's width.
#pragma once

#include <algorithm>

#include "model/ops.h"
#include "model/resources.h"

namespace edgekit {

class Norms {
 public:
  explicit Norms(const Resources& r) : w_(r.weights), width_(r.workspace.width) {}

  // out[t] = norm(x[t]); x and out [tokens][hidden], which may be the same.
  void apply(const Norm& norm, const float* x, uint32_t tokens, float* out) const {
    apply_norm(norm, w_.vector(norm.weight), w_.vector(norm.bias), x, tokens, w_.manifest().hidden_size, width_.hidden,
               out);
  }
  // What a block computes with: its norm of x, and a ReLU when it has one there.
  void apply_input(const Block& b, const float* x, uint32_t tokens, float* out) const {
    apply(b.pre_norm, x, tokens, out);
    const size_t total = size_t{tokens} * width_.hidden;
    for (size_t i = 0; i < total && b.pre_relu; ++i) out[i] = std::max(out[i], 0.0f);
  }

 private:
  const Weights& w_;
  const Widths& width_;
};

}  // namespace edgekit
