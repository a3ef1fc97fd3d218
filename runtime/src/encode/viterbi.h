// The codes of a trellis row (docs/format.md, "trellis"), found by a Viterbi search in which every path carries its own
// error feedback: per-survivor processing.
//
// The cost of a row with errors e is sum over i of pivots[i] * (e[i] + sum over j < i of feedback[i][j] * e[j])^2, in
// the order of the search. With a Hessian H in that order this is e' H e when H = F' D F for F the unit lower
// triangular feedback and D the pivots. A path remembers what its last errors mean for the next `history` columns;
// older errors count as the best path so far has them, and paths that differ from it there are dropped.
#pragma once

#include <cstdint>
#include <vector>

#include "encode/steps.h"

namespace edgekit {

// Where the search goes: from column `begin` downward, around the end of the row. Codes of a row: one byte a column.
struct TrellisShape {
  uint32_t cols = 0;  // a multiple of 32, so that records hold whole blocks
  uint32_t bits = 4, state_bits = 12;
  uint32_t history = 64;  // columns that a path remembers: a multiple of kTrellisBlock, at least two
  uint32_t begin = 0;
  // The column of the i-th step.
  uint32_t column(uint32_t i) const { return (begin + 2 * cols - 1 - i) % cols; }
};

// What all rows and threads share; feedback and pivots may be NULL: every column counts alike, and none feeds another.
class TrellisTables {
 public:
  TrellisTables(const TrellisShape& shape, const float* feedback, const float* pivots);
  const TrellisShape shape;
  const float* const feedback;  // [cols][cols], in the order of search, or NULL
  std::vector<float> pivots;    // [cols], in the order of search
  std::vector<float> values;    // [states], with kTrellisUnit in them
  // What the error of a column adds to the targets of later ones, if there is feedback.
  std::vector<float> within;  // [cols][kTrellisBlock]: of its own block, see Step
  std::vector<float> ahead;   // [cols][history]: from the next block on, see Renewal
};

// Working memory of one thread.
class TrellisSearch {
 public:
  explicit TrellisSearch(const TrellisTables& tables);
  static constexpr int64_t kAnyEnds = -1;

  // Finds codes [cols] for targets [cols] in the order of search. `ends`: the bits that the row has in common at
  // its beginning and its end, so that it bites its tail; kAnyEnds lets both be free (then it does not).
  void find(const float* targets, float scale, int64_t ends, uint8_t* codes);
  // The cost of errors [cols] in the order of search.
  double cost(const float* errors) const;
  // The values [cols] of codes [cols], both by column, with kTrellisUnit in them.
  void decode(const uint8_t* codes, float* values) const;
  // The bits that codes [cols], by column, have in common at the place where the search begins.
  int64_t ends_of(const uint8_t* codes) const;

 private:
  // Whether all paths see the same targets.
  bool alike() const { return tables_.feedback == nullptr; }
  uint32_t blocks() const { return tables_.shape.history / kTrellisBlock; }
  size_t far_width() const { return tables_.shape.history - kTrellisBlock; }
  void begin(const float* targets, float scale, int64_t ends);
  void trace_anchors(uint32_t i);
  void settle(uint32_t i, const float* targets, float scale);
  void renew(uint32_t i, const float* targets, float scale);
  void advance(uint32_t i, float target, float scale);
  uint32_t best_state(int64_t ends) const;
  uint32_t before(uint32_t step, uint32_t state) const;
  uint32_t state_of(const uint8_t* codes, uint32_t column) const;

  const TrellisTables& tables_;
  const Steps& steps_;
  uint32_t states_;
  float block_targets_[kTrellisBlock] = {};        // of this block's columns, with what is decided
  std::vector<float> scratch_, errors_, settled_;  // errors_: see Renewal; settled_ [cols]: errors that are decided
  std::vector<uint8_t> oldest_;                    // [cols][states], or [cols][states >> bits]: see Step
  std::vector<uint16_t> parents_, anchors_;
  std::vector<uint8_t> marked_;  // [states]: anchors that were met
  // Two halves each; [0] is before the next step, or block.
  std::vector<float> costs_, wanted_, records_, far_;
  std::vector<uint16_t> origins_;  // [states]: where the path to each was when the last block began
  std::vector<uint32_t> paths_;    // see state_before
  std::vector<uint16_t> lineage_;  // [states][blocks]: where an anchor's path was as blocks began
  float *cost_[2] = {}, *want_[2] = {}, *record_[2] = {}, *far_at_[2] = {};
  uint32_t* path_[2] = {};
  uint16_t* lineage_at_[2] = {};
};

}  // namespace edgekit
