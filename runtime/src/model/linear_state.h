// What the linear attention blocks of one session hold, f32: a state that every token changes for good, and the last
// inputs of its convolution. It only goes forward, so drafted tokens stay outside: what they would write is kept as
// steps, and joins the state when a later pass begins behind them.
#pragma once

#include <vector>

#include "core/array.h"
#include "format/manifest.h"
#include "kernels/kernels.h"

namespace edgekit {

// One block's state. Heads count value heads; a step is what one token writes.
struct LinearState {
  float* heads = nullptr;   // [heads][key_dim][head_dim]
  float* inputs = nullptr;  // [window - 1][channels], the newest last; zeros before the text
  float* steps = nullptr;   // [most steps][step_values]

  // A step: inputs [channels], then of each head its key [key_dim], value [head_dim], and how much of it is written
  // and of the state stays.
  static uint64_t step_values(const Block& b) {
    return b.channels() + uint64_t{b.heads} * (b.key_dim + b.head_dim + 2);
  }
  static uint64_t head_values(const Block& b) { return uint64_t{b.key_dim} * b.head_dim; }
  float* step(const Block& b, uint32_t i) const { return steps + i * step_values(b); }
  float* step_head(const Block& b, uint32_t i, uint32_t head) const {
    return step(b, i) + b.channels() + uint64_t{head} * (b.key_dim + b.head_dim + 2);
  }
};

// state [key_dim][head_dim] = stays * state + k (x) change, where change [head_dim] = amount * (v - stays * state^T k).
void write_state(const KernelSet& kernels, const Block& b, const float* k, const float* v, float amount, float stays,
                 float* state, float* change);
// The same, of step `i` for a head.
void write_step(const KernelSet& kernels, const Block& b, const LinearState& from, uint32_t i, uint32_t head,
                float* state, float* change);
// Appends rows [count], `stride` values apart, to the inputs, which drop their oldest.
void push_inputs(const Block& b, const float* rows, uint64_t stride, uint32_t count, float* inputs);

class LinearStates {
 public:
  // Bytes charged for a session of this model; `steps`: most drafted tokens of a pass.
  static uint64_t charge(const Manifest& manifest, uint32_t steps);
  static Result<LinearStates> allocate(Budget& budget, const Manifest& manifest, uint32_t steps);

  bool any() const { return !values_.empty(); }
  LinearState of(size_t block);
  // Every value that is not a step's, as bytes: what copies and files hold.
  uint64_t bytes() const { return values_.size() * sizeof(float); }
  uint8_t* data() { return reinterpret_cast<uint8_t*>(values_.data()); }
  static uint64_t state_bytes(const Manifest& manifest);

  // The position that the states stand at, without steps, or kNowhere: a pass failed.
  static constexpr uint32_t kNowhere = UINT32_MAX;
  uint32_t position() const { return position_; }
  // Whether a pass may begin at a position.
  bool reach(uint32_t position) const { return position >= position_ && position - position_ <= steps_; }

  // A pass begins at a position, 0 or within reach, with so many tokens of the text and, behind them, drafted ones.
  void begin_pass(uint32_t position, uint32_t certain, uint32_t drafted);
  // Steps that join the state before the tokens of the pass at hand.
  uint32_t pending() const { return pending_; }
  // The pass went well.
  void end_pass();

  // Joins steps, so that the states stand at a position within reach.
  void settle(uint32_t position, const KernelSet& kernels);
  // They hold what they held at a position.
  void restored(uint32_t position);
  void clear();
  void copy_from(const LinearStates& other);

 private:
  const Manifest* manifest_ = nullptr;
  Array<float> values_, stepped_;  // block after block: heads, then inputs; steps
  Array<float> change_;            // [widest head_dim], of `settle`
  std::vector<uint64_t> first_, first_step_;
  uint32_t most_steps_ = 0;
  uint32_t position_ = 0, steps_ = 0, pending_ = 0;
  uint32_t next_position_ = 0, next_steps_ = 0;  // when the pass at hand has ended
};

}  // namespace edgekit
