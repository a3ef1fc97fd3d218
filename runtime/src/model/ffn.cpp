// Feed-forward blocks over bundled rows: neuron i is [gate row i | up row i | down column i], or
// without the gate. Sums are taken in an order that the neurons' numbers fix, so that the result
// depends on neither the number of threads nor on which rows were resident.
#include <algorithm>

#include "model/decoder.h"
#include "model/ops.h"

namespace edgekit {

Outcome Decoder::forward_block(size_t index, const float* x, uint32_t count, Selection& selection, float* out) {
  tokens_ = count;
  selection_ = &selection;
  const size_t hidden = m_.hidden_size, stride = s_.width.hidden;
  for (size_t t = 0; t < count; ++t) std::copy(x + t * hidden, x + (t + 1) * hidden, s_.normed.f32() + t * stride);
  w_.begin_block(index, !reads_whole());
  auto outcome = m_.blocks[index].kind == Block::ffn ? feed_forward(index) : mixture(index);
  if (!outcome.ok()) w_.abandon_pass();
  for (size_t t = 0; t < count; ++t) {
    const float* row = s_.out.f32() + t * stride;
    std::copy(row, row + hidden, out + t * hidden);
  }
  return outcome;
}

Outcome Decoder::forward_matrix(int32_t matrix, const float* x, uint32_t count, float* out) {
  const Matrix& m = w_.matrix(matrix);
  const uint32_t cols = m.parts[0].cols, stride = padded_cols(cols);
  // The input has the residual's width, that of all heads, or the embedding's.
  float* in = stride <= s_.width.hidden ? s_.normed.f32() : stride <= s_.width.q ? s_.mixed.f32() : s_.embedded.f32();
  std::fill(in, in + size_t{count} * stride, 0.0f);
  for (size_t t = 0; t < count; ++t) std::copy(x + t * cols, x + (t + 1) * cols, in + t * stride);
  tokens_ = count;
  w_.begin_matrix(matrix);
  auto outcome = multiply(matrix, in, stride, count, nullptr, out, m.rows);
  if (!outcome.ok()) w_.abandon_pass();
  return outcome;
}

Outcome Decoder::feed_forward(size_t index) {
  const Block& b = m_.blocks[index];
  const size_t stride = s_.width.hidden;
  const float* bias = w_.vector(b.down_bias);
  for (uint32_t t = 0; t < tokens_; ++t) {
    float* out = s_.out.f32() + t * stride;
    for (uint32_t i = 0; i < m_.hidden_size; ++i) out[i] = bias != nullptr ? bias[i] : 0.0f;
  }
  if (selective(b)) return selected(index, s_.normed.f32(), s_.out.f32());
  EK_TRY(neurons(b, b.matrices[0], false, s_.normed.f32(), tokens_, s_.out.f32()));
  note_usage(index, tokens_);
  return Nothing{};
}

// Softmax over all experts, the top k of them, renormalised if the block says so; then each chosen
// expert runs once over the tokens that chose it.
Outcome Decoder::mixture(size_t index) {
  const Block& b = m_.blocks[index];
  const uint32_t n = static_cast<uint32_t>(b.matrices.size()), stride = s_.width.experts;
  const size_t hidden = s_.width.hidden;
  float* router = s_.router.f32();
  EK_TRY(multiply(b.router, s_.normed.f32(), s_.width.hidden, tokens_, nullptr, router, stride));
  std::vector<uint32_t> order(n);
  std::vector<bool> used(n, false);
  for (uint32_t t = 0; t < tokens_; ++t) {
    float* p = router + size_t{t} * stride;
    softmax(p, n);
    for (uint32_t e = 0; e < n; ++e) order[e] = e;
    std::partial_sort(order.begin(), order.begin() + b.top_k, order.end(),
                      [&](uint32_t a, uint32_t c) { return p[a] > p[c] || (p[a] == p[c] && a < c); });
    float total = 0;
    for (uint32_t i = 0; i < b.top_k; ++i) total += p[order[i]];
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t e = order[i];
      p[e] = i >= b.top_k ? 0.0f : b.normalize ? p[e] / total : p[e];
      used[e] = used[e] || i < b.top_k;
    }
  }
  std::vector<int32_t> visits;
  for (uint32_t e = 0; e < n; ++e) {
    if (used[e]) visits.push_back(b.matrices[e]);
  }
  w_.expect(visits);
  if (tokens_ == 1) EK_TRY(look_ahead(index));

