#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "model/ops.h"

namespace edgekit {

Outcome Decoder::forward(const int32_t* tokens, uint32_t count, uint32_t position, uint32_t length, KvCache& cache,
                         Selection& selection, float* last, float* all, const std::atomic<bool>& cancelled) {
  tokens_ = count;
  selection_ = &selection;
  cache.begin_pass(position, count);
  w_.begin_pass(last != nullptr || all != nullptr, !reads_whole());
  auto outcome = run(tokens, position, length, cache, last, all, cancelled);
  if (!outcome.ok()) w_.abandon_pass();
  return outcome;
}

Outcome Decoder::run(const int32_t* tokens, uint32_t position, uint32_t length, KvCache& cache, float* last, float* all,
                     const std::atomic<bool>& cancelled) {
  EK_TRY(embed(tokens, position));
  for (size_t r = 0; r < m_.ropes.size(); ++r) {
    const Rope& rope = m_.ropes[r];
    fill_rope(rope, w_.vector(rope.inv_freq), w_.vector(rope.long_inv_freq), position, tokens_, length, s_.width.rope,
              s_.rope.f32() + r * s_.batch * 2 * s_.width.rope);
  }
  for (size_t i = 0; i < m_.blocks.size(); ++i) {
    if (cancelled.load()) return fail(EDGEKIT_CANCELLED, "the evaluation was cancelled");
    const Block& b = m_.blocks[i];
    const bool save = i + 1 < m_.blocks.size() && m_.blocks[i + 1].parallel;
    const uint64_t row_floats = uint64_t{tokens_} * s_.width.hidden;
    if (save) std::copy(s_.x.f32(), s_.x.f32() + row_floats, s_.before.f32());
    normalize_input(b, b.parallel ? s_.before.f32() : s_.x.f32(), tokens_, s_.normed.f32());
    if (b.kind != Block::attention && selection_->capture != nullptr) {
      selection_->capture(static_cast<uint32_t>(i), s_.normed.f32(), tokens_, s_.width.hidden,
                          selection_->capture_user);
    }
    switch (b.kind) {
      case Block::attention: EK_TRY(attention(i, position, cache)); break;
      case Block::ffn: EK_TRY(feed_forward(i)); break;
      case Block::experts: EK_TRY(mixture(i)); break;
    }
    add_residual(b);
  }
  return last != nullptr || all != nullptr ? head(last, all) : Outcome(Nothing{});
}

Outcome Decoder::embed(const int32_t* tokens, uint32_t position) {
  const Part& part = w_.matrix(m_.embedding).parts[0];
  const bool projected = m_.embedding_project != kNone;
  float* out = projected ? s_.embedded.f32() : s_.x.f32();
  const uint32_t stride = projected ? s_.width.embed : s_.width.hidden;
  const auto fetch = [&](int32_t matrix, uint32_t row, float* to) -> Outcome {
    const Part& p = w_.matrix(matrix).parts[0];
    const uint8_t* data;
    EK_ASSIGN(data, w_.fetch_row(matrix, row, s_.unit.data()));
    kernels_.decode[static_cast<int>(p.codec)](p, data, w_.lut(p, row), 0, p.cols, to);
    return Nothing{};
  };
  for (uint32_t t = 0; t < tokens_; ++t) {
    float* row = out + size_t{t} * stride;
    EK_TRY(fetch(m_.embedding, static_cast<uint32_t>(tokens[t]), row));
    if (m_.embedding_scale != 1.0f) {
      for (uint32_t i = 0; i < part.cols; ++i) row[i] *= m_.embedding_scale;
    }
  }
  if (projected) {
    EK_TRY(multiply(m_.embedding_project, out, stride, tokens_, nullptr, s_.x.f32(), s_.width.hidden));
  }
  for (uint32_t t = 0; t < tokens_ && m_.position != kNone; ++t) {
    float* row = s_.x.f32() + size_t{t} * s_.width.hidden;
    EK_TRY(fetch(m_.position, position + t + m_.position_offset, tile(0)));
    for (uint32_t i = 0; i < m_.hidden_size; ++i) row[i] += tile(0)[i];
  }
  if (m_.embedding_norm.kind != Norm::none) {
    normalize(m_.embedding_norm, s_.x.f32(), tokens_, s_.x.f32());
  }
  return Nothing{};
}

void Decoder::normalize(const Norm& norm, const float* x, uint32_t tokens, float* out) {
  apply_norm(norm, w_.vector(norm.weight), w_.vector(norm.bias), x, tokens, m_.hidden_size, s_.width.hidden, out);
}

void Decoder::normalize_input(const Block& b, const float* x, uint32_t tokens, float* out) {
  normalize(b.pre_norm, x, tokens, out);
  const size_t total = size_t{tokens} * s_.width.hidden;
  for (size_t i = 0; i < total && b.pre_relu; ++i) out[i] = std::max(out[i], 0.0f);
}

// x += post_norm(out), then out_norm over the sum.
void Decoder::add_residual(const Block& b) {
  if (b.post_norm.kind != Norm::none) normalize(b.post_norm, s_.out.f32(), tokens_, s_.out.f32());
  const size_t total = size_t{tokens_} * s_.width.hidden;
  float* x = s_.x.f32();
  const float* out = s_.out.f32();
  for (size_t i = 0; i < total; ++i) x[i] += out[i];
  if (b.out_norm.kind != Norm::none) normalize(b.out_norm, x, tokens_, x);
}

Outcome Decoder::attention(size_t index, uint32_t position, KvCache& cache) {
  const Block& b = m_.blocks[index];
  const Widths& width = s_.width;
  float *q = s_.q.f32(), *k = s_.k.f32(), *v = s_.v.f32();
  const float* x = s_.normed.f32();
  EK_TRY(multiply(b.q, x, width.hidden, tokens_, w_.vector(b.q_bias), q, width.q));
  EK_TRY(multiply(b.k, x, width.hidden, tokens_, w_.vector(b.k_bias), k, width.kv));
  EK_TRY(multiply(b.v, x, width.hidden, tokens_, w_.vector(b.v_bias), v, width.kv));
  apply_head_norm(b.q_norm, w_.vector(b.q_norm.weight), w_.vector(b.q_norm.bias), tokens_, b.heads, b.head_dim, width.q,
                  q);
  apply_head_norm(b.k_norm, w_.vector(b.k_norm.weight), w_.vector(b.k_norm.bias), tokens_, b.kv_heads, b.head_dim,
                  width.kv, k);
  if (b.rope != kNone) {
    const Rope& rope = m_.ropes[static_cast<size_t>(b.rope)];
    const float* table = s_.rope.f32() + static_cast<size_t>(b.rope) * s_.batch * 2 * width.rope;
    apply_rope(rope, table, tokens_, b.heads, b.head_dim, width.rope, width.q, q);
    apply_rope(rope, table, tokens_, b.kv_heads, b.head_dim, width.rope, width.kv, k);
  }
  for (uint32_t t = 0; t < tokens_; ++t) {
    cache.put(index, position + t, k + size_t{t} * width.kv, v + size_t{t} * width.kv);
  }
  attend(b, index, position, cache);
  return multiply(b.o, s_.mixed.f32(), width.q, tokens_, w_.vector(b.o_bias), s_.out.f32(), width.hidden);
}

void Decoder::attend(const Block& b, size_t index, uint32_t position, KvCache& cache) {
  pool_.parallel_for(tokens_ * b.heads, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    float* scores = s_.scores.f32() + size_t{worker} * cache.context();
    for (uint32_t i = begin; i < end; ++i) {
      const uint32_t token = i / b.heads, head = i % b.heads, kv_head = head / (b.heads / b.kv_heads);
      if (cache.wide()) {
        attend_head(b, position, cache.single_rows(index, KvCache::keys, kv_head),
                    cache.single_rows(index, KvCache::values, kv_head), kernels_.dot_f32, kernels_.axpy_f32, token,
                    head, scores);
      } else {
        attend_head(b, position, cache.half_rows(index, KvCache::keys, kv_head),
                    cache.half_rows(index, KvCache::values, kv_head), kernels_.dot_f16, kernels_.axpy_f16, token, head,
                    scores);
      }
    }
  });
}

