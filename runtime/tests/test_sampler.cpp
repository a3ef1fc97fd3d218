#include <cmath>
#include <vector>

#include "check.h"
#include "sampling/lookup.h"
#include "sampling/sampler.h"

using namespace edgekit;

namespace {
edgekit_sampling at(float temperature) {
  edgekit_sampling s{};
  s.struct_size = sizeof(s);
  s.temperature = temperature;
  return s;
}
std::vector<double> frequencies(const std::vector<float>& logits, const edgekit_sampling& s, int draws) {
  Random random(11);
  std::vector<Candidate> scratch(logits.size());
  std::vector<double> out(logits.size());
  const uint32_t n = static_cast<uint32_t>(logits.size());
  for (int i = 0; i < draws; ++i) out[sample_token(logits.data(), n, s, {}, random, scratch.data())] += 1.0 / draws;
  return out;
}
const std::vector<float> kLogits = {std::log(0.5f), std::log(0.05f), std::log(0.3f), std::log(0.15f)};
}  // namespace

TEST(greedy_takes_the_largest_and_the_first_of_equals) {
  Random random(0);
  std::vector<Candidate> scratch(3);
  const float logits[3] = {1, 2, 2};
  CHECK(sample_token(logits, 3, at(0), {}, random, scratch.data()) == 1);
}

TEST(draws_follow_the_probabilities) {
  const auto f = frequencies(kLogits, at(1), 100000);
  const double want[4] = {0.5, 0.05, 0.3, 0.15};
  for (int i = 0; i < 4; ++i) CHECK(std::fabs(f[static_cast<size_t>(i)] - want[i]) < 0.01);
}

TEST(filters_keep_what_they_say) {
  auto s = at(1);
  s.top_k = 2;
  auto f = frequencies(kLogits, s, 20000);
  CHECK(f[1] == 0 && f[3] == 0 && std::fabs(f[0] - 0.625) < 0.02);
  s = at(1);
  s.top_p = 0.7f;
  f = frequencies(kLogits, s, 20000);
  CHECK(f[1] == 0 && f[3] == 0 && f[2] > 0);
  s = at(1);
  s.min_p = 0.2f;
  f = frequencies(kLogits, s, 20000);
  CHECK(f[1] == 0 && f[3] > 0);
}

TEST(repetition_penalty_counts_each_token_once) {
  Random random(0);
  std::vector<Candidate> scratch(3);
  const float logits[3] = {1.0f, 1.5f, -1.0f};
  const int32_t history[4] = {1, 1, 1, 2};
  auto s = at(0);
  s.repeat_penalty = 1.2f;  // once: 1.25 still wins; three times would not
  CHECK(sample_token(logits, 3, s, {history, 4}, random, scratch.data()) == 1);
  s.repeat_penalty = 1.6f;
  CHECK(sample_token(logits, 3, s, {history, 4}, random, scratch.data()) == 0);
}

TEST(biases_and_penalties_are_added_and_taken) {
  Random random(0);
  std::vector<Candidate> scratch(4);
  const float logits[4] = {1.0f, 1.5f, -1.0f, 0};
  const int32_t history[5] = {1, 1, 1, 0, 3};
  const int32_t tokens[2] = {2, 1};
  const float values[2] = {5, -9};
  auto s = at(0);
  s.bias_count = 2;
  s.bias_tokens = tokens;
  s.bias_values = values;
  CHECK(sample_token(logits, 4, s, {}, random, scratch.data()) == 2);
  s = at(0);
  s.frequency_penalty = 0.2f;  // 1.5 - 3 * 0.2 < 1 - 0.2, but not without the first two
  CHECK(sample_token(logits, 4, s, {history, 5}, random, scratch.data()) == 1);
  s.frequency_penalty = 0.3f;
  CHECK(sample_token(logits, 4, s, {history, 5}, random, scratch.data()) == 0);
  s.penalty_begin = 2;
  CHECK(sample_token(logits, 4, s, {history, 5}, random, scratch.data()) == 1);
  s = at(0);
  s.presence_penalty = 0.6f;  // once, however often: both seen
  CHECK(sample_token(logits, 4, s, {history, 5}, random, scratch.data()) == 1);
  CHECK(sample_token(logits, 4, s, {history, 3}, random, scratch.data()) == 0);
  s.penalty_begin = 9;  // beyond the text
  CHECK(sample_token(logits, 4, s, {history, 5}, random, scratch.data()) == 1);
}

TEST(masks_leave_what_they_allow) {
  Random random(3);
  std::vector<float> logits(70);
  std::vector<Candidate> scratch(70);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i) / 70;
  uint32_t mask[3] = {0, 1u << 2, 1u << 1};  // 34 and 65
  CHECK(mask_words(70) == 3 && allows_any(mask, 70));
  CHECK(sample_token(logits.data(), 70, at(0), {nullptr, 0, mask}, random, scratch.data()) == 65);
  bool seen[2] = {};
  auto s = at(5);
  s.top_k = 40;
  for (int i = 0; i < 200; ++i) {
    const uint32_t token = sample_token(logits.data(), 70, s, {nullptr, 0, mask}, random, scratch.data());
    CHECK(token == 34 || token == 65);
    seen[token == 65] = true;
  }
  CHECK(seen[0] && seen[1]);
  const uint32_t beyond[3] = {0, 0, 1u << 6};  // no token of this vocabulary
  CHECK(!allows_any(beyond, 70));
}

TEST(best_tokens_come_with_their_probabilities) {
  std::vector<Candidate> scratch(4);
  const double total = find_best(kLogits.data(), 4, 2, scratch.data());
  CHECK(scratch[0].token == 0 && scratch[1].token == 2);
  CHECK(std::fabs(std::exp(scratch[1].logit - total) - 0.3) < 1e-6);
}

TEST(lookup_drafts_what_followed_before) {
  const std::vector<int32_t> text = {1, 2, 3, 4, 9, 2, 3, 5, 7, 2, 3};
  int32_t out[8];
  const uint32_t count = static_cast<uint32_t>(text.size());
  CHECK(lookup_draft(text.data(), count, out, 8) == 4);  // after the latest "2 3"
  CHECK(out[0] == 5 && out[1] == 7 && out[2] == 2 && out[3] == 3);
  CHECK(lookup_draft(text.data(), count, out, 2) == 2);
  CHECK(lookup_draft(text.data(), 8, out, 8) == 0);  // 5 was never there
  CHECK(lookup_draft(text.data(), 1, out, 8) == 0 && lookup_draft(text.data(), 0, out, 8) == 0);
  const std::vector<int32_t> longest = {1, 2, 3, 8, 6, 3, 9, 1, 2, 3};
  CHECK(lookup_draft(longest.data(), 10, out, 1) == 1 && out[0] == 8);  // "1 2 3", though "3" is nearer
}
