// NEON (AArch64) kernels. F16 conversions are part of the base instruction set there.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/half.h"
#include "core/trellis.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"

namespace edgekit {
namespace {

struct V {
  float32x4_t a, b;
};

constexpr int kLanes = 8;

inline V load(const float* at) { return {vld1q_f32(at), vld1q_f32(at + 4)}; }
inline void store(float* at, V v) {
  vst1q_f32(at, v.a);
  vst1q_f32(at + 4, v.b);
}
inline V zero() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
inline V set1(float f) { return {vdupq_n_f32(f), vdupq_n_f32(f)}; }
inline V add(V x, V y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
inline V mul(V x, V y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
inline V fma(V x, V y, V z) { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
inline float sum(V v) { return vaddvq_f32(vaddq_f32(v.a, v.b)); }
template <uint32_t kBits>
struct Table {
  static constexpr bool kFits = false;
};
inline V half_to_float(uint16x8_t h) {
  const float16x8_t f = vreinterpretq_f16_u16(h);
  return {vcvt_f32_f16(vget_low_f16(f)), vcvt_f32_f16(vget_high_f16(f))};
}
inline V load_half(const uint16_t* at) { return half_to_float(vld1q_u16(at)); }
inline V load_half_bytes(const uint8_t* at) { return half_to_float(vreinterpretq_u16_u8(vld1q_u8(at))); }
inline V load_bf16_bytes(const uint8_t* at) {
  const uint16x8_t x = vreinterpretq_u16_u8(vld1q_u8(at));
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)),
          vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(x), 16))};
}
inline float half_at(const uint8_t* at) {
  uint16_t h;
  std::memcpy(&h, at, 2);
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0);
}

#include "kernels/neon/codes.inc"

inline void widen(Codes c, V out[4]) {
  const uint16x8_t parts[4] = {vmovl_u8(vget_low_u8(c.low)), vmovl_u8(vget_high_u8(c.low)),
                               vmovl_u8(vget_low_u8(c.high)), vmovl_u8(vget_high_u8(c.high))};
  for (int i = 0; i < 4; ++i) {
    out[i].a = vcvtq_f32_u32(vmovl_u16(vget_low_u16(parts[i])));
    out[i].b = vcvtq_f32_u32(vmovl_u16(vget_high_u16(parts[i])));
  }
}

// Palettes of at most 64 entries: look up both bytes of the f16 value with table instructions.
template <uint32_t kBits, bool kLarge = (kBits > 6)>
class Lookup {
 public:
  Lookup(const uint8_t* from, const uint16_t* lut) : codes_(from) {
    constexpr int kEntries = 1 << kBits;
    uint8_t low[64] = {}, high[64] = {};
    for (int i = 0; i < kEntries; ++i) {
      low[i] = static_cast<uint8_t>(lut[i]);
      high[i] = static_cast<uint8_t>(lut[i] >> 8);
    }
    for (int i = 0; i < 4; ++i) {
      low_.val[i] = vld1q_u8(low + 16 * i);
      high_.val[i] = vld1q_u8(high + 16 * i);
    }
  }
  void block(size_t b, V out[4]) const {
    const Codes c = codes<kBits>(codes_, b);
    pair(c.low, out);
    pair(c.high, out + 2);
  }

 private:
  uint8x16_t look_up(const uint8x16x4_t& table, uint8x16_t index) const {
    return kBits > 4 ? vqtbl4q_u8(table, index) : vqtbl1q_u8(table.val[0], index);
  }
  void pair(uint8x16_t index, V out[2]) const {
    const uint8x16_t low = look_up(low_, index), high = look_up(high_, index);
    out[0] = half_to_float(vreinterpretq_u16_u8(vzip1q_u8(low, high)));
    out[1] = half_to_float(vreinterpretq_u16_u8(vzip2q_u8(low, high)));
  }
  const uint8_t* codes_;
  uint8x16x4_t low_, high_;
};

template <uint32_t kBits>
class Lookup<kBits, true> {
 public:
  Lookup(const uint8_t* from, const uint16_t* lut) : codes_(from), lut_(lut) {}
  void block(size_t b, V out[4]) const {
    uint16_t half[kBlock];
    for (uint32_t i = 0; i < kBlock; ++i) half[i] = lut_[codes_[b * kBlock + i]];
    for (int i = 0; i < 4; ++i) out[i] = load_half(half + 8 * i);
  }

 private:
  const uint8_t* codes_;
  const uint16_t* lut_;
};

template <uint32_t kBits>
inline void code_values(const uint8_t* at, size_t b, V out[4]) {
  widen(codes<kBits>(at, b), out);
}

// The states of four columns from `first` on.
template <uint32_t kBits>
inline float32x4_t trellis_four(uint8x16_t stream, int first, uint32_t mask) {
  uint8_t index[16];
  int32_t shifts[4];
  for (int lane = 0; lane < 4; ++lane) {
    const int bit = static_cast<int>(kBits) * (first + lane);
    for (int i = 0; i < 4; ++i) index[4 * lane + i] = static_cast<uint8_t>(bit / 8 + i);
    shifts[lane] = -(bit % 8);
  }
  const uint32x4_t window = vreinterpretq_u32_u8(vqtbl1q_u8(stream, vld1q_u8(index)));
  const uint32x4_t states = vandq_u32(vshlq_u32(window, vld1q_s32(shifts)), vdupq_n_u32(mask));
  const uint32x4_t product = vmlaq_u32(vdupq_n_u32(kTrellisOffset), states, vdupq_n_u32(kTrellisFactor));
  const uint8x16_t bytes = vreinterpretq_u8_u32(vandq_u32(product, vdupq_n_u32(kTrellisMask)));
  const int32x4_t sums = vreinterpretq_s32_u32(vpaddlq_u16(vpaddlq_u8(bytes)));
  return vcvtq_f32_s32(vsubq_s32(sums, vdupq_n_s32(kTrellisMean)));
}
template <uint32_t kBits>
inline V trellis_values(const uint8_t* at, uint32_t mask) {
  const uint8x8_t eight = vld1_u8(at);
  const uint8x16_t stream = vcombine_u8(eight, eight);
  return {trellis_four<kBits>(stream, 0, mask), trellis_four<kBits>(stream, 4, mask)};
}

#include "kernels/simd.inc"

}  // namespace

const KernelSet kNeonKernels = {
    "neon",
#include "kernels/table.inc"
    &kNeonIntegers,
};

// The float kernels with the integer ones of CPUs that have dot products.
const KernelSet kNeonDotprodKernels = {
    "neon_dotprod",
#include "kernels/table.inc"
    &kDotprodIntegers,
};

}  // namespace edgekit
#endif  // defined(__aarch64__)
