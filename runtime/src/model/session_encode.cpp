// What a decoder reads of pictures.
#include <mutex>

#include "model/engine.h"

namespace edgekit {

Outcome Session::check_patches(const edgekit_patches& p) const {
  const Manifest& m = model_.bundle->manifest();
  if (m.output != Output::image) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "this model reads no pictures; open the encoder that its bundle holds");
  }
  if (p.values == nullptr || p.out == nullptr ||
      (p.positions == nullptr && p.added == nullptr && m.position != kNone)) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "values, positions (or added) and out of patches must not be NULL");
  }
  if (p.added_columns != (p.added != nullptr ? m.hidden_size : 0)) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "what is added to a patch has " + std::to_string(m.hidden_size) + " values (added_columns)");
  }
  if (p.count == 0 || p.count > model_.plan.max_batch || p.count % m.merge.patches != 0) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "a picture has a multiple of " + std::to_string(m.merge.patches) +
                                              " patches, at most " + std::to_string(model_.plan.max_batch) + ", not " +
                                              std::to_string(p.count));
  }
  const uint32_t columns = model_.weights->matrix(m.embedding_project).parts[0].cols;
  const uint32_t rows = p.count / m.merge.patches, out = model_.weights->matrix(m.head).rows;
  if (p.columns != columns || p.rows != rows || p.out_columns != out) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "patches have " + std::to_string(columns) + " values and give " +
                                              std::to_string(rows) + " rows of " + std::to_string(out));
  }
  const uint32_t positions = m.position != kNone ? model_.weights->matrix(m.position).rows : UINT32_MAX;
  for (uint32_t t = 0; t < p.count && m.position != kNone && p.added == nullptr; ++t) {
    if (p.positions[t] < positions) continue;
    return fail(EDGEKIT_INVALID_ARGUMENT, "position " + std::to_string(p.positions[t]) + " of a patch is none of the " +
                                              std::to_string(positions) + " that the model has");
  }
  const bool finite = all_finite(p.values, uint64_t{p.count} * columns) &&
                      (p.added == nullptr || all_finite(p.added, uint64_t{p.count} * m.hidden_size));
  if (finite) return Nothing{};
  return fail(EDGEKIT_NOT_FINITE, "the patches are not finite");
}

Outcome Session::encode(const edgekit_patches& p) {
  EK_TRY(check_patches(p));
  std::lock_guard<Turns> turn(model_.turn);
  const Moment begin = now();
  const Patches patches{p.values, p.positions, p.count, p.columns, p.added};
  auto outcome = model_.decoder->forward_patches(patches, selection_, p.out, cancelled_);
  if (outcome.ok() && !all_finite(p.out, uint64_t{p.rows} * p.out_columns)) {
    outcome = fail(EDGEKIT_NOT_FINITE,
                   "what the encoder makes of the picture is not finite: its weights or activations "
                   "overflow; convert a sound checkpoint");
  }
  if (!outcome.ok()) {
    cancelled_.store(false);
    return outcome;
  }
  count_pass(begin, p.count, true);
  return Nothing{};
}

}  // namespace edgekit
