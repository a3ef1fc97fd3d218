// Predicted selection: a token gets the neurons that a low-rank predictor expects to be active
// (arXiv 2312.11514, section 3.1).
#include "select/selection.h"

namespace edgekit {

namespace {

bool offered(const Block& b) { return b.kind == Block::ffn && b.predict_up != kNone; }

uint32_t choose(const Choice& choice, uint32_t* rows) {
  const uint32_t size = choice.manifest.blocks[choice.block].size;
  uint32_t count = 0;
  for (uint32_t r = 0; r < size; ++r) {
    rows[count] = r;
    count += choice.values[r] > 0.0f ? 1 : 0;
  }
  return count;
}

}  // namespace

const Selection kPredictedSelection = {
    EDGEKIT_SELECT_PREDICTED,
    Evidence::predictions,
    true,
    true,
    "this bundle has no predictors; convert with --predictor --calibration TEXT",
    offered,
    choose,
};

}  // namespace edgekit
