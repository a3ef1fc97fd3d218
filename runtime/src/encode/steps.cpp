#include "encode/steps.h"

#include "kernels/kernels.h"

namespace edgekit {

StepFn find_step() {
#if defined(__x86_64__)
  if (find_kernels("avx512") != nullptr) return step_avx512;
  if (find_kernels("avx2") != nullptr) return step_avx2;
#endif
  return step_portable;
}

}  // namespace edgekit
