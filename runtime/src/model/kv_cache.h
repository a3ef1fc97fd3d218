// Keys and values of one session: per attention block [kv_heads][context][head_dim], f16 or f32.
#pragma once

#include <vector>

#include "core/budget.h"
#include "format/manifest.h"

namespace edgekit {

class KvCache {
 public:
  static Result<KvCache> allocate(Budget& budget, const Manifest& manifest, uint32_t context, bool wide);

  // Where the keys (or values) of a head begin; rows of head_dim values, one per position.
  uint8_t* keys(size_t block, uint32_t head) { return at(block, 0, head); }
  uint8_t* values(size_t block, uint32_t head) { return at(block, 1, head); }
  bool wide() const { return wide_; }  // f32
  uint32_t value_bytes() const { return wide_ ? 4 : 2; }
  uint32_t context() const { return context_; }

  // Stores rows k, v [kv_heads * head_dim] of one position.
  void put(size_t block, uint32_t position, const float* k, const float* v);

 private:
  struct Layout {
    uint64_t offset = 0;  // bytes
    uint32_t heads = 0, head_dim = 0;
  };
  uint8_t* at(size_t block, uint32_t which, uint32_t head) {
    const Layout& l = layout_[block];
    const uint64_t per_head = uint64_t{context_} * l.head_dim * value_bytes();
    return data_.data() + l.offset + (uint64_t{which} * l.heads + head) * per_head;
  }
  Buffer data_;
  std::vector<Layout> layout_;  // one per block; empty for those without attention
  uint32_t context_ = 0;
  bool wide_ = false;
};

}  // namespace edgekit
