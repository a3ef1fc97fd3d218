// What a LoRA adapter adds to products and to neurons, in f32 whatever the weights are. As with products, the bits do
// not depend on how many tokens are multiplied together, nor on the number of threads.
#pragma once

#include "format/adapter.h"
#include "model/resources.h"

namespace edgekit {

class LowRankSums {
 public:
  explicit LowRankSums(const Resources& r) : adapter_(r.adapter), s_(r.workspace), pool_(r.pool), kernels_(r.kernels) {}

  // y[t] += what the adapter adds to a part of a matrix, for x [tokens][ldx] and y [tokens][ldy].
  void add(int32_t matrix, uint32_t part, const float* x, uint32_t ldx, uint32_t tokens, float* y, uint32_t ldy);
  void add_to_each(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, float* const* y);

  // Before the neurons of a dense block's matrix are computed for x [tokens][ldx]: what is added to the products of
  // each part but the last. `end_neurons` forgets it.
  void begin_neurons(int32_t matrix, uint32_t parts, const float* x, uint32_t ldx, uint32_t tokens);
  void end_neurons() { active_[0] = active_[1] = false; }
  // Of token t [neurons]; null where nothing is added.
  const float* of_neurons(uint32_t part, uint32_t t) const {
    return part < 2 && active_[part] ? s_.low_rank_neurons.row(uint64_t{part} * s_.batch + t) : nullptr;
  }

 private:
  void shrink(const LowRank& values, const float* x, uint32_t ldx, uint32_t tokens);
  template <class RowOf>
  void add_rows(const LowRank& values, const float* x, uint32_t ldx, uint32_t tokens, const RowOf& row_of);

  const Adapter* adapter_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  bool active_[2] = {false, false};
};

}  // namespace edgekit
