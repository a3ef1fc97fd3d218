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

typedef float Floats128 __attribute__((vector_size(16)));
inline void keep_least(Floats128& best, const Floats128& cost) {
  best = (Floats128)_mm_min_ps((__m128)cost, (__m128)best);
}
typedef float Floats256 __attribute__((vector_size(32)));
inline void keep_least(Floats256& best, const Floats256& cost) {
  best = (Floats256)_mm256_min_ps((__m256)cost, (__m256)best);
}
typedef float Floats512 __attribute__((vector_size(64)));
inline void keep_least(Floats512& best, const Floats512& cost) {
  best = (Floats512)_mm512_min_ps((__m512)cost, (__m512)best);
}

#define EK_STEPS kAvx512Steps
#include "encode/steps.inc"

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
