// The tokens of one forward pass.
#pragma once

#include "select/selection_state.h"

namespace edgekit {

struct Pass {
  uint32_t count = 0;     // tokens, at most the workspace's batch
  uint32_t position = 0;  // of the first of them
  uint32_t length = 0;    // of the sequence when the whole evaluation is over
  bool chooses = false;   // blocks compute only the neurons that the selection chooses for the one token
  SelectionState& selection;
};

}  // namespace edgekit
