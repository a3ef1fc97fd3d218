// The reference kernels: plain loops that say what every other set must compute.
#include <algorithm>

#include "core/half.h"
#include "core/trellis.h"
#include "kernels/kernels.h"

namespace edgekit {
namespace {

#include "kernels/portable/planes.inc"

float dense(Codec codec, const uint8_t* row, uint32_t j) {
  if (codec == Codec::f16) return f16_to_float(load_u16(row + 2 * j));
  if (codec == Codec::bf16) return bf16_to_float(load_u16(row + 2 * j));
  const uint8_t* at = row + 4 * j;
  return bits_to_float(static_cast<uint32_t>(load_u16(at)) | static_cast<uint32_t>(load_u16(at + 2)) << 16);
}

// The state of column j: the bits of the circular stream from its own on.
float trellis_weight(const Part& p, const uint8_t* row, uint32_t j) {
  const uint32_t bits = bits_of(p.codec), length = padded_cols(p.cols) * bits;
  uint32_t state = 0;
  for (uint32_t i = 0; i < p.state_bits; ++i) {
    const uint32_t at = (j * bits + i) % length;
    state |= (row[codes_offset(p) + at / 8] >> at % 8 & 1u) << i;
  }
  return scale_table()[row[0]] * kTrellisUnit * static_cast<float>(trellis_value(state));
}

template <Codec C>
float weight(const Part& p, const uint8_t* row, const uint16_t* lut, uint32_t j) {
  constexpr Form kForm = form_of(C);
  constexpr uint32_t kBits = bits_of(C);
  if (kForm == Form::dense) return dense(C, row, j);
  if (kForm == Form::computed) return trellis_weight(p, row, j);
  const uint32_t q = code<kBits>(row + codes_offset(p) + j / kBlock * (kBits * kBlock / 8), j % kBlock);
  if (kForm == Form::lookup) return f16_to_float(lut[q]);
  const uint32_t g = j / p.group_size;
  if (kForm == Form::scaled_lookup) return scale_table()[row[g]] * f16_to_float(lut[q]);
  const float scale = f16_to_float(load_u16(row + 2 * g));
  const float centre = static_cast<float>(1u << (kBits - 1));
  const float bias = p.symmetric ? scale * -centre : f16_to_float(load_u16(row + 2 * (group_count(p) + g)));
  return scale * static_cast<float>(q) + bias;
}

// Eight running sums, as the vector kernels have: closer to them, and better.
float total(const float* lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

template <Codec C>
void add_rows(const Part& p, const uint8_t* const* rows, const uint16_t* const* luts, uint32_t count, const float* h,
              size_t ldh, uint32_t tokens, uint32_t begin, uint32_t end, float* out, size_t ldo) {
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t j = begin; j < end; ++j) {
      const float w = weight<C>(p, rows[i], luts[i], j);
      for (uint32_t t = 0; t < tokens; ++t) out[t * ldo + j] += h[t * ldh + i] * w;
    }
  }
}

template <Codec C>
void decode(const Part& p, const uint8_t* row, const uint16_t* lut, uint32_t begin, uint32_t end, float* out) {
  for (uint32_t j = begin; j < end; ++j) out[j - begin] = weight<C>(p, row, lut, j);
  const uint32_t stop = end == p.cols ? padded_cols(end) : end;
  for (uint32_t j = end; j < stop; ++j) out[j - begin] = 0;
}

void gemm(const float* w, size_t ldw, uint32_t rows, const float* x, size_t ldx, uint32_t tokens, size_t k, float* y,
          size_t ldy) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t r = 0; r < rows; ++r) {
      float lanes[8] = {};
      for (size_t j = 0; j < k; ++j) lanes[j % 8] += w[r * ldw + j] * x[t * ldx + j];
      y[t * ldy + r] = total(lanes);
    }
  }
}

template <Codec C>
void dots(const Part& p, const uint8_t* row, const uint16_t* lut, const float* x, size_t ldx, uint32_t tokens, float* y,
          size_t ldy) {
  for (uint32_t t = 0; t < tokens; ++t) {
    float lanes[8] = {};
    for (uint32_t j = 0; j < p.cols; ++j) lanes[j % 8] += weight<C>(p, row, lut, j) * x[t * ldx + j];
    y[t * ldy] = total(lanes);
  }
}

void accumulate(const float* w, size_t ldw, uint32_t count, const float* h, size_t ldh, uint32_t tokens, size_t cols,
                float* out, size_t ldo) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < cols; ++j) out[t * ldo + j] += h[t * ldh + i] * w[i * ldw + j];
    }
  }
}

float dot_f32(const float* a, const float* b, uint32_t n) {
  float sum = 0;
  for (uint32_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
void axpy_f32(float h, const float* a, float* out, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) out[i] += h * a[i];
}

// Value i of a row of the KV cache.
float cache_f16(const uint8_t* row, uint32_t i) { return f16_to_float(load_u16(row + size_t{i} * 2)); }
float cache_f32(const uint8_t* row, uint32_t i) {
  float out;
  std::memcpy(&out, row + size_t{i} * 4, 4);
  return out;
}
template <uint32_t kBits>
float cache_coded(const uint8_t* row, uint32_t i) {
  const uint8_t* group = row + i / kCacheGroup * (2 + 4 * kBits);
  const float centred = static_cast<float>(code<kBits>(group + 2, i % kCacheGroup)) - (1u << (kBits - 1));
  return f16_to_float(load_u16(group)) * centred;
}
template <float (*kValue)(const uint8_t*, uint32_t)>
void cache_decode(const uint8_t* row, uint32_t n, float* out) {
  for (uint32_t i = 0; i < n; ++i) out[i] = kValue(row, i);
  std::fill(out + n, out + padded_cols(n), 0.0f);
}
constexpr auto cache_decode_f16 = cache_decode<cache_f16>, cache_decode_f32 = cache_decode<cache_f32>;
template <uint32_t kBits>
constexpr auto cache_decode_groups = cache_decode<cache_coded<kBits>>;

}  // namespace

const KernelSet kPortableKernels = {
    "portable",
#include "kernels/table.inc"
    &kPortableIntegers,
};

}  // namespace edgekit
