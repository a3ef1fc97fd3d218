#include "model/layer_input.h"

#include "model/ops.h"

namespace edgekit {

Outcome LayerInput::forward(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const uint32_t n = pass.count, dim = w_.manifest().layers.dim;
  EK_TRY(linear_.multiply(b.gate, s_.normed.data(), s_.width.hidden, n, nullptr, s_.q.data(), s_.width.q));
  for (uint32_t t = 0; t < n; ++t) {
    const float *gate = s_.q.row(t), *input = s_.layers.row(t) + size_t{b.index} * dim;
    float* out = s_.mixed.row(t);
    for (uint32_t i = 0; i < dim; ++i) out[i] = activate(b.activation, 0, gate[i]) * input[i];
  }
  s_.clear_tails(n, dim);
  return linear_.multiply(b.o, s_.mixed.data(), s_.width.q, n, nullptr, s_.out.data(), s_.width.hidden);
}

}  // namespace edgekit
