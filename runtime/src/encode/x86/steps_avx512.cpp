#if defined(__x86_64__)
#include <immintrin.h>

#include "encode/steps.h"
#include "kernels/unroll.h"

// SwiftPM has no flags for single files; with these, clang needs none.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#endif

namespace edgekit {
namespace {

typedef float Floats512 __attribute__((vector_size(64)));
inline void keep_least(Floats512& best, const Floats512& cost) {
  best = (Floats512)_mm512_min_ps((__m512)cost, (__m512)best);
}

// out = table[at], for 16 states.
typedef int32_t Ints512 __attribute__((vector_size(64)));
inline void look_up(Ints512& out, const uint32_t* table, const Ints512& at) {
  out = (Ints512)_mm512_i32gather_epi32((__m512i)at, table, 4);
}
inline void look_up(Floats512& out, const float* table, const Ints512& at) {
  out = (Floats512)_mm512_i32gather_ps((__m512i)at, table, 4);
}

inline void widen(Ints512& out, const uint8_t* bytes) {
  out = (Ints512)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

#define EK_STEPS kAvx512Steps
#include "encode/steps.inc"

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
