#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgekit {

edgekit_sampling default_sampling() {
  edgekit_sampling s{};
  s.struct_size = sizeof(s);
  s.temperature = 0.8f;
  s.top_k = 40;
  s.top_p = 0.95f;
  s.min_p = 0.05f;
  s.repeat_penalty = 1.0f;
  s.repeat_last_n = 64;
  return s;
}

Outcome check_sampling(const edgekit_sampling& s) {
  for (const float value :
       {s.temperature, s.top_p, s.min_p, s.repeat_penalty, s.presence_penalty, s.frequency_penalty}) {
    if (!std::isfinite(value)) {
      return fail(EDGEKIT_INVALID_ARGUMENT, "temperature, top_p, min_p and penalties must be finite numbers");
    }
  }
  if (s.bias_count != 0 && (s.bias_tokens == nullptr || s.bias_values == nullptr)) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "bias_tokens and bias_values must be given where bias_count is not 0");
  }
  return Nothing{};
}

Outcome check_vocabulary(const edgekit_sampling& s, uint32_t vocab) {
  if (s.mask != nullptr && s.mask_words != mask_words(vocab)) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "mask_words is " + std::to_string(s.mask_words) +
                                              ", and the vocabulary needs " + std::to_string(mask_words(vocab)));
  }
  if (s.bias_count > vocab) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "there are more biases than the vocabulary's " + std::to_string(vocab));
  }
  for (uint32_t i = 0; i < s.bias_count; ++i) {
    if (s.bias_tokens[i] < 0 || static_cast<uint32_t>(s.bias_tokens[i]) >= vocab || !std::isfinite(s.bias_values[i])) {
      return fail(EDGEKIT_INVALID_ARGUMENT, "the bias of token " + std::to_string(s.bias_tokens[i]) +
                                                " is not finite, or the token is outside the vocabulary of " +
                                                std::to_string(vocab));
    }
  }
  return Nothing{};
}

bool all_finite(const float* values, uint32_t count) {
  uint32_t exponents = 0;  // the greatest; a loop over integers is one that compilers vectorize
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    exponents = std::max(exponents, bits & 0x7F800000u);
  }
  return exponents != 0x7F800000u;
}

double Random::uniform() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

namespace {

// Ties go to the lower id, so that the order does not depend on the sorting algorithm.
bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// Presence and frequency penalties, as OpenAI defined them for its API.
void discount(Candidate* candidates, uint32_t vocab, const edgekit_sampling& sampling, const int32_t* history,
              uint32_t count) {
  if (sampling.presence_penalty == 0 && sampling.frequency_penalty == 0) return;
  constexpr uint32_t kSeen = 1u << 31;  // in a candidate's token, which is below
  for (uint32_t i = sampling.penalty_begin; i < count; ++i) {
    if (history[i] < 0 || static_cast<uint32_t>(history[i]) >= vocab) continue;
    Candidate& c = candidates[history[i]];
    c.logit -= sampling.frequency_penalty + ((c.token & kSeen) == 0 ? sampling.presence_penalty : 0);
    c.token |= kSeen;
  }
  for (uint32_t i = sampling.penalty_begin; i < count; ++i) {
    if (history[i] >= 0 && static_cast<uint32_t>(history[i]) < vocab) candidates[history[i]].token &= ~kSeen;
  }
}

// Moves the candidates that the mask allows to the front; returns how many.
uint32_t keep_allowed(Candidate* candidates, uint32_t vocab, const uint32_t* mask) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < vocab; ++i) {
    if ((mask[i / 32] >> (i % 32) & 1) != 0) candidates[kept++] = candidates[i];
  }
  return kept;
}

// Each token counts once, however often it occurs (CTRL, arXiv 1909.05858, section 4.1).
void penalize(Candidate* candidates, uint32_t vocab, const edgekit_sampling& sampling, const int32_t* history,
              uint32_t count) {
  if (sampling.repeat_penalty <= 0 || sampling.repeat_penalty == 1.0f) return;
  const uint32_t last = sampling.repeat_last_n == 0 ? default_sampling().repeat_last_n : sampling.repeat_last_n;
  const uint32_t begin = count > last ? count - last : 0;
  for (uint32_t i = begin; i < count; ++i) {
    bool seen = false;
    for (uint32_t j = begin; j < i && !seen; ++j) seen = history[j] == history[i];
    if (seen || history[i] < 0 || static_cast<uint32_t>(history[i]) >= vocab) continue;
    float& logit = candidates[history[i]].logit;
    logit = logit > 0 ? logit / sampling.repeat_penalty : logit * sampling.repeat_penalty;
  }
}

}  // namespace

bool allows_any(const uint32_t* mask, uint32_t vocab) {
  for (uint32_t i = 0; i < vocab; ++i) {
    if ((mask[i / 32] >> (i % 32) & 1) != 0) return true;
  }
  return false;
}

double find_best(const float* logits, uint32_t vocab, uint32_t count, Candidate* candidates) {
  for (uint32_t i = 0; i < vocab; ++i) candidates[i] = {logits[i], i};
  std::partial_sort(candidates, candidates + std::max(1u, count), candidates + vocab, better);
  const double top = candidates[0].logit;
  double total = 0;
  for (uint32_t i = 0; i < vocab; ++i) total += std::exp(logits[i] - top);
  return top + std::log(total);
}

uint32_t sample_token(const float* logits, uint32_t vocab, const edgekit_sampling& sampling, const Surroundings& around,
                      Random& random, Candidate* candidates) {
  for (uint32_t i = 0; i < vocab; ++i) candidates[i] = {logits[i], i};
  for (uint32_t i = 0; i < sampling.bias_count; ++i) {
    candidates[sampling.bias_tokens[i]].logit += sampling.bias_values[i];
  }
  penalize(candidates, vocab, sampling, around.history, around.count);
  discount(candidates, vocab, sampling, around.history, around.count);
  const uint32_t allowed = around.mask == nullptr ? vocab : keep_allowed(candidates, vocab, around.mask);
  if (sampling.temperature <= 0) return std::min_element(candidates, candidates + allowed, better)->token;

  uint32_t n = allowed;
  if (sampling.top_k != 0 && sampling.top_k < n) {
    n = sampling.top_k;
    std::partial_sort(candidates, candidates + n, candidates + allowed, better);
  } else {
    std::sort(candidates, candidates + n, better);
  }
  const float top = candidates[0].logit;
  if (sampling.top_p > 0 && sampling.top_p < 1) {
    double total = 0, mass = 0;
    for (uint32_t i = 0; i < n; ++i) total += std::exp(static_cast<double>(candidates[i].logit - top));
    uint32_t kept = 0;
    while (kept < n && mass < static_cast<double>(sampling.top_p) * total) {
      mass += std::exp(static_cast<double>(candidates[kept++].logit - top));
    }
    n = std::max(1u, kept);
  }
  if (sampling.min_p > 0) {
    uint32_t kept = 1;
    while (kept < n && std::exp(candidates[kept].logit - top) >= sampling.min_p) ++kept;
    n = kept;
  }
  double total = 0;
  const auto weight = [&](uint32_t i) {
    return std::exp(static_cast<double>((candidates[i].logit - top) / sampling.temperature));
  };
  for (uint32_t i = 0; i < n; ++i) total += weight(i);
  double left = random.uniform() * total;
  for (uint32_t i = 0; i + 1 < n; ++i) {
    left -= weight(i);
    if (left < 0) return candidates[i].token;
  }
  return candidates[n - 1].token;
}

}  // namespace edgekit
