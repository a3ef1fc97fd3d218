// The steps of the Viterbi search, made once for every instruction set from steps.inc. The inner loops are written for
// the compiler's vectors; all sets choose alike but for the rounding of fused multiplications.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit {

// Columns of a block. Within a block a path carries a record: what its errors add to the targets of the block's
// columns that are still to come. The search is bound by the memory that records take, so they shrink as columns pass.
constexpr uint32_t kTrellisBlock = 8;

// Numbers of a record, of the last columns of the block, for paths that are about to choose the column `slot` of it.
constexpr uint32_t record_width(uint32_t slot) {
  if (slot < kTrellisBlock / 2 - 1) return kTrellisBlock;
  return slot < kTrellisBlock - 1 ? kTrellisBlock / 2 : 0;  // the last target is known, and no other is to come
}

// Where the path to a state was `steps` steps ago, at most a block. `path`: the bits that it dropped, the last ones
// below; those of a block fill 32 bits at most.
inline uint32_t state_before(uint32_t path, uint32_t state, uint32_t state_bits, uint32_t bits, uint32_t steps) {
  const uint64_t whole = static_cast<uint64_t>(path) << state_bits | state;
  return static_cast<uint32_t>(whole >> (steps * bits)) & ((1u << state_bits) - 1);
}

// States before a step and after it. The state before has its newest bits below; a step shifts them up and lets the
// oldest fall out, so the states (b << (state_bits - bits)) | q for all b lead to the states (q << bits) | c.
struct Step {
  uint32_t state_bits = 0, bits = 0;
  float target = 0, pivot = 0;     // of this column
  float scale = 0;                 // of the values
  const float* values = nullptr;   // [states], with kTrellisUnit in them
  const float* cost = nullptr;     // [states] of the best path to each state
  float* offset = nullptr;         // [states] scratch
  float* slope = nullptr;          // [states] scratch
  float* next_cost = nullptr;      // [states]
  uint8_t* oldest = nullptr;       // out: the bits b that the best path dropped; [states], or [states >> bits] if all
                                   // paths see one target, because then the ways into a group have the same order
  const float* wanted = nullptr;   // [states]: this column's target as each path sees it; null if all see `target`
  float next_target = 0;           // of the next column of the block, with what is decided
  uint32_t next_slot = 0;          // the next column within the block; 0: `next_wanted` is made by a renewal
  const float* spread = nullptr;   // [kTrellisBlock]: what this column's error adds to the block's columns
  const float* records = nullptr;  // [states][record_width(this slot)]
  float* next_records = nullptr;   // [states][record_width(next_slot)]
  float* next_wanted = nullptr;    // [states]
  const uint32_t* path = nullptr;  // [states]: see state_before
  uint32_t* next_path = nullptr;   // likewise
};

// New records where a block begins. What older blocks add is known for the states where the last block began
// ("anchors"), few of which are left: one row for each, of `blocks` blocks from this one on.
struct Renewal {
  uint32_t state_bits = 0, bits = 0, blocks = 0;
  const uint16_t* anchors = nullptr;  // [anchor_count], distinct: where paths were when the last block began
  uint32_t anchor_count = 0;
  const uint16_t* parents = nullptr;  // [states]: the anchor of an anchor
  const float* far = nullptr;         // [states][blocks][kTrellisBlock], by parent, from the last block on
  float* next_far = nullptr;          // likewise by anchor, from this block on
  uint32_t stride = 0;                // between the rows of `older` and `newer`
  const float* older = nullptr;      // [kTrellisBlock][stride]: what the errors before the last block add, from this on
  const float* newer = nullptr;      // [kTrellisBlock][stride]: what the last block's errors add, from this on
  const uint16_t* origin = nullptr;  // [states]: the anchor of each path
  const uint32_t* path = nullptr;    // [states]
  const float* values = nullptr;     // [states]
  float scale = 0;                   // of the values
  float passed[kTrellisBlock] = {};  // targets of the last block's columns
  float* errors = nullptr;           // [kTrellisBlock][states]: in, those before the last block; out, of the last
  float* records = nullptr;          // out [states][kTrellisBlock]
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
