// How much a prompt used each neuron of each block, and the neurons that are kept for what follows.
#pragma once

#include "core/array.h"
#include "format/manifest.h"

namespace edgekit {

class NeuronUsage {
 public:
  // For `blocks` blocks of at most `neurons` neurons.
  static Result<NeuronUsage> allocate(Budget& budget, size_t blocks, uint32_t neurons);
  // What `allocate` charges.
  static uint64_t charge(size_t blocks, uint32_t neurons);

  // Adds, per neuron, its share in each token: values [tokens][stride] of `size` neurons. Nothing when not allocated.
  void record(size_t block, uint32_t size, const float* values, uint32_t tokens, uint32_t stride);
  // Decides for all blocks which neurons are kept, unless nothing was recorded since it did; `sparsity` is the share
  // of them that is left out.
  void keep_most_used(const Manifest& manifest, float sparsity);
  // [1 + count]: how many neurons a block keeps, then their numbers, ascending.
  const uint32_t* kept(size_t block) const { return kept_.row(block); }
  void clear();

 private:
  Array<float> usage_;    // [blocks][neurons]
  Array<uint32_t> kept_;  // [blocks][1 + neurons]
  bool decided_ = false;
};

}  // namespace edgekit
