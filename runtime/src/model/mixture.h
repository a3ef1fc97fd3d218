// Mixtures of experts: a router chooses the top k for each token, and each chosen expert runs once over the tokens
// that chose it.
#pragma once

#include "model/feed_forward.h"

namespace edgekit {

class Mixture {
 public:
  Mixture(const Resources& r, Linear& linear, Gathered& gathered, FeedForward& feed_forward, LookAhead& look_ahead)
      : w_(r.weights),
        s_(r.workspace),
        linear_(linear),
        gathered_(gathered),
        feed_forward_(feed_forward),
        look_ahead_(look_ahead) {}

  // From the workspace's normed [count][hidden] to its out [count][hidden].
  Outcome forward(const Pass& pass, size_t block);

 private:
  Outcome route(const Pass& pass, const Block& b);
  Outcome add_expert(const Pass& pass, const Block& b, uint32_t expert);
  Outcome run_expert(const Block& b, uint32_t expert, uint32_t tokens);

  Weights& w_;
  Workspace& s_;
  Linear& linear_;
  Gathered& gathered_;
  FeedForward& feed_forward_;
  LookAhead& look_ahead_;
};

}  // namespace edgekit
