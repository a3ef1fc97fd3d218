#include "model/gathered.h"

#include "model/ops.h"

namespace edgekit {

Result<uint32_t> Gathered::keep_active(const Block& b, uint32_t count, const float* x) {
  const Part& part = w_.matrix(b.selector).parts[0];
  const float* bias = w_.vector(b.gated ? b.gate_bias : b.up_bias);
  uint32_t* rows = s_.rows.data();
  const uint8_t** at = s_.row_at.data();
  float* h = s_.h.data();
  const auto compute = [&](uint32_t i) {
    const uint32_t r = rows[i];
    const float in = linear_.dot(part, at[i], r, x);
    h[r] = activate_gate(b, in + (bias != nullptr ? bias[r] : 0.0f));
  };
  EK_TRY(w_.gather(
      b.selector, rows, count, at, s_.arrived.data(),
      [&](const uint32_t* list, uint32_t n) { for_each(list, n, compute); }, [](uint32_t, uint32_t) {},
      [] { return Outcome(Nothing{}); }));
  uint32_t active = 0;
  for (uint32_t i = 0; i < count; ++i) {
    rows[active] = rows[i];
    active += h[rows[i]] != 0.0f ? 1 : 0;
  }
  return active;
}

}  // namespace edgekit
