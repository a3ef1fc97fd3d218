// Integer kernels with AVX-512 VNNI and VBMI, in vectors of 256 bits. Only code in this file may assume those
// instructions.
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
#pragma clang attribute push(                                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"))), \
    apply_to = function)
#endif

#define EK_VNNI 1

namespace edgekit {
namespace {

#include "kernels/x86_integer.inc"

}  // namespace

const IntegerKernels kVnniIntegers = {
#include "kernels/integer_table.inc"
};

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__x86_64__)
