#include "select/select.h"

#include <algorithm>

namespace edgekit {

namespace {

// Every selection; for auto, the first that a bundle offers.
const Selection* const kSelections[] = {
    &kPredictedSelection, &kExactSelection, &kThresholdSelection, &kPromptSelection, &kRouterSelection,
};

bool offers(const Manifest& m, const Selection& selection) {
  return std::any_of(m.blocks.begin(), m.blocks.end(), selection.offered);
}

}  // namespace

const Selection* find_selection(uint32_t select) {
  for (const Selection* s : kSelections) {
    if (s->id == select) return s;
  }
  return nullptr;
}

bool selects(const Block& b, uint32_t select) {
  const Selection* s = find_selection(select);
  return s != nullptr && b.kind == Block::ffn && s->offered(b);
}

bool decides_by(uint32_t select, Evidence evidence) {
  const Selection* s = find_selection(select);
  return s != nullptr && s->evidence == evidence;
}

Result<uint32_t> resolve_select(const Manifest& m, uint32_t wish, bool resident) {
  if (wish == EDGEKIT_SELECT_ALL || (wish == EDGEKIT_SELECT_AUTO && resident)) return uint32_t{EDGEKIT_SELECT_ALL};
  if (wish == EDGEKIT_SELECT_AUTO) {
    for (const Selection* s : kSelections) {
      if (s->automatic && offers(m, *s)) return uint32_t{s->id};
    }
    return uint32_t{EDGEKIT_SELECT_ALL};
  }
  const Selection* s = find_selection(wish);
  if (s == nullptr) return fail(EDGEKIT_INVALID_ARGUMENT, "there is no selection " + std::to_string(wish));
  if (!offers(m, *s)) return fail(EDGEKIT_INVALID_ARGUMENT, s->missing);
  return wish;
}

}  // namespace edgekit
