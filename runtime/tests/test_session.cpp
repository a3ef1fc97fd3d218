// Sessions through the C ABI, on the bundle named by EDGEKIT_TEST_BUNDLE.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "check.h"
#include "edgekit/edgekit.h"

namespace {

const char* bundle() { return std::getenv("EDGEKIT_TEST_BUNDLE"); }

edgekit_sampling sampling(float temperature) {
  edgekit_sampling s{};
  s.struct_size = sizeof(s);
  s.temperature = temperature;
  s.seed = 5;
  return s;
}

edgekit_model* open(uint64_t ram, uint32_t sessions, uint32_t threads) {
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = threads;
  options.context = 48;
  options.sessions = sessions;
  options.ram_bytes = ram;
  edgekit_model* model = nullptr;
  edgekit_error error;
  CHECK(edgekit_model_open(bundle(), &options, &model, &error) == EDGEKIT_OK);
  return model;
}

int32_t keep(int32_t token, void* user) {
  auto& tokens = *static_cast<std::vector<int32_t>*>(user);
  tokens.push_back(token);
  return tokens.size() == 20;
}

std::vector<int32_t> generate(edgekit_session* session, const edgekit_sampling& how, uint32_t most,
                              const std::vector<int32_t>& stop = {}) {
  const int32_t prompt[3] = {3, 4, 5};
  std::vector<int32_t> tokens;
  edgekit_session_reset(session);
  CHECK(edgekit_session_generate(session, prompt, 3, most, stop.data(), static_cast<uint32_t>(stop.size()), &how, keep,
                                 &tokens, nullptr) == EDGEKIT_OK);
  return tokens;
}

}  // namespace

TEST(session_generates_what_stepping_gives) {
  if (bundle() == nullptr) return;
  edgekit_model* model = open(0, 1, 2);
  edgekit_session* session = nullptr;
  CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
  for (float temperature : {0.0f, 1.0f}) {
    const auto how = sampling(temperature);
    const auto whole = generate(session, how, 10);
    CHECK(whole.size() == 10);
    edgekit_session_reset(session);
    const int32_t prompt[3] = {3, 4, 5};
    std::vector<int32_t> stepped;
    CHECK(edgekit_session_eval(session, prompt, 3, 0, nullptr, nullptr) == EDGEKIT_OK);
    for (int i = 0; i < 10; ++i) {
      int32_t token = -1;
      CHECK(edgekit_session_sample(session, &how, &token, nullptr) == EDGEKIT_OK);
      stepped.push_back(token);
      CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, nullptr) == EDGEKIT_OK);
    }
    CHECK(stepped == whole);
    // Stop tokens end it and are not reported; the callback ends it too; so does the context.
    CHECK(generate(session, how, 10, {whole[0]}).empty());
    CHECK(generate(session, how, 40).size() == 20);
  }
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}

TEST(session_eight_at_once_share_a_model_and_a_budget) {
  if (bundle() == nullptr) return;
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.context = 48;
  options.sessions = 8;
  edgekit_plan plan{};
  CHECK(edgekit_plan_bundle(bundle(), &options, &plan, nullptr) == EDGEKIT_OK);
  edgekit_model* model = open(plan.floor_bytes, 8, 2);
  std::vector<edgekit_session*> sessions(8);
  for (auto& s : sessions) CHECK(edgekit_session_create(model, &s, nullptr) == EDGEKIT_OK);
  edgekit_session* ninth = nullptr;
  edgekit_error error;
  const bool room = edgekit_session_create(model, &ninth, &error) == EDGEKIT_OK;
  CHECK(room || error.status == EDGEKIT_OVER_BUDGET);
  edgekit_session_destroy(ninth);
  const auto want = generate(sessions[0], sampling(0), 12);
  std::vector<std::vector<int32_t>> got(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] { got[i] = generate(sessions[i], sampling(0), 12); });
  }
  for (auto& t : threads) t.join();
  for (const auto& tokens : got) CHECK(tokens == want);
  edgekit_stats stats{};
  edgekit_session_stats(sessions[0], &stats);
  CHECK(stats.peak_memory_bytes <= plan.floor_bytes);
  for (auto* s : sessions) edgekit_session_destroy(s);
  edgekit_model_close(model);
}

TEST(session_cancelled_from_another_thread_keeps_its_tokens) {
  if (bundle() == nullptr) return;
  edgekit_model* model = open(0, 1, 2);
  edgekit_session* session = nullptr;
  CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
  const int32_t token = 7;
  edgekit_status status = EDGEKIT_OK;
  std::atomic<bool> done{false};
  std::thread other([&] {  // again and again, as a reset forgets what no evaluation has noticed
    while (!done.load()) edgekit_session_cancel(session);
  });
  for (int i = 0; i < 100000 && status == EDGEKIT_OK; ++i) {
    edgekit_session_reset(session);
    status = edgekit_session_eval(session, &token, 1, 0, nullptr, nullptr);
  }
  done.store(true);
  other.join();
  CHECK(status == EDGEKIT_CANCELLED && edgekit_session_position(session) == 0);
  edgekit_session_cancel(session);
  edgekit_session_reset(session);
  CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, nullptr) == EDGEKIT_OK);
  CHECK(edgekit_session_position(session) == 1);
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}

TEST(drafted_text_is_the_same_text) {
  if (bundle() == nullptr) return;
  edgekit_model* plain = open(0, 1, 2);
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.context = 48;
  options.sessions = 2;
  options.select = EDGEKIT_SELECT_ALL;
  options.draft_tokens = 3;
  edgekit_model* drafting = nullptr;
  CHECK(edgekit_model_open(bundle(), &options, &drafting, nullptr) == EDGEKIT_OK);
  edgekit_session *one = nullptr, *guessing = nullptr, *draft = nullptr;
  CHECK(edgekit_session_create(plain, &one, nullptr) == EDGEKIT_OK);
  CHECK(edgekit_session_create(drafting, &guessing, nullptr) == EDGEKIT_OK);
  CHECK(edgekit_session_create(drafting, &draft, nullptr) == EDGEKIT_OK);
  for (edgekit_session* source : {static_cast<edgekit_session*>(nullptr), draft}) {
    CHECK(edgekit_session_set_draft(guessing, source, nullptr) == EDGEKIT_OK);
    for (float temperature : {0.0f, 1.0f}) {
      const auto how = sampling(temperature);
      const auto want = generate(one, how, 18);
      CHECK(generate(guessing, how, 18) == want);
      // A stop token in the middle of what was accepted leaves the session behind the token before it.
      const int32_t last = want[9];
      const auto until = generate(guessing, how, 18, {last});
      CHECK(std::find(until.begin(), until.end(), last) == until.end());
      CHECK(edgekit_session_position(guessing) == 3 + until.size());
      CHECK(generate(guessing, how, 60).size() == 20);
    }
  }
  edgekit_stats stats{};
  stats.struct_size = sizeof(stats);
  edgekit_session_stats(guessing, &stats);
  CHECK(stats.struct_size == sizeof(stats) && stats.accepted_tokens > 0);
  edgekit_stats first{};  // a caller that does not say how much room it has knows the first version
  first.accepted_tokens = 77;
  edgekit_session_stats(guessing, &first);
  CHECK(first.generated_tokens == stats.generated_tokens && first.accepted_tokens == 77);
  CHECK(edgekit_session_set_draft(guessing, guessing, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  edgekit_session_destroy(guessing);
  edgekit_session_destroy(draft);
  edgekit_session_destroy(one);
  edgekit_model_close(drafting);
  edgekit_model_close(plain);
}
