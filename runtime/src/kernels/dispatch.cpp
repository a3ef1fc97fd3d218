#include <cstring>

#include "kernels/kernels.h"

namespace edgekit {

#if defined(__x86_64__)
static bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

const KernelSet* find_kernels(const char* name) {
#if defined(__x86_64__)
  if ((name == nullptr || std::strcmp(name, "avx2") == 0) && has_avx2()) return &kAvx2Kernels;
#endif
#if defined(__aarch64__)
  if (name == nullptr || std::strcmp(name, "neon") == 0) return &kNeonKernels;
#endif
  if (name == nullptr || std::strcmp(name, "portable") == 0) return &kPortableKernels;
  return nullptr;
}

const char* kernel_set_names() {
#if defined(__x86_64__)
  return has_avx2() ? "avx2,portable" : "portable";
#elif defined(__aarch64__)
  return "neon,portable";
#else
  return "portable";
#endif
}

}  // namespace edgekit
