// Several sessions advanced in one pass through the C ABI, on the bundle named by EDGEKIT_TEST_BUNDLE.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "edgekit/edgekit.h"

namespace {

constexpr uint32_t kSessions = 5;

struct Opened {
  edgekit_model* model = nullptr;
  std::vector<edgekit_session*> sessions;

  Opened(uint64_t ram, uint32_t context) {
    edgekit_options options{};
    options.struct_size = sizeof(options);
    options.threads = 2;
    options.context = context;
    options.sessions = kSessions;
    options.budget_bytes = ram;
    CHECK(edgekit_model_open(std::getenv("EDGEKIT_TEST_BUNDLE"), &options, &model, nullptr) == EDGEKIT_OK);
    for (uint32_t i = 0; i < kSessions; ++i) {
      edgekit_session* made = nullptr;
      CHECK(edgekit_session_create(model, &made, nullptr) == EDGEKIT_OK);
      const int32_t prompt[9] = {3, 4, 5, 6, 7, 8, 9, 10, 11};
      CHECK(edgekit_session_eval(made, prompt, 1 + 2 * i, 0, nullptr, nullptr) == EDGEKIT_OK);
      sessions.push_back(made);
    }
  }
  ~Opened() {
    for (auto* s : sessions) edgekit_session_destroy(s);
    edgekit_model_close(model);
  }

  // The next token of a session, whose chosen token may be part of the text already, and the logarithms of the
  // probabilities of the best ones.
  std::vector<float> next(uint32_t i) {
    edgekit_sampling greedy{};
    greedy.struct_size = sizeof(greedy);
    std::vector<float> out(8);
    int32_t tokens[8];
    CHECK(edgekit_session_next(sessions[i], &greedy, tokens, nullptr) == EDGEKIT_OK);
    CHECK(edgekit_session_logprobs(sessions[i], nullptr, tokens, out.data(), 8, nullptr) == EDGEKIT_OK);
    for (int32_t t : tokens) out.push_back(static_cast<float>(t));
    return out;
  }
};

uint64_t small_budget() {
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.context = 48;
  options.sessions = kSessions;
  edgekit_plan plan{};
  plan.struct_size = sizeof(plan);
  CHECK(edgekit_plan_bundle(std::getenv("EDGEKIT_TEST_BUNDLE"), &options, &plan, nullptr) == EDGEKIT_OK);
  return plan.floor_bytes + plan.weight_bytes / 3;
}

}  // namespace

TEST(sessions_that_advance_together_get_what_they_get_alone) {
  if (std::getenv("EDGEKIT_TEST_BUNDLE") == nullptr) return;
  for (uint64_t ram : {uint64_t{0}, small_budget()}) {
    Opened alone(ram, 48), together(ram, 48);
    for (int step = 0; step < 12; ++step) {
      edgekit_error errors[kSessions];
      CHECK(edgekit_sessions_advance(together.sessions.data(), kSessions, errors, nullptr) == EDGEKIT_OK);
      for (uint32_t i = 0; i < kSessions; ++i) CHECK(together.next(i) == alone.next(i));
    }
  }
}

TEST(a_session_without_room_is_the_only_one_that_fails) {
  if (std::getenv("EDGEKIT_TEST_BUNDLE") == nullptr) return;
  Opened opened(0, 9);
  for (uint32_t i = 0; i < kSessions; ++i) opened.next(i);
  edgekit_error errors[kSessions], first;
  CHECK(edgekit_sessions_advance(opened.sessions.data(), kSessions, errors, &first) == EDGEKIT_CONTEXT_FULL);
  CHECK(std::strcmp(first.message, errors[4].message) == 0);
  for (uint32_t i = 0; i < kSessions; ++i) {
    CHECK(errors[i].status == (i == 4 ? EDGEKIT_CONTEXT_FULL : EDGEKIT_OK));
    CHECK(edgekit_session_position(opened.sessions[i]) == (i == 4 ? 9 : 2 + 2 * i));
  }
}

TEST(sessions_that_cannot_advance_together_are_refused) {
  if (std::getenv("EDGEKIT_TEST_BUNDLE") == nullptr) return;
  Opened one(0, 48), other(0, 48);
  edgekit_error errors[2];
  edgekit_session* twice[2] = {one.sessions[0], one.sessions[0]};
  edgekit_session* strangers[2] = {one.sessions[0], other.sessions[0]};
  edgekit_session* none[2] = {one.sessions[0], nullptr};
  for (auto* given : {twice, strangers, none}) {
    CHECK(edgekit_sessions_advance(given, 2, errors, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  }
  CHECK(edgekit_sessions_advance(twice, 0, errors, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_sessions_advance(nullptr, 1, errors, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_sessions_advance(twice, 1, nullptr, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_copy(one.sessions[0], one.sessions[0], 1, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_copy(one.sessions[0], other.sessions[0], 1, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_copy(one.sessions[0], nullptr, 1, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_copy(one.sessions[0], one.sessions[1], 4, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_position(one.sessions[0]) == 1);
  CHECK(edgekit_session_copy(one.sessions[0], one.sessions[1], 3, nullptr) == EDGEKIT_OK);
  CHECK(edgekit_session_position(one.sessions[0]) == 3);
}
