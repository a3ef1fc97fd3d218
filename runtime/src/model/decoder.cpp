#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "select/select.h"

namespace edgekit {

Decoder::Decoder(Weights& weights, Workspace& workspace, ThreadPool& pool, const KernelSet& kernels,
                 Activations activations, float sparsity, bool look_ahead, const Adapter* adapter)
    : resources_{weights, workspace, pool, kernels, activations, adapter},
      w_(weights),
      s_(workspace),
      kernels_(kernels),
      m_(weights.manifest()),
      norms_(resources_),
      linear_(resources_),
      attention_(resources_, linear_),
      convolution_(resources_, linear_),
      linear_attention_(resources_, linear_),
      layer_input_(resources_, linear_),
      neurons_(resources_, linear_),
      gathered_(resources_, linear_, neurons_),
      predictor_(resources_, linear_),
      look_ahead_(resources_, linear_, norms_, predictor_, sparsity, look_ahead),
      chosen_(resources_, linear_, neurons_, gathered_, predictor_, look_ahead_, sparsity),
      feed_forward_(resources_, linear_, neurons_, chosen_),
      mixture_(resources_, linear_, gathered_, feed_forward_, look_ahead_) {}

Outcome Decoder::forward(const Input& input, uint32_t position, uint32_t length, KvCache& cache,
                         SelectionState& selection, float* last, float* all, const std::atomic<bool>& cancelled,
                         uint32_t drafted) {
  const uint32_t count = input.count;
  Pass pass{count,      position, length, chooses(count, selection), selection, input.tokens, &cache,
            &cancelled, nullptr,  drafted};
  pass.rows = input.rows;
  pass.both_ways = input.both_ways;
  const bool wants_logits = last != nullptr || all != nullptr;
  cache.begin_pass(position, count, drafted);
  w_.begin_pass(wants_logits, pass.chooses);
  linear_.begin_pass(&selection);
  auto outcome = run(pass);
  if (outcome.ok() && wants_logits) outcome = head(count, last, all);
  linear_.end_pass();
  outcome.ok() ? cache.end_pass() : w_.abandon_pass();
  return outcome;
}

Outcome Decoder::forward_texts(const NextToken* texts, uint32_t count) {
  const Pass pass{count, 0, 0, false, nothing_chosen_, nullptr, nullptr, nullptr, texts};
  for (uint32_t t = 0; t < count; ++t) texts[t].cache->begin_pass(texts[t].position, 1, 0);
  w_.begin_pass(true, false);
  linear_.begin_pass(nullptr);
  auto outcome = run(pass);
  if (outcome.ok()) outcome = logits_of_texts(pass);
  linear_.end_pass();
  if (!outcome.ok()) w_.abandon_pass();
  for (uint32_t t = 0; t < count && outcome.ok(); ++t) texts[t].cache->end_pass();
  return outcome;
}

Outcome Decoder::forward_pooled(const int32_t* tokens, uint32_t count, uint32_t position, uint32_t length,
                                KvCache& cache, SelectionState& selection, Pooled& pooled,
                                const std::atomic<bool>& cancelled) {
  cache.begin_pass(position, count, 0);
  auto outcome = pool({count, position, length, false, selection, tokens, &cache, &cancelled, nullptr}, &pooled);
  if (outcome.ok()) cache.end_pass();
  return outcome;
}

Outcome Decoder::forward_segments(const Segment* texts, uint32_t text_count, SelectionState& selection, Pooled* pooled,
                                  const std::atomic<bool>& cancelled) {
  const uint32_t count = texts[text_count - 1].first + texts[text_count - 1].count;
  return pool({count, 0, 0, false, selection, nullptr, nullptr, &cancelled, nullptr, 0, texts, text_count}, pooled);
}

// A pass, whose hidden states go to pooled [texts of the pass].
Outcome Decoder::pool(const Pass& pass, Pooled* pooled) {
  const bool scores = m_.output == Output::score;
  w_.begin_pass(scores, false);
  linear_.begin_pass(&pass.selection);
  auto outcome = run(pass);
  if (outcome.ok()) {
    norms_.apply(m_.final_norm, s_.x.data(), pass.count, s_.normed.data());
    const uint32_t texts = pass.segments != nullptr ? pass.segment_count : 1;
    for (uint32_t i = 0; i < texts; ++i) {
      const uint32_t first = pass.segments != nullptr ? pass.segments[i].first : 0;
      const uint32_t count = pass.segments != nullptr ? pass.segments[i].count : pass.count;
      pooled[i].take(s_.normed.row(first), count, m_.hidden_size, s_.width.hidden);
    }
    if (scores) outcome = score(pooled, texts);
  }
  linear_.end_pass();
  if (!outcome.ok()) w_.abandon_pass();
  return outcome;
}

// The scores of vectors [count], by way of the workspace's normed and out.
Outcome Decoder::score(Pooled* pooled, uint32_t count) {
  const uint32_t hidden = m_.hidden_size, stride = s_.width.hidden;
  float *x = s_.normed.data(), *y = s_.out.data();  // [count][stride]
  std::fill_n(x, size_t{count} * stride, 0.0f);
  for (uint32_t i = 0; i < count; ++i) pooled[i].mean_into(s_.normed.row(i), hidden);
  if (m_.head_project != kNone) {
    EK_TRY(linear_.multiply(m_.head_project, x, stride, count, w_.vector(m_.head_project_bias), y, stride));
    for (uint32_t i = 0; i < count; ++i) activate_score(m_.head_activation, hidden, s_.out.row(i));
    norms_.apply(m_.head_norm, y, count, x);
  }
  float scores[kMostTexts];
  EK_TRY(linear_.multiply(m_.head, x, stride, count, w_.vector(m_.head_bias), scores, 1));
  for (uint32_t i = 0; i < count; ++i) pooled[i].score = scores[i];
  return Nothing{};
}

// Several tokens get all neurons together. A selection by usage needs all neurons of the prompt, also when it is read
// token by token.
bool Decoder::chooses(uint32_t count, const SelectionState& selection) const {
  return count == 1 && !(selection.prompt && decides_by(w_.select(), Evidence::usage));
}

Outcome Decoder::run(const Pass& pass) {
  EK_TRY(embed(pass));
  return run_blocks(pass);
}

Outcome Decoder::run_blocks(const Pass& pass) {
  attention_.fill_ropes(pass);
  for (size_t i = 0; i < m_.blocks.size(); ++i) {
    if (pass.cancelled()) return fail(EDGEKIT_CANCELLED, "the evaluation was cancelled");
    begin_block(pass, i);
    EK_TRY(compute_block(pass, i));
    add_residual(pass, m_.blocks[i]);
  }
  return Nothing{};
}

// x [count][hidden] = the tokens' embeddings, projected, with those of their positions added, and normed.
Outcome Decoder::embed(const Pass& pass) {
  if (pass.rows != nullptr) {
    const size_t hidden = m_.hidden_size;
    for (uint32_t t = 0; t < pass.count; ++t) std::copy_n(pass.rows + t * hidden, hidden, s_.x.row(t));
  } else {
    EK_TRY(embed_tokens(pass));
  }
  for (uint32_t t = 0; t < pass.count && m_.position != kNone; ++t) {
    float *row = s_.x.row(t), *learned = s_.tiles.data();  // [hidden_size]
    EK_TRY(embed_row(m_.position, pass.position_of(t) + m_.position_offset, learned));
    for (uint32_t i = 0; i < m_.hidden_size; ++i) row[i] += learned[i];
  }
  EK_TRY(add_types(pass));
  if (m_.embedding_norm.kind != Norm::none) norms_.apply(m_.embedding_norm, s_.x.data(), pass.count, s_.x.data());
  return embed_layers(pass);
}

Outcome Decoder::embed_tokens(const Pass& pass) {
  const bool projected = m_.embedding_project != kNone;
  const uint32_t cols = w_.matrix(m_.embedding).parts[0].cols;
  for (uint32_t t = 0; t < pass.count; ++t) {
    float* row = projected ? s_.embedded.row(t) : s_.x.row(t);
    EK_TRY(embed_row(m_.embedding, static_cast<uint32_t>(pass.token_of(t)), row));
    for (uint32_t i = 0; i < cols && m_.embedding_scale != 1.0f; ++i) row[i] *= m_.embedding_scale;
  }
  if (projected) {
    EK_TRY(linear_.multiply(m_.embedding_project, s_.embedded.data(), s_.width.embed, pass.count, nullptr, s_.x.data(),
                            s_.width.hidden));
  }
  return Nothing{};
}

// layers [count][inputs] = what layers get of each token besides x, its embedding; a row of the table for each.
Outcome Decoder::embed_layers(const Pass& pass) {
  const LayerEmbedding& e = m_.layers;
  if (e.table == kNone) return Nothing{};
  EK_TRY(linear_.multiply(e.project, s_.x.data(), s_.width.hidden, pass.count, nullptr, s_.layers.data(),
                          s_.width.layers));
  const uint32_t total = e.count * e.dim;
  for (uint32_t t = 0; t < pass.count; ++t) {
    float *row = s_.layers.row(t), *own = s_.tiles.data();  // [total]
    for (uint32_t i = 0; i < total; ++i) row[i] *= e.project_scale;
    apply_norm(e.norm, w_.vector(e.norm.weight), w_.vector(e.norm.bias), row, e.count, e.dim, e.dim, row);
    EK_TRY(embed_row(e.table, static_cast<uint32_t>(pass.token_of(t)), own));
    for (uint32_t i = 0; i < total; ++i) row[i] = (row[i] + e.scale * own[i]) * e.mix;
  }
  return Nothing{};
}

// Adds the embeddings of the tokens' types; neighbours mostly share one.
Outcome Decoder::add_types(const Pass& pass) {
  float* learned = s_.tiles.data();  // [hidden_size]
  uint32_t type = UINT32_MAX;
  for (uint32_t t = 0; t < pass.count && m_.token_types != kNone; ++t) {
    float* row = s_.x.row(t);
    if (pass.type_of(t) != type) EK_TRY(embed_row(m_.token_types, type = pass.type_of(t), learned));
    for (uint32_t i = 0; i < m_.hidden_size; ++i) row[i] += learned[i];
  }
  return Nothing{};
}

// out [padded columns] = one row of a matrix. Neighbours, as positions are, mostly lie in the unit that was read last.
Outcome Decoder::embed_row(int32_t matrix, uint32_t row, float* out) {
  const Matrix& m = w_.matrix(matrix);
  const Part& p = m.parts[0];
  const uint32_t unit = row / m.rows_per_unit, within = row % m.rows_per_unit;
  const uint8_t* data = s_.unit.data() + size_t{within} * m.row_stride;
  if (matrix != read_matrix_ || unit != read_unit_) {
    const uint8_t* read = data;
    read_matrix_ = kNone;
    EK_ASSIGN(data, w_.fetch_row(matrix, row, s_.unit.data()));
    if (data == read) {
      read_matrix_ = matrix;
      read_unit_ = unit;
    }
  }
  kernels_.decode[static_cast<int>(p.codec)](p, data, w_.lut(p, row), 0, p.cols, out);
  return Nothing{};
}

// Leaves the block's input in the workspace's normed, and keeps the residual for a parallel block behind this one.
void Decoder::begin_block(const Pass& pass, size_t block) {
  const Block& b = m_.blocks[block];
  const bool next_is_parallel = block + 1 < m_.blocks.size() && m_.blocks[block + 1].parallel;
  if (next_is_parallel) std::copy_n(s_.x.data(), size_t{pass.count} * s_.width.hidden, s_.before.data());
  norms_.apply_input(b, b.parallel ? s_.before.data() : s_.x.data(), pass.count, s_.normed.data());
  const SelectionState& state = pass.selection;
  if (b.feed_forward() && state.capture != nullptr) {
    state.capture(static_cast<uint32_t>(block), s_.normed.data(), pass.count, s_.width.hidden, state.capture_user);
  }
}

Outcome Decoder::compute_block(const Pass& pass, size_t block) {
  switch (m_.blocks[block].kind) {
    case Block::attention: return attention_.forward(pass, block);
    case Block::convolution: return convolution_.forward(pass, block);
    case Block::linear_attention: return linear_attention_.forward(pass, block);
    case Block::layer_input: return layer_input_.forward(pass, block);
    case Block::ffn: return feed_forward_.forward(pass, block);
    case Block::experts: return mixture_.forward(pass, block);
  }
  return Nothing{};
}

// x += residual_scale * post_norm(out), then out_norm over the sum, and out_scale.
void Decoder::add_residual(const Pass& pass, const Block& b) {
  float *x = s_.x.data(), *out = s_.out.data();
  if (b.post_norm.kind != Norm::none) norms_.apply(b.post_norm, out, pass.count, out);
  const size_t total = size_t{pass.count} * s_.width.hidden;
  for (size_t i = 0; i < total && b.residual_scale != 1.0f; ++i) out[i] *= b.residual_scale;
  for (size_t i = 0; i < total; ++i) x[i] += out[i];
  if (b.out_norm.kind != Norm::none) norms_.apply(b.out_norm, x, pass.count, x);
  if (b.out_scale == kNone) return;
  const float scale = w_.vector(b.out_scale)[0];
  for (size_t i = 0; i < total; ++i) x[i] *= scale;
}

Outcome Decoder::head(uint32_t count, float* last, float* all) {
  if (all == nullptr) {
    norms_.apply(m_.final_norm, s_.x.row(count - 1), 1, s_.normed.data());
    return logits(1, last);
  }
  norms_.apply(m_.final_norm, s_.x.data(), count, s_.normed.data());
  EK_TRY(logits(count, all));
  if (last != nullptr) std::copy_n(all + size_t{count - 1} * m_.vocab_size, m_.vocab_size, last);
  return Nothing{};
}

// out [tokens][vocab] from the workspace's normed [tokens][hidden].
Outcome Decoder::logits(uint32_t tokens, float* out) {
  const float* x;
  uint32_t stride;
  EK_TRY(project_head(tokens, x, stride));
  EK_TRY(linear_.multiply(m_.head, x, stride, tokens, w_.vector(m_.head_bias), out, m_.vocab_size));
  finish_logits(uint64_t{tokens} * m_.vocab_size, out);
  return Nothing{};
}

// The logits of each text, from the workspace's x [count][hidden].
Outcome Decoder::logits_of_texts(const Pass& pass) {
  norms_.apply(m_.final_norm, s_.x.data(), pass.count, s_.normed.data());
  const float* x;
  uint32_t stride;
  EK_TRY(project_head(pass.count, x, stride));
  float* rows[kMostTexts];
  for (uint32_t t = 0; t < pass.count; ++t) rows[t] = pass.texts[t].logits;
  EK_TRY(linear_.multiply_to_each(m_.head, x, stride, pass.count, w_.vector(m_.head_bias), rows));
  for (uint32_t t = 0; t < pass.count; ++t) finish_logits(m_.vocab_size, rows[t]);
  return Nothing{};
}

// x [tokens][stride] = what the head multiplies: the workspace's normed [tokens][hidden], or its projection.
Outcome Decoder::project_head(uint32_t tokens, const float*& x, uint32_t& stride) {
  x = s_.normed.data();
  stride = s_.width.hidden;
  if (m_.head_project == kNone) return Nothing{};
  EK_TRY(linear_.multiply(m_.head_project, x, stride, tokens, nullptr, s_.embedded.data(), s_.width.embed));
  x = s_.embedded.data();
  stride = s_.width.embed;
  return Nothing{};
}

// Scales and caps out [count].
void Decoder::finish_logits(uint64_t count, float* out) const {
  for (uint64_t i = 0; i < count && m_.head_scale != 1.0f; ++i) out[i] *= m_.head_scale;
  for (uint64_t i = 0; i < count && m_.head_softcap > 0; ++i) {
    out[i] = m_.head_softcap * std::tanh(out[i] / m_.head_softcap);
  }
}

Outcome Decoder::forward_block(size_t block, const float* x, uint32_t count, SelectionState& selection, float* out) {
  const Pass pass{count, 0, count, chooses(count, selection), selection, nullptr, nullptr, nullptr, nullptr};
  const size_t hidden = m_.hidden_size;
  for (uint32_t t = 0; t < count; ++t) std::copy_n(x + t * hidden, hidden, s_.normed.row(t));
  w_.begin_block(block, pass.chooses);
  auto outcome = compute_block(pass, block);
  if (!outcome.ok()) w_.abandon_pass();
  for (uint32_t t = 0; t < count; ++t) std::copy_n(s_.out.row(t), hidden, out + t * hidden);
  return outcome;
}

Outcome Decoder::forward_matrix(int32_t matrix, const float* x, uint32_t count, float* out) {
  const Matrix& m = w_.matrix(matrix);
  const uint32_t cols = m.parts[0].cols, stride = padded_cols(cols);
  // The input has the residual's width, that of all heads, or the embedding's.
  Array<float>& room = stride <= s_.width.hidden ? s_.normed : stride <= s_.width.q ? s_.mixed : s_.embedded;
  float* in = room.data();  // [count][stride]
  std::fill_n(in, size_t{count} * stride, 0.0f);
  for (size_t t = 0; t < count; ++t) std::copy_n(x + t * cols, cols, in + t * stride);
  w_.begin_matrix(matrix);
  auto outcome = linear_.multiply(matrix, in, stride, count, nullptr, out, m.rows);
  if (!outcome.ok()) w_.abandon_pass();
  return outcome;
}

}  // namespace edgekit
