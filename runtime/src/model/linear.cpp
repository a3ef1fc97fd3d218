#include "model/linear.h"

#include <algorithm>

#include "model/pass.h"

namespace edgekit {

namespace {
constexpr uint32_t kRowsAhead = 2;  // of one that is multiplied are asked for: the hardware stops at every page's end

// Rows that a thread takes at a time: a few long runs, as memory is read fastest from end to end.
uint32_t rows_at_a_time(const Rows& rows, const ThreadPool& pool) {
  return std::max(16u, (rows.end - rows.begin) / (4 * pool.size()));
}
}  // namespace

Tile::Tile(const Linear& linear, const Part& part, const Rows& rows, uint32_t r0, uint32_t n, uint32_t tokens,
           float* memory)
    : linear_(linear), part_(part), count_(n), memory_(memory) {
  const bool integers = linear.integers(part);
  const int codec = static_cast<int>(part.codec);
  const size_t padded = padded_cols(part.cols);
  for (uint32_t i = 0; i < n; ++i) {
    rows_[i] = rows.row(r0 + i) + part.offset;
    luts_[i] = linear.w_.lut(part, r0 + i);
  }
  one_ = tokens == 1;
  few_ = tokens <= (integers ? kFewIntegerTokens : kFewTokens);
  if (few_) return;
  if (integers) {
    static_assert(kTileRows == kPanelRows && kPanelRows * (kBlock + 8) <= kTileRows * kBlock * sizeof(float));
    auto* bytes = reinterpret_cast<uint8_t*>(memory);
    panel_.weights = bytes;
    panel_.scales = reinterpret_cast<float*>(bytes + padded * kPanelRows);
    panel_.biases = panel_.scales + padded / kBlock * kPanelRows;
    linear.kernels_.integers->fill_panel[codec](part, rows_, luts_, n, panel_);
    return;
  }
  for (uint32_t i = 0; i < n; ++i) {
    linear.kernels_.decode[codec](part, rows_[i], luts_[i], 0, part.cols, memory + i * padded);
  }
}

void Tile::multiply(const float* x, uint32_t ldx, uint32_t first, uint32_t count, float* y, uint32_t ldy) const {
  if (linear_.integers(part_)) return multiply_integers(first, count, y, ldy);
  const uint32_t padded = padded_cols(part_.cols);
  const float* in = x + size_t{first} * ldx;
  if (!few_) return linear_.kernels_.gemm(memory_, padded, count_, in, ldx, count, padded, y, ldy);
  const DotsFn dots = linear_.kernels_.dots[static_cast<int>(part_.codec)];
  for (uint32_t i = 0; i < count_; ++i) {
    if (i + 1 < count_) ask_for(rows_[i + 1], part_.bytes);
    dots(part_, rows_[i], luts_[i], in, ldx, count, y + i, ldy);
  }
}

void Tile::multiply_integers(uint32_t first, uint32_t count, float* y, uint32_t ldy) const {
  const IntegerKernels& kernels = *linear_.kernels_.integers;
  const size_t padded = padded_cols(part_.cols), stride = quantized_bytes(padded);
  const uint8_t* in = linear_.s_.quantized.data() + first * stride;
  if (!few_) return kernels.multiply_panel(panel_, padded, count_, in, stride, count, y, ldy);
  const int codec = static_cast<int>(part_.codec);
  for (uint32_t i = 0; i < count_; ++i) {
    if (i + 1 < count_) ask_for(rows_[i + 1], part_.bytes);
    if (one_) {
      kernels.dot[codec](part_, rows_[i], luts_[i], in, y + i);
    } else {
      kernels.dots[codec](part_, rows_[i], luts_[i], in, stride, count, y + i, ldy);
    }
  }
}

void Linear::prepare(const float* x, uint32_t ldx, uint32_t tokens, uint32_t width) {
  if (width > s_.width.quantized) return;  // no matrix with an input of this width wants them
  constexpr uint32_t kGrain = 8;
  const size_t stride = quantized_bytes(width);
  const IntegerKernels& kernels = *kernels_.integers;
  auto arrange = tokens == 1 ? kernels.arrange_one : kernels.arrange;
  if (tokens > kFewIntegerTokens) arrange = nullptr;  // panels take them as they are
  pool_.parallel_for(tokens, kGrain, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t t = begin; t < end; ++t) {
      uint8_t* to = s_.quantized.data() + t * stride;
      kernels.quantize(x + size_t{t} * ldx, width, to);
      if (arrange != nullptr) arrange(width, to);
    }
  });
}

