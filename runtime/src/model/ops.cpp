#include "model/ops.h"

#include <algorithm>
#include <cmath>

namespace edgekit {

namespace {
void norm_row(const Norm& norm, const float* weight, const float* bias, const float* x, uint32_t n, float* out) {
  double mean = 0, square = 0;
  if (norm.kind == Norm::layer) {
    for (uint32_t i = 0; i < n; ++i) mean += x[i];
    mean /= n;
  }
  for (uint32_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const float scale = static_cast<float>(1.0 / std::sqrt(square / n + static_cast<double>(norm.eps)));
  const float shift = static_cast<float>(mean);
  for (uint32_t i = 0; i < n; ++i) {
    float y = (x[i] - shift) * scale;
    if (weight != nullptr) y *= weight[i];
    if (bias != nullptr) y += bias[i];
    out[i] = y;
  }
}
}  // namespace

void apply_norm(const Norm& norm, const float* weight, const float* bias, const float* x, uint32_t tokens,
                uint32_t width, uint32_t stride, float* out) {
  for (uint32_t t = 0; t < tokens; ++t) {
    const size_t at = size_t{t} * stride;
    if (norm.kind == Norm::none) {
      if (out != x) std::copy(x + at, x + at + width, out + at);
    } else {
      norm_row(norm, weight, bias, x + at, width, out + at);
    }
  }
}

void apply_head_norm(const Norm& norm, const float* weight, const float* bias, uint32_t tokens, uint32_t heads,
                     uint32_t head_dim, uint32_t stride, float* x) {
  if (norm.kind == Norm::none) return;
  for (uint32_t t = 0; t < tokens; ++t) {
    float* row = x + size_t{t} * stride;
    if (!norm.per_head) {
      norm_row(norm, weight, bias, row, heads * head_dim, row);
      continue;
    }
    for (uint32_t h = 0; h < heads; ++h) {
      norm_row(norm, weight, bias, row + h * head_dim, head_dim, row + h * head_dim);
    }
  }
}

void fill_rope(const Rope& rope, const float* inv_freq, const float* long_inv_freq, uint32_t first, uint32_t tokens,
               uint32_t length, uint32_t stride, float* table) {
  const uint32_t half = rope.dim / 2;
  const bool beyond = rope.switch_length != 0 && length > rope.switch_length;
  const float* frequency = beyond && long_inv_freq != nullptr ? long_inv_freq : inv_freq;
  double base = 0;  // dynamic NTK (transformers, _compute_dynamic_ntk_parameters)
  if (beyond && rope.kind == Rope::dynamic) {
    const double dim = rope.dim, grown = rope.factor * length / rope.switch_length - (rope.factor - 1);
    base = rope.base * std::pow(grown, dim / (dim - 2));
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    float* cosine = table + size_t{t} * 2 * stride;
    float* sine = cosine + stride;
    for (uint32_t i = 0; i < half; ++i) {
      const float f = base == 0 ? frequency[i] : static_cast<float>(1.0 / std::pow(base, 2.0 * i / rope.dim));
      const double angle = static_cast<double>(static_cast<float>(first + t) * f);
      cosine[i] = static_cast<float>(std::cos(angle)) * rope.scale;
      sine[i] = static_cast<float>(std::sin(angle)) * rope.scale;
    }
  }
}

void apply_rope(const Rope& rope, const float* table, uint32_t tokens, uint32_t heads, uint32_t head_dim,
                uint32_t table_stride, uint32_t stride, float* x) {
  const uint32_t half = rope.dim / 2;
  for (uint32_t t = 0; t < tokens; ++t) {
    const float* cosine = table + size_t{t} * 2 * table_stride;
    const float* sine = cosine + table_stride;
    for (uint32_t h = 0; h < heads; ++h) {
      float* a = x + size_t{t} * stride + size_t{h} * head_dim;
      float* b = a + half;
      for (uint32_t i = 0; i < half; ++i) {
        const float low = a[i], high = b[i];
        a[i] = low * cosine[i] - high * sine[i];
        b[i] = high * cosine[i] + low * sine[i];
      }
    }
  }
}

float activate(Activation kind, float threshold, float x) {
  switch (kind) {
    case Activation::silu: return x / (1.0f + std::exp(-x));
    case Activation::gelu: return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::gelu_tanh: {
      const float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.0f + std::tanh(inner));
    }
    case Activation::quick_gelu: return x / (1.0f + std::exp(-1.702f * x));
    case Activation::relu: return x > 0 ? x : 0.0f;
    case Activation::relu2: return x > 0 ? x * x : 0.0f;
    case Activation::threshold: return x > threshold ? x : 0.0f;
    case Activation::shifted_relu: return x > threshold ? x - threshold : 0.0f;
  }
  return 0;
}

float activate_gate(const Block& b, float x) {
  const bool limited = b.gated && b.limit > 0;
  return activate(b.activation, b.threshold, limited ? std::min(x, b.limit) : x);
}

float limit_up(const Block& b, float x) {
  if (b.limit > 0) x = std::clamp(x, -b.limit, b.limit);
  x += b.up_add;
  return b.up_relu ? std::max(x, 0.0f) : x;
}

}  // namespace edgekit
