// Gated short convolutions (LFM2): each channel is mixed over the last few tokens.
#pragma once

#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/pass.h"

namespace edgekit {

class Convolution {
 public:
  Convolution(const Resources& r, Linear& linear) : w_(r.weights), s_(r.workspace), pool_(r.pool), linear_(linear) {}

  // From the workspace's normed [count][hidden] to its out [count][hidden]; the inputs of the convolution go to the
  // cache of their text, from which all of them are read, so that tokens give the same whether they come one by one or
  // together.
  Outcome forward(const Pass& pass, size_t block);

 private:
  void mix_token(const Pass& pass, size_t block, uint32_t t);
  template <class Load>
  void mix(const Block& b, uint32_t position, const float* gate, float* out, const Load& load) const;

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  Linear& linear_;
};

}  // namespace edgekit
