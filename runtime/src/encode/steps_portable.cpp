#include "encode/steps.h"
#include "kernels/unroll.h"

namespace edgekit {
namespace {

template <class V>
inline void keep_least(V& best, const V& cost) {
  best = cost < best ? cost : best;
}

#define EK_STEPS kPortableSteps
#include "encode/steps.inc"

}  // namespace edgekit
