#include "model/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/ops.h"

namespace edgekit {

namespace {

// e^x for x <= 0, within 2e-7 of it; plain enough for the compiler to compute several at once.
inline float exp_of_negative(float x) {
  x = std::max(-87.0f, x);  // a NaN becomes -87: it is in the residual too, and seen there
  const int32_t n = static_cast<int32_t>(x * 1.44269504f - 0.5f);  // the nearest power of two
  const float k = static_cast<float>(n), r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  const float sum = 1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return sum * power;
}

// Softmax of n scores, in place; `sink`, if not null, is one more score, whose weight is dropped.
void softmax(float* x, uint32_t n, const float* sink) {
  const float most = *std::max_element(x, x + n), top = sink != nullptr ? std::max(most, *sink) : most;
  for (uint32_t i = 0; i < n; ++i) x[i] = exp_of_negative(x[i] - top);
  float lanes[8] = {};
  for (uint32_t i = 0; i < n; ++i) lanes[i % 8] += x[i];
  float total = sink != nullptr ? exp_of_negative(*sink - top) : 0.0f;
  for (float lane : lanes) total += lane;
  for (uint32_t i = 0; i < n; ++i) x[i] /= total;
}

// Tokens of a text: some queries, and the keys that they see.
struct Span {
  uint32_t first = 0, end = 0;
  uint32_t count() const { return end - first; }
};

// What tokens `of` see within a window to both sides, 0 for none.
Span seen_by(const Span& of, const Segment& text, uint32_t window) {
  const uint32_t end = text.first + text.count;
  if (window == 0) return {text.first, end};
  const uint32_t reach = window - 1;
  return {of.first - std::min(reach, of.first - text.first), of.end + std::min(reach, end - of.end)};
}

// The queries of one head, at most kQueries, over all keys that one of them sees; scores [queries][keys].
void attend_span(const Block& b, const Segment& text, const Span& queries, uint32_t head, const float* sink,
                 Workspace& s, const KernelSet& kernels, float* scores) {
  const uint32_t d = b.head_dim, kv = head / (b.heads / b.kv_heads) * d, n = queries.count();
  const size_t at = size_t{head} * d, q_width = s.width.q, kv_width = s.width.kv;
  const Span keys = seen_by(queries, text, b.window);
  const float *q = s.q.row(queries.first) + at, *k = s.k.row(keys.first) + kv, *v = s.v.row(keys.first) + kv;
  float* out = s.mixed.row(queries.first) + at;
  const size_t ld = keys.count();
  const bool whole = d % kBlock == 0;  // what the kernels take
  if (whole) kernels.gemm(k, kv_width, keys.count(), q, q_width, n, d, scores, ld);
  for (uint32_t i = 0; i < n; ++i) {
    float* row = scores + i * ld;
    const Span own = seen_by({queries.first + i, queries.first + i + 1}, text, b.window);
    const uint32_t begin = own.first - keys.first, end = own.end - keys.first;
    for (uint32_t t = begin; t < end && !whole; ++t) row[t] = kernels.dot_f32(k + t * kv_width, q + i * q_width, d);
    for (uint32_t t = begin; t < end; ++t) row[t] *= b.scale;
    for (uint32_t t = begin; t < end && b.softcap > 0; ++t) row[t] = b.softcap * std::tanh(row[t] / b.softcap);
    softmax(row + begin, own.count(), sink);
    std::fill(row, row + begin, 0.0f);
    std::fill(row + end, row + ld, 0.0f);
    std::fill_n(out + i * q_width, d, 0.0f);
    for (uint32_t t = begin; t < end && !whole; ++t) kernels.axpy_f32(row[t], v + t * kv_width, out + i * q_width, d);
  }
  if (whole) kernels.accumulate(v, kv_width, keys.count(), scores, ld, n, d, out, q_width);
}

}  // namespace

void attend_both_ways(const Pass& pass, const Block& b, const float* sinks, Workspace& s, ThreadPool& pool,
                      const KernelSet& kernels) {
  uint32_t spans[kMostTexts], total = 0;  // of each text
  for (uint32_t i = 0; i < pass.segment_count; ++i) {
    total += spans[i] = (pass.segments[i].count + kQueries - 1) / kQueries;
  }
  // Head by head, so that neighbours read the same keys and values.
  pool.parallel_for(total * b.heads, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    for (uint32_t i = begin; i < end; ++i) {
      uint32_t head = i / total, span = i % total, t = 0;
      for (; span >= spans[t]; ++t) span -= spans[t];
      const Segment& text = pass.segments[t];
      const uint32_t first = span * kQueries, last = std::min(first + kQueries, text.count);
      attend_span(b, text, {text.first + first, text.first + last}, head, sinks != nullptr ? sinks + head : nullptr, s,
                  kernels, s.scores.row(worker));
    }
  });
}

void Pooled::take(const float* in, uint32_t count, uint32_t hidden, uint32_t stride) {
  for (uint32_t t = 0; t < count; ++t, ++tokens, in += stride) {
    if (states != nullptr) std::copy_n(in, hidden, states + size_t{tokens} * hidden);
    if (tokens == 0 || mode == Pooling::last) {
      std::copy_n(in, hidden, vector);
    } else if (mode == Pooling::mean) {
      for (uint32_t i = 0; i < hidden; ++i) vector[i] += in[i];
    } else if (mode == Pooling::max) {
      for (uint32_t i = 0; i < hidden; ++i) vector[i] = std::max(vector[i], in[i]);
    }
  }
}

void Pooled::mean_into(float* out, uint32_t hidden) const {
  const float count = mode == Pooling::mean ? static_cast<float>(tokens) : 1.0f;
  for (uint32_t i = 0; i < hidden; ++i) out[i] = vector[i] / count;
}

void Pooled::finish(uint32_t hidden, bool normalize) {
  mean_into(vector, hidden);
  if (!normalize) return;
  double square = 0;
  for (uint32_t i = 0; i < hidden; ++i) square += double{vector[i]} * double{vector[i]};
  const float length = static_cast<float>(std::max(std::sqrt(square), 1e-12));  // as torch's normalize
  for (uint32_t i = 0; i < hidden; ++i) vector[i] /= length;
}

void activate_score(ScoreActivation kind, uint32_t count, float* x) {
  for (uint32_t i = 0; i < count; ++i) {
    switch (kind) {
      case ScoreActivation::none: return;
      case ScoreActivation::tanh: x[i] = std::tanh(x[i]); break;
      case ScoreActivation::gelu: x[i] = activate(Activation::gelu, 0, x[i]); break;
      case ScoreActivation::relu: x[i] = std::max(x[i], 0.0f); break;
    }
  }
}

}  // namespace edgekit
