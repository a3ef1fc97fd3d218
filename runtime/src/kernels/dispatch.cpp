#include <cmath>
#include <cstring>

#include "kernels/kernels.h"

#if defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace edgekit {

namespace {

struct Entry {
  const KernelSet* set;
  bool (*runs)();
};

#if defined(__x86_64__)
bool has_avx2() {
  __builtin_cpu_init();
  // Clang before 19 has no name for F16C, which every CPU with AVX2 has.
#if defined(__clang__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"); }
#endif
#if defined(__aarch64__)
bool has_dotprod() {
#if defined(__APPLE__)
  int has = 0;
  size_t size = sizeof(has);
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) == 0 && has != 0;
#elif defined(__linux__)
  constexpr unsigned long kDotprod = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotprod) != 0;
#else
  return false;
#endif
}
#endif
bool always() { return true; }

// Best first.
const Entry kSets[] = {
#if defined(__x86_64__)
    {&kAvx512VnniKernels, has_vnni},     {&kAvx512Kernels, has_avx512}, {&kAvx2Kernels, has_avx2},
#endif
#if defined(__aarch64__)
    {&kNeonDotprodKernels, has_dotprod}, {&kNeonKernels, always},
#endif
    {&kPortableKernels, always},
};

}  // namespace

const KernelSet* find_kernels(const char* name) {
  for (const Entry& e : kSets) {
    if ((name == nullptr || std::strcmp(name, e.set->name) == 0) && e.runs()) return e.set;
  }
  return nullptr;
}

const char* kernel_set_names() {
  static char names[64];  // written once, always with the same text
  char* at = names;
  for (const Entry& e : kSets) {
    if (!e.runs()) continue;
    if (at != names) *at++ = ',';
    for (const char* c = e.set->name; *c != '\0'; ++c) *at++ = *c;
  }
  return names;
}

namespace {
struct Scales {
  float scale[256], scale_128ths[256];
  Scales() {
    scale[0] = scale_128ths[0] = 0;
    for (int i = 1; i < 256; ++i) {
      scale[i] = static_cast<float>(std::exp2((i - 176) / 12.0));
      scale_128ths[i] = scale[i] / 128.0f;
    }
  }
};
const Scales kScales;
}  // namespace

const float* scale_table() { return kScales.scale; }
const float* scale_table_128ths() { return kScales.scale_128ths; }

}  // namespace edgekit
