#include "model/neurons.h"

#include <algorithm>
#include <cmath>

#include "model/ops.h"

namespace edgekit {

namespace {

// Weighted rows from all over memory on their way to columns [c0, c1) of the sums [tokens][ldo]: kernels add several at
// once.
class Addition {
 public:
  Addition(const Part& part, AddRowsFn add_rows, uint32_t tokens, uint32_t c0, uint32_t c1, float* sums, size_t ldo)
      : part_(part), add_rows_(add_rows), tokens_(tokens), c0_(c0), c1_(c1), sums_(sums), ldo_(ldo) {}
  // h: the first token's weight; the others' follow at a distance of ldh. Rows that no token wants are left out.
  void add(const uint8_t* row, const uint16_t* lut, const float* h, size_t ldh) {
    bool counts = false;
    for (uint32_t t = 0; t < tokens_; ++t) {
      h_[t][count_] = h[t * ldh];
      counts = counts || h[t * ldh] != 0.0f;
    }
    if (!counts) return;
    rows_[count_] = row;
    luts_[count_] = lut;
    if (++count_ == kMost) finish();
  }
  void finish() {
    add_rows_(part_, rows_, luts_, count_, h_[0], kMost, tokens_, c0_, c1_, sums_, ldo_);
    count_ = 0;
  }