float Linear::dot(const Part& p, const uint8_t* row, uint32_t r, const float* x) const {
  const int codec = static_cast<int>(p.codec);
  float y;
  if (integers(p)) {
    kernels_.integers->dot[codec](p, row, w_.lut(p, r), s_.quantized.data(), &y);
  } else {
    kernels_.dots[codec](p, row, w_.lut(p, r), x, 0, 1, &y, 1);
  }
  return y;
}

void Linear::show_input(int32_t matrix, uint32_t part, const float* x, uint32_t ldx, uint32_t tokens) const {
  if (tapped_ == nullptr || tapped_->capture_inputs == nullptr || tokens < 2) return;
  tapped_->capture_inputs(static_cast<uint32_t>(matrix), part, x, tokens, ldx, tapped_->capture_inputs_user);
}

Outcome Linear::multiply(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                         uint32_t ldy) {
  EK_TRY(w_.poll());
  show_input(matrix, 0, x, ldx, tokens);
  prepare(x, ldx, tokens, padded_cols(w_.matrix(matrix).parts[0].cols));
  EK_TRY(w_.visit(matrix, false, [&](const Rows& rows) -> Outcome {
    if (tokens == 1) {
      multiply_one(rows, x, bias, y);
    } else {
      multiply_rows(rows, x, ldx, tokens, bias, y, ldy);
    }
    return Nothing{};
  }));
  low_rank_.add(matrix, 0, x, ldx, tokens, y, ldy);
  return Nothing{};
}

Outcome Linear::multiply_to_each(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias,
                                 float* const* y) {
  EK_TRY(w_.poll());
  prepare(x, ldx, tokens, padded_cols(w_.matrix(matrix).parts[0].cols));
  EK_TRY(w_.visit(matrix, false, [&](const Rows& rows) -> Outcome {
    for_each_tile(rows, tokens, [&](const Tile& tile, uint32_t r0, uint32_t n) {
      float products[kMostTexts * kTileRows];
      tile.multiply(x, ldx, 0, tokens, products, kTileRows);
      for (uint32_t t = 0; t < tokens; ++t) {
        for (uint32_t i = 0; i < n; ++i) {
          y[t][r0 + i] = products[t * kTileRows + i] + (bias != nullptr ? bias[r0 + i] : 0.0f);
        }
      }
    });
    return Nothing{};
  }));
  low_rank_.add_to_each(matrix, x, ldx, tokens, y);
  return Nothing{};
}

// x [columns], y [rows of the matrix].
void Linear::multiply_one(const Rows& rows, const float* x, const float* bias, float* y) {
  const Part& p = rows.matrix->parts[0];
  const auto body = [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t r = rows.begin + begin; r < rows.begin + end; ++r) {
      if (r + kRowsAhead < rows.begin + end) ask_for(rows.row(r + kRowsAhead), p.bytes);
      const float sum = dot(p, rows.row(r), r, x);
      y[r] = bias != nullptr ? sum + bias[r] : sum;
    }
  };
  pool_.parallel_for(rows.end - rows.begin, rows_at_a_time(rows, pool_), body);
}

void Linear::multiply_rows(const Rows& rows, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                           uint32_t ldy) {
  for_each_tile(rows, tokens, [&](const Tile& tile, uint32_t r0, uint32_t n) {
    tile.multiply(x, ldx, 0, tokens, y + r0, ldy);
    for (uint32_t t = 0; t < tokens && bias != nullptr; ++t) {
      for (uint32_t i = 0; i < n; ++i) y[size_t{t} * ldy + r0 + i] += bias[r0 + i];
    }
  });
}

// body(tile, its first row, its rows), on all threads.
template <class Body>
void Linear::for_each_tile(const Rows& rows, uint32_t tokens, const Body& body) {
  const uint32_t grain = tokens <= kFewTokens ? rows_at_a_time(rows, pool_) : kTileRows;
  pool_.parallel_for(rows.end - rows.begin, grain, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    for (uint32_t at = begin; at < end; at += kTileRows) {
      const uint32_t n = std::min(kTileRows, end - at), r0 = rows.begin + at;
      body(Tile(*this, rows.matrix->parts[0], rows, r0, n, tokens, s_.tiles.plane(worker)), r0, n);
    }
  });
}

}  // namespace edgekit
