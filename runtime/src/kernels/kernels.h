// The arithmetic of the runtime. A KernelSet is one implementation for one instruction set; the
// portable one is the reference that the others must match (runtime/tests/test_kernels.cpp).
//
// Rows are records as docs/format.md lays them out. `cols` is rounded up to whole blocks of 32
// ("padded"): inputs must hold zeros between cols and the padded width.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/codec.h"
#include "kernels/cache_rows.h"
#include "kernels/integer.h"

namespace edgekit {

// y[t * ldy] = row . x[t] for one token or a few, unpacking the row for four of them at once; x [tokens][ldx].
// The sums are those of decode and gemm, bit for bit: they do not depend on how many tokens come in one call.
using DotsFn = void (*)(const Part&, const uint8_t* row, const uint16_t* lut, const float* x, size_t ldx,
                        uint32_t tokens, float* y, size_t ldy);
// out[t * ldo + j] += h[t * ldh + i] * rows[i][j] for i < count, one after the other, and begin <= j < end; out is
// indexed from column 0 and padded. `begin` is a multiple of 32, `end` too or else equal to cols. The bits depend
// neither on how many rows nor on how many tokens come in one call, and are those of decode and accumulate.
using AddRowsFn = void (*)(const Part&, const uint8_t* const* rows, const uint16_t* const* luts, uint32_t count,
                           const float* h, size_t ldh, uint32_t tokens, uint32_t begin, uint32_t end, float* out,
                           size_t ldo);
// out[j - begin] = row[j]; when end == cols, zeros follow up to the padded width.
using DecodeFn = void (*)(const Part&, const uint8_t* row, const uint16_t* lut, uint32_t begin, uint32_t end,
                          float* out);

struct KernelSet {
  const char* name;
  DotsFn dots[kCodecCount];
  AddRowsFn add_rows[kCodecCount];
  DecodeFn decode[kCodecCount];
  // y[t * ldy + r] = w[r] . x[t]; w [rows][ldw], x [tokens][ldx], k a multiple of 32.
  void (*gemm)(const float* w, size_t ldw, uint32_t rows, const float* x, size_t ldx, uint32_t tokens, size_t k,
               float* y, size_t ldy);
  // out[t][j] += sum over i of h[t][i] * w[i][j]; w [count][ldw], j < cols, a multiple of 32.
  void (*accumulate)(const float* w, size_t ldw, uint32_t count, const float* h, size_t ldh, uint32_t tokens,
                     size_t cols, float* out, size_t ldo);
  // The n values of a row of the KV cache, by CacheType (kernels/cache_rows.h), then zeros up to the padded width.
  void (*cache_decode[kCacheTypes])(const uint8_t* row, uint32_t n, float* out);
  float (*dot_f32)(const float* a, const float* b, uint32_t n);
  void (*axpy_f32)(float h, const float* a, float* out, uint32_t n);
  const IntegerKernels* integers;
};

extern const KernelSet kPortableKernels;
#if defined(__x86_64__)
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvx512Kernels;
extern const KernelSet kAvx512VnniKernels;
#endif
#if defined(__aarch64__)
extern const KernelSet kNeonKernels;
extern const KernelSet kNeonDotprodKernels;
#endif

// The set called `name`, or the best for this CPU when name is null; nullptr if it cannot run here.
const KernelSet* find_kernels(const char* name);
// Comma-separated names of the sets that can run here, best first.
const char* kernel_set_names();

// What the byte of a scaled_lookup's scale stands for: 0, and 2^((byte - 176) / 12) from 1 on; [256].
const float* scale_table();
// The same / 128, which is what an entry's integer is multiplied with.
const float* scale_table_128ths();
// The group that block b belongs to, b / (blocks in a group), without a division: exact for rows of up to 2^24 columns.
inline uint64_t group_inverse(const Part& p) {
  if (p.group_size >= p.cols) return 0;  // all in the first
  const uint64_t per = p.group_size / kBlock;
  return ((uint64_t{1} << 40) + per - 1) / per;
}
inline size_t group_of(size_t b, uint64_t inverse) { return static_cast<size_t>(b * inverse >> 40); }

}  // namespace edgekit
