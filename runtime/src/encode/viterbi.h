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
  uint32_t history = 16;
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
  std::vector<float> spread;    // [cols][history]: see Step
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
  void begin(const float* targets, float scale, int64_t ends);
  void agree(uint32_t i);
  float settle(uint32_t i, const float* targets, float scale);
  uint32_t best_state(int64_t ends) const;
  uint32_t before(uint32_t step, uint32_t state) const;
  uint32_t state_of(const uint8_t* codes, uint32_t column) const;

  const TrellisTables& tables_;
  StepFn step_;
  uint32_t states_;
  std::vector<float> costs_, scratch_, wanted_, pending_;  // two halves each: before and after a step
  std::vector<float> settled_;                             // [cols]: errors that are decided, in the order of search
  std::vector<uint8_t> oldest_;                            // [cols][states]
  std::vector<uint64_t> origins_;                          // likewise
  uint64_t* origin_[2];
  float *cost_[2], *want_[2], *pend_[2];  // in those halves; [0] is before the next step
};

}  // namespace edgekit
