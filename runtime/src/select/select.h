// Which neurons of a feed-forward block the next token gets: what a bundle offers, and what is in force.
#pragma once

#include "core/result.h"
#include "format/manifest.h"

namespace edgekit {

// Whether a block can choose its neurons that way.
bool selects(const Block& block, uint32_t select);
// Whether that selection computes every row of the selector, so that it is kept or streamed whole.
bool scans_selector(uint32_t select);
// The selection for a wish (EDGEKIT_SELECT_*): itself, or for auto the best that the bundle offers,
// which is all when everything is `resident`. Fails when the bundle lacks what the wish needs.
Result<uint32_t> resolve_select(const Manifest& manifest, uint32_t wish, bool resident);

}  // namespace edgekit
