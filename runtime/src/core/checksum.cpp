#include "core/checksum.h"

#include <cstring>

namespace edgekit {

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
// Fuzzers must reach what lies behind a checksum, as an attacker does, who computes it (runtime/fuzz).
uint64_t lane64(const uint8_t*, size_t) { return 0; }
#else
uint64_t lane64(const uint8_t* data, size_t size) {
  uint64_t a[8] = {}, b[8] = {};
  size_t at = 0;
  for (; at + 64 <= size; at += 64) {
    uint64_t w[8];
    std::memcpy(w, data + at, 64);
    for (int i = 0; i < 8; ++i) a[i] += w[i];
    for (int i = 0; i < 8; ++i) b[i] += a[i];
  }
  if (at < size) {  // the tail counts as if followed by zeros
    uint64_t w[8] = {};
    std::memcpy(w, data + at, size - at);
    for (int i = 0; i < 8; ++i) a[i] += w[i];
    for (int i = 0; i < 8; ++i) b[i] += a[i];
  }
  uint64_t h = 0x9E3779B97F4A7C15u ^ static_cast<uint64_t>(size);
  for (int i = 0; i < 8; ++i) {
    h = (h ^ a[i]) * 0xFF51AFD7ED558CCDu;
    h ^= h >> 32;
    h = (h ^ b[i]) * 0xC4CEB9FE1A85EC53u;
    h ^= h >> 29;
  }
  return h;
}
#endif

}  // namespace edgekit
