// Linear attention blocks (the gated delta rule, arXiv 2412.06464): a short convolution over queries, keys and values,
// and a state instead of a cache.
#pragma once

#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/pass.h"

namespace edgekit {

class LinearAttention {
 public:
  LinearAttention(const Resources& r, Linear& linear)
      : w_(r.weights), s_(r.workspace), pool_(r.pool), kernels_(r.kernels), linear_(linear) {}

  // From the workspace's normed [count][hidden] to its out [count][hidden]. Tokens change the state of their text one
  // after the other, so that they give the same whether they come one by one or together.
  Outcome forward(const Pass& pass, size_t block);

 private:
  // Consecutive tokens of one text.
  struct Run {
    uint32_t begin, end, certain;  // tokens of the pass; of them, those before `certain` are no drafts
    LinearState state;
    uint32_t pending;  // steps to join before the first token
  };
  uint32_t runs_of(const Pass& pass) const { return pass.texts != nullptr ? pass.count : 1; }
  Run run_of(const Pass& pass, size_t block, uint32_t i) const;
  void convolve(const Pass& pass, size_t block);
  void convolve_head(const Block& b, const Run& run, uint32_t t, uint32_t head);
  void keep_inputs(const Block& b, const Run& run);
  void attend_head(const Block& b, const Run& run, uint32_t head, float* scratch);
  void attend_token(const Block& b, const Run& run, uint32_t t, uint32_t head, float* state, float* change);
  void finish_token(const Block& b, uint32_t t, uint32_t head, const float* read);

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  Linear& linear_;
};

}  // namespace edgekit
