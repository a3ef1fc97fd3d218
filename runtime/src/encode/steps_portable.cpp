#include "encode/steps.h"
#include "kernels/unroll.h"

namespace edgekit {
namespace {

template <class V>
inline void keep_least(V& best, const V& cost) {
  best = cost < best ? cost : best;
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

#define EK_STEPS kPortableSteps
#include "encode/steps.inc"

}  // namespace edgekit
