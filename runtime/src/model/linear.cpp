#include "model/linear.h"

#include <algorithm>

namespace edgekit {

namespace {
// Rows that a thread takes at a time: a few long runs, as memory is read fastest from end to end.
uint32_t rows_at_a_time(const Rows& rows, const ThreadPool& pool) {
  return std::max(16u, (rows.end - rows.begin) / (4 * pool.size()));
}
}  // namespace

void Linear::sum_blocks(const float* x, uint32_t width) {
  float* sums = s_.sums.data();
  for (uint32_t b = 0; b * kBlock < width; ++b) {
    float total = 0;
    for (uint32_t i = 0; i < kBlock; ++i) total += x[b * kBlock + i];
    sums[b] = total;
  }
}

void Linear::show_input(int32_t matrix, uint32_t part, const float* x, uint32_t ldx, uint32_t tokens) const {
  if (tapped_ == nullptr || tapped_->capture_inputs == nullptr || tokens < 2) return;
  tapped_->capture_inputs(static_cast<uint32_t>(matrix), part, x, tokens, ldx, tapped_->capture_inputs_user);
}

Outcome Linear::multiply(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                         uint32_t ldy) {
  EK_TRY(w_.poll());
  show_input(matrix, 0, x, ldx, tokens);
  if (tokens == 1) sum_blocks(x, padded_cols(w_.matrix(matrix).parts[0].cols));
  return w_.visit(matrix, false, [&](const Rows& rows) -> Outcome {
    if (tokens == 1) {
      multiply_one(rows, x, bias, y);
    } else {
      multiply_rows(rows, x, ldx, tokens, bias, y, ldy);
    }
    return Nothing{};
  });
}

// x [columns], y [rows of the matrix].
void Linear::multiply_one(const Rows& rows, const float* x, const float* bias, float* y) {
  const Part& p = rows.matrix->parts[0];
  const DotFn dot = kernels_.dot[static_cast<int>(p.codec)];
  const auto body = [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t r = rows.begin + begin; r < rows.begin + end; ++r) {
      const float sum = dot(p, rows.row(r), w_.lut(p, r), x, s_.sums.data());
      y[r] = bias != nullptr ? sum + bias[r] : sum;
    }
  };
  pool_.parallel_for(rows.end - rows.begin, rows_at_a_time(rows, pool_), body);
}

void Linear::multiply_rows(const Rows& rows, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                           uint32_t ldy) {
  const Part& p = rows.matrix->parts[0];
  const int codec = static_cast<int>(p.codec);
  const uint32_t count = rows.end - rows.begin, padded = padded_cols(p.cols);
  if (tokens <= kFewTokens) {
    pool_.parallel_for(count, rows_at_a_time(rows, pool_), [&](uint32_t begin, uint32_t end, uint32_t) {
      for (uint32_t r = rows.begin + begin; r < rows.begin + end; ++r) {
        kernels_.dots[codec](p, rows.row(r), w_.lut(p, r), x, ldx, tokens, y + r, ldy);
        for (uint32_t t = 0; t < tokens && bias != nullptr; ++t) y[size_t{t} * ldy + r] += bias[r];
      }
    });
    return;
  }
  pool_.parallel_for(count, kTileRows, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    float* decoded = s_.tiles.plane(worker);  // [kTileRows][padded]
    for (uint32_t first = begin; first < end; first += kTileRows) {
      const uint32_t n = std::min(kTileRows, end - first), r0 = rows.begin + first;
      for (uint32_t i = 0; i < n; ++i) {
        kernels_.decode[codec](p, rows.row(r0 + i), w_.lut(p, r0 + i), 0, p.cols, decoded + size_t{i} * padded);
      }
      kernels_.gemm(decoded, padded, n, x, ldx, tokens, padded, y + r0, ldy);
      for (uint32_t t = 0; t < tokens && bias != nullptr; ++t) {
        for (uint32_t i = 0; i < n; ++i) y[size_t{t} * ldy + r0 + i] += bias[r0 + i];
      }
    }
  });
}

}  // namespace edgekit
