#include <cmath>
#include <cstring>

#include "kernels/kernels.h"

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
#endif
bool always() { return true; }

// Best first.
const Entry kSets[] = {
#if defined(__x86_64__)
    {&kAvx512Kernels, has_avx512},
    {&kAvx2Kernels, has_avx2},
#endif
#if defined(__aarch64__)
    {&kNeonKernels, always},
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

const float* scale_table() {
  struct Table {
    float scale[256];
    Table() {
      scale[0] = 0;
      for (int i = 1; i < 256; ++i) scale[i] = static_cast<float>(std::exp2((i - 176) / 12.0));
    }
  };
  static const Table table;
  return table.scale;
}

}  // namespace edgekit
