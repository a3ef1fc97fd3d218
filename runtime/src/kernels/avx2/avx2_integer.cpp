// Integer kernels with AVX2. Only code in this file may assume those instructions.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"

// SwiftPM has no flags for single files; with these, clang needs none.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#endif

#define EK_VNNI 0

namespace edgekit {
namespace {

#include "kernels/x86_integer.inc"

}  // namespace

const IntegerKernels kAvx2Integers = {
#include "kernels/integer_table.inc"
};

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
