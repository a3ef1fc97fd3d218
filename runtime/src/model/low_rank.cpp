#include "model/low_rank.h"

#include <algorithm>

namespace edgekit {

namespace {
constexpr uint32_t kLanes = 16, kGrain = 512;

// Sums side by side, in an order that depends on n alone.
float dot(const float* a, const float* b, uint32_t n) {
  float lanes[kLanes] = {};
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (uint32_t j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  float sum = 0;
  for (float lane : lanes) sum += lane;
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
}  // namespace

// row_of(t): where the sums of token t are [outputs].
template <class RowOf>
void LowRankSums::add_rows(const LowRank& v, const float* x, uint32_t ldx, uint32_t tokens, const RowOf& row_of) {
  pool_.parallel_for(tokens * v.rank, 4, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t i = begin; i < end; ++i) {
      const uint32_t t = i / v.rank, j = i % v.rank;
      s_.low_rank.row(t)[j] = dot(v.down + size_t{j} * v.inputs, x + size_t{t} * ldx, v.inputs);
    }
  });
  pool_.parallel_for(v.outputs, kGrain, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t t = 0; t < tokens; ++t) {
      const float* inner = s_.low_rank.row(t);
      float* y = row_of(t);
      for (uint32_t j = 0; j < v.rank; ++j) {
        const float* up = v.up + size_t{j} * v.outputs;
        for (uint32_t r = begin; r < end; ++r) y[r] += inner[j] * up[r];
      }
    }
  });
}

void LowRankSums::add(int32_t matrix, uint32_t part, const float* x, uint32_t ldx, uint32_t tokens, float* y,
                      uint32_t ldy) {
  const LowRank* found = adapter_ != nullptr ? adapter_->find(matrix, part) : nullptr;
  if (found != nullptr) add_rows(*found, x, ldx, tokens, [&](uint32_t t) { return y + size_t{t} * ldy; });
}

void LowRankSums::add_to_each(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, float* const* y) {
  const LowRank* found = adapter_ != nullptr ? adapter_->find(matrix, 0) : nullptr;
  if (found != nullptr) add_rows(*found, x, ldx, tokens, [&](uint32_t t) { return y[t]; });
}

void LowRankSums::begin_neurons(int32_t matrix, uint32_t parts, const float* x, uint32_t ldx, uint32_t tokens) {
  end_neurons();
  for (uint32_t part = 0; adapter_ != nullptr && part + 1 < parts; ++part) {
    const LowRank* found = adapter_->find(matrix, part);
    if (found == nullptr) continue;
    float* sums = s_.low_rank_neurons.plane(part);
    for (uint32_t t = 0; t < tokens; ++t) std::fill_n(sums + size_t{t} * s_.width.ffn, found->outputs, 0.0f);
    add_rows(*found, x, ldx, tokens, [&](uint32_t t) { return sums + size_t{t} * s_.width.ffn; });
    active_[part] = true;
  }
}

}  // namespace edgekit
