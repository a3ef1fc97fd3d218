// Encoders of pictures: patches in, what a decoder reads of them out.
#include <algorithm>

#include "model/decoder.h"

namespace edgekit {

Outcome Decoder::forward_patches(const Patches& patches, SelectionState& selection, float* out,
                                 const std::atomic<bool>& cancelled) {
  const Segment picture{0, patches.count, nullptr, nullptr};
  const Pass pass{patches.count, 0, 0, false, selection, nullptr, nullptr, &cancelled, nullptr, 0, &picture, 1};
  w_.begin_pass(true, false);
  linear_.begin_pass(nullptr);
  auto outcome = embed_patches(patches);
  if (outcome.ok()) outcome = run_blocks(pass);
  if (outcome.ok()) outcome = merge_patches(patches.count, out);
  linear_.end_pass();
  if (!outcome.ok()) w_.abandon_pass();
  return outcome;
}

// x [count][hidden] = project patch + bias, with the row of its position added, and normed.
Outcome Decoder::embed_patches(const Patches& patches) {
  const uint32_t count = patches.count, columns = patches.columns;
  for (uint32_t t = 0; t < count; ++t) {
    float* row = s_.embedded.row(t);
    std::copy_n(patches.values + size_t{t} * columns, columns, row);
    std::fill(row + columns, row + s_.width.embed, 0.0f);
  }
  EK_TRY(linear_.multiply(m_.embedding_project, s_.embedded.data(), s_.width.embed, count, w_.vector(m_.embedding_bias),
                          s_.x.data(), s_.width.hidden));
  for (uint32_t t = 0; t < count && (m_.position != kNone || patches.added != nullptr); ++t) {
    float *row = s_.x.row(t), *learned = s_.tiles.data();  // [hidden_size]
    if (patches.added == nullptr) EK_TRY(embed_row(m_.position, patches.positions[t], learned));
    const float* from = patches.added != nullptr ? patches.added + size_t{t} * m_.hidden_size : learned;
    for (uint32_t i = 0; i < m_.hidden_size; ++i) row[i] += from[i];
  }
  if (m_.embedding_norm.kind != Norm::none) norms_.apply(m_.embedding_norm, s_.x.data(), count, s_.x.data());
  return Nothing{};
}

// out [count / merged patches][rows of the head], by way of the workspace's out and embedded, which are wide enough:
// a merged row is padded once, the rows that it is made of each.
Outcome Decoder::merge_patches(uint32_t count, float* out) {
  const Merge& merge = m_.merge;
  const uint32_t hidden = m_.hidden_size, width = merge.width(hidden), rows = count / merge.patches;
  uint32_t stride = padded_cols(width);
  float* merged = s_.out.data();  // [rows][stride]
  norms_.apply(m_.final_norm, s_.x.data(), count, s_.normed.data());
  std::fill_n(merged, size_t{rows} * stride, 0.0f);
  for (uint32_t t = 0; t < count; ++t) {
    float* to = merged + size_t{t / merge.patches} * stride + (merge.mean ? 0 : t % merge.patches * hidden);
    const float* from = s_.normed.row(t);
    for (uint32_t i = 0; i < hidden; ++i) to[i] += merge.mean ? from[i] / static_cast<float>(merge.patches) : from[i];
  }
  if (merge.norm.kind != Norm::none) {
    apply_norm(merge.norm, w_.vector(merge.norm.weight), w_.vector(merge.norm.bias), merged, rows, width, stride,
               merged);
  }
  const float* x = merged;
  if (m_.head_project != kNone) {
    const uint32_t inner = w_.matrix(m_.head_project).rows;
    float* y = s_.embedded.data();  // [rows][padded inner]
    std::fill_n(y, size_t{rows} * padded_cols(inner), 0.0f);
    EK_TRY(linear_.multiply(m_.head_project, x, stride, rows, w_.vector(m_.head_project_bias), y, padded_cols(inner)));
    stride = padded_cols(inner);
    for (uint32_t t = 0; t < rows; ++t) activate_score(m_.head_activation, inner, y + size_t{t} * stride);
    x = y;
  }
  return linear_.multiply(m_.head, x, stride, rows, w_.vector(m_.head_bias), out, w_.matrix(m_.head).rows);
}

}  // namespace edgekit
