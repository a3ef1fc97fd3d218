// What choosing neurons needs to know of one session, and what it counted.
#pragma once

#include <vector>

#include "edgekit/edgekit.h"
#include "select/ahead.h"
#include "select/neuron_usage.h"

namespace edgekit {

struct SelectionState {
  NeuronUsage usage;    // only with selection by prompt
  bool prompt = false;  // the pass at hand belongs to a prompt, however few tokens it has
  edgekit_capture_callback capture = nullptr;
  void* capture_user = nullptr;
  edgekit_inputs_callback capture_inputs = nullptr;
  void* capture_inputs_user = nullptr;
  std::vector<Ahead> ahead;  // [blocks]: how much of each is read ahead
  // Counters of passes of one token.
  uint64_t neurons = 0, selected = 0;
  double select_seconds = 0, ffn_seconds = 0;
};

}  // namespace edgekit
