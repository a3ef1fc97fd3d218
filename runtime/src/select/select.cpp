#include "select/select.h"

#include <string>

namespace edgekit {

namespace {
// Most neurons' activations are exactly zero.
bool sparse(Activation a) { return a >= Activation::relu; }
}  // namespace

bool selects(const Block& b, uint32_t select) {
  if (b.kind != Block::ffn) return false;
  switch (select) {
    case EDGEKIT_SELECT_EXACT: return b.selector != kNone && sparse(b.activation);
    case EDGEKIT_SELECT_PREDICTED: return b.predict_up != kNone;
    case EDGEKIT_SELECT_THRESHOLD: return b.selector != kNone && b.cuts != kNone;
    case EDGEKIT_SELECT_PROMPT: return true;
    default: return false;
  }
}

bool scans_selector(uint32_t select) { return select == EDGEKIT_SELECT_EXACT || select == EDGEKIT_SELECT_THRESHOLD; }

Result<uint32_t> resolve_select(const Manifest& m, uint32_t wish, bool resident) {
  const auto offers = [&](uint32_t select) {
    for (const Block& b : m.blocks) {
      if (selects(b, select)) return true;
    }
    return false;
  };
  if (wish == EDGEKIT_SELECT_AUTO) {
    if (resident) return uint32_t{EDGEKIT_SELECT_ALL};
    for (uint32_t select : {EDGEKIT_SELECT_PREDICTED, EDGEKIT_SELECT_EXACT}) {
      if (offers(select)) return select;
    }
    return uint32_t{EDGEKIT_SELECT_ALL};
  }
  if (wish == EDGEKIT_SELECT_ALL || offers(wish)) return wish;
  std::string why = "this bundle has no feed-forward blocks to choose neurons of";
  if (wish == EDGEKIT_SELECT_ROUTER) {
    for (const Block& b : m.blocks) {
      if (b.kind == Block::experts) return wish;
    }
    why = "this model has no experts to choose between; use another selection";
  }
  if (wish == EDGEKIT_SELECT_PREDICTED)
    why = "this bundle has no predictors; convert with --predictor --calibration TEXT";
  if (wish == EDGEKIT_SELECT_EXACT) {
    why = "exact selection needs a ReLU model in the split layout; convert with --layout split, or relufy it first";
  }
  if (wish == EDGEKIT_SELECT_THRESHOLD) {
    why =
        "threshold selection needs the split layout and calibrated cuts; convert with --layout split --calibration "
        "TEXT";
  }
  return fail(EDGEKIT_INVALID_ARGUMENT, why);
}

}  // namespace edgekit
