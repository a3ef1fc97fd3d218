// Selection by threshold: a token gets the neurons whose activation is at least a calibrated cut, below which a share
// of them lay (`sparsity`, in tenths).
#include <algorithm>
#include <cmath>

#include "select/selection.h"

namespace edgekit {

namespace {

bool offered(const Block& b) { return b.kind == Block::ffn && b.selector != kNone && b.cuts != kNone; }

uint32_t choose(const Choice& choice, uint32_t* rows) {
  const int tenths = std::clamp(static_cast<int>(std::lround(choice.sparsity * 10)), 1, static_cast<int>(kCuts));
  const float cut = choice.cuts[tenths - 1];
  const uint32_t size = choice.manifest.blocks[choice.block].size;
  uint32_t count = 0;
  for (uint32_t r = 0; r < size; ++r) {
    rows[count] = r;
    count += choice.values[r] != 0.0f && std::fabs(choice.values[r]) >= cut ? 1 : 0;
  }
  return count;
}

}  // namespace

const Selection kThresholdSelection = {
    EDGEKIT_SELECT_THRESHOLD,
    Evidence::activations,
    false,
    false,
    "threshold selection needs the split layout and calibrated cuts; convert with --layout split --calibration TEXT",
    offered,
    choose,
};

}  // namespace edgekit
