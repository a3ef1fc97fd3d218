// One way to choose what the next token gets of a block: its neurons, or its experts. Each has a file of its own
// here; select.cpp lists them.
#pragma once

#include "edgekit/edgekit.h"
#include "format/manifest.h"
#include "select/neuron_usage.h"

namespace edgekit {

// What a selection decides by. The model computes it before it asks.
enum class Evidence : uint8_t {
  activations,    // of every row of the selector, so that this matrix is kept or streamed whole
  predictions,    // a predictor's score of every neuron
  usage,          // of the neurons by the prompt, all of which the prompt therefore needs
  router_scores,  // one for each expert
};

// One feed-forward block for one token.
struct Choice {
  const Manifest& manifest;
  size_t block = 0;
  const float* values = nullptr;  // [block.size]: activations or predictions; null when decided by usage
  const float* cuts = nullptr;    // [kCuts]: the block's, or null
  float sparsity = 0;             // share of the neurons to leave out
  NeuronUsage& usage;
};

struct Selection {
  uint32_t id;  // EDGEKIT_SELECT_*
  Evidence evidence;
  bool automatic;       // taken for EDGEKIT_SELECT_AUTO when a bundle offers it; earlier ones in the list first
  bool needs_nonzero;   // it wants the neurons whose value is not zero, so those of the last tokens are a guess
  const char* missing;  // cause and cure, for a bundle that does not offer it
  // Whether a block can be computed that way.
  bool (*offered)(const Block& block);
  // Fills rows [block.size], ascending, and returns how many. Null for experts (router.h).
  uint32_t (*choose)(const Choice& choice, uint32_t* rows);
};

extern const Selection kPredictedSelection, kExactSelection, kThresholdSelection, kPromptSelection, kRouterSelection;

// Most activations of such a function are exactly zero.
inline bool is_sparse(Activation a) { return a >= Activation::relu; }

}  // namespace edgekit
