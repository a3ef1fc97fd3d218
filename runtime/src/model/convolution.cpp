#include "model/convolution.h"

#include <algorithm>
#include <cstring>

#include "core/half.h"

namespace edgekit {

namespace {
// Value i of a row of T.
template <class T>
T load(const uint8_t* row, uint32_t i) {
  T out;
  std::memcpy(&out, row + size_t{i} * sizeof(T), sizeof(T));
  return out;
}
}  // namespace

Outcome Convolution::forward(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const Widths& width = s_.width;
  const uint32_t n = pass.count, hidden = w_.manifest().hidden_size;
  float *gate = s_.q.data(), *value = s_.k.data();
  const float* x = s_.normed.data();
  EK_TRY(linear_.multiply(b.gate_in, x, width.hidden, n, w_.vector(b.gate_in_bias), gate, width.q));
  EK_TRY(linear_.multiply(b.value, x, width.hidden, n, w_.vector(b.value_bias), value, width.kv));
  for (uint32_t t = 0; t < n; ++t) {
    float* u = s_.k.row(t);
    const float* g = s_.q.row(t);
    for (uint32_t i = 0; i < hidden; ++i) u[i] *= g[i];
    pass.cache_of(t).put(block, pass.position_of(t), u, nullptr);
  }
  EK_TRY(linear_.multiply(b.gate_out, x, width.hidden, n, w_.vector(b.gate_out_bias), gate, width.q));
  s_.clear_tails(n, hidden);
  pool_.parallel_for(n, 1, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t t = begin; t < end; ++t) mix_token(pass, block, t);
  });
  return linear_.multiply(b.o, s_.mixed.data(), width.q, n, w_.vector(b.o_bias), s_.out.data(), width.hidden);
}

void Convolution::mix_token(const Pass& pass, size_t block, uint32_t t) {
  const Block& b = w_.manifest().blocks[block];
  KvCache& cache = pass.cache_of(t);
  const uint32_t position = pass.position_of(t);
  const float* gate = s_.q.row(t);
  float* out = s_.mixed.row(t);
  const HeadRows rows = cache.head_rows(block, KvCache::keys, 0);
  if (cache.type(block) == CacheType::f32) {
    mix(b, position, gate, out, [&](uint32_t from, uint32_t i) { return load<float>(rows.row(from), i); });
  } else {
    mix(b, position, gate, out,
        [&](uint32_t from, uint32_t i) { return f16_to_float(load<uint16_t>(rows.row(from), i)); });
  }
}

// out[i] = gate[i] * (bias[i] + sum over taps of kernel[i][tap] * the input at `position` - (taps - 1) + tap);
// load(position, i) gives an input, which is zero before the text.
template <class Load>
void Convolution::mix(const Block& b, uint32_t position, const float* gate, float* out, const Load& load) const {
  const float *kernel = w_.vector(b.kernel), *bias = w_.vector(b.kernel_bias);
  const uint32_t taps = b.window, hidden = w_.manifest().hidden_size;
  const uint32_t first = position + 1 < taps ? taps - 1 - position : 0;  // tap at the text's first token
  for (uint32_t i = 0; i < hidden; ++i) out[i] = bias != nullptr ? bias[i] : 0.0f;
  for (uint32_t tap = first; tap < taps; ++tap) {
    const uint32_t from = position + tap - (taps - 1);
    for (uint32_t i = 0; i < hidden; ++i) out[i] += kernel[size_t{i} * taps + tap] * load(from, i);
  }
  for (uint32_t i = 0; i < hidden; ++i) out[i] *= gate[i];
}

}  // namespace edgekit
