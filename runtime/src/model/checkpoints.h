// Copies of what a session's recurrent blocks hold at some earlier positions. Their caches only remember the last
// tokens, so a session that goes further back takes the nearest copy and evaluates the tokens behind it again.
#pragma once

#include <vector>

#include "core/array.h"
#include "model/kv_cache.h"

namespace edgekit {

class Checkpoints {
 public:
  // Copies of a session: fewer where they hold states, which are large.
  static constexpr uint32_t kMost = 8, kMostStates = 4;
  // Tokens after which another copy is due where states remember nothing.
  static constexpr uint32_t kSpacing = 64;

  // Bytes charged for a session of this model.
  static uint64_t charge(const Manifest& manifest, CacheType type);
  static Result<Checkpoints> allocate(Budget& budget, const Manifest& manifest, CacheType type);

  // Whether a session can go back anywhere with their help: windows, if there are any, are those of convolutions.
  bool serve() const { return bytes_ > 0; }
  // Whether states have gone far beyond the last copy.
  bool due(const KvCache& cache) const;
  uint32_t most() const { return most_; }
  // Copies what the cache holds at a position that it stands at, and gives up another copy if there is no room.
  void keep(KvCache& cache, uint32_t position);
  // The last position with a copy that is not behind `position`; 0, the beginning, if there is none.
  uint32_t nearest(uint32_t position) const;
  // Puts the copy of a position that `nearest` gave into the cache, and forgets those behind it.
  void restore(KvCache& cache, uint32_t position);
  // Forgets the copies behind a position: the text there is another one now.
  void forget_behind(uint32_t position);

  // Takes the copies of another session of the same model.
  void copy_from(const Checkpoints& other);

  // For files: the positions, ascending, and the bytes of each copy.
  const std::vector<uint32_t>& positions() const { return positions_; }
  uint64_t bytes() const { return bytes_; }
  uint8_t* data(uint32_t index) { return copies_.row(slots_[index]); }
  // Makes room for the copy of a position behind all others; most() at most.
  uint8_t* add(uint32_t position);

 private:
  template <class Each>
  void for_each_row(KvCache& cache, uint32_t position, uint8_t* copy, const Each& each) const;

  const Manifest* manifest_ = nullptr;
  Array<uint8_t> copies_;  // [most][bytes]
  uint64_t bytes_ = 0;     // of a copy
  uint32_t most_ = 0;
  std::vector<uint32_t> positions_;  // ascending
  std::vector<uint32_t> slots_;      // where the copy of each of them lies
};

}  // namespace edgekit
