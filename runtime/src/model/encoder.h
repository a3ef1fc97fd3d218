// What a model that reads a text whole computes otherwise than one that writes: attention to both sides, the vector of
// a text, and its score.
#pragma once

#include "model/pass.h"
#include "model/resources.h"

namespace edgekit {

// Every token mixes what the tokens of its segment within the window hold: from the workspace's q, k and v to mixed.
// `sinks` [heads], or null.
void attend_both_ways(const Pass& pass, const Block& b, const float* sinks, Workspace& s, ThreadPool& pool,
                      const KernelSet& kernels);

// The vector of a text, from the hidden states of its tokens in order.
struct Pooled {
  Pooling::Mode mode = Pooling::last;
  float* vector = nullptr;  // [hidden_size]: the sum, largest, first or last so far
  float* states = nullptr;  // [tokens][hidden_size], filled from the first on; or null
  uint32_t tokens = 0;      // so far
  float score = 0;

  // The next tokens' states [count][stride], of which `hidden` values of each count.
  void take(const float* states, uint32_t count, uint32_t hidden, uint32_t stride);
  // out [hidden] = the vector, as a mean where it is one.
  void mean_into(float* out, uint32_t hidden) const;
  // Makes it what the caller gets, when all tokens were taken.
  void finish(uint32_t hidden, bool normalize);
};

// x [count] before the last product of a score.
void activate_score(ScoreActivation kind, uint32_t count, float* x);

}  // namespace edgekit
