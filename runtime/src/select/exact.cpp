// Exact selection: a token gets the neurons whose activation is not zero, so no result changes.
#include "select/selection.h"

namespace edgekit {

namespace {

bool offered(const Block& b) { return b.kind == Block::ffn && b.selector != kNone && is_sparse(b.activation); }

uint32_t choose(const Choice& choice, uint32_t* rows) {
  const uint32_t size = choice.manifest.blocks[choice.block].size;
  uint32_t count = 0;
  for (uint32_t r = 0; r < size; ++r) {
    rows[count] = r;
    count += choice.values[r] != 0.0f ? 1 : 0;
  }
  return count;
}

}  // namespace

const Selection kExactSelection = {
    EDGEKIT_SELECT_EXACT,
    Evidence::activations,
    true,
    true,
    "exact selection needs a ReLU model in the split layout; convert with --layout split, or relufy it first",
    offered,
    choose,
};

}  // namespace edgekit
