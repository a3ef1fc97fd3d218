#include "model/kv_cache.h"

#include <algorithm>

#include "cache/plan.h"

namespace edgekit {

Result<KvCache> KvCache::allocate(Budget& budget, const Manifest& manifest, uint32_t context, uint32_t batch,
                                  CacheType type, const KvPolicy& policy, uint32_t drafted) {
  KvCache out;
  out.context_ = context;
  out.type_ = type;
  out.policy_ = policy;
  uint64_t total = 0;
  for (const Block& b : manifest.blocks) {
    Layout l;
    if (kv_parts(b) != 0) {
      l.type = kv_type(b, type);
      l.first = total;
      l.row_bytes = cache_row_bytes(l.type, b.head_dim);
      l.heads = b.kv_heads;
      l.head_dim = b.head_dim;
      l.kept = policy.kept(b);
      l.rows = kv_rows(l.kept, context, batch);
      l.kept.sinks = std::min(l.kept.sinks, l.rows - 1);  // one row is left for a ring, which then never turns
      l.parts = kv_parts(b);
      total += uint64_t{l.parts} * l.heads * l.rows * l.row_bytes;
    }
    out.layout_.push_back(l);
  }
  EK_ASSIGN(out.data_, Array<uint8_t>::allocate(budget, Shape(total), "KV cache"));
  EK_ASSIGN(out.states_, LinearStates::allocate(budget, manifest, drafted));
  return out;
}

void KvCache::begin_pass(uint32_t position, uint32_t count, uint32_t drafted) {
  if (position == 0) clear();
  states_.begin_pass(position, count - drafted, drafted);
  written_ = std::max(written_, position + count);
  for (const Layout& l : layout_) {
    // Of the ring, positions below written_ - (rows - sinks) are gone, and a pass at p looks back to p - (window - 1).
    if (written_ > l.rows && l.rows > 0) {
      earliest_ = std::max(earliest_, written_ - (l.rows - l.kept.sinks) + (l.kept.window - 1));
    }
  }
}

void KvCache::put(size_t block, uint32_t position, const float* k, const float* v) {
  const Layout& l = layout_[block];
  for (uint32_t i = 0; i < l.parts; ++i) {
    const Part part = i == 0 ? keys : values;
    const float* in = part == keys ? k : v;
    for (uint32_t h = 0; h < l.heads; ++h, in += l.head_dim) {
      put_cache_row(l.type, in, l.head_dim, row(block, part, h, position));
    }
  }
}

uint32_t KvCache::earliest_copied(uint32_t position) const {
  uint32_t out = earliest_;
  for (const Layout& l : layout_) {
    const uint64_t held_anywhere = uint64_t{l.kept.window} + kRewindRoom - 1;
    if (l.kept.window != 0 && position > held_anywhere) out = std::max(out, position - kRewindRoom);
  }
  return out;
}

uint32_t KvCache::first_kept(size_t block, uint32_t earliest) const {
  const uint32_t window = layout_[block].kept.window;
  return window != 0 && earliest >= window ? earliest - (window - 1) : 0;
}

void KvCache::restored(uint32_t earliest, uint32_t position) {
  earliest_ = earliest;
  written_ = position;
  states_.restored(position);
}

void KvCache::copy_from(const KvCache& other) {
  for (size_t block = 0; block < layout_.size(); ++block) {
    const Layout& l = layout_[block];
    const uint64_t bytes = std::min(l.rows, other.written_) * l.row_bytes;
    for (uint32_t i = 0; i < l.parts * l.heads; ++i) {
      const uint64_t at = l.first + uint64_t{i} * l.rows * l.row_bytes;
      std::copy_n(other.data_.data() + at, bytes, data_.data() + at);
    }
  }
  restored(other.earliest_, other.written_);
  states_.copy_from(other.states_);
}

}  // namespace edgekit
