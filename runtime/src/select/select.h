// The selections by number: what a bundle offers, and which is in force.
#pragma once

#include "core/result.h"
#include "select/selection.h"

namespace edgekit {

// The selection EDGEKIT_SELECT_*; null for all and auto.
const Selection* find_selection(uint32_t select);
// Whether a block's neurons are chosen under a selection.
bool selects(const Block& block, uint32_t select);
// Whether a selection decides by that.
bool decides_by(uint32_t select, Evidence evidence);
// Whether that selection computes every row of the selector, so that it is kept or streamed whole.
inline bool scans_selector(uint32_t select) { return decides_by(select, Evidence::activations); }
// The selection for a wish (EDGEKIT_SELECT_*): itself, or for auto the best that the bundle offers,
// which is all when everything is `resident`. Fails when the bundle lacks what the wish needs.
Result<uint32_t> resolve_select(const Manifest& manifest, uint32_t wish, bool resident);

}  // namespace edgekit
