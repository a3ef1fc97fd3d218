#include "model/low_rank.h"

#include <algorithm>

namespace edgekit {

namespace {
constexpr uint32_t kGrain = 8 * kBlock;
}  // namespace

// inner[t] [rank] = down x[t]. Kernels take whole blocks of columns; what is left is added one by one.
void LowRankSums::shrink(const LowRank& v, const float* x, uint32_t ldx, uint32_t tokens) {
  const uint32_t whole = v.inputs / kBlock * kBlock, stride = static_cast<uint32_t>(s_.low_rank.columns());
  float* inner = s_.low_rank.data();
  pool_.parallel_for(v.rank, kTileRows, [&](uint32_t begin, uint32_t end, uint32_t) {
    const float* rows = v.down + size_t{begin} * v.inputs;
    kernels_.gemm(rows, v.inputs, end - begin, x, ldx, tokens, whole, inner + begin, stride);
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t j = begin; j < end; ++j) {
        const float *row = v.down + size_t{j} * v.inputs, *in = x + size_t{t} * ldx;
        for (uint32_t i = whole; i < v.inputs; ++i) inner[size_t{t} * stride + j] += row[i] * in[i];
      }
    }
  });
}

// row_of(t): where the sums of token t are [outputs].
template <class RowOf>
void LowRankSums::add_rows(const LowRank& v, const float* x, uint32_t ldx, uint32_t tokens, const RowOf& row_of) {
  shrink(v, x, ldx, tokens);
  pool_.parallel_for(v.outputs, kGrain, [&](uint32_t begin, uint32_t end, uint32_t) {
    const uint32_t whole = (end - begin) / kBlock * kBlock;
    for (uint32_t t = 0; t < tokens; ++t) {
      const float* inner = s_.low_rank.row(t);
      float* y = row_of(t);
      kernels_.accumulate(v.up + begin, v.outputs, v.rank, inner, 0, 1, whole, y + begin, 0);
      for (uint32_t j = 0; j < v.rank; ++j) {
        const float* up = v.up + size_t{j} * v.outputs;
        for (uint32_t r = begin + whole; r < end; ++r) y[r] += inner[j] * up[r];
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
