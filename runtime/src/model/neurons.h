// The neurons of a feed-forward block. Neuron i is [gate row i | up row i | down column i], or without the gate. A
// block's output is the sum of the neurons' down columns, each weighted with the neuron's value: those of kGroupNeurons
// neurons, which follow each other, are added up in order, and the sums of these groups are added to the output in
// order. So the neurons' numbers alone fix the order of sums. The result depends neither on the number of threads, nor
// on which rows were resident, nor on how many tokens are computed together, and leaving out neurons whose value is
// zero changes no bit of it.
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
  // The value of neuron r for the one prepared token x [hidden]: act(gate . x) * (up . x).
  // With a selector, h [ffn] holds its activation. `expert`: whose biases count; 0 for dense blocks. Where the block
  // has a norm of values it is `weighted`.
  float value(const Block& b, const Matrix& m, const uint8_t* row, uint32_t r, const float* x,
              uint32_t expert = 0) const;

  // A block with a norm of its neurons' values takes two steps, as the norm needs all values and down columns come with
  // their neurons: each is added with its value times its weight, and the sum is divided by the root of the mean square
  // of the values in the end. Values are noted between these two calls; the last scales h, and adds the bias of down.
  void begin_norm(const Block& b, uint32_t tokens);
  float weighted(const Block& b, uint32_t token, uint32_t r, float value) const {
    if (b.down_norm.kind == Norm::none) return value;
    s_.unweighted.row(token)[r] = value;
    return value * w_.vector(b.down_norm.weight)[r];
  }
  void end_norm(const Block& b, uint32_t tokens, float* out);

  // Before the first neurons of a block or an expert are added to its output.
  void begin_output(uint32_t tokens);
  // Computes consecutive neurons for the one prepared token x [hidden], leaves their values in h [ffn], and adds them
  // to out [hidden].
  void add_rows(const Block& b, const Rows& rows, const float* x, uint32_t expert, float* out);
  // Adds consecutive neurons with values h [tokens][ffn] to out [tokens][hidden].
  void add_down(const Rows& rows, uint32_t tokens, float* out);
  // Adds the neurons rows[begin] to rows[end - 1], ascending, row i of which lies at[i], with values h [ffn] to out.
  void add_chosen(const Matrix& m, const uint32_t* rows, const uint8_t* const* at, uint32_t begin, uint32_t end,
                  float* out);
  // After the last neurons.
  void end_output(uint32_t tokens, float* out);

 private:
  template <class NumberAt, class AddGroup>
  void add_groups(uint32_t count, const NumberAt& number_at, const AddGroup& add_group, float* out);
  void add_few(const Rows& rows, uint32_t tokens, uint32_t begin, uint32_t end, float* out);
  void add_many(const Rows& rows, uint32_t tokens, uint32_t begin, uint32_t end, float* decoded, float* out);
  bool opens(uint32_t neuron) const { return neuron / kGroupNeurons != open_group_; }
  void close(uint32_t tokens, uint32_t c0, uint32_t c1, float* out);

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  Linear& linear_;
  uint32_t open_group_ = 0;  // whose sum is in the workspace's open_sum
};

}  // namespace edgekit
