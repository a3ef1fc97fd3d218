#include "model/kv_cache.h"

#include <cstring>

#include "core/half.h"

namespace edgekit {

Result<KvCache> KvCache::allocate(Budget& budget, const Manifest& manifest, uint32_t context, bool wide) {
  KvCache out;
  out.context_ = context;
  out.wide_ = wide;
  uint64_t bytes = 0;
  for (const Block& b : manifest.blocks) {
    Layout l;
    if (b.kind == Block::attention) {
      l = {bytes, b.kv_heads, b.head_dim};
      bytes += uint64_t{2} * b.kv_heads * b.head_dim * context * out.value_bytes();
    }
    out.layout_.push_back(l);
  }
  EK_ASSIGN(out.data_, Buffer::allocate(budget, bytes, "KV cache"));
  return out;
}

void KvCache::put(size_t block, uint32_t position, const float* k, const float* v) {
  const Layout& l = layout_[block];
  for (uint32_t which = 0; which < 2; ++which) {
    const float* in = which == 0 ? k : v;
    for (uint32_t h = 0; h < l.heads; ++h, in += l.head_dim) {
      uint8_t* to = at(block, which, h) + uint64_t{position} * l.head_dim * value_bytes();
      if (wide_) {
        std::memcpy(to, in, size_t{l.head_dim} * 4);
        continue;
      }
      uint16_t* half = reinterpret_cast<uint16_t*>(to);
      for (uint32_t i = 0; i < l.head_dim; ++i) half[i] = float_to_f16(in[i]);
    }
  }
}

}  // namespace edgekit
