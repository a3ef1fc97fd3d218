// AVX2 + FMA + F16C kernels. Only code in this file may assume those instructions.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/half.h"
#include "core/trellis.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"

// SwiftPM has no flags for single files; with these, clang needs none.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#endif

namespace edgekit {
namespace {

using V = __m256;
constexpr int kLanes = 8;

inline V load(const float* at) { return _mm256_loadu_ps(at); }
inline void store(float* at, V v) { _mm256_storeu_ps(at, v); }
inline V zero() { return _mm256_setzero_ps(); }
inline V set1(float f) { return _mm256_set1_ps(f); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline float sum(V v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#include "kernels/x86_codes.inc"

template <uint32_t kBits>
struct Table {
  static constexpr bool kFits = false;
};
inline V load_half_bytes(const uint8_t* at) { return _mm256_cvtph_ps(load128(at)); }
inline V load_half(const uint16_t* at) { return _mm256_cvtph_ps(load128(at)); }
inline V load_bf16_bytes(const uint8_t* at) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(at)), 16));
}
inline float half_at(const uint8_t* at) {
  uint16_t h;
  std::memcpy(&h, at, 2);
  return _cvtsh_ss(h);
}

// 32 bytes to 32 floats.
inline void widen(__m256i bytes, V out[4]) {
  const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
  out[0] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low));
  out[1] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(low, 8)));
  out[2] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high));
  out[3] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(high, 8)));
}

// Palettes of at most 16 entries: look up both bytes of the f16 value with byte shuffles.
template <uint32_t kBits, bool kLarge = (kBits > 4)>
class Lookup {
 public:
  Lookup(const uint8_t* from, const uint16_t* lut) : codes_(from) {
    constexpr int kEntries = 1 << kBits;
    alignas(16) uint8_t low[16] = {}, high[16] = {};
    for (int i = 0; i < kEntries; ++i) {
      low[i] = static_cast<uint8_t>(lut[i]);
      high[i] = static_cast<uint8_t>(lut[i] >> 8);
    }
    low_ = _mm256_broadcastsi128_si256(load128(low));
    high_ = _mm256_broadcastsi128_si256(load128(high));
  }
  void block(size_t b, V out[4]) const {
    const __m256i index = codes<kBits>(codes_, b);
    const __m256i low = _mm256_shuffle_epi8(low_, index), high = _mm256_shuffle_epi8(high_, index);
    const __m256i even = _mm256_unpacklo_epi8(low, high);  // 0-7 and 16-23
    const __m256i odd = _mm256_unpackhi_epi8(low, high);   // 8-15 and 24-31
    out[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(even));
    out[1] = _mm256_cvtph_ps(_mm256_castsi256_si128(odd));
    out[2] = _mm256_cvtph_ps(_mm256_extracti128_si256(even, 1));
    out[3] = _mm256_cvtph_ps(_mm256_extracti128_si256(odd, 1));
  }

 private:
  const uint8_t* codes_;
  __m256i low_, high_;
};

// Larger palettes: widen the table to floats once a row, then gather.
template <uint32_t kBits>
class Lookup<kBits, true> {
  static constexpr int kEntries = 1 << kBits;

 public:
  Lookup(const uint8_t* from, const uint16_t* lut) : codes_(from) {
    for (int i = 0; i < kEntries; i += 8) _mm256_storeu_ps(table_ + i, load_half(lut + i));
  }
  void block(size_t b, V out[4]) const {
    alignas(32) uint8_t index[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(index), codes<kBits>(codes_, b));
    for (int i = 0; i < 4; ++i) {
      const __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(index + 8 * i)));
      out[i] = _mm256_i32gather_ps(table_, at, 4);
    }
  }

 private:
  const uint8_t* codes_;
  float table_[kEntries];
};

template <uint32_t kBits>
inline void code_values(const uint8_t* at, size_t b, V out[4]) {
  widen(codes<kBits>(at, b), out);
}

template <uint32_t kBits>
inline V trellis_values(const uint8_t* at, uint32_t mask) {
  const __m256i product = _mm256_mullo_epi32(trellis_states<kBits>(at, mask), _mm256_set1_epi32(kTrellisFactor));
  const __m256i bytes =
      _mm256_and_si256(_mm256_add_epi32(product, _mm256_set1_epi32(kTrellisOffset)), _mm256_set1_epi32(kTrellisMask));
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(kTrellisMean)));
}

#include "kernels/simd.inc"

}  // namespace

const KernelSet kAvx2Kernels = {
    "avx2",
#include "kernels/table.inc"
    &kAvx2Integers,
};

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
