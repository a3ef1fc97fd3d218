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
  options.budget_bytes = ram;
  edgekit_model* model = nullptr;
  edgekit_error error;
  CHECK(edgekit_model_open(bundle(), &options, &model, &error) == EDGEKIT_OK);
  return model;
}

std::vector<int32_t> generate(edgekit_session* session, const edgekit_sampling& how, size_t most,
                              const std::vector<int32_t>& stop = {}) {
  const int32_t prompt[3] = {3, 4, 5};
  std::vector<int32_t> tokens;
  edgekit_session_reset(session);
  CHECK(edgekit_session_eval(session, prompt, 3, 0, nullptr, nullptr) == EDGEKIT_OK);
  for (int32_t token = -1; tokens.size() < most; tokens.push_back(token)) {
    const edgekit_status status = edgekit_session_next(session, &how, &token, nullptr);
    if (status == EDGEKIT_CONTEXT_FULL) break;
    CHECK(status == EDGEKIT_OK);
    if (std::find(stop.begin(), stop.end(), token) != stop.end()) break;
  }
  return tokens;
}

std::vector<int32_t> tokens_of(edgekit_session* session) {
  std::vector<int32_t> out(edgekit_session_position(session));
  CHECK(edgekit_session_tokens(session, out.data(), static_cast<uint32_t>(out.size())) == out.size());
  return out;
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
      CHECK(edgekit_session_next(session, &how, &token, nullptr) == EDGEKIT_OK);
      stepped.push_back(token);
      CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, nullptr) == EDGEKIT_OK);
    }
    CHECK(stepped == whole);
    CHECK(generate(session, how, 10, {whole[0]}).empty());
    CHECK(generate(session, how, 100).size() == 48 - 3 + 1);  // until the context is full
    CHECK(edgekit_session_position(session) == 48);
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
  plan.struct_size = sizeof(plan);
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
  stats.struct_size = sizeof(stats);
  CHECK(edgekit_session_stats(sessions[0], &stats, nullptr) == EDGEKIT_OK);
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
      // Left after any token, also within accepted drafts, the session holds what was given out but the last.
      for (size_t most = 1; most <= want.size(); ++most) {
        const auto given = generate(guessing, how, most);
        CHECK(std::equal(given.begin(), given.end(), want.begin()));
        std::vector<int32_t> held{3, 4, 5};
        held.insert(held.end(), given.begin(), given.end() - 1);
        CHECK(tokens_of(guessing) == held);
        const int32_t other = 9;
        CHECK(edgekit_session_eval(guessing, &other, 1, 0, nullptr, nullptr) == EDGEKIT_OK);
        held.push_back(other);
        CHECK(tokens_of(guessing) == held);
      }
      CHECK(generate(guessing, how, 100).size() == 48 - 3 + 1);
    }
  }
  edgekit_stats stats{};
  stats.struct_size = sizeof(stats);
  CHECK(edgekit_session_stats(guessing, &stats, nullptr) == EDGEKIT_OK);
  CHECK(stats.accepted_tokens > 0 && stats.accepted_tokens <= stats.drafted_tokens);
  CHECK(edgekit_session_set_draft(guessing, guessing, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  edgekit_session_destroy(draft);  // first: drafts then come from the text
  CHECK(generate(guessing, sampling(0), 18) == generate(one, sampling(0), 18));
  edgekit_session_destroy(guessing);
  edgekit_session_destroy(one);
  edgekit_model_close(drafting);
  edgekit_model_close(plain);
}

TEST(nothing_given_is_refused) {
  edgekit_error error{};
  int32_t token = 0;
  edgekit_plan plan{};
  edgekit_info info{};
  edgekit_stats stats{};
  edgekit_session* session = nullptr;
  edgekit_model* model = nullptr;
  float x = 0;
  const auto refused = [](edgekit_status status) { return status == EDGEKIT_INVALID_ARGUMENT; };
  CHECK(refused(edgekit_default_options(nullptr, &error)) && error.message[0] != 0);
  CHECK(refused(edgekit_default_sampling(nullptr, nullptr)));
  CHECK(refused(edgekit_plan_bundle(nullptr, nullptr, &plan, nullptr)));
  CHECK(refused(edgekit_plan_bundle("/nowhere", nullptr, nullptr, nullptr)));
  CHECK(refused(edgekit_model_open(nullptr, nullptr, &model, nullptr)));
  CHECK(refused(edgekit_model_open("/nowhere", nullptr, nullptr, nullptr)));
  CHECK(refused(edgekit_model_info(nullptr, &info, nullptr)) && refused(edgekit_model_plan(nullptr, &plan, nullptr)));
  CHECK(refused(edgekit_model_set_budget(nullptr, 0, nullptr)) && refused(edgekit_verify_bundle(nullptr, nullptr)));
  CHECK(refused(edgekit_session_create(nullptr, &session, nullptr)));
  CHECK(refused(edgekit_session_stats(nullptr, &stats, nullptr)));
  CHECK(refused(edgekit_session_eval(nullptr, &token, 1, 0, nullptr, nullptr)));
  CHECK(refused(edgekit_session_next(nullptr, nullptr, &token, nullptr)));
  CHECK(refused(edgekit_session_set_draft(nullptr, nullptr, nullptr)));
  CHECK(refused(edgekit_session_save(nullptr, "x", nullptr)) &&
        refused(edgekit_session_restore(nullptr, "x", nullptr)));
  CHECK(refused(edgekit_session_rewind(nullptr, 0, nullptr)));
  CHECK(refused(edgekit_session_feed_forward(nullptr, 0, &x, 1, &x, nullptr)));
  CHECK(refused(edgekit_session_linear(nullptr, 0, &x, 1, 1, &x, 1, nullptr)));
  CHECK(refused(edgekit_sample(&x, 1, nullptr, nullptr, 0, nullptr, &token, nullptr)));
  CHECK(refused(edgekit_measure_reads(nullptr, nullptr, nullptr)) && refused(edgekit_measure_kernel(nullptr, nullptr)));
  CHECK(edgekit_session_position(nullptr) == 0 && edgekit_session_tokens(nullptr, &token, 1) == 0);
  edgekit_session_reset(nullptr);
  edgekit_session_cancel(nullptr);
  edgekit_session_capture(nullptr, nullptr, nullptr);
  edgekit_session_destroy(nullptr);
  edgekit_model_close(nullptr);
  if (bundle() == nullptr) return;
  model = open(0, 1, 1);
  CHECK(refused(edgekit_model_info(model, nullptr, nullptr)) && refused(edgekit_model_plan(model, nullptr, nullptr)));
  CHECK(refused(edgekit_model_info(model, &info, nullptr)));  // no struct_size
  CHECK(refused(edgekit_session_create(model, nullptr, nullptr)));
  CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
  CHECK(refused(edgekit_session_eval(session, nullptr, 1, 0, nullptr, nullptr)));
  CHECK(refused(edgekit_session_next(session, nullptr, &token, nullptr)));
  CHECK(refused(edgekit_session_stats(session, nullptr, nullptr)));
  CHECK(edgekit_session_tokens(session, nullptr, 5) == 0);
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}
