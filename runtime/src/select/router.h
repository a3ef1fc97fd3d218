// The choice of experts in a mixture, which is part of the model and therefore made under every selection.
#pragma once

#include <cstdint>

#include "format/manifest.h"

namespace edgekit {

// The top k of a block's experts for one token. weights [experts]: the softmax of the router's scores, of which those
// of other experts become 0, and the rest are renormalised if the block says so. order [experts]: becomes all experts,
// the chosen ones first. used [experts]: becomes 1 where an expert is chosen.
void choose_experts(const Block& block, float* weights, uint32_t* order, uint8_t* used);

}  // namespace edgekit
