#include "model/attention_tiles.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edgekit {

namespace {

// The parts of the work memory; `d` is head_dim, padded to blocks.
struct Work {
  float *rows, *q, *out, *scores, *most, *total;

  Work(float* at, size_t d)
      : rows(at),                                      // [kTilePositions][d]: keys, then values
        q(rows + kTilePositions * d),                  // [kTileQueries][d]
        out(q + kTileQueries * d),                     // [kTileQueries][d]
        scores(out + kTileQueries * d),                // [kTileQueries][kTilePositions]
        most(scores + kTileQueries * kTilePositions),  // [kTileQueries]: largest score so far
        total(most + kTileQueries) {}                  // [kTileQueries]: sum of exp(score - most)
};

void begin_queries(const Block& b, const Queries& in, size_t d, const Work& w) {
  for (uint32_t t = 0; t < in.tokens; ++t) {
    for (uint32_t h = 0; h < in.heads; ++h) {
      const size_t i = size_t{t} * in.heads + h;
      const float* from = in.q + t * in.stride + size_t{h} * b.head_dim;
      std::copy(from, from + b.head_dim, w.q + i * d);
      std::fill(w.q + i * d + b.head_dim, w.q + (i + 1) * d, 0.0f);
      std::fill(w.out + i * d, w.out + (i + 1) * d, 0.0f);
      w.most[i] = in.sinks != nullptr ? in.sinks[h] : -std::numeric_limits<float>::infinity();
      w.total[i] = in.sinks != nullptr ? 1.0f : 0.0f;
    }
  }
}

// Turns scores [count] of a query into weights and brings what it has so far to the new maximum.
void weigh(const Block& b, float* scores, uint32_t count, size_t d, float& most, float& total, float* out) {
  float top = most;
  for (uint32_t i = 0; i < count; ++i) {
    const float score = scores[i] * b.scale;
    scores[i] = b.softcap > 0 ? b.softcap * std::tanh(score / b.softcap) : score;
    top = std::max(top, scores[i]);
  }
  if (top > most) {
    const float shrink = std::exp(most - top);
    total *= shrink;
    for (size_t j = 0; j < d; ++j) out[j] *= shrink;
    most = top;
  }
  for (uint32_t i = 0; i < count; ++i) total += scores[i] = std::exp(scores[i] - top);
}

void end_queries(const Block& b, const Queries& in, size_t d, const Work& w) {
  for (uint32_t t = 0; t < in.tokens; ++t) {
    for (uint32_t h = 0; h < in.heads; ++h) {
      const size_t i = size_t{t} * in.heads + h;
      float* to = in.out + t * in.stride + size_t{h} * b.head_dim;
      for (uint32_t j = 0; j < b.head_dim; ++j) to[j] = w.out[i * d + j] / w.total[i];
    }
  }
}

// The first position behind the sinks that a position sees.
uint32_t first_seen(const KvKept& kept, uint32_t position) {
  const uint32_t first = kept.window != 0 && position + 1 > kept.window ? position + 1 - kept.window : 0;
  return std::max(first, kept.sinks);
}

}  // namespace

uint64_t attention_work(uint32_t head_dim) {
  const uint64_t d = padded_cols(head_dim);
  const uint64_t floats = (kTilePositions + 2 * kTileQueries) * d + kTileQueries * (kTilePositions + 2);
  return (floats + kBlock - 1) / kBlock * kBlock;
}

void attend(const KernelSet& kernels, const Block& b, CacheType type, const HeadRows& keys, const HeadRows& values,
            const Queries& in, float* work) {
  const size_t d = padded_cols(b.head_dim);
  const Work w(work, d);
  const auto decode = kernels.cache_decode[static_cast<size_t>(type)];
  const KvKept& kept = keys.kept;
  begin_queries(b, in, d, w);
  // Positions [seen, until), of which a token sees those from `first_of` of its own position on. Tiles begin at
  // multiples of their size, so that a token's sums are taken in the same steps in every pass.
  const auto attend_to = [&](uint32_t seen, uint32_t until, const auto& first_of) {
    for (uint32_t tile = seen / kTilePositions * kTilePositions; tile < until; tile += kTilePositions) {
      const uint32_t from = std::max(tile, seen), rows = std::min(tile + kTilePositions, until) - from;
      for (uint32_t i = 0; i < rows; ++i) decode(keys.row(from + i), b.head_dim, w.rows + i * d);
      kernels.gemm(w.rows, d, rows, w.q, d, in.tokens * in.heads, d, w.scores, kTilePositions);
      for (uint32_t i = 0; i < rows; ++i) decode(values.row(from + i), b.head_dim, w.rows + i * d);
      for (uint32_t t = 0; t < in.tokens; ++t) {
        const uint32_t position = in.position + t, first = std::max(from, first_of(position));
        const uint32_t last = std::min(from + rows, std::max(position + 1, in.seen_until));
        if (first >= last) continue;
        const size_t i = size_t{t} * in.heads;
        float* scores = w.scores + i * kTilePositions + (first - from);
        for (uint32_t h = 0; h < in.heads; ++h) {
          weigh(b, scores + h * kTilePositions, last - first, d, w.most[i + h], w.total[i + h], w.out + (i + h) * d);
        }
        kernels.accumulate(w.rows + (first - from) * d, d, last - first, scores, kTilePositions, in.heads, d,
                           w.out + i * d, d);
      }
    }
  };
  const uint32_t end = std::max(in.position + in.tokens, in.seen_until);
  if (kept.sinks > 0) attend_to(0, std::min(kept.sinks, end), [](uint32_t) { return 0u; });
  const uint32_t begin = first_seen(kept, in.position);
  if (begin < end) attend_to(begin, end, [&](uint32_t position) { return first_seen(kept, position); });
  end_queries(b, in, d, w);
}

}  // namespace edgekit
