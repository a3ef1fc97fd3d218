// Keys and values of one session, in rows of a CacheType. A block that keeps everything (KvPolicy) has [kv_heads]
// [context][head_dim]; one with a window keeps its sinks, and a ring of its last rows (kv_rows in cache/plan.h), so
// that position p behind the sinks lies in row sinks + (p - sinks) % (rows - sinks). A convolution keeps its inputs as
// the keys of one head, with its taps as window. Linear attention keeps no rows but a state (model/linear_state.h).
#pragma once

#include <vector>

#include "cache/kv_policy.h"
#include "core/array.h"
#include "format/manifest.h"
#include "kernels/cache_rows.h"
#include "model/linear_state.h"

namespace edgekit {

// The rows of one head in one block.
struct HeadRows {
  const uint8_t* data = nullptr;  // [rows][row_bytes]
  uint32_t rows = 0;
  uint64_t row_bytes = 0;
  KvKept kept;

  const uint8_t* row(uint32_t position) const { return data + row_of(kept.sinks, rows, position) * row_bytes; }
  // Where a position lies: the sinks, then the ring.
  static uint32_t row_of(uint32_t sinks, uint32_t rows, uint32_t position) {
    return position < sinks ? position : sinks + (position - sinks) % (rows - sinks);
  }
};

class KvCache {
 public:
  enum Part : uint32_t { keys, values };

  // `batch`: most tokens of one pass; a ring holds what all of them may look at. `drafted`: those of them that may be
  // drafts.
  static Result<KvCache> allocate(Budget& budget, const Manifest& manifest, uint32_t context, uint32_t batch,
                                  CacheType type, const KvPolicy& policy, uint32_t drafted);

  const KvPolicy& policy() const { return policy_; }
  CacheType type() const { return type_; }
  // Of a block's rows; not every kind of block can have every type (cache/plan.h).
  CacheType type(size_t block) const { return layout_[block].type; }
  uint32_t context() const { return context_; }
  // Whether a block keeps keys and values, keys alone or nothing.
  uint32_t parts(size_t block) const { return layout_[block].parts; }
  // Positions that a block keeps.
  uint32_t rows(size_t block) const { return layout_[block].rows; }

  HeadRows head_rows(size_t block, Part part, uint32_t head) const {
    const Layout& l = layout_[block];
    return {data_.data() + first(block, part, head), l.rows, l.row_bytes, l.kept};
  }
  // One row, of row_bytes(block) bytes.
  uint8_t* row(size_t block, Part part, uint32_t head, uint32_t position) {
    const Layout& l = layout_[block];
    return data_.data() + first(block, part, head) + HeadRows::row_of(l.kept.sinks, l.rows, position) * l.row_bytes;
  }
  // How many positions from one on lie in rows that follow each other.
  uint32_t rows_together(size_t block, uint32_t position) const {
    const Layout& l = layout_[block];
    return l.rows - HeadRows::row_of(l.kept.sinks, l.rows, position);
  }
  // A block's first positions that stay whatever the text's length.
  uint32_t sinks(size_t block) const { return layout_[block].kept.sinks; }
  uint64_t row_bytes(size_t block) const { return layout_[block].row_bytes; }

  // Whether blocks have states, which remember no earlier position.
  bool recurrent() const { return states_.any(); }
  LinearStates& states() { return states_; }
  const LinearStates& states() const { return states_; }

  // Announces that a pass writes positions [position, position + count); at most `batch` of them, of which the last
  // `drafted` may not stay. Without `end_pass`, which says that it went well, states are where no pass can begin.
  void begin_pass(uint32_t position, uint32_t count, uint32_t drafted);
  void end_pass() { states_.end_pass(); }
  // Stores rows k, v [kv_heads * head_dim] of one position; rotated if the type asks for that (cache_rotates).
  // `v` is null where a block keeps keys alone.
  void put(size_t block, uint32_t position, const float* k, const float* v);

  // The earliest position, but for 0, at which a pass may begin: rings have overwritten what an earlier one
  // would look at. 0 while every ring has all.
  uint32_t earliest() const { return earliest_; }
  // Whether a pass may begin at a position.
  bool reaches(uint32_t position) const {
    return position == 0 || (position >= earliest_ && (!recurrent() || states_.reach(position)));
  }
  // What a copy of the cache at `position` has to hold so that it can go back to the position returned: all
  // positions from first_kept on. No more than a ring of any other plan can hold.
  uint32_t earliest_copied(uint32_t position) const;
  // The first position of a block that a pass at `earliest` looks at.
  uint32_t first_kept(size_t block, uint32_t earliest) const;
  // The cache holds such a copy now.
  void restored(uint32_t earliest, uint32_t position);
  // Takes what another cache of the same model and plan holds.
  void copy_from(const KvCache& other);
  // The cache holds nothing now.
  void clear() {
    restored(0, 0);
    states_.clear();
  }

 private:
  struct Layout {
    uint64_t first = 0, row_bytes = 0;  // byte of the keys of head 0
    uint32_t heads = 0, head_dim = 0, rows = 0, parts = 0;
    KvKept kept;
    CacheType type = CacheType::f16;
  };
  uint64_t first(size_t block, Part part, uint32_t head) const {
    const Layout& l = layout_[block];
    return l.first + (uint64_t{part} * l.heads + head) * l.rows * l.row_bytes;
  }
  Array<uint8_t> data_;  // [bytes]
  LinearStates states_;
  std::vector<Layout> layout_;  // one per block; empty for those that keep nothing
  uint32_t context_ = 0;
  uint32_t earliest_ = 0, written_ = 0;  // positions below `written_` were stored once
  CacheType type_ = CacheType::f16;
  KvPolicy policy_;
};

}  // namespace edgekit
