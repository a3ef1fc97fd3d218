// Choosing a token from logits: repetition penalty, top-k, top-p, min-p, temperature, in the order
// of llama.cpp's default chain.
#pragma once

#include <cstdint>

#include "core/result.h"
#include "edgekit/edgekit.h"

namespace edgekit {

struct Candidate {
  float logit;
  uint32_t token;
};

// SplitMix64 (Steele et al., 2014): small, and the same on every platform.
class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}
  double uniform();  // [0, 1)
  uint64_t state() const { return state_; }

 private:
  uint64_t state_;
};

edgekit_sampling default_sampling();
Outcome check_sampling(const edgekit_sampling& sampling);

// Whether none of `count` values is infinite or not a number.
bool all_finite(const float* values, uint32_t count);

// logits [vocab] are read only; candidates is scratch [vocab]; history: the tokens so far.
uint32_t sample_token(const float* logits, uint32_t vocab, const edgekit_sampling& sampling, const int32_t* history,
                      uint32_t history_count, Random& random, Candidate* candidates);

}  // namespace edgekit
