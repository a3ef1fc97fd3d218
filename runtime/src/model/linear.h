// Products with one matrix. Their bits do not depend on how many tokens are multiplied together, so those of a token
// alone, of a draft, of a prompt and of a pass of several texts are the same.
#pragma once

#include "model/low_rank.h"
#include "model/resources.h"
#include "select/selection_state.h"

namespace edgekit {

class Linear;

// Asks memory for a record that will be read soon: the hardware does so by itself only for what is read from end to
// end.
inline void ask_for(const uint8_t* at, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
}

// The same for blocks [begin, end) of a row: their codes, and the scales before them, which are few.
inline void ask_for_columns(const Part& p, const uint8_t* row, uint32_t begin, uint32_t end) {
  const uint32_t head = codes_offset(p), block = kBlock * bits_of(p.codec) / 8;
  ask_for(row, head);
  ask_for(row + head + begin * block, (end - begin) * block);
}

// At most kTileRows rows of a part of a matrix, unpacked for products with several tokens.
class Tile {
 public:
  // Rows [r0, r0 + n) of `rows`. Unpacks them into `memory` [kTileRows][padded columns] when there are many tokens.
  Tile(const Linear& linear, const Part& part, const Rows& rows, uint32_t r0, uint32_t n, uint32_t tokens,
       float* memory);
  // y[t * ldy + i] = row i . x[first + t] for count tokens of x [tokens][ldx], which Linear::prepare has seen.
  void multiply(const float* x, uint32_t ldx, uint32_t first, uint32_t count, float* y, uint32_t ldy) const;

 private:
  void multiply_integers(uint32_t first, uint32_t count, float* y, uint32_t ldy) const;

  const Linear& linear_;
  const Part& part_;
  const uint8_t* rows_[kTileRows];
  const uint16_t* luts_[kTileRows];
  uint32_t count_;
  bool one_;  // token, in an order of its own
  bool few_;  // tokens: rows are then unpacked again for every few of them, in registers
  float* memory_;
  Panel panel_{};
};

class Linear {
 public:
  explicit Linear(const Resources& r)
      : w_(r.weights), s_(r.workspace), pool_(r.pool), kernels_(r.kernels), activations_(r.activations), low_rank_(r) {}

  // y[t][row] = W x[t] + bias for x [tokens][ldx], zeros past the matrix's columns, and y [tokens][ldy];
  // bias [rows] or null. Prepares x.
  Outcome multiply(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                   uint32_t ldy);
  // The same with each token's products at a place of its own, y[t] [rows], for at most kMostTexts.
  Outcome multiply_to_each(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias,
                           float* const* y);
  // Leaves in the workspace what products with x [tokens][ldx] need: activations of 8 bits [width], in the order that
  // products of so many tokens take. It holds until something else is prepared.
  void prepare(const float* x, uint32_t ldx, uint32_t tokens, uint32_t width);
  // A row, number r of its matrix, times the one prepared token, which is x [columns].
  float dot(const Part& p, const uint8_t* row, uint32_t r, const float* x) const;
  // What an adapter adds to products; `multiply` and `multiply_to_each` add it themselves.
  LowRankSums& low_rank() { return low_rank_; }
  const LowRankSums& low_rank() const { return low_rank_; }
  // Whoever wants the inputs of matrices gets those of the pass: `tapped` is the state of its session, or null.
  void begin_pass(const SelectionState* tapped) { tapped_ = tapped; }
  void end_pass() { tapped_ = nullptr; }
  // Shows the input of a matrix's part, x [tokens][ldx], to whoever wants it.
  void show_input(int32_t matrix, uint32_t part, const float* x, uint32_t ldx, uint32_t tokens) const;

 private:
  friend class Tile;
  bool integers(const Part& p) const { return uses_integers(activations_, p.codec); }
  void multiply_rows(const Rows& rows, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                     uint32_t ldy);
  void multiply_one(const Rows& rows, const float* x, const float* bias, float* y);
  template <class Body>
  void for_each_tile(const Rows& rows, uint32_t tokens, const Body& body);

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  const SelectionState* tapped_ = nullptr;
  const Activations activations_;
  LowRankSums low_rank_;
};

}  // namespace edgekit