  std::fill(s_.out.f32(), s_.out.f32() + tokens_ * hidden, 0.0f);
  for (uint32_t e = 0; e < n; ++e) {
    if (!used[e]) continue;
    uint32_t picked = 0;
    for (uint32_t t = 0; t < tokens_; ++t) {
      if (router[size_t{t} * stride + e] == 0.0f) continue;
      const float* from = s_.normed.f32() + t * hidden;
      std::copy(from, from + hidden, s_.picked_x.f32() + picked++ * hidden);
    }
    std::fill(s_.picked_out.f32(), s_.picked_out.f32() + picked * hidden, 0.0f);
    EK_TRY(neurons(b, b.matrices[e], true, s_.picked_x.f32(), std::max(1u, picked), s_.picked_out.f32()));
    picked = 0;
    for (uint32_t t = 0; t < tokens_; ++t) {
      const float weight = router[size_t{t} * stride + e];
      if (weight == 0.0f) continue;
      const float* from = s_.picked_out.f32() + picked++ * hidden;
      float* out = s_.out.f32() + t * hidden;
      for (size_t i = 0; i < hidden; ++i) out[i] += weight * from[i];
    }
  }
  return Nothing{};
}

Outcome Decoder::neurons(const Block& b, int32_t matrix, bool expert, const float* x, uint32_t tokens, float* out) {
  if (tokens == 1) block_sums(x, s_.width.hidden);
  if (tokens == 1 && expert) {
    uint32_t* rows = reinterpret_cast<uint32_t*>(s_.rows.data());
    for (uint32_t r = 0; r < b.size; ++r) rows[r] = r;
    return gathered(b, matrix, b.size, x, out, [] { return Outcome(Nothing{}); });
  }
  if (b.selector != kNone) EK_TRY(activate_selector(b, x, tokens));
  if (tokens > 1) {
    return w_.visit(matrix, expert, [&](const Rows& rows) -> Outcome {
      project_in(b, rows, x, tokens);
      if (!expert) offer_active(matrix, rows, tokens);
      project_out(rows, rows.matrix->part_count - 1u, tokens, out);
      return Nothing{};
    });
  }
  const size_t width = s_.width.hidden;
  float* sums = s_.slices.f32();  // [kSlices][hidden]
  std::fill(sums, sums + kSlices * width, 0.0f);
  EK_TRY(w_.visit(matrix, expert, [&](const Rows& rows) -> Outcome {
    pool_.parallel_for(kSlices, 1, [&](uint32_t begin, uint32_t end, uint32_t) {
      for (uint32_t s = begin; s < end; ++s) slice(b, rows, s, x, sums + s * width);
    });
    return Nothing{};
  }));
  add_slices(out);
  return Nothing{};
}

// Units that the last tokens of a prompt used are likely to be used again, and are in memory now.
void Decoder::offer_active(int32_t matrix, const Rows& rows, uint32_t tokens) {
  constexpr uint32_t kTokens = 4;
  if (w_.select() != EDGEKIT_SELECT_EXACT && w_.select() != EDGEKIT_SELECT_PREDICTED) return;
  const uint32_t per = rows.matrix->rows_per_unit;
  for (uint32_t r0 = rows.begin; r0 < rows.end; r0 += per) {
    bool active = false;
    for (uint32_t t = tokens - std::min(tokens, kTokens); t < tokens && !active; ++t) {
      const float* h = s_.h.f32() + size_t{t} * s_.width.ffn;
      active = std::any_of(h + r0, h + std::min(r0 + per, rows.end), [](float v) { return v != 0.0f; });
    }
    if (active) w_.offer(matrix, r0 / per, rows.row(r0));
  }
}

