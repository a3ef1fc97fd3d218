// One pass over the rows of a matrix that chooses their trellis codes and scales.
#pragma once

#include "core/result.h"

namespace edgekit {

// See edgekit_trellis_encode in edgekit.h.
Outcome encode_trellis(edgekit_trellis& job);

}  // namespace edgekit
