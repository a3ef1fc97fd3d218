// The window: units that recent tokens needed, in a fixed number of equal slots shared by all layers,
// so that a layer holds as much as it is measured to need ("LLM in a flash", arXiv 2312.11514, section
// 3.3). Every unit has a score, its uses discounted by age; of some slots picked at random the one with
// the lowest score makes room. That keeps more of what comes back than the last k tokens do
// (docs/design/0002-flash.md). Finding, keeping and evicting cost O(1) a unit.
#pragma once

#include <vector>

#include "core/budget.h"
#include "format/manifest.h"

namespace edgekit {

class Window {
 public:
  enum State : uint8_t { empty, loading, arrived, ready };  // arrived: not yet checked

  // Reserves address space, which the system may refuse; charges nothing yet, and may be called again after an
  // error. `windowed` [matrices]: which matrices' units may come here. At most `most_bytes` of slots ever.
  Outcome prepare(Budget& budget, const Manifest& manifest, const std::vector<uint8_t>& windowed, uint64_t slot_bytes,
                  uint64_t most_bytes);
  // Charges the tables and `bytes` of slots to the budget.
  Outcome start(uint64_t bytes);
  // Memory for tables, charged beside the slots.
  static uint64_t table_bytes(const Manifest& manifest, const std::vector<uint8_t>& windowed, uint64_t slots);

  bool has(int32_t matrix) const { return !first_.empty() && first_[static_cast<size_t>(matrix)] != kNone; }
  uint32_t slots() const { return slots_; }
  uint32_t used() const { return used_ - free_count_; }

  // The slot of a unit, or kNone.
  int32_t find(int32_t matrix, uint32_t unit) const { return slot_of()[key(matrix, unit)]; }
  uint8_t* data(int32_t slot) { return pool_.data() + static_cast<uint64_t>(slot) * slot_bytes_; }
  State& state(int32_t slot) { return slots_info()[slot].state; }
  uint32_t unit(int32_t slot) { return slots_info()[slot].key - first_of_matrix(slot); }
  int32_t matrix(int32_t slot) { return slots_info()[slot].matrix; }

  // A round is a set of units that must be in memory together: what was touched or claimed in it is
  // not evicted before the next begins.
  void begin_round() { ++round_; }
  // Only what the last `keep` passes used stays.
  void begin_pass(uint32_t keep);
  void touch(int32_t slot);
  // Counts a use of the unit in a slot; once a pass.
  void use(int32_t slot);
  // How often a unit was used, as of now; also of units that are not here.
  float uses(int32_t matrix, uint32_t unit) { return score_of(key(matrix, unit)); }
  void set_uses(int32_t matrix, uint32_t unit, float uses) { scores()[key(matrix, unit)] = {uses, pass_}; }
  // Which guess brought the unit here, if one did.
  uint32_t& guess(int32_t slot) { return slots_info()[slot].guess; }
  // A slot for a unit that is not here, in state `loading`; kNone when everything is pinned.
  int32_t claim(int32_t matrix, uint32_t unit);
  // Forgets a unit; its slot is free.
  void drop(int32_t slot);
  // Grows or shrinks to `bytes` of slots. Shrinking evicts the least recently used and moves the last
  // slots into the holes, so that the end can be given back. Nothing may be loading.
  Outcome resize(uint64_t bytes);

 private:
  struct Slot {
    uint32_t key = 0;  // of the unit, over all windowed matrices
    int32_t matrix = kNone;
    int32_t newer = kNone, older = kNone;
    uint32_t round = 0, pass = 0, guess = 0;
    State state = empty;
  };
  uint32_t key(int32_t matrix, uint32_t unit) const {
    return static_cast<uint32_t>(first_[static_cast<size_t>(matrix)]) + unit;
  }
  uint32_t first_of_matrix(int32_t slot) {
    return static_cast<uint32_t>(first_[static_cast<size_t>(slots_info()[slot].matrix)]);
  }
  const int32_t* slot_of() const { return reinterpret_cast<const int32_t*>(table_.data()); }
  int32_t* slot_of() { return reinterpret_cast<int32_t*>(table_.data()); }
  Slot* slots_info() { return reinterpret_cast<Slot*>(info_.data()); }
  struct Score {
    float uses = 0;  // as of `pass`
    uint32_t pass = 0;
  };
  Score* scores() { return reinterpret_cast<Score*>(scores_.data()); }
  float score_of(uint32_t key);
  float score(int32_t slot) { return score_of(slots_info()[slot].key); }
  int32_t victim();
  void unlink(int32_t slot);
  void link_newest(int32_t slot);
  void move(int32_t from, int32_t to);

  Region pool_, info_;          // [slots][slot_bytes], Slot [slots]
  Region table_;                // int32 [units]: slot of each unit
  Region scores_;               // Score [units]
  uint64_t units_ = 0;          // of all windowed matrices
  std::vector<int32_t> first_;  // per matrix: key of its first unit, or kNone
  uint64_t slot_bytes_ = 0;
  uint32_t slots_ = 0, used_ = 0;  // slots [0, used) were handed out at least once
  int32_t free_ = kNone;           // first of a list linked through `older`
  uint32_t free_count_ = 0;
  int32_t newest_ = kNone, oldest_ = kNone;
  uint32_t round_ = 1, pass_ = 1;
  uint64_t random_ = 0x9E3779B97F4A7C15;
};

}  // namespace edgekit
