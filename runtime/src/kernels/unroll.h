// Before a loop over an array of vectors: only unrolled do those stay in registers (GCC 12 leaves nests as they are).
#pragma once

#if defined(__clang__)
#define EK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define EK_UNROLL _Pragma("GCC unroll 16")
#endif

// For what must stay in registers of the caller's loop, however large the compiler thinks it is.
#define EK_ALWAYS_INLINE inline __attribute__((always_inline))
