// The neurons of a feed-forward block, for one token or for tokens that are computed as if each were alone. Neuron i is
// [gate row i | up row i | down column i], or without the gate. A block's output is summed in slices: group g of
// kSliceRows neurons belongs to slice g % kSlices. So the neurons' numbers alone fix the order of sums, and the result
// depends on neither the number of threads nor on which rows were resident, and leaving out neurons whose value is zero
// changes no bit of it.
#pragma once

#include "model/linear.h"

namespace edgekit {

class Neurons {
 public:
  Neurons(const Resources& r, Linear& linear)
      : w_(r.weights), s_(r.workspace), pool_(r.pool), kernels_(r.kernels), linear_(linear) {}

  // h [tokens][ffn] = act(selector row . x + bias) for all neurons of a block whose selector is a matrix of its own;
  // x [tokens][hidden].
  Outcome activate_selector(const Block& b, const float* x, uint32_t tokens);
  // The value of neuron r for the prepared x [hidden]: act(gate . x) * (up . x).
  // With a selector, h [ffn] holds its activation. `expert`: whose biases count; 0 for dense blocks. `t`: which of the
  // prepared tokens x is.
  float value(const Block& b, const Matrix& m, const uint8_t* row, uint32_t r, const float* x, uint32_t expert = 0,
              uint32_t t = 0) const;

  void clear_slices(uint32_t tokens);
  // Computes consecutive rows for the prepared x [tokens][hidden] and adds them to the slices.
  void add_rows(const Block& b, const Rows& rows, const float* x, uint32_t tokens, uint32_t expert);
  // Adds the down columns of the neurons rows[begin] to rows[end - 1], ascending, row i of which lies at[i], each
  // weighted with its value in h.
  void add_chosen(const Matrix& m, const uint32_t* rows, const uint8_t* const* at, uint32_t begin, uint32_t end);
  // out [tokens][hidden] += the slices.
  void add_slices(uint32_t tokens, float* out) const;

 private:
  void add_slice(const Block& b, const Rows& rows, uint32_t index, const float* x, uint32_t tokens, uint32_t expert);

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  Linear& linear_;
};

}  // namespace edgekit
