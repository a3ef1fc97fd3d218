// The reference of the integer kernels: plain loops that say what every other set must compute, bit for bit.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"

namespace edgekit {
namespace {

#include "kernels/portable/planes.inc"

constexpr void (*kArrange)(size_t, uint8_t*) = nullptr;
constexpr auto kArrangeOne = kArrange;

void quantize(const float* x, size_t padded, uint8_t* to) {
  const size_t blocks = padded / kBlock, room = quantized_blocks(padded);
  auto* q = reinterpret_cast<int8_t*>(to);
  auto* scales = reinterpret_cast<float*>(to + room * kBlock);
  auto* sums = reinterpret_cast<int32_t*>(to + room * (kBlock + 4));
  std::fill(to, to + quantized_bytes(padded), uint8_t{0});
  for (size_t b = 0; b < blocks; ++b, x += kBlock, q += kBlock) {
    uint32_t most = 0;  // of the magnitudes' bits, which are ordered as the numbers are, with NaN above all
    for (size_t i = 0; i < kBlock; ++i) most = std::max(most, float_to_bits(x[i]) & 0x7fffffffu);
    const float largest = bits_to_float(most);
    if (most >= 0x7f800000u) scales[b] = std::numeric_limits<float>::quiet_NaN();
    if (!(largest >= kLeastActivation) || most >= 0x7f800000u) continue;
    const float inverse = 127.0f / largest;
    scales[b] = largest / 127.0f;
    for (size_t i = 0; i < kBlock; ++i) {
      q[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
      sums[b] += q[i];
    }
  }
}

// A row's weights as integers: (code - centre) or 128 * entry; and what to multiply them with.
template <Codec C>
class Row {
  static constexpr uint32_t kBits = bits_of(C);
  static constexpr bool kAffine = form_of(C) == Form::affine;

 public:
  Row(const Part& p, const uint8_t* row, const uint16_t* lut) : p_(p), row_(row), lut_(lut) {}
  int32_t weight(uint32_t j) const {
    const uint32_t q = code<kBits>(row_ + codes_offset(p_) + j / kBlock * (kBits * kBlock / 8), j % kBlock);
    if (!kAffine) return static_cast<int32_t>(f16_to_float(lut_[q]) * 128.0f);
    return static_cast<int32_t>(q) - (p_.symmetric ? 1 << (kBits - 1) : 0);
  }
  float scale(size_t b) const {
    const size_t g = b * kBlock / p_.group_size;
    return kAffine ? f16_to_float(load_u16(row_ + 2 * g)) : scale_table_128ths()[row_[g]];
  }
  bool biased() const { return kAffine && !p_.symmetric; }
  float bias(size_t b) const {
    return f16_to_float(load_u16(row_ + 2 * (group_count(p_) + b * kBlock / p_.group_size)));
  }

 private:
  const Part& p_;
  const uint8_t* row_;
  const uint16_t* lut_;
};

float total(const float* sums) {
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

template <Codec C>
void dots(const Part& p, const uint8_t* at, const uint16_t* lut, const uint8_t* x, size_t stride, uint32_t tokens,
          float* y, size_t ldy) {
  const Row<C> row(p, at, lut);
  const uint32_t padded = padded_cols(p.cols);
  for (uint32_t t = 0; t < tokens; ++t) {
    const Quantized in(x + t * stride, padded);
    float sums[kLanesOfSums] = {};
    for (uint32_t b = 0; b < padded / kBlock; ++b) {
      int32_t products = 0;
      for (uint32_t j = b * kBlock; j < (b + 1) * kBlock; ++j) products += row.weight(j) * in.q[j];
      float& sum = sums[b % kLanesOfSums];
      sum = std::fma(row.scale(b) * in.scales[b], static_cast<float>(products), sum);
      if (row.biased()) sum = std::fma(row.bias(b) * in.scales[b], static_cast<float>(in.sums[b]), sum);
    }
    y[t * ldy] = total(sums);
  }
}

template <Codec C>
void dot(const Part& p, const uint8_t* at, const uint16_t* lut, const uint8_t* x, float* y) {
  dots<C>(p, at, lut, x, 0, 1, y, 1);
}

template <Codec C>
void fill_panel(const Part& p, const uint8_t* const* rows, const uint16_t* const* luts, uint32_t n, Panel& panel) {
  const uint32_t blocks = padded_cols(p.cols) / kBlock;
  std::fill_n(panel.weights, blocks * kPanelRows * kBlock, uint8_t{0});
  std::fill_n(panel.scales, blocks * kPanelRows, 0.0f);
  std::fill_n(panel.biases, blocks * kPanelRows, 0.0f);
  panel.is_signed = form_of(C) == Form::scaled_lookup;
  panel.biased = form_of(C) == Form::affine && !p.symmetric;
  panel.centre = form_of(C) == Form::affine && p.symmetric ? 1 << (bits_of(C) - 1) : 0;
  for (uint32_t r = 0; r < n; ++r) {
    const Row<C> row(p, rows[r], luts[r]);
    for (uint32_t b = 0; b < blocks; ++b) {
      panel.scales[b * kPanelRows + r] = row.scale(b);
      if (panel.biased) panel.biases[b * kPanelRows + r] = row.bias(b);
      for (uint32_t i = 0; i < kBlock; ++i) {
        const int32_t w = row.weight(b * kBlock + i) + panel.centre;
        panel.weights[b * kPanelRows * kBlock + i / 4 * kPanelRows * 4 + r * 4 + i % 4] = static_cast<uint8_t>(w);
      }
    }
  }
}

void multiply_panel(const Panel& panel, size_t padded, uint32_t n, const uint8_t* x, size_t stride, uint32_t tokens,
                    float* y, size_t ldy) {
  for (uint32_t t = 0; t < tokens; ++t) {
    const Quantized in(x + t * stride, padded);
    for (uint32_t r = 0; r < n; ++r) {
      float sums[kLanesOfSums] = {};
      for (size_t b = 0; b < padded / kBlock; ++b) {
        int32_t products = -panel.centre * in.sums[b];
        for (size_t i = 0; i < kBlock; ++i) {
          const uint8_t w = panel.weights[b * kPanelRows * kBlock + i / 4 * kPanelRows * 4 + r * 4 + i % 4];
          products += (panel.is_signed ? static_cast<int8_t>(w) : w) * in.q[b * kBlock + i];
        }
        float& sum = sums[b % kLanesOfSums];
        sum = std::fma(panel.scales[b * kPanelRows + r] * in.scales[b], static_cast<float>(products), sum);
        if (!panel.biased) continue;
        sum = std::fma(panel.biases[b * kPanelRows + r] * in.scales[b], static_cast<float>(in.sums[b]), sum);
      }
      y[t * ldy + r] = total(sums);
    }
  }
}

#include "kernels/integer_entries.inc"

}  // namespace

const IntegerKernels kPortableIntegers = {
#include "kernels/integer_table.inc"
};

}  // namespace edgekit
