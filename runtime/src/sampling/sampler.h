// Choosing a token from logits: biases, penalties and the mask, then top-k, top-p, min-p and temperature in the order
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
// What only a vocabulary decides: biases and the mask.
Outcome check_vocabulary(const edgekit_sampling& sampling, uint32_t vocab);

constexpr uint32_t mask_words(uint32_t vocab) { return (vocab + 31) / 32; }

// Whether none of `count` values is infinite or not a number.
bool all_finite(const float* values, uint32_t count);

// The tokens so far [count], and which tokens may be chosen (mask [mask_words(vocab)], or NULL for all).
struct Surroundings {
  const int32_t* history = nullptr;
  uint32_t count = 0;
  const uint32_t* mask = nullptr;
};

// logits [vocab] are read only; candidates is scratch [vocab]. The mask allows a token at least.
uint32_t sample_token(const float* logits, uint32_t vocab, const edgekit_sampling& sampling, const Surroundings& around,
                      Random& random, Candidate* candidates);
bool allows_any(const uint32_t* mask, uint32_t vocab);

// The `count` best of logits [vocab], best first, to the front of candidates, scratch [vocab]; returns the logarithm
// of the sum of all exponentials, which taken from a logit leaves the logarithm of its probability.
double find_best(const float* logits, uint32_t vocab, uint32_t count, Candidate* candidates);

}  // namespace edgekit
