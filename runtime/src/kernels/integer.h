// Products with activations of 8 bits. A block of 32 activations is int8 numbers and one scale, so the products of a
// block are integers and exact in any order; the order of what is added up in f32 is fixed here, so that every kernel
// set gives the same bits, for one token or many, for a row alone or among others:
//
//   S[b] = sum over block b of (code - centre) * q, or of 128 * entry * q     an integer below 2^24
//   sums[b % 8] = fma(weight scale * activation scale, S[b], sums[b % 8])      b ascending; all f32
//   sums[b % 8] = fma(bias * activation scale, sum of q over b, sums[b % 8])   affine with stored biases
//   product = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
//
// Symmetric affine codes have centre 2^(bits - 1), others 0. Scaled palettes' entries are k/128, so a weight's scale
// is that of its group / 128.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/codec.h"

namespace edgekit {

constexpr size_t kLanesOfSums = 8;
constexpr float kLeastActivation = 1e-30f;  // blocks of smaller ones are zeros: their inverse might overflow

// One token's activations, in this order in memory: q int8 [32 * blocks], scales f32 [blocks], sums i32 [blocks];
// blocks is rounded up to a multiple of 8, and what is past the width is zero.
inline size_t quantized_blocks(size_t padded) {
  return (padded / kBlock + kLanesOfSums - 1) / kLanesOfSums * kLanesOfSums;
}
inline size_t quantized_bytes(size_t padded) { return quantized_blocks(padded) * (kBlock + 8); }

struct Quantized {
  const int8_t* q;
  const float* scales;
  const int32_t* sums;
  Quantized(const uint8_t* data, size_t padded)
      : q(reinterpret_cast<const int8_t*>(data)),
        scales(reinterpret_cast<const float*>(data + quantized_blocks(padded) * kBlock)),
        sums(reinterpret_cast<const int32_t*>(data + quantized_blocks(padded) * (kBlock + 4))) {}
};

// Eight rows unpacked for products with many tokens.
constexpr uint32_t kPanelRows = 8;
struct Panel {
  uint8_t* weights;        // [blocks][8 fours of columns][8 rows][4]
  float* scales;           // [blocks][8 rows]
  float* biases;           // [blocks][8 rows]; only read when `biased`
  bool biased = false;     // affine with stored biases
  bool is_signed = false;  // the weights' bytes are signed numbers (or what the kernel set has for those)
  int32_t centre = 0;      // what each token's sum of q is multiplied with and subtracted
};
// Bytes of a panel's arrays for rows of so many columns.
inline size_t panel_bytes(size_t padded) { return padded / kBlock * kPanelRows * (kBlock + 8); }

struct IntegerKernels {
  // x [padded] to a token's activations at `to`. Per block: scale = max |x| / 127, q = x * (127 / max |x|), rounded to
  // the nearest, ties to even. Blocks whose numbers are all below 1e-30 are zeros; a block with a number that is not
  // finite has the scale NaN.
  void (*quantize)(const float* x, size_t padded, uint8_t* to);
  // y[t * ldy] = row . x[t]; activations of token t at x + t * stride. Null for codecs that only have f32 products.
  void (*dots[kCodecCount])(const Part&, const uint8_t* row, const uint16_t* lut, const uint8_t* x, size_t stride,
                            uint32_t tokens, float* y, size_t ldy);
  // *y = row . x for one token: the same bits.
  void (*dot[kCodecCount])(const Part&, const uint8_t* row, const uint16_t* lut, const uint8_t* x, float* y);
  // Fills a panel with n <= 8 rows; what the others hold does not count.
  void (*fill_panel[kCodecCount])(const Part&, const uint8_t* const* rows, const uint16_t* const* luts, uint32_t n,
                                  Panel& panel);
  // y[t * ldy + r] = row r . x[t] for n rows of a panel: the same bits as `dots`.
  void (*multiply_panel)(const Panel& panel, size_t padded, uint32_t n, const uint8_t* x, size_t stride,
                         uint32_t tokens, float* y, size_t ldy);
  // Gives the q of a token's activations, in place, the order in which this set's `dots` take them; null where that is
  // the order of columns, which panels always take. x86: of every eight blocks [8 fours of columns][8 blocks][4].
  void (*arrange)(size_t padded, uint8_t* x);
  // The same for `dot`. With VNNI: of every four blocks columns 0 to 15 of each, then 16 to 31 of each.
  void (*arrange_one)(size_t padded, uint8_t* x);
};

extern const IntegerKernels kPortableIntegers;
#if defined(__x86_64__)
extern const IntegerKernels kAvx2Integers;
extern const IntegerKernels kVnniIntegers;
#endif
#if defined(__aarch64__)
extern const IntegerKernels kNeonIntegers;
extern const IntegerKernels kDotprodIntegers;
#endif

// What products are computed with: EDGEKIT_ACTIVATIONS_*.
enum class Activations : uint8_t { automatic, f32, int8 };

// Whether products of a codec with activations of 8 bits exist.
constexpr bool has_integers(Codec c) { return form_of(c) == Form::affine || form_of(c) == Form::scaled_lookup; }

// Whether they are used when nobody chose: where the mean KL divergence from f32 is below 1e-3, as measured in
// docs/results/integer_kernels.md.
constexpr bool prefers_integers(Codec c) { return has_integers(c) && bits_of(c) >= 3; }

constexpr bool uses_integers(Activations activations, Codec c) {
  return has_integers(c) &&
         (activations == Activations::int8 || (activations == Activations::automatic && prefers_integers(c)));
}

}  // namespace edgekit
