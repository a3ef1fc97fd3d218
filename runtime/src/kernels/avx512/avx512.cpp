// AVX-512 (F, BW, DQ, VL) kernels. A permute is a look-up in a table of 16 floats, which is what a
// palette of 4 bits is, and a 4-bit affine code too: the codes never become integers.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#endif

namespace edgekit {
namespace {

using V = __m512;
constexpr int kLanes = 16;

inline V load(const float* at) { return _mm512_loadu_ps(at); }
inline void store(float* at, V v) { _mm512_storeu_ps(at, v); }
inline V zero() { return _mm512_setzero_ps(); }
inline V set1(float f) { return _mm512_set1_ps(f); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(V v) { return _mm512_reduce_add_ps(v); }

#include "kernels/x86_codes.inc"

inline V load_half(const uint16_t* at) { return _mm512_cvtph_ps(load256(at)); }
inline V load_half_bytes(const uint8_t* at) { return _mm512_cvtph_ps(load256(at)); }
inline V load_bf16_bytes(const uint8_t* at) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(at)), 16));
}
inline float half_at(const uint8_t* at) {
  uint16_t h;
  std::memcpy(&h, at, 2);
  return _cvtsh_ss(h);
}
inline __m512i widen(__m128i bytes) { return _mm512_cvtepu8_epi32(bytes); }

template <uint32_t kBits>
struct Table {
  static constexpr bool kFits = kBits <= 4;
  static V numbers() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }
  // Permutes use the low four bits of an index, so that a byte with the 4-bit codes i and i + 16 serves as the first as
  // it is, and as the second shifted.
  static void look_up(V table, const uint8_t* from, size_t b, V out[2]) {
    if constexpr (kBits == 4) {
      const __m512i index = widen(load128(from + b * 16));
      out[0] = _mm512_permutexvar_ps(index, table);
      out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 4), table);
    } else {
      const __m256i index = codes<kBits>(from, b);
      out[0] = _mm512_permutexvar_ps(widen(_mm256_castsi256_si128(index)), table);
      out[1] = _mm512_permutexvar_ps(widen(_mm256_extracti128_si256(index, 1)), table);
    }
  }
};

template <uint32_t kBits, bool kLarge = (kBits > 4)>
class Lookup {  // at most 16 entries
 public:
  Lookup(const uint8_t* from, const uint16_t* lut) : codes_(from) {
    alignas(32) uint16_t entries[16] = {};
    std::memcpy(entries, lut, sizeof(uint16_t) << kBits);
    table_ = load_half(entries);
  }
  void block(size_t b, V out[2]) const { Table<kBits>::look_up(table_, codes_, b, out); }
  V entries() const { return table_; }

 private:
  const uint8_t* codes_;
  V table_;
};

// Tables of 32, 64 or 256 halves lie in registers too: a permute of two of them looks up 64 entries.
template <uint32_t kBits>
class Lookup<kBits, true> {
 public:
  Lookup(const uint8_t* from, const uint16_t* lut) : codes_(from) {
    for (int i = 0; i < kTables; ++i) table_[i] = _mm512_loadu_si512(lut + i * 32);
  }
  void block(size_t b, V out[2]) const {
    const __m512i index = _mm512_cvtepu8_epi16(codes<kBits>(codes_, b));
    __m512i value = among64(index, 0);
    if constexpr (kBits == 8) {
      const __mmask32 odd = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
      const __mmask32 upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
      value = _mm512_mask_mov_epi16(value, odd, among64(index, 1));
      const __m512i high = _mm512_mask_mov_epi16(among64(index, 2), odd, among64(index, 3));
      value = _mm512_mask_mov_epi16(value, upper, high);
    }
    out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(value));
    out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(value, 1));
  }

 private:
  static constexpr int kTables = (1 << kBits) / 32;
  // The entry of the low six bits in a quarter of the table.
  __m512i among64(__m512i index, int quarter) const {
    if constexpr (kTables == 1) return _mm512_permutexvar_epi16(index, table_[0]);
    return _mm512_permutex2var_epi16(table_[2 * quarter], index, table_[2 * quarter + 1]);
  }
  const uint8_t* codes_;
  __m512i table_[kTables];
};

template <uint32_t kBits>
inline void code_values(const uint8_t* at, size_t b, V out[2]) {
  const __m256i index = codes<kBits>(at, b);
  out[0] = _mm512_cvtepi32_ps(widen(_mm256_castsi256_si128(index)));
  out[1] = _mm512_cvtepi32_ps(widen(_mm256_extracti128_si256(index, 1)));
}

template <uint32_t kBits>
inline V trellis_values(const uint8_t* at, uint32_t mask) {
  const __m512i states = _mm512_inserti64x4(_mm512_castsi256_si512(trellis_states<kBits>(at, mask)),
                                            trellis_states<kBits>(at + kBits, mask), 1);
  const __m512i product = _mm512_mullo_epi32(states, _mm512_set1_epi32(kTrellisFactor));
  const __m512i bytes =
      _mm512_and_si512(_mm512_add_epi32(product, _mm512_set1_epi32(kTrellisOffset)), _mm512_set1_epi32(kTrellisMask));
  const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1));
  const __m512i sums = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(kTrellisMean)));
}

#include "kernels/simd.inc"

}  // namespace

const KernelSet kAvx512Kernels = {
    "avx512",
#include "kernels/table.inc"
    &kAvx2Integers,
};

// The float kernels with the integer ones of CPUs that have VNNI and VBMI.
const KernelSet kAvx512VnniKernels = {
    "avx512vnni",
#include "kernels/table.inc"
    &kVnniIntegers,
};

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