void Decoder::add_slices(float* out) {
  const size_t width = s_.width.hidden;
  for (uint32_t s = 0; s < kSlices; ++s) {
    const float* sums = s_.slices.f32() + s * width;
    for (size_t j = 0; j < width; ++j) out[j] += sums[j];
  }
}

Outcome Decoder::activate_selector(const Block& b, const float* x, uint32_t tokens) {
  const uint32_t ldh = s_.width.ffn;
  float* h = s_.h.f32();
  EK_TRY(multiply(b.selector, x, s_.width.hidden, tokens, w_.vector(b.gated ? b.gate_bias : b.up_bias), h, ldh));
  for (uint32_t t = 0; t < tokens; ++t) {
    float* row = h + size_t{t} * ldh;
    for (uint32_t r = 0; r < b.size; ++r) row[r] = activate(b.activation, b.threshold, row[r]);
  }
  return Nothing{};
}

// h of neuron r for one token: act(gate . x) * (up . x). With a selector, h holds its activation.
float Decoder::neuron(const Block& b, const Matrix& m, const uint8_t* row, uint32_t r, const float* x) const {
  const float* up_bias = w_.vector(b.up_bias);
  const float* sums = s_.sums.f32();
  float value;
  uint32_t up = 0;
  if (b.selector != kNone) {
    value = s_.h.f32()[r];
  } else {
    const Part& first = m.parts[0];
    const float* bias = b.gated ? w_.vector(b.gate_bias) : up_bias;
    const float in = kernels_.dot[static_cast<int>(first.codec)](first, row, w_.lut(first, r), x, sums);
    value = activate(b.activation, b.threshold, in + (bias != nullptr ? bias[r] : 0.0f));
    up = 1;
  }
  if (!b.gated || value == 0.0f) return value;
  const Part& second = m.parts[up];
  const float in =
      kernels_.dot[static_cast<int>(second.codec)](second, row + second.offset, w_.lut(second, r), x, sums);
  const float up_value = in + (up_bias != nullptr ? up_bias[r] : 0.0f);
  return value * (b.up_relu ? std::max(up_value, 0.0f) : up_value);
}

// One token: the neurons of a slice, bundle by bundle, so that memory is read once and in order.
// Group g of kSliceRows neurons belongs to slice g % kSlices, whatever piece of the matrix is at hand.
void Decoder::slice(const Block& b, const Rows& rows, uint32_t index, const float* x, float* out) {
  const Part& down = rows.matrix->parts[rows.matrix->part_count - 1];
  const AxpyFn axpy = kernels_.axpy[static_cast<int>(down.codec)];
  const uint32_t span = kSliceRows * kSlices;
  for (uint32_t group = rows.begin / span * span + index * kSliceRows; group < rows.end; group += span) {
    const uint32_t end = std::min(group + kSliceRows, rows.end);
    for (uint32_t r = std::max(group, rows.begin); r < end; ++r) {
      const uint8_t* row = rows.row(r);
      const float value = neuron(b, *rows.matrix, row, r, x);
      s_.h.f32()[r] = value;  // for note_usage
      if (value != 0.0f) axpy(down, row + down.offset, w_.lut(down, r), value, 0, down.cols, out);
    }
  }
}