 private:
  static constexpr uint32_t kMost = 4;
  const Part& part_;
  const AddRowsFn add_rows_;
  const uint32_t tokens_, c0_, c1_;
  float* sums_;
  const size_t ldo_;
  const uint8_t* rows_[kMost];
  const uint16_t* luts_[kMost];
  float h_[kFewTokens][kMost];
  uint32_t count_ = 0;
};

constexpr uint32_t kAhead = 8;  // rows that are asked for before they are added

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

float Neurons::value(const Block& b, const Matrix& m, const uint8_t* row, uint32_t r, const float* x,
                     uint32_t expert) const {
  const size_t neuron = size_t{expert} * b.size + r;  // in biases
  const float* up_bias = w_.vector(b.up_bias);
  float value;
  uint32_t up = 0;
  if (b.selector != kNone) {
    value = s_.h[r];
  } else {
    const Part& first = m.parts[0];
    const float* bias = b.gated ? w_.vector(b.gate_bias) : up_bias;
    const float in = linear_.dot(first, row, r, x);
    const float* more = linear_.low_rank().of_neurons(0, 0);
    value = activate_gate(b, in + (bias != nullptr ? bias[neuron] : 0.0f) + (more != nullptr ? more[r] : 0.0f));
    up = 1;
  }
  if (!b.gated || value == 0.0f) return value;
  const Part& second = m.parts[up];
  const float in = linear_.dot(second, row + second.offset, r, x);
  const float* more = linear_.low_rank().of_neurons(up, 0);
  const float wide = in + (up_bias != nullptr ? up_bias[neuron] : 0.0f) + (more != nullptr ? more[r] : 0.0f);
  return weighted(b, 0, r, value * limit_up(b, wide));
}

void Neurons::begin_norm(const Block& b, uint32_t tokens) {
  if (b.down_norm.kind == Norm::none) return;
  for (uint32_t t = 0; t < tokens; ++t) std::fill_n(s_.unweighted.row(t), b.size, 0.0f);  // some may be left out
}

void Neurons::end_norm(const Block& b, uint32_t tokens, float* out) {
  if (b.down_norm.kind == Norm::none) return;
  const float* bias = w_.vector(b.down_bias);
  for (uint32_t t = 0; t < tokens; ++t) {
    const float* value = s_.unweighted.row(t);
    double squares = 0;
    for (uint32_t r = 0; r < b.size; ++r) squares += double{value[r]} * double{value[r]};
    const float scale = static_cast<float>(1 / std::sqrt(squares / b.size + double{b.down_norm.eps}));
    float *h = s_.h.row(t), *to = out + size_t{t} * s_.width.hidden;
    for (uint32_t r = 0; r < b.size; ++r) h[r] *= scale;
    for (uint32_t j = 0; j < w_.manifest().hidden_size; ++j) {
      to[j] = to[j] * scale + (bias != nullptr ? bias[j] : 0.0f);
    }
  }
}

void Neurons::begin_output(uint32_t tokens) {
  open_group_ = 0;
  std::fill_n(s_.open_sum.data(), size_t{tokens} * s_.width.hidden, 0.0f);
}

void Neurons::end_output(uint32_t tokens, float* out) { close(tokens, 0, s_.width.hidden, out); }

// The sum of the open group goes to the output, and the next one can begin; for columns [c0, c1).
void Neurons::close(uint32_t tokens, uint32_t c0, uint32_t c1, float* out) {
  for (uint32_t t = 0; t < tokens; ++t) {
    float *sums = s_.open_sum.row(t), *to = out + size_t{t} * s_.width.hidden;
    for (uint32_t j = c0; j < c1; ++j) to[j] += sums[j];
    std::fill(sums + c0, sums + c1, 0.0f);
  }
}

// One token: threads take groups. number_at(i): the number of neuron i < count, ascending; add_group(begin, end, sums)
// adds neurons [begin, end), which are of one group, to sums [hidden].
template <class NumberAt, class AddGroup>
void Neurons::add_groups(uint32_t count, const NumberAt& number_at, const AddGroup& add_group, float* out) {
  const uint32_t width = s_.width.hidden;
  for (uint32_t at = 0; at < count;) {
    uint32_t starts[kGroupSums + 1], groups = 0;
    for (; at < count && groups < kGroupSums; ++groups) {
      starts[groups] = at;
      const uint32_t next = (number_at(at) / kGroupNeurons + 1) * kGroupNeurons;
      for (uint32_t last = std::min(count, at + kGroupNeurons); at < last;) {  // the first neuron of another group
        const uint32_t middle = at + (last - at) / 2;
        if (number_at(middle) < next) {
          at = middle + 1;
        } else {
          last = middle;
        }
      }
    }
    starts[groups] = at;
    if (opens(number_at(starts[0]))) close(1, 0, width, out);
    std::copy_n(s_.open_sum.data(), width, s_.group_sums.data());  // the first may go on with the open one
    pool_.parallel_for(groups, 1, [&](uint32_t begin, uint32_t end, uint32_t) {
      for (uint32_t g = begin; g < end; ++g) {
        float* sums = s_.group_sums.row(g);
        if (g > 0) std::fill_n(sums, width, 0.0f);
        add_group(starts[g], starts[g + 1], sums);
      }
    });
    for (uint32_t g = 0; g + 1 < groups; ++g) {
      const float* sums = s_.group_sums.row(g);
      for (uint32_t j = 0; j < width; ++j) out[j] += sums[j];
    }
    std::copy_n(s_.group_sums.row(groups - 1), width, s_.open_sum.data());  // more of it may follow
    open_group_ = number_at(starts[groups - 1]) / kGroupNeurons;
  }
}

void Neurons::add_rows(const Block& b, const Rows& rows, const float* x, uint32_t expert, float* out) {
  const Part& down = rows.matrix->parts[rows.matrix->part_count - 1];
  const AddRowsFn add_rows = kernels_.add_rows[static_cast<int>(down.codec)];
  const auto add_group = [&](uint32_t begin, uint32_t end, float* sums) {
    for (uint32_t r = rows.begin + begin; r < rows.begin + end; ++r) {
      const uint8_t* row = rows.row(r);
      if (r + 1 < rows.begin + end) ask_for(rows.row(r + 1), down.offset + down.bytes);
      const float v = value(b, *rows.matrix, row, r, x, expert);
      s_.h[r] = v;
      // At once, as its row is read from end to end then: memory is faster that way than sums of several rows are.
      const uint8_t* at = row + down.offset;
      const uint16_t* lut = w_.lut(down, r);
      if (v != 0.0f) add_rows(down, &at, &lut, 1, &v, 0, 1, 0, down.cols, sums, 0);
    }
  };
  add_groups(rows.end - rows.begin, [&](uint32_t i) { return rows.begin + i; }, add_group, out);
}

void Neurons::add_chosen(const Matrix& m, const uint32_t* rows, const uint8_t* const* at, uint32_t begin, uint32_t end,
                         float* out) {
  const Part& down = m.parts[m.part_count - 1];
  const AddRowsFn add_rows = kernels_.add_rows[static_cast<int>(down.codec)];
  const auto add_group = [&](uint32_t first, uint32_t last, float* sums) {
    Addition addition(down, add_rows, 1, 0, down.cols, sums, 0);
    for (uint32_t i = begin + first; i < begin + last; ++i) {
      addition.add(at[i] + down.offset, w_.lut(down, rows[i]), s_.h.data() + rows[i], 0);
    }
    addition.finish();
  };
  add_groups(end - begin, [&](uint32_t i) { return rows[begin + i]; }, add_group, out);
}

// Several tokens: threads share the columns.
void Neurons::add_down(const Rows& rows, uint32_t tokens, float* out) {
  const Part& down = rows.matrix->parts[rows.matrix->part_count - 1];
  const uint32_t blocks = padded_cols(down.cols) / kBlock, grain = (blocks + pool_.size() - 1) / pool_.size();
  pool_.parallel_for(blocks, grain, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    if (tokens <= kFewTokens) return add_few(rows, tokens, begin, end, out);
    add_many(rows, tokens, begin, end, s_.tiles.plane(worker), out);
  });
  if (rows.end > rows.begin) open_group_ = (rows.end - 1) / kGroupNeurons;
}

// Blocks [begin, end) of the columns.
void Neurons::add_few(const Rows& rows, uint32_t tokens, uint32_t begin, uint32_t end, float* out) {
  const Part& down = rows.matrix->parts[rows.matrix->part_count - 1];
  const uint32_t c0 = begin * kBlock, c1 = std::min(end * kBlock, down.cols), last = rows.end - 1;
  Addition addition(down, kernels_.add_rows[static_cast<int>(down.codec)], tokens, c0, c1, s_.open_sum.data(),
                    s_.width.hidden);
  for (uint32_t r = rows.begin; r < rows.end; ++r) {
    if (r % kGroupNeurons == 0 || (r == rows.begin && opens(r))) {
      addition.finish();
      close(tokens, c0, c1, out);
    }
    ask_for_columns(down, rows.row(std::min(r + kAhead, last)) + down.offset, begin, end);
    addition.add(rows.row(r) + down.offset, w_.lut(down, r), s_.h.data() + r, s_.width.ffn);
  }
  addition.finish();
}

// The same with rows decoded to `decoded` [kTileNeurons][columns]. Long runs of each are decoded, as memory likes;
// narrow ones are added up, so that they stay in the cache.
void Neurons::add_many(const Rows& rows, uint32_t tokens, uint32_t begin, uint32_t end, float* decoded, float* out) {
  constexpr uint32_t kNarrow = 8 * kBlock;
  const Part& down = rows.matrix->parts[rows.matrix->part_count - 1];
  const uint32_t c0 = begin * kBlock, c1 = std::min(end * kBlock, down.cols), width = padded_cols(c1 - c0);
  const DecodeFn decode = kernels_.decode[static_cast<int>(down.codec)];
  for (uint32_t r0 = rows.begin; r0 < rows.end;) {
    if (r0 % kGroupNeurons == 0 || (r0 == rows.begin && opens(r0))) close(tokens, c0, c1, out);
    const uint32_t n = std::min({kTileNeurons, rows.end - r0, kGroupNeurons - r0 % kGroupNeurons});
    for (uint32_t i = 0; i < n; ++i) {
      decode(down, rows.row(r0 + i) + down.offset, w_.lut(down, r0 + i), c0, c1, decoded + size_t{i} * width);
    }
    for (uint32_t c = 0; c < width; c += kNarrow) {
      kernels_.accumulate(decoded + c, width, n, s_.h.data() + r0, s_.width.ffn, tokens, std::min(kNarrow, width - c),
                          s_.open_sum.data() + c0 + c, s_.width.hidden);
    }
    r0 += n;
  }
}

}  // namespace edgekit
