// Integer kernels with NEON.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"

#define EK_DOTPROD 0

namespace edgekit {
namespace {

#include "kernels/neon/neon_integer.inc"

}  // namespace

const IntegerKernels kNeonIntegers = {
#include "kernels/integer_table.inc"
};

}  // namespace edgekit

#endif  // defined(__aarch64__)
