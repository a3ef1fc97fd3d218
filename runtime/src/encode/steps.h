// One step of the Viterbi search, made once for every instruction set from steps.inc. The inner loops are written for
// the compiler's vectors; all sets choose alike but for the rounding of fused multiplications.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit {

constexpr uint32_t kHistoryLanes = 8;

// States before a step and after it. The state before has its newest bits below; a step shifts them up and lets the
// oldest fall out, so the states (b << (state_bits - bits)) | q for all b lead to the states (q << bits) | c.
struct Step {
  uint32_t state_bits = 0, bits = 0;
  uint32_t history = 0;         // columns that a path corrects for itself: 8, 16, 32 or 64
  float target = 0, pivot = 0;  // of this column
  float scale = 0;              // of the values
  float next_target = 0;        // of the next column, corrected for what is decided already
  uint32_t slot = 0;            // of this column in `pending`, which is then free for the column `history` ahead
  uint32_t next_slot = 0;
  const float* values = nullptr;     // [states], with kTrellisUnit in them
  const float* spread = nullptr;     // [history]: what this column's error adds to the targets of later columns
  const float* cost = nullptr;       // [states] of the best path to each state
  const float* wanted = nullptr;     // [states]: this column's target as each path sees it
  const float* pending = nullptr;    // [states][history]: corrections of the next columns' targets
  float* offset = nullptr;           // [states] scratch
  float* slope = nullptr;            // [states] scratch
  float* next_cost = nullptr;        // [states]
  float* next_wanted = nullptr;      // [states]
  float* next_pending = nullptr;     // [states][history]
  const uint64_t* origin = nullptr;  // [states]: where each path was at the last four checkpoints, 16 bits each
  uint64_t* next_origin = nullptr;   // [states]
  uint8_t* oldest = nullptr;         // out [states]: the bits b that the best path dropped
};

using StepFn = void (*)(const Step&);

void step_portable(const Step& step);
#if defined(__x86_64__)
void step_avx2(const Step& step);
void step_avx512(const Step& step);
#endif
// The best for this CPU.
StepFn find_step();

}  // namespace edgekit
