// What choosing neurons needs to know of one session, and what it counted.
#pragma once

#include <vector>

#include "core/budget.h"
#include "edgekit/edgekit.h"
#include "select/ahead.h"

namespace edgekit {

struct Selection {
  // Selection by prompt: how much each neuron of each block was used, f32 [blocks][ffn], and the
  // neurons kept, uint32 [blocks][1 + ffn], their number first.
  Buffer usage, kept;
  bool chosen = false;
  bool prompt = false;  // the pass at hand belongs to a prompt, however few tokens it has
  edgekit_capture_callback capture = nullptr;
  void* capture_user = nullptr;
  std::vector<Ahead> ahead;  // per block
  // Counters of passes of one token.
  uint64_t neurons = 0, selected = 0;
  double select_seconds = 0, ffn_seconds = 0;
};

}  // namespace edgekit
