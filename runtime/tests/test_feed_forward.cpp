// Feed-forward blocks for another engine, through the C ABI, on the bundle named by EDGEKIT_TEST_BUNDLE.
#include <cstdlib>
#include <thread>
#include <vector>

#include "check.h"
#include "edgekit/edgekit.h"

namespace {

const char* bundle() { return std::getenv("EDGEKIT_TEST_BUNDLE"); }

edgekit_model* open(uint64_t ram, edgekit_status want = EDGEKIT_OK,
                    uint32_t compute_what = EDGEKIT_COMPUTE_FEED_FORWARD) {
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.budget_bytes = ram;
  options.compute = compute_what;
  edgekit_model* model = nullptr;
  CHECK(edgekit_model_open(bundle(), &options, &model, nullptr) == want);
  return model;
}

uint64_t floor_bytes() {
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.compute = EDGEKIT_COMPUTE_FEED_FORWARD;
  edgekit_plan plan{};
  plan.struct_size = sizeof(plan);
  CHECK(edgekit_plan_bundle(bundle(), &options, &plan, nullptr) == EDGEKIT_OK);
  return plan.floor_bytes;
}

// Every block of a model on the same input, in the given order; out [blocks][tokens * hidden].
std::vector<std::vector<float>> compute(edgekit_model* model, bool backwards, uint32_t tokens) {
  edgekit_info info{};
  info.struct_size = sizeof(info);
  edgekit_model_info(model, &info, nullptr);
  edgekit_session* session = nullptr;
  CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
  std::vector<float> x(size_t{tokens} * info.hidden_size);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) - 3.0f;
  std::vector<std::vector<float>> out(info.blocks);
  for (uint32_t i = 0; i < info.blocks; ++i) {
    const uint32_t block = backwards ? info.blocks - 1 - i : i;
    std::vector<float> y(x.size());
    const auto status = edgekit_session_feed_forward(session, block, x.data(), tokens, y.data(), nullptr);
    if (status == EDGEKIT_OK) out[block] = y;
    CHECK(status == EDGEKIT_OK || status == EDGEKIT_INVALID_ARGUMENT);  // the latter: attention
  }
  edgekit_stats stats{};
  stats.struct_size = sizeof(stats);
  edgekit_session_stats(session, &stats, nullptr);
  edgekit_plan plan{};
  plan.struct_size = sizeof(plan);
  edgekit_model_plan(model, &plan, nullptr);
  CHECK(stats.peak_memory_bytes <= plan.budget_bytes);
  edgekit_session_destroy(session);
  return out;
}

bool close(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size()) return false;
    for (size_t j = 0; j < a[i].size(); ++j) {
      const float difference = a[i][j] - b[i][j], scale = 1 + (a[i][j] < 0 ? -a[i][j] : a[i][j]);
      if (difference > 1e-4f * scale || difference < -1e-4f * scale) return false;
    }
  }
  return true;
}

}  // namespace

TEST(feed_forward_is_the_same_under_any_budget_and_in_any_order) {
  if (bundle() == nullptr) return;
  edgekit_model* whole = open(0);
  edgekit_model* tight = open(floor_bytes() + 4096);
  for (uint32_t tokens : {1u, 3u}) {
    edgekit_plan plan{};
    plan.struct_size = sizeof(plan);
    edgekit_model_plan(tight, &plan, nullptr);
    if (tokens > plan.max_batch) continue;
    const auto want = compute(whole, false, tokens);
    CHECK(!want[1].empty());
    CHECK(want[0].empty());
    CHECK(close(compute(tight, false, tokens), want));
    CHECK(close(compute(tight, true, tokens), want));
    CHECK(close(compute(tight, false, tokens), want));
  }
  edgekit_model_close(tight);
  edgekit_model_close(whole);
}

TEST(feed_forward_sessions_on_two_threads_take_turns) {
  if (bundle() == nullptr) return;
  edgekit_model* model = open(2 * floor_bytes());
  const auto want = compute(model, false, 1);
  std::vector<std::vector<float>> first, second;
  std::thread one([&] { first = compute(model, false, 1); });
  std::thread two([&] { second = compute(model, true, 1); });
  one.join();
  two.join();
  CHECK(close(first, want));
  CHECK(close(second, want));
  edgekit_model_close(model);
}

TEST(feed_forward_misuse_is_refused) {
  if (bundle() == nullptr) return;
  CHECK(open(1000, EDGEKIT_OVER_BUDGET) == nullptr);
  edgekit_model* model = open(0);
  edgekit_session* session = nullptr;
  CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
  std::vector<float> x(4096);
  const int32_t token = 3;
  CHECK(edgekit_session_feed_forward(session, 1, nullptr, 1, x.data(), nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_feed_forward(session, 1, x.data(), 0, x.data(), nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_feed_forward(session, 1, x.data(), 1u << 31, x.data(), nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_feed_forward(session, UINT32_MAX, x.data(), 1, x.data(), nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  edgekit_sampling how{};
  how.struct_size = sizeof(how);
  uint64_t state = 1;
  int32_t chosen = -1;
  const float logits[4] = {0.0f, 3.0f, 1.0f, 2.0f};
  CHECK(edgekit_sample(logits, 4, &how, nullptr, 0, &state, &chosen, nullptr) == EDGEKIT_OK);
  CHECK(chosen == 1);
  CHECK(edgekit_sample(logits, 0, &how, nullptr, 0, &state, &chosen, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_sample(nullptr, 4, &how, nullptr, 0, &state, &chosen, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_sample(logits, 4, &how, nullptr, 1, &state, &chosen, nullptr) == EDGEKIT_INVALID_ARGUMENT);
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}

TEST(feed_forward_and_products_take_only_what_is_theirs) {
  if (bundle() == nullptr) return;
  CHECK(open(0, EDGEKIT_INVALID_ARGUMENT, 9) == nullptr);
  std::vector<float> x(1 << 16), y(1 << 16);
  for (uint32_t compute_what : {EDGEKIT_COMPUTE_FEED_FORWARD, EDGEKIT_COMPUTE_LINEAR}) {
    edgekit_model* model = open(0, EDGEKIT_OK, compute_what);
    edgekit_info info{};
    info.struct_size = sizeof(info);
    edgekit_model_info(model, &info, nullptr);
    edgekit_session* session = nullptr;
    CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
    uint32_t heads = 0;
    for (uint32_t matrix = 0; matrix < 200; ++matrix) {
      const auto call = [&](uint32_t columns, uint32_t rows) {
        return edgekit_session_linear(session, matrix, x.data(), columns, 1, y.data(), rows, nullptr);
      };
      CHECK(call(info.hidden_size + 1, 7) == EDGEKIT_INVALID_ARGUMENT);
      heads += call(info.hidden_size, info.vocab_size) == EDGEKIT_OK ? 1 : 0;
    }
    CHECK(heads == (compute_what == EDGEKIT_COMPUTE_LINEAR ? 1 : 0));  // the one matrix with as many rows as tokens
    CHECK(edgekit_session_linear(session, UINT32_MAX, x.data(), 1, 1, y.data(), 1, nullptr) ==
          EDGEKIT_INVALID_ARGUMENT);
    edgekit_session_destroy(session);
    edgekit_model_close(model);
  }
}
