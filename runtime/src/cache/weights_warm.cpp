// Warm starts: the window's counts in a file.
#include "cache/warm.h"
#include "cache/weights.h"

namespace edgekit {

Outcome Weights::save_warm(const std::string& path) {
  if (plan_.slots == 0 || plan_.window_most_bytes == 0) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "no units come through a window here, so nothing was learned: that takes a selection of neurons or "
                "experts, and a budget below the weights");
  }
  return save_counts(path, manifest(), window_);
}

Outcome Weights::load_warm(const std::string& path) { return load_counts(path, manifest(), window_); }

}  // namespace edgekit
