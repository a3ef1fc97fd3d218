#include "model/attention.h"

#include <algorithm>
#include <cmath>

#include "model/encoder.h"
#include "model/ops.h"

namespace edgekit {

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
    for (uint32_t t = 0; t < n && b.source == kNone; ++t) {
      pass.cache_of(t).put(block, pass.position_of(t), s_.k.row(t), s_.v.row(t));
    }
    attend(pass, block);
  } else {
    attend_both_ways(pass, b, w_.vector(b.sinks), s_, pool_, kernels_);
  }
  if (b.gate != kNone) EK_TRY(scale_by_gate(pass, b));
  return linear_.multiply(b.o, s_.mixed.data(), width.q, n, w_.vector(b.o_bias), s_.out.data(), width.hidden);
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

void Attention::attend(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const float* sinks = w_.vector(b.sinks);
  const size_t kept = b.source != kNone ? static_cast<size_t>(b.source) : block;  // where keys and values are
  pool_.parallel_for(pass.count * b.heads, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    float* scores = s_.scores.row(worker);
    for (uint32_t i = begin; i < end; ++i) {
      const uint32_t token = i / b.heads, head = i % b.heads, kv_head = head / (b.heads / b.kv_heads);
      const uint32_t seen = pass.position_of(token) + 1;
      KvCache& cache = pass.cache_of(token);
      const float* q = s_.q.row(token) + size_t{head} * b.head_dim;
      float* out = s_.mixed.row(token) + size_t{head} * b.head_dim;
      const float* sink = sinks != nullptr ? sinks + head : nullptr;
      if (cache.wide()) {
        attend_head(b, seen, q, cache.single_rows(kept, KvCache::keys, kv_head),
                    cache.single_rows(kept, KvCache::values, kv_head), kernels_.dot_f32, kernels_.axpy_f32, sink,
                    scores, out);
      } else {
        attend_head(b, seen, q, cache.half_rows(kept, KvCache::keys, kv_head),
                    cache.half_rows(kept, KvCache::values, kv_head), kernels_.dot_f16, kernels_.axpy_f16, sink, scores,
                    out);
      }
    }
  });
}

// One query head q [head_dim] over the positions below `end` that it may see; scores [context], out [head_dim], and the
// head's sink or null.
template <class T, class Dot, class Axpy>
void Attention::attend_head(const Block& b, uint32_t end, const float* q, const HeadRows<T>& keys,
                            const HeadRows<T>& values, Dot dot, Axpy axpy, const float* sink, float* scores,
                            float* out) const {
  const uint32_t d = b.head_dim;
  const uint32_t begin = b.window != 0 && end > b.window ? end - b.window : 0;
  for (uint32_t p = begin; p < end; ++p) {
    const float score = dot(keys.row(p), q, d) * b.scale;
    scores[p - begin] = b.softcap > 0 ? b.softcap * std::tanh(score / b.softcap) : score;
  }
  softmax(scores, end - begin, sink);
  std::fill(out, out + d, 0.0f);
  for (uint32_t p = begin; p < end; ++p) axpy(scores[p - begin], values.row(p), out, d);
}

}  // namespace edgekit
