#include "model/neurons.h"

#include <algorithm>

#include "model/ops.h"

namespace edgekit {

namespace {

// Weighted rows from all over memory on their way to the sums [cols]: kernels add several at once.
class Addition {
 public:
  Addition(const Part& part, AddRowsFn add_rows, float* sums) : part_(part), add_rows_(add_rows), sums_(sums) {}
  void add(const uint8_t* row, const uint16_t* lut, float h) {
    rows_[count_] = row;
    luts_[count_] = lut;
    h_[count_] = h;
    if (++count_ == kMost) finish();
  }
  void finish() {
    add_rows_(part_, rows_, luts_, count_, h_, 0, 1, 0, part_.cols, sums_, 0);
    count_ = 0;
  }

 private:
  static constexpr uint32_t kMost = 4;
  const Part& part_;
  const AddRowsFn add_rows_;
  float* sums_;
  const uint8_t* rows_[kMost];
  const uint16_t* luts_[kMost];
  float h_[kMost];
  uint32_t count_ = 0;
};

}  // namespace

Outcome Neurons::activate_selector(const Block& b, const float* x, uint32_t tokens) {
  const float* bias = w_.vector(b.gated ? b.gate_bias : b.up_bias);
  EK_TRY(linear_.multiply(b.selector, x, s_.width.hidden, tokens, bias, s_.h.data(), s_.width.ffn));
  for (uint32_t t = 0; t < tokens; ++t) {
    float* h = s_.h.row(t);
    for (uint32_t r = 0; r < b.size; ++r) h[r] = activate_gate(b, h[r]);
  }
  return Nothing{};
}

float Neurons::value(const Block& b, const Matrix& m, const uint8_t* row, uint32_t r, const float* x, uint32_t expert,
                     uint32_t t) const {
  const size_t neuron = size_t{expert} * b.size + r;  // in biases
  const float* up_bias = w_.vector(b.up_bias);
  float value;
  uint32_t up = 0;
  if (b.selector != kNone) {
    value = s_.h.row(t)[r];
  } else {
    const Part& first = m.parts[0];
    const float* bias = b.gated ? w_.vector(b.gate_bias) : up_bias;
    const float in = linear_.dot(first, row, r, x, t);
    value = activate_gate(b, in + (bias != nullptr ? bias[neuron] : 0.0f));
    up = 1;
  }
  if (!b.gated || value == 0.0f) return value;
  const Part& second = m.parts[up];
  const float in = linear_.dot(second, row + second.offset, r, x, t);
  return value * limit_up(b, in + (up_bias != nullptr ? up_bias[neuron] : 0.0f));
}

void Neurons::clear_slices(uint32_t tokens) {
  std::fill_n(s_.slices.data(), size_t{tokens} * kSlices * s_.width.hidden, 0.0f);
}

void Neurons::add_rows(const Block& b, const Rows& rows, const float* x, uint32_t tokens, uint32_t expert) {
  pool_.parallel_for(kSlices, 1, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t i = begin; i < end; ++i) add_slice(b, rows, i, x, tokens, expert);
  });
}

// The neurons of a slice, row by row and a group of them for each token, so that memory is read once and in order.
void Neurons::add_slice(const Block& b, const Rows& rows, uint32_t index, const float* x, uint32_t tokens,
                        uint32_t expert) {
  const Part& down = rows.matrix->parts[rows.matrix->part_count - 1];
  const AddRowsFn add_rows = kernels_.add_rows[static_cast<int>(down.codec)];
  const uint32_t span = kSliceRows * kSlices;
  for (uint32_t group = rows.begin / span * span + index * kSliceRows; group < rows.end; group += span) {
    const uint32_t end = std::min(group + kSliceRows, rows.end);
    for (uint32_t t = 0; t < tokens; ++t) {
      const float* in = x + size_t{t} * s_.width.hidden;
      float *sums = s_.slices.row(size_t{t} * kSlices + index), *h = s_.h.row(t);
      for (uint32_t r = std::max(group, rows.begin); r < end; ++r) {
        const uint8_t* row = rows.row(r);
        const float v = value(b, *rows.matrix, row, r, in, expert, t);
        h[r] = v;  // selection by prompt counts it
        // At once, as its row is read from end to end then: memory is faster that way than sums of several rows are.
        const uint8_t* at = row + down.offset;
        const uint16_t* lut = w_.lut(down, r);
        if (v != 0.0f) add_rows(down, &at, &lut, 1, &v, 0, 1, 0, down.cols, sums, 0);
      }
    }
  }
}

void Neurons::add_chosen(const Matrix& m, const uint32_t* rows, const uint8_t* const* at, uint32_t begin,
                         uint32_t end) {
  const Part& down = m.parts[m.part_count - 1];
  const AddRowsFn add_rows = kernels_.add_rows[static_cast<int>(down.codec)];
  const uint32_t* last = rows + end;
  const float* h = s_.h.data();
  pool_.parallel_for(kSlices, 1, [&](uint32_t first_slice, uint32_t last_slice, uint32_t) {
    for (uint32_t s = first_slice; s < last_slice; ++s) {
      Addition addition(down, add_rows, s_.slices.row(s));
      const uint32_t* r = rows + begin;
      for (uint32_t group = s * kSliceRows; r != last; group += kSliceRows * kSlices) {
        r = std::lower_bound(r, last, group);
        for (; r != last && *r < group + kSliceRows; ++r) {
          if (h[*r] != 0.0f) addition.add(at[r - rows] + down.offset, w_.lut(down, *r), h[*r]);
        }
      }
      addition.finish();
    }
  });
}

void Neurons::add_slices(uint32_t tokens, float* out) const {
  const size_t width = s_.width.hidden;
  for (size_t i = 0; i < size_t{tokens} * kSlices; ++i) {
    const float* sums = s_.slices.row(i);
    float* to = out + i / kSlices * width;
    for (size_t j = 0; j < width; ++j) to[j] += sums[j];
  }
}

}  // namespace edgekit
