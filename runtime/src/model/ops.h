// The elementwise parts of a block, on rows of floats.
#pragma once

#include <cstdint>

#include "format/manifest.h"

namespace edgekit {

// out[t] = norm(x[t]) over `width` values; out may be x. Strides in floats.
void apply_norm(const Norm& norm, const float* weight, const float* bias, const float* x, uint32_t tokens,
                uint32_t width, uint32_t stride, float* out);
// The same within each of `heads` runs of head_dim values when the norm is per head.
void apply_head_norm(const Norm& norm, const float* weight, const float* bias, uint32_t tokens, uint32_t heads,
                     uint32_t head_dim, uint32_t stride, float* x);

// Fills cos and sin [tokens][2][stride] for positions [first, first + tokens). `length` is the
// length of the sequence once this evaluation is over; it selects the frequencies of scaled ropes.
void fill_rope(const Rope& rope, const float* inv_freq, const float* long_inv_freq, uint32_t first, uint32_t tokens,
               uint32_t length, uint32_t stride, float* table);
// Rotates the first rope.dim values of each head, paired half against half.
void apply_rope(const Rope& rope, const float* table, uint32_t tokens, uint32_t heads, uint32_t head_dim,
                uint32_t table_stride, uint32_t stride, float* x);

float activate(Activation kind, float threshold, float x);
// What a neuron's gate (without one, up) makes of its input, and what up then multiplies it with.
float activate_gate(const Block& block, float x);
float limit_up(const Block& block, float x);

}  // namespace edgekit
