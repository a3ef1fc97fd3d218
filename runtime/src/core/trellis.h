// The bitshift trellis of docs/format.md (after QTIP, arXiv 2406.11235): what a state stands for. Kernels compute the
// values, and the encoder searches among them.
#pragma once

#include <cstdint>

namespace edgekit {

// Chosen among 200 random pairs by the error on Gaussian rows: 0.0049 of the variance at 4 bits and 12 bits of state,
// where a table of Gaussian numbers leaves 0.0052 and the constants of the paper's 1MAD code 0.0051.
constexpr uint32_t kTrellisFactor = 439072549u;
constexpr uint32_t kTrellisOffset = 1567861309u;
constexpr uint32_t kTrellisMask = 0x7f7f7f7fu;  // four bytes of 7 bits, so that products with int8 fit int16 in pairs
constexpr int32_t kTrellisMean = 254;           // of the sum of the four bytes
constexpr float kTrellisUnit = 1 / 128.0f;      // a weight is scale * unit * value
constexpr uint32_t kTrellisLeastState = 12, kTrellisMostState = 16;  // bits

inline int32_t trellis_value(uint32_t state) {
  const uint32_t bytes = (state * kTrellisFactor + kTrellisOffset) & kTrellisMask;
  const uint32_t pairs = (bytes & 0x00ff00ffu) + (bytes >> 8 & 0x00ff00ffu);
  return static_cast<int32_t>((pairs & 0xffffu) + (pairs >> 16)) - kTrellisMean;
}

}  // namespace edgekit
