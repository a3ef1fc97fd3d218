#include "model/attention.h"

#include <algorithm>
#include <cmath>

#include "model/encoder.h"
#include "model/ops.h"

namespace edgekit {

namespace {
// The block whose keys and values a block attends to.
size_t kept(const Block& b, size_t block) { return b.source != kNone ? static_cast<size_t>(b.source) : block; }
}  // namespace

void Attention::fill_ropes(const Pass& pass) {
  const auto& ropes = w_.manifest().ropes;
  for (size_t i = 0; i < ropes.size(); ++i) {
    const float *inv_freq = w_.vector(ropes[i].inv_freq), *long_inv_freq = w_.vector(ropes[i].long_inv_freq);
    for (uint32_t t = 0; t < pass.segment_count; ++t) {
      const Segment& text = pass.segments[t];
      fill_rope(ropes[i], inv_freq, long_inv_freq, 0, text.count, text.count, s_.width.rope,
                s_.rope.row(i, text.first));
    }
    if (pass.segments != nullptr) continue;
    if (pass.texts == nullptr) {
      fill_rope(ropes[i], inv_freq, long_inv_freq, pass.position, pass.count, pass.length, s_.width.rope,
                s_.rope.plane(i));
      continue;
    }
    for (uint32_t t = 0; t < pass.count; ++t) {
      const uint32_t position = pass.position_of(t);
      fill_rope(ropes[i], inv_freq, long_inv_freq, position, 1, position + 1, s_.width.rope, s_.rope.row(i, t));
    }
  }
}

Outcome Attention::forward(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const Widths& width = s_.width;
  const uint32_t n = pass.count;
  float *q = s_.q.data(), *k = s_.k.data(), *v = s_.v.data();
  const float* x = s_.normed.data();
  EK_TRY(linear_.multiply(b.q, x, width.hidden, n, w_.vector(b.q_bias), q, width.q));
  if (b.source == kNone) {
    EK_TRY(linear_.multiply(b.k, x, width.hidden, n, w_.vector(b.k_bias), k, width.kv));
    if (b.v == b.k) {
      std::copy_n(k, size_t{n} * width.kv, v);
    } else {
      EK_TRY(linear_.multiply(b.v, x, width.hidden, n, w_.vector(b.v_bias), v, width.kv));
    }
  }
  rotate(pass, b);
  s_.clear_tails(n, b.heads * b.head_dim);
  if (b.causal) {
    store(pass, block);
    attend(pass, block);
  } else {
    attend_both_ways(pass, b, w_.vector(b.sinks), s_, pool_, kernels_);
  }
  if (b.gate != kNone) EK_TRY(scale_by_gate(pass, b));
  float* mixed = s_.mixed.data();
  apply_norm(b.o_norm, w_.vector(b.o_norm.weight), w_.vector(b.o_norm.bias), mixed, n, b.heads * b.head_dim, width.q,
             mixed);
  return linear_.multiply(b.o, mixed, width.q, n, w_.vector(b.o_bias), s_.out.data(), width.hidden);
}

// Norms of queries, keys and values, then the rotary embedding of the first two; keys that are another block's have
// both.
void Attention::rotate(const Pass& pass, const Block& b) {
  const Widths& width = s_.width;
  float *q = s_.q.data(), *k = s_.k.data();
  apply_head_norm(b.q_norm, w_.vector(b.q_norm.weight), w_.vector(b.q_norm.bias), pass.count, b.heads, b.head_dim,
                  width.q, q);
  const uint32_t kv_heads = b.source == kNone ? b.kv_heads : 0;
  apply_head_norm(b.k_norm, w_.vector(b.k_norm.weight), w_.vector(b.k_norm.bias), pass.count, kv_heads, b.head_dim,
                  width.kv, k);
  apply_head_norm(b.v_norm, w_.vector(b.v_norm.weight), w_.vector(b.v_norm.bias), pass.count, kv_heads, b.head_dim,
                  width.kv, s_.v.data());
  if (b.rope == kNone) return;
  const Rope& rope = w_.manifest().ropes[static_cast<size_t>(b.rope)];
  const float* table = s_.rope.plane(static_cast<size_t>(b.rope));
  apply_rope(rope, table, pass.count, b.heads, b.head_dim, width.rope, width.q, q);
  apply_rope(rope, table, pass.count, kv_heads, b.head_dim, width.rope, width.kv, k);
}

// Scales what was attended to by the sigmoid of the gate, which takes the queries' place.
Outcome Attention::scale_by_gate(const Pass& pass, const Block& b) {
  const Widths& width = s_.width;
  EK_TRY(linear_.multiply(b.gate, s_.normed.data(), width.hidden, pass.count, w_.vector(b.gate_bias), s_.q.data(),
                          width.q));
  for (uint32_t t = 0; t < pass.count; ++t) {
    float* out = s_.mixed.row(t);
    const float* gate = s_.q.row(t);
    for (uint32_t i = 0; i < b.heads * b.head_dim; ++i) out[i] /= 1.0f + std::exp(-gate[i]);
  }
  return Nothing{};
}

// Puts keys and values into the cache of their text, unless another block has put them there. Where the cache's type
// asks for it, heads are rotated, queries too.
void Attention::store(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const auto rotate_heads = [&](float* at, uint32_t heads) {
    for (uint32_t h = 0; h < heads; ++h) rotate_head(at + size_t{h} * b.head_dim, b.head_dim);
  };
  for (uint32_t t = 0; t < pass.count; ++t) {
    KvCache& cache = pass.cache_of(t);
    float *k = s_.k.row(t), *v = s_.v.row(t);
    const bool rotates = cache_rotates(cache.type(kept(b, block)));
    if (rotates) rotate_heads(s_.q.row(t), b.heads);
    if (b.source != kNone) continue;
    if (rotates) rotate_heads(k, b.kv_heads);
    if (rotates) rotate_heads(v, b.kv_heads);
    cache.put(block, pass.position_of(t), k, v);
  }
}

// Heads that share keys and values go together, and several tokens of one text where that leaves work for all threads.
void Attention::attend(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const float* sinks = w_.vector(b.sinks);
  const size_t at = kept(b, block);
  const uint32_t group = b.heads / b.kv_heads;
  uint32_t heads = std::min(group, kTileQueries);
  const auto parts = [&] { return (group + heads - 1) / heads; };
  while (heads > 1 && pass.count * b.kv_heads * parts() < pool_.size()) heads = (heads + 1) / 2;
  const uint32_t tokens = pass.texts != nullptr ? 1 : kTileQueries / heads;
  const uint32_t runs = (pass.count + tokens - 1) / tokens, tasks = b.kv_heads * parts();
  pool_.parallel_for(runs * tasks, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    for (uint32_t i = begin; i < end; ++i) {
      const uint32_t token = i / tasks * tokens, kv_head = i % tasks / parts();
      const uint32_t first = kv_head * group + i % parts() * heads;
      const KvCache& cache = pass.cache_of(token);
      Queries queries;
      queries.position = pass.position_of(token);
      queries.tokens = std::min(tokens, pass.count - token);
      queries.seen_until = pass.both_ways ? pass.position + pass.count : 0;
      queries.heads = std::min(heads, (kv_head + 1) * group - first);
      queries.q = s_.q.row(token) + size_t{first} * b.head_dim;
      queries.out = s_.mixed.row(token) + size_t{first} * b.head_dim;
      queries.stride = s_.width.q;
      queries.sinks = sinks != nullptr ? sinks + first : nullptr;
      edgekit::attend(kernels_, b, cache.type(at), cache.head_rows(at, KvCache::keys, kv_head),
                      cache.head_rows(at, KvCache::values, kv_head), queries, s_.attention.row(worker));
      if (cache_rotates(cache.type(at))) turn_back(b, queries);
    }
  });
}

void Attention::turn_back(const Block& b, const Queries& queries) const {
  for (uint32_t t = 0; t < queries.tokens; ++t) {
    for (uint32_t h = 0; h < queries.heads; ++h) {
      rotate_head(queries.out + t * queries.stride + size_t{h} * b.head_dim, b.head_dim);
    }
  }
}

}  // namespace edgekit
