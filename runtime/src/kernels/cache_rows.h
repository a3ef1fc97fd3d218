// What a row of the KV cache is: the keys or the values of one head at one position, as one of these types.
//   f16, f32  head_dim values
//   q8, q4    for every 32 values, the last ones with zeros behind them: a scale (f16), then 32 codes of 8 bits, or of
//             4 bits packed as those of weights (docs/format.md). A value is scale * (code - 128), or * (code - 8).
#pragma once

#include <cstdint>

namespace edgekit {

enum class CacheType : uint32_t { f16 = 0, f32 = 1, q8 = 2, q4 = 3 };
constexpr uint32_t kCacheTypes = 4;
constexpr uint32_t kCacheGroup = 32;

// Bytes of a row of `head_dim` values; even.
constexpr uint64_t cache_row_bytes(CacheType type, uint32_t head_dim) {
  const uint64_t groups = (uint64_t{head_dim} + kCacheGroup - 1) / kCacheGroup;
  switch (type) {
    case CacheType::f32: return uint64_t{head_dim} * 4;
    case CacheType::q8: return groups * 34;
    case CacheType::q4: return groups * 18;
    default: return uint64_t{head_dim} * 2;
  }
}

// Stores values [head_dim] as a row. f16 and scales hold nothing beyond +-65504: larger values become that, as an
// infinity would make every score NaN. A NaN among the values makes its group NaN, so that it is seen.
void put_cache_row(CacheType type, const float* values, uint32_t head_dim, uint8_t* row);

// Whether rows of this type hold heads that were rotated: an outlier is spread over the head before 4 bits.
constexpr bool cache_rotates(CacheType type) { return type == CacheType::q4; }
// Multiplies x [head_dim] by an orthonormal matrix that is its own inverse: Hadamard's, of the largest power of two
// that divides head_dim, block by block. Products of two heads stay what they are when both are rotated.
void rotate_head(float* x, uint32_t head_dim);

}  // namespace edgekit
