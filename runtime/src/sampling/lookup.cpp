#include "sampling/lookup.h"

#include <algorithm>

namespace edgekit {

uint32_t lookup_draft(const int32_t* history, uint32_t count, int32_t* out, uint32_t room) {
  constexpr uint32_t kLongest = 4;
  for (uint32_t n = std::min(kLongest, count - std::min(count, 1u)); n > 0; --n) {
    const int32_t* suffix = history + count - n;
    for (uint32_t end = count - 1; end >= n; --end) {  // of an earlier occurrence
      if (!std::equal(suffix, suffix + n, history + end - n)) continue;
      const uint32_t found = std::min(room, count - end);
      std::copy_n(history + end, found, out);
      return found;
    }
  }
  return 0;
}

}  // namespace edgekit