// One query head over the positions it may see; scores [context].
template <class T, class Dot, class Axpy>
void Decoder::attend_head(const Block& b, uint32_t position, const HeadRows<T>& keys, const HeadRows<T>& values,
                          Dot dot, Axpy axpy, uint32_t token, uint32_t head, float* scores) {
  const uint32_t d = b.head_dim, end = position + token + 1;
  const uint32_t begin = b.window != 0 && end > b.window ? end - b.window : 0;
  const float* q = s_.q.f32() + size_t{token} * s_.width.q + size_t{head} * d;
  float* out = s_.mixed.f32() + size_t{token} * s_.width.q + size_t{head} * d;
  for (uint32_t p = begin; p < end; ++p) {
    const float score = dot(keys.row(p), q, d) * b.scale;
    scores[p - begin] = b.softcap > 0 ? b.softcap * std::tanh(score / b.softcap) : score;
  }
  softmax(scores, end - begin);
  std::fill(out, out + d, 0.0f);
  for (uint32_t p = begin; p < end; ++p) axpy(scores[p - begin], values.row(p), out, d);
}

Outcome Decoder::head(float* last, float* all) {
  const size_t stride = s_.width.hidden;
  if (all == nullptr) {
    const float* x = s_.x.f32() + (tokens_ - 1) * stride;
    normalize(m_.final_norm, x, 1, s_.normed.f32());
    return head_logits(s_.normed.f32(), 1, last);
  }
  normalize(m_.final_norm, s_.x.f32(), tokens_, s_.normed.f32());
  EK_TRY(head_logits(s_.normed.f32(), tokens_, all));
  if (last != nullptr) {
    const float* from = all + size_t{tokens_ - 1} * m_.vocab_size;
    std::copy(from, from + m_.vocab_size, last);
  }
  return Nothing{};
}

