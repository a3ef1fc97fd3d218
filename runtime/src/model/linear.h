// Products with one matrix.
#pragma once

#include "model/resources.h"
#include "select/selection_state.h"

namespace edgekit {

class Linear {
 public:
  explicit Linear(const Resources& r) : w_(r.weights), s_(r.workspace), pool_(r.pool), kernels_(r.kernels) {}

  // y[t][row] = W x[t] + bias for x [tokens][ldx], zeros past the matrix's columns, and y [tokens][ldy];
  // bias [rows] or null. Leaves the block sums of x in the workspace when there is one token.
  Outcome multiply(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                   uint32_t ldy);
  // Fills the workspace's sums [width / 32] with those of x [width], which products of one token need.
  void sum_blocks(const float* x, uint32_t width);
  // Whoever wants the inputs of matrices gets those of a pass: begin names its session's state, end is null.
  void tap(const SelectionState* state) { tapped_ = state; }
  // Shows the input of a matrix's part, x [tokens][ldx], to whoever wants it.
  void show_input(int32_t matrix, uint32_t part, const float* x, uint32_t ldx, uint32_t tokens) const;

 private:
  void multiply_rows(const Rows& rows, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                     uint32_t ldy);
  void multiply_one(const Rows& rows, const float* x, const float* bias, float* y);

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  const SelectionState* tapped_ = nullptr;
};

}  // namespace edgekit