// h[t][neuron] = act(gate . x + bias) * (up . x + bias), or act(up . x + bias) without a gate. With a
// selector h already holds its activation.
void Decoder::project_in(const Block& b, const Rows& rows, const float* x, uint32_t tokens) {
  const bool activated = b.selector != kNone;
  if (activated && !b.gated) return;
  const uint32_t count = rows.end - rows.begin, ldh = s_.width.ffn, ldx = s_.width.hidden;
  const Part &first = rows.matrix->parts[0], &second = rows.matrix->parts[activated ? 0 : 1];
  const float* first_bias = w_.vector(b.gated ? b.gate_bias : b.up_bias);
  const float* up_bias = w_.vector(b.up_bias);
  float* h = s_.h.f32();
  const auto bias = [](const float* values, uint32_t r) { return values != nullptr ? values[r] : 0.0f; };

  pool_.parallel_for(count, kTileRows, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    float* decoded = tile(worker);
    float* ups = decoded + size_t{kTileRows} * s_.width.widest;  // [step][kTileRows]
    const uint32_t step = s_.width.widest;
    const bool few = tokens <= kFewTokens;
    const auto decode = [&](const Part& p, uint32_t r0, uint32_t n) {
      for (uint32_t i = 0; i < n && !few; ++i) {
        kernels_.decode[static_cast<int>(p.codec)](p, rows.row(r0 + i) + p.offset, w_.lut(p, r0 + i), 0, p.cols,
                                                   decoded + size_t{i} * ldx);
      }
    };
    // Rows r0 ... of a part, decoded if there are many tokens, times x.
    const auto times = [&](const Part& p, uint32_t r0, uint32_t n, const float* in, uint32_t some, float* y,
                           uint32_t ldy) {
      if (!few) return kernels_.gemm(decoded, ldx, n, in, ldx, some, ldx, y, ldy);
      for (uint32_t i = 0; i < n; ++i) {
        kernels_.dots[static_cast<int>(p.codec)](p, rows.row(r0 + i) + p.offset, w_.lut(p, r0 + i), in, ldx, some,
                                                 y + i, ldy);
      }
    };
    for (uint32_t at = begin; at < end; at += kTileRows) {
      const uint32_t n = std::min(kTileRows, end - at), r0 = rows.begin + at;
      if (!activated) {
        decode(first, r0, n);
        times(first, r0, n, x, tokens, h + r0, ldh);
      }
      if (b.gated) decode(second, r0, n);
      for (uint32_t t0 = 0; t0 < tokens; t0 += step) {
        const uint32_t some = std::min(step, tokens - t0);
        if (b.gated) {
          times(second, r0, n, x + size_t{t0} * ldx, some, ups, kTileRows);
        }
        for (uint32_t t = 0; t < some; ++t) {
          float* to = h + size_t{t0 + t} * ldh + r0;
          for (uint32_t i = 0; i < n; ++i) {
            const float value =
                activated ? to[i] : activate(b.activation, b.threshold, to[i] + bias(first_bias, r0 + i));
            const float up = b.gated ? ups[t * kTileRows + i] + bias(up_bias, r0 + i) : 1.0f;
            to[i] = value * (b.up_relu ? std::max(up, 0.0f) : up);
          }
        }
      }
    }
  });
}

// out[t] += sum of h[t][neuron] * down column; threads share the columns, not the neurons.
void Decoder::project_out(const Rows& rows, uint32_t part, uint32_t tokens, float* out) {
  const Part& p = rows.matrix->parts[part];
  const int codec = static_cast<int>(p.codec);
  const uint32_t blocks = padded_cols(p.cols) / kBlock, ldh = s_.width.ffn, ldo = s_.width.hidden;
  const float* h = s_.h.f32();
  // Long runs of each row are decoded, as memory likes; narrow ones are added up, so that they stay in the cache.
  constexpr uint32_t kNarrow = 8 * kBlock;
  const uint32_t grain = (blocks + pool_.size() - 1) / pool_.size();
  pool_.parallel_for(blocks, grain, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    const uint32_t c0 = begin * kBlock, c1 = std::min(end * kBlock, p.cols);
    const uint32_t width = padded_cols(c1 - c0);
    float* decoded = tile(worker);
    for (uint32_t r0 = rows.begin; r0 < rows.end; r0 += kTileNeurons) {
      const uint32_t n = std::min(kTileNeurons, rows.end - r0);
      for (uint32_t i = 0; i < n; ++i) {
        kernels_.decode[codec](p, rows.row(r0 + i) + p.offset, w_.lut(p, r0 + i), c0, c1, decoded + size_t{i} * width);
      }
      for (uint32_t c = 0; c < width; c += kNarrow) {
        kernels_.accumulate(decoded + c, width, n, h + r0, ldh, tokens, std::min(kNarrow, width - c), out + c0 + c,
                            ldo);
      }
    }
  });
}

}  // namespace edgekit
