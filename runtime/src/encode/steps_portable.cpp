#include "encode/steps.h"
#include "kernels/unroll.h"

namespace edgekit {
namespace {

template <class V>
inline void keep_least(V& best, const V& cost) {
  best = cost < best ? cost : best;
}

// out = table[at], for 16 states.
template <class I>
inline void look_up(I& out, const uint32_t* table, const I& at) {
  for (int k = 0; k < 16; ++k) out[k] = static_cast<int32_t>(table[at[k]]);
}

#define EK_STEPS kPortableSteps
#include "encode/steps.inc"

}  // namespace edgekit
