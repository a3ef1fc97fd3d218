#include "encode/trellis_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "core/threads.h"
#include "core/trellis.h"
#include "encode/viterbi.h"
#include "kernels/kernels.h"

namespace edgekit {
namespace {

constexpr uint32_t kMostCols = 1u << 17;
constexpr uint64_t kMostPaths = uint64_t{1} << 31;  // bytes of the bits that paths dropped, of one thread

Error invalid(const std::string& message) { return fail(EDGEKIT_INVALID_ARGUMENT, "edgekit_trellis." + message); }

// A bounded job has no sum that is not finite, so the search needs no checks. Wild weights are the caller's to clip.
bool all_finite(const float* values, uint64_t count) {
  if (values == nullptr) return true;
  for (uint64_t i = 0; i < count; ++i) {
    if (!(std::fabs(values[i]) < 1e12f)) return false;
  }
  return true;
}

Outcome check(const edgekit_trellis& job) {
  if (job.bits < 2 || job.bits > 4) return invalid("bits must be 2, 3 or 4");
  if (job.state_bits < kTrellisLeastState || job.state_bits > kTrellisMostState) {
    return invalid("state_bits must be 12 to 16");
  }
  if (job.cols == 0 || job.cols % 32 != 0 || job.cols > kMostCols) {
    return invalid("cols must be a multiple of 32, at most 131072; add zeros");
  }
  if (job.rows == 0 || job.begin >= job.cols) return invalid("rows must not be 0, and begin must be below cols");
  if (job.history != 0 && job.history != 16 && job.history != 32 && job.history != 64) {
    return invalid("history must be 16, 32 or 64, or 0 for 64");
  }
  if ((uint64_t{job.cols} << job.state_bits) > kMostPaths) {
    return invalid("cols is too large for this state_bits: use fewer bits of state");
  }
  if (job.weights == nullptr || job.errors == nullptr || job.codes == nullptr || job.scales == nullptr) {
    return invalid("weights, errors, codes and scales must not be NULL");
  }
  if ((job.feedback == nullptr) != (job.pivots == nullptr)) return invalid("feedback and pivots go together");
  if (job.scale_step_count > 0 && job.scale_steps == nullptr) return invalid("scale_steps must not be NULL");
  const uint64_t rows = job.rows, cols = job.cols;
  if (!all_finite(job.weights, rows * cols) || !all_finite(job.feedback, cols * cols) ||
      !all_finite(job.pivots, cols) || !all_finite(job.row_feedback, rows * rows) ||
      !all_finite(job.errors, rows * cols)) {
    return invalid("weights, errors and factors must be finite and below 1e12");
  }
  return Nothing{};
}

// What one thread needs to choose a row.
class RowEncoder {
 public:
  RowEncoder(const edgekit_trellis& job, const TrellisTables& tables, const float* scale_values)
      : job_(job),
        tables_(tables),
        search_(tables),
        scale_values_(scale_values),
        target_(job.cols),
        wanted_(job.cols),
        values_(job.cols),
        errors_(job.cols),
        codes_(job.cols) {}

  // Chooses row r; errors [cols]: where its errors go. Returns its cost.
  double choose(uint32_t r, float* errors) {
    seek(r);
    best_cost_ = std::numeric_limits<double>::infinity();
    best_scale_ = job_.scales[r];
    uint8_t* codes = job_.codes + static_cast<size_t>(r) * job_.cols;
    best_codes_.assign(codes, codes + job_.cols);
    const int64_t ends = job_.free_ends != 0 ? kAnyEnds : search_.ends_of(codes);
    if (job_.keep_better != 0) consider(codes, best_scale_);
    const int32_t first = job_.scales[r], zero = 0;
    const int32_t* steps = job_.scale_step_count == 0 ? &zero : job_.scale_steps;
    for (uint32_t i = 0; i < std::max(1u, job_.scale_step_count); ++i) try_scale(first + steps[i], ends);
    std::memcpy(codes, best_codes_.data(), job_.cols);
    job_.scales[r] = static_cast<uint8_t>(best_scale_);
    search_.decode(codes, values_.data());
    const float* weights = job_.weights + static_cast<size_t>(r) * job_.cols;
    const float scale = scale_values_[best_scale_];
    for (uint32_t j = 0; j < job_.cols; ++j) errors[j] = weights[j] - scale * values_[j];
    return std::isfinite(best_cost_) ? best_cost_ : 0;
  }

