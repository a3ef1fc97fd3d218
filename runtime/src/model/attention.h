// Attention blocks: projections, rotary embedding, and the mix of what earlier positions hold.
#pragma once

#include "model/attention_tiles.h"
#include "model/linear.h"
#include "model/pass.h"

namespace edgekit {

class Attention {
 public:
  Attention(const Resources& r, Linear& linear)
      : w_(r.weights), s_(r.workspace), pool_(r.pool), kernels_(r.kernels), linear_(linear) {}

  // Fills the rotary tables for the pass; before its first block.
  void fill_ropes(const Pass& pass);
  // From the workspace's normed [count][hidden] to its out [count][hidden]; keys and values go to the cache of their
  // text.
  Outcome forward(const Pass& pass, size_t block);

 private:
  void rotate(const Pass& pass, const Block& b);
  void store(const Pass& pass, size_t block);
  void attend(const Pass& pass, size_t block);
  Outcome scale_by_gate(const Pass& pass, const Block& b);
  void turn_back(const Block& b, const Queries& queries) const;

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  Linear& linear_;
};

}  // namespace edgekit
