// The choice of experts in a mixture, which is part of the model and therefore made under every selection.
#pragma once

#include <cstdint>

#include "format/manifest.h"

namespace edgekit {

// scores [experts]: becomes their probabilities, as the block makes them.
void score_experts(const Block& block, float* scores);

// The top k of a block's experts for one token. weights [experts]: probabilities, of which those of other experts
// become 0, and the rest are normalised and scaled if the block says so. bias [experts], or null: added to
// probabilities for the choice alone. order [experts]: becomes all experts, the chosen ones first. used [experts]:
// becomes 1 where an expert is chosen.
void choose_experts(const Block& block, const float* bias, float* weights, uint32_t* order, uint8_t* used);

}  // namespace edgekit
