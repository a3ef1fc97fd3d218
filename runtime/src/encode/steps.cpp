#include "encode/steps.h"

#include "kernels/kernels.h"

namespace edgekit {

const Steps& find_steps() {
#if defined(__x86_64__)
  if (find_kernels("avx512") != nullptr) return kAvx512Steps;
  if (find_kernels("avx2") != nullptr) return kAvx2Steps;
#endif
  return kPortableSteps;
}

}  // namespace edgekit
