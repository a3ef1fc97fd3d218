// The steps of the Viterbi search, made once for every instruction set from steps.inc. The inner loops are written for
// the compiler's vectors; all sets choose alike but for the rounding of fused multiplications.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit {

// Columns of a block. Within a block a path carries a record: what its errors add to the targets of the block's
// columns, and the block's errors themselves.
constexpr uint32_t kTrellisBlock = 8;
constexpr uint32_t kTrellisRecord = 2 * kTrellisBlock;

// States before a step and after it. The state before has its newest bits below; a step shifts them up and lets the
// oldest fall out, so the states (b << (state_bits - bits)) | q for all b lead to the states (q << bits) | c.
struct Step {
  uint32_t state_bits = 0, bits = 0;
  float target = 0, pivot = 0;       // of this column
  float scale = 0;                   // of the values
  const float* values = nullptr;     // [states], with kTrellisUnit in them
  const float* cost = nullptr;       // [states] of the best path to each state
  float* offset = nullptr;           // [states] scratch
  float* slope = nullptr;            // [states] scratch
  float* next_cost = nullptr;        // [states]
  uint8_t* oldest = nullptr;         // out: the bits b that the best path dropped; [states], or [states >> bits] if all
                                     // paths see one target, because then the ways into a group have the same order
  const float* wanted = nullptr;     // [states]: this column's target as each path sees it; null if all see `target`
  float next_target = 0;             // of the next column of the block, with what is decided
  uint32_t next_slot = 0;            // the next column within the block
  const float* spread = nullptr;     // [kTrellisRecord]: what this column's error adds to a record
  const float* records = nullptr;    // [states][kTrellisRecord]
  float* next_records = nullptr;     // likewise
  float* next_wanted = nullptr;      // [states]
  const uint16_t* origin = nullptr;  // [states]: where each path was when the block began
  uint16_t* next_origin = nullptr;   // likewise
};

// New records where a block begins. What older blocks add is known for the states where the last block began
// ("anchors"), few of which are left: one row for each, of `blocks` blocks from this one on.
struct Renewal {
  uint32_t states = 0, blocks = 0;
  const uint16_t* anchors = nullptr;  // [anchor_count], distinct: where paths were when the last block began
  uint32_t anchor_count = 0;
  const uint16_t* parents = nullptr;  // [states]: the anchor of an anchor
  const float* far = nullptr;         // [states][blocks][kTrellisBlock], by parent, from the last block on
  float* next_far = nullptr;          // likewise by anchor, from this block on
  uint32_t stride = 0;                // between the rows of `older` and `newer`
  const float* older = nullptr;      // [kTrellisBlock][stride]: what the errors before the last block add, from this on
  const float* newer = nullptr;      // [kTrellisBlock][stride]: what the last block's errors add, from this on
  const uint16_t* origin = nullptr;  // [states]: the anchor of each path
  float* records = nullptr;          // in and out [states][kTrellisRecord]
  float* errors = nullptr;           // [states][kTrellisBlock]: in, those before the last block; out, of the last
  float target = 0;                  // of the block's first column
  float* wanted = nullptr;           // out [states]
};

struct Steps {
  void (*step)(const Step&);
  void (*renew)(const Renewal&);
};

extern const Steps kPortableSteps;
#if defined(__x86_64__)
extern const Steps kAvx2Steps;
extern const Steps kAvx512Steps;
#endif
// The best for this CPU.
const Steps& find_steps();

}  // namespace edgekit