 private:
  static constexpr int64_t kAnyEnds = TrellisSearch::kAnyEnds;

  // The target is the row, corrected for the errors of other rows.
  void seek(uint32_t r) {
    const size_t cols = job_.cols;
    std::copy(job_.weights + r * cols, job_.weights + (r + 1) * cols, target_.begin());
    for (uint32_t s = 0; job_.row_feedback != nullptr && s < job_.rows; ++s) {
      const float share = job_.row_feedback[static_cast<size_t>(r) * job_.rows + s];
      if (s == r || share == 0) continue;
      for (size_t j = 0; j < cols; ++j) target_[j] += share * job_.errors[s * cols + j];
    }
    for (uint32_t i = 0; i < cols; ++i) wanted_[i] = target_[tables_.shape.column(i)];
  }

  void consider(const uint8_t* codes, int32_t scale) {
    if (scale < 0 || scale > 255) return;
    search_.decode(codes, values_.data());
    for (uint32_t i = 0; i < job_.cols; ++i) {
      errors_[i] = wanted_[i] - scale_values_[scale] * values_[tables_.shape.column(i)];
    }
    const double cost = search_.cost(errors_.data());
    if (!(cost < best_cost_)) return;
    best_cost_ = cost;
    best_scale_ = scale;
    best_codes_.assign(codes, codes + job_.cols);
  }

  void try_scale(int32_t scale, int64_t ends) {
    scale = std::clamp(scale, 0, 255);
    search_.find(wanted_.data(), scale_values_[scale], ends, codes_.data());
    // The best scale for codes found with another one is often its neighbour.
    for (int32_t near : {scale, scale - 1, scale + 1}) consider(codes_.data(), near);
  }

  const edgekit_trellis& job_;
  const TrellisTables& tables_;
  TrellisSearch search_;
  const float* const scale_values_;
  std::vector<float> target_, wanted_, values_, errors_;
  std::vector<uint8_t> codes_, best_codes_;
  double best_cost_ = 0;
  int32_t best_scale_ = 0;
};

}  // namespace

Outcome encode_trellis(edgekit_trellis& job) {
  EK_TRY(check(job));
  TrellisShape shape;
  shape.cols = job.cols;
  shape.bits = job.bits;
  shape.state_bits = job.state_bits;
  shape.begin = job.begin;
  shape.history = job.history != 0 ? job.history : 64;
  const TrellisTables tables(shape, job.feedback, job.pivots);
  ThreadPool pool;
  EK_TRY(pool.start(std::max(1u, job.threads)));
  std::vector<std::unique_ptr<RowEncoder>> encoders(pool.size());
  const uint32_t together = job.rows_at_once != 0         ? job.rows_at_once
                            : job.row_feedback != nullptr ? 1
                                                          : std::min(job.rows, 1024u);
  std::vector<float> errors(static_cast<size_t>(together) * job.cols);
  std::vector<double> costs(job.rows);
  for (uint32_t first = 0; first < job.rows; first += together) {
    const uint32_t count = std::min(together, job.rows - first);
    pool.parallel_for(count, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
      auto& encoder = encoders[worker];
      if (encoder == nullptr) encoder = std::make_unique<RowEncoder>(job, tables, scale_table());
      for (uint32_t i = begin; i < end; ++i) {
        costs[first + i] = encoder->choose(first + i, errors.data() + static_cast<size_t>(i) * job.cols);
      }
    });
    // Rows that are chosen together see the errors of none of them.
    std::copy_n(errors.data(), static_cast<size_t>(count) * job.cols,
                job.errors + static_cast<size_t>(first) * job.cols);
  }
  job.cost = 0;
  for (double cost : costs) job.cost += cost;
  return Nothing{};
}

}  // namespace edgekit
