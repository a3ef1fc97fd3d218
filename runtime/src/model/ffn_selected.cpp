// Feed-forward blocks of which one token gets only some neurons. Which, is the selection's business;
// their values and the order of sums are those of ffn.cpp, so leaving out neurons whose value is zero
// changes no bit of the result.
#include <algorithm>
#include <cmath>
#include <functional>

#include "core/clock.h"
#include "model/decoder.h"
#include "model/ops.h"
#include "select/select.h"

namespace edgekit {

namespace {
uint32_t* u32(Buffer& buffer) { return reinterpret_cast<uint32_t*>(buffer.data()); }
}  // namespace

bool Decoder::selective(const Block& b) const { return selects(b, w_.select()) && !reads_whole(); }

// Selection by prompt needs all neurons of the prompt, also when it is read token by token.
bool Decoder::reads_whole() const {
  return tokens_ > 1 || (w_.select() == EDGEKIT_SELECT_PROMPT && selection_->prompt);
}

Outcome Decoder::selected(size_t index, const float* x, float* out) {
  const Block& b = m_.blocks[index];
  const double begin = seconds(), waited = w_.wait_seconds();
  block_sums(x, s_.width.hidden);
  uint32_t count;
  EK_ASSIGN(count, choose(index, x));
  const double chosen = seconds(), waited_to_choose = w_.wait_seconds();
  selection_->neurons += b.size;
  selection_->selected += count;
  EK_TRY(gathered(b, b.matrices[0], count, x, out, [&] { return look_ahead(index); }));
  selection_->select_seconds += chosen - begin - (waited_to_choose - waited);
  selection_->ffn_seconds += seconds() - chosen - (w_.wait_seconds() - waited_to_choose);
  return Nothing{};
}

// out += down columns of the neurons in s_.rows [count], ascending, each weighted with its value.
Outcome Decoder::gathered(const Block& b, int32_t matrix, uint32_t count, const float* x, float* out,
                          const std::function<Outcome()>& meanwhile) {
  const Matrix& m = w_.matrix(matrix);
  const uint32_t* rows = u32(s_.rows);
  const uint8_t** at = reinterpret_cast<const uint8_t**>(s_.at.data());
  float* h = s_.h.f32();
  std::fill(s_.slices.f32(), s_.slices.f32() + size_t{kSlices} * s_.width.hidden, 0.0f);
  EK_TRY(w_.gather(
      matrix, rows, count, at, u32(s_.list),
      [&](const uint32_t* list, uint32_t n) {
        pool_.parallel_for(n, std::max(4u, n / (4 * pool_.size())), [&](uint32_t begin, uint32_t end, uint32_t) {
          for (uint32_t i = begin; i < end; ++i) {
            const uint32_t r = rows[list[i]];
            h[r] = neuron(b, m, at[list[i]], r, x);
          }
        });
      },
      [&](uint32_t begin, uint32_t end) { accumulate(m, m.part_count - 1u, begin, end); }, meanwhile));
  add_slices(out);
  return Nothing{};
}

// Adds the down columns of s_.rows [begin, end) to their slices, in the order of the neurons.
void Decoder::accumulate(const Matrix& m, uint32_t part, uint32_t begin, uint32_t end) {
  const Part& down = m.parts[part];
  const AxpyFn axpy = kernels_.axpy[static_cast<int>(down.codec)];
  const uint32_t *rows = u32(s_.rows), *last = rows + end;
  const uint8_t* const* at = reinterpret_cast<const uint8_t* const*>(s_.at.data());
  const float* h = s_.h.f32();
  pool_.parallel_for(kSlices, 1, [&](uint32_t first_slice, uint32_t last_slice, uint32_t) {
    for (uint32_t s = first_slice; s < last_slice; ++s) {
      float* sums = s_.slices.f32() + size_t{s} * s_.width.hidden;
      const uint32_t* r = rows + begin;
      for (uint32_t group = s * kSliceRows; r != last; group += kSliceRows * kSlices) {
        r = std::lower_bound(r, last, group);
        for (; r != last && *r < group + kSliceRows; ++r) {
          if (h[*r] != 0.0f) axpy(down, at[r - rows] + down.offset, w_.lut(down, *r), h[*r], 0, down.cols, sums);
        }
      }
    }
  });
}

// Fills s_.rows with the neurons to compute, ascending; returns how many. With a selector, h holds
// their activations afterwards.
Result<uint32_t> Decoder::choose(size_t index, const float* x) {
  const Block& b = m_.blocks[index];
  uint32_t* rows = u32(s_.rows);
  const float* h = s_.h.f32();
  uint32_t count = 0;
  if (scans_selector(w_.select())) {
    EK_TRY(activate_selector(b, x, 1));
    float cut = 0;
    if (w_.select() == EDGEKIT_SELECT_THRESHOLD) {
      const int tenths = std::clamp(static_cast<int>(std::lround(sparsity_ * 10)), 1, static_cast<int>(kCuts));
      cut = w_.vector(b.cuts)[tenths - 1];
    }
    for (uint32_t r = 0; r < b.size; ++r) {
      rows[count] = r;
      count += h[r] != 0.0f && std::fabs(h[r]) >= cut ? 1 : 0;
    }
    return count;
  }
  if (w_.select() == EDGEKIT_SELECT_PROMPT) {
    count = choose_by_prompt(index);
  } else {
    EK_TRY(predict(b, x, s_.h.f32(), rows, count));
  }
  if (b.selector == kNone) return count;
  // Two phases: the selector's rows first, and only active neurons go on to the second.
  const Matrix& m = w_.matrix(b.selector);
  const Part& part = m.parts[0];
  const float* bias = w_.vector(b.gated ? b.gate_bias : b.up_bias);
  const uint8_t** at = reinterpret_cast<const uint8_t**>(s_.at.data());
  EK_TRY(w_.gather(
      b.selector, rows, count, at, u32(s_.list),
      [&](const uint32_t* list, uint32_t n) {
        pool_.parallel_for(n, std::max(4u, n / (4 * pool_.size())), [&](uint32_t begin, uint32_t end, uint32_t) {
          for (uint32_t i = begin; i < end; ++i) {
            const uint32_t r = rows[list[i]];
            const float in =
                kernels_.dot[static_cast<int>(part.codec)](part, at[list[i]], w_.lut(part, r), x, s_.sums.f32());
            s_.h.f32()[r] = activate(b.activation, b.threshold, in + (bias != nullptr ? bias[r] : 0.0f));
          }
        });
      },
      [](uint32_t, uint32_t) {}, [] { return Outcome(Nothing{}); }));
  uint32_t active = 0;
  for (uint32_t i = 0; i < count; ++i) {
    rows[active] = rows[i];
    active += h[rows[i]] != 0.0f ? 1 : 0;
  }
  return active;
}

// Low-rank predictor (arXiv 2312.11514, section 3.1): up (down x) + bias > 0. scores [ffn] is scratch.
Outcome Decoder::predict(const Block& b, const float* x, float* scores, uint32_t* rows, uint32_t& count) {
  const uint32_t rank = w_.matrix(b.predict_down).rows;
  float* low = s_.rank.f32();
  const float* bias = w_.vector(b.predict_bias);
  EK_TRY(multiply(b.predict_down, x, s_.width.hidden, 1, nullptr, low, s_.width.rank));
  std::fill(low + rank, low + s_.width.rank, 0.0f);
  EK_TRY(multiply(b.predict_up, low, s_.width.rank, 1, bias, scores, s_.width.ffn));
  block_sums(x, s_.width.hidden);  // the product above left those of `low`
  count = 0;
  for (uint32_t r = 0; r < b.size; ++r) {
    rows[count] = r;
    count += scores[r] > 0.0f ? 1 : 0;
  }
  return Nothing{};
}

// Reads what the next selecting block will probably want while this one and attention compute: its
// predictor, asked with what is known before them. A wrong guess costs a read, never a result.
Outcome Decoder::look_ahead(size_t index) {
  if (!lookahead_) return Nothing{};
  const Guesses last = w_.take_guesses();
  selection_->ahead[index].learn(last.right, last.wrong);
  if (tokens_ == 1) EK_TRY(look_ahead_experts(index));
  if (w_.select() != EDGEKIT_SELECT_PREDICTED) return Nothing{};
  size_t i = index + 1;
  while (i < m_.blocks.size() && m_.blocks[i].predict_up == kNone) ++i;
  if (i == m_.blocks.size()) return Nothing{};
  const Block& next = m_.blocks[i];
  if (!w_.resident(next.predict_down) || !w_.resident(next.predict_up)) return Nothing{};
  float* x = s_.ahead_x.f32();
  normalize_input(next, s_.x.f32(), 1, x);
  block_sums(x, s_.width.hidden);
  uint32_t count = 0;
  uint32_t* rows = u32(s_.ahead_rows);
  const float* scores = s_.ahead.f32();
  EK_TRY(predict(next, x, s_.ahead.f32(), rows, count));
  // Only the surer ones: a read in vain takes the device's time from a read that is waited for.
  const uint32_t sure = selection_->ahead[i].surest(count);
  std::nth_element(rows, rows + sure, rows + count, [&](uint32_t a, uint32_t c) { return scores[a] > scores[c]; });
  std::sort(rows, rows + sure);
  w_.prefetch(next.selector != kNone ? next.selector : next.matrices[0], rows, sure);
  block_sums(s_.normed.f32(), s_.width.hidden);
  return Nothing{};
}

// The same for a mixture: the next router, asked with what is known already, mostly names the experts
// that it will choose (consecutive layers see nearly the same residual).
Outcome Decoder::look_ahead_experts(size_t index) {
  size_t i = index + 1;
  while (i < m_.blocks.size() && m_.blocks[i].kind == Block::attention) ++i;
  if (i == m_.blocks.size() || m_.blocks[i].kind != Block::experts || !w_.resident(m_.blocks[i].router))
    return Nothing{};
  const Block& next = m_.blocks[i];
  const uint32_t n = static_cast<uint32_t>(next.matrices.size());
  float *x = s_.ahead_x.f32(), *scores = s_.ahead.f32();
  uint32_t* order = u32(s_.ahead_rows);
  normalize_input(next, s_.x.f32(), 1, x);
  EK_TRY(multiply(next.router, x, s_.width.hidden, 1, nullptr, scores, s_.width.experts));
  for (uint32_t e = 0; e < n; ++e) order[e] = e;
  const uint32_t sure = selection_->ahead[i].surest(next.top_k);
  std::partial_sort(order, order + sure, order + n, [&](uint32_t a, uint32_t c) { return scores[a] > scores[c]; });
  for (uint32_t k = 0; k < sure; ++k) w_.prefetch_all(next.matrices[order[k]]);
  return Nothing{};
}

// GRIFFIN (arXiv 2404.01365): per neuron, the norm over the prompt's tokens of its share in each.
void Decoder::note_usage(size_t index, uint32_t tokens) {
  if (selection_->usage.size() == 0) return;
  float* usage = selection_->usage.f32() + index * s_.width.ffn;
  const uint32_t size = m_.blocks[index].size;
  for (uint32_t t = 0; t < tokens; ++t) {
    const float* h = s_.h.f32() + size_t{t} * s_.width.ffn;
    float total = 0;
    for (uint32_t r = 0; r < size; ++r) total += h[r] * h[r];
    const float scale = total > 0 ? 1 / total : 0;
    for (uint32_t r = 0; r < size; ++r) usage[r] += h[r] * h[r] * scale;
  }
  selection_->chosen = false;
}

uint32_t Decoder::choose_by_prompt(size_t index) {
  const size_t width = s_.width.ffn;
  const auto kept_of = [&](size_t block) { return u32(selection_->kept) + block * (1 + width); };
  for (size_t i = 0; i < m_.blocks.size() && !selection_->chosen; ++i) {
    if (m_.blocks[i].kind != Block::ffn) continue;
    const uint32_t size = m_.blocks[i].size;
    const uint32_t keep = std::max(1u, static_cast<uint32_t>(std::lround((1 - sparsity_) * static_cast<float>(size))));
    const float* usage = selection_->usage.f32() + i * width;
    uint32_t* kept = kept_of(i);
    kept[0] = keep;
    for (uint32_t r = 0; r < size; ++r) kept[1 + r] = r;
    std::nth_element(kept + 1, kept + 1 + (keep - 1), kept + 1 + size,
                     [&](uint32_t a, uint32_t c) { return usage[a] > usage[c] || (usage[a] == usage[c] && a < c); });
    std::sort(kept + 1, kept + 1 + keep);
  }
  selection_->chosen = true;
  const uint32_t* kept = kept_of(index);
  std::copy(kept + 1, kept + 1 + kept[0], u32(s_.rows));
  return kept[0];
}

}  // namespace edgekit