// logits [tokens][vocab]
Outcome Decoder::head_logits(const float* x, uint32_t tokens, float* logits) {
  uint32_t stride = s_.width.hidden;
  if (m_.head_project != kNone) {
    EK_TRY(multiply(m_.head_project, x, stride, tokens, nullptr, s_.embedded.f32(), s_.width.embed));
    x = s_.embedded.f32();
    stride = s_.width.embed;
  }
  EK_TRY(multiply(m_.head, x, stride, tokens, w_.vector(m_.head_bias), logits, m_.vocab_size));
  const size_t total = size_t{tokens} * m_.vocab_size;
  for (size_t i = 0; i < total && m_.head_softcap > 0; ++i) {
    logits[i] = m_.head_softcap * std::tanh(logits[i] / m_.head_softcap);
  }
  return Nothing{};
}

void Decoder::block_sums(const float* x, uint32_t width) {
  float* sums = s_.sums.f32();
  for (uint32_t b = 0; b * kBlock < width; ++b) {
    float total = 0;
    for (uint32_t i = 0; i < kBlock; ++i) total += x[b * kBlock + i];
    sums[b] = total;
  }
}

Outcome Decoder::multiply(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                          uint32_t ldy) {
  EK_TRY(w_.poll());
  if (tokens == 1) block_sums(x, padded_cols(w_.matrix(matrix).parts[0].cols));
  return w_.visit(matrix, false, [&](const Rows& rows) -> Outcome {
    multiply_rows(rows, x, ldx, tokens, bias, y, ldy);
    return Nothing{};
  });
}

void Decoder::multiply_rows(const Rows& rows, const float* x, uint32_t ldx, uint32_t tokens, const float* bias,
                            float* y, uint32_t ldy) {
  const Part& p = rows.matrix->parts[0];
  const int codec = static_cast<int>(p.codec);
  const uint32_t count = rows.end - rows.begin;
  // A few long runs per thread: memory is read fastest from end to end.
  const uint32_t grain = std::max(16u, count / (4 * pool_.size()));
  if (tokens == 1) {
    pool_.parallel_for(count, grain, [&](uint32_t begin, uint32_t end, uint32_t) {
      for (uint32_t r = rows.begin + begin; r < rows.begin + end; ++r) {
        const float sum = kernels_.dot[codec](p, rows.row(r), w_.lut(p, r), x, s_.sums.f32());
        y[r] = bias != nullptr ? sum + bias[r] : sum;
      }
    });
    return;
  }
  const uint32_t padded = padded_cols(p.cols);
  if (tokens <= kFewTokens) {
    pool_.parallel_for(count, grain, [&](uint32_t begin, uint32_t end, uint32_t) {
      for (uint32_t r = rows.begin + begin; r < rows.begin + end; ++r) {
        kernels_.dots[codec](p, rows.row(r), w_.lut(p, r), x, ldx, tokens, y + r, ldy);
        for (uint32_t t = 0; t < tokens && bias != nullptr; ++t) y[size_t{t} * ldy + r] += bias[r];
      }
    });
    return;
  }
  pool_.parallel_for(count, kTileRows, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    float* decoded = tile(worker);
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
