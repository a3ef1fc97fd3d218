#if defined(__x86_64__)
#include <immintrin.h>

#include "encode/steps.h"
#include "kernels/unroll.h"

// SwiftPM has no flags for single files; with these, clang needs none.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif

namespace edgekit {
namespace {

typedef float Floats512 __attribute__((vector_size(64)));  // two registers
inline void keep_least(Floats512& best, const Floats512& cost) {
  __m256 halves[2], others[2];
  __builtin_memcpy(halves, &best, sizeof(best));
  __builtin_memcpy(others, &cost, sizeof(cost));
  for (int i = 0; i < 2; ++i) halves[i] = _mm256_min_ps(others[i], halves[i]);
  __builtin_memcpy(&best, halves, sizeof(best));
}

// out = table[at], for 16 states.
template <class V, class T, class I>
inline void look_up(V& out, const T* table, const I& at) {
  for (int k = 0; k < 16; ++k) out[k] = table[at[k]];
}

template <class I>
inline void widen(I& out, const uint8_t* bytes) {
  for (int k = 0; k < 16; ++k) out[k] = bytes[k];
}

#define EK_STEPS kAvx2Steps
#include "encode/steps.inc"

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
