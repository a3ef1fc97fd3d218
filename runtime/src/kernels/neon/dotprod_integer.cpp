// Integer kernels with NEON and the dot products of ARMv8.2. Only code in this file may assume those.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"

// SwiftPM has no flags for single files; with these, clang needs none.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#endif
#define EK_DOTPROD 1

namespace edgekit {
namespace {

#include "kernels/neon/neon_integer.inc"

}  // namespace

const IntegerKernels kDotprodIntegers = {
#include "kernels/integer_table.inc"
};

}  // namespace edgekit

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // defined(__aarch64__)
