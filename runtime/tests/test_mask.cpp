// Masks and log probabilities through the C ABI, on the bundle named by EDGEKIT_TEST_BUNDLE.
#include <cmath>
#include <cstdlib>
#include <vector>

#include "check.h"
#include "edgekit/edgekit.h"

namespace {

struct Allowed {
  int32_t token;
  uint32_t calls;
  int32_t result;
};

int32_t allow_one(uint32_t* mask, uint32_t words, void* user) {
  auto* allowed = static_cast<Allowed*>(user);
  ++allowed->calls;
  for (uint32_t i = 0; i < words; ++i) mask[i] = 0;
  mask[allowed->token / 32] = 1u << (allowed->token % 32);
  return allowed->result;
}

}  // namespace

TEST(masks_constrain_choices_with_and_without_drafts) {
  const char* bundle = std::getenv("EDGEKIT_TEST_BUNDLE");
  if (bundle == nullptr) return;
  for (const uint32_t drafts : {0u, 4u}) {
    edgekit_options options{};
    options.struct_size = sizeof(options);
    options.context = 48;
    options.select = EDGEKIT_SELECT_ALL;
    options.draft_tokens = drafts;
    edgekit_model* model = nullptr;
    edgekit_session* session = nullptr;
    CHECK(edgekit_model_open(bundle, &options, &model, nullptr) == EDGEKIT_OK);
    CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
    edgekit_sampling greedy{};
    greedy.struct_size = sizeof(greedy);
    const int32_t prompt[3] = {3, 4, 5};
    int32_t token = -1;
    float chosen = 1, best_logprob = 1;
    int32_t best = -1;
    CHECK(edgekit_session_logprobs(session, &chosen, nullptr, nullptr, 0, nullptr) == EDGEKIT_INVALID_ARGUMENT);
    CHECK(edgekit_session_eval(session, prompt, 3, 0, nullptr, nullptr) == EDGEKIT_OK);
    Allowed allowed{7, 0, 0};
    edgekit_session_set_mask(session, allow_one, &allowed);
    for (int32_t i = 0; i < 6; ++i) {
      allowed.token = 7 + i % 2;
      CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_OK);
      CHECK(token == allowed.token);
      CHECK(edgekit_session_logprobs(session, &chosen, &best, &best_logprob, 1, nullptr) == EDGEKIT_OK);
      CHECK(best >= 0 && chosen <= best_logprob && best_logprob < 0);
    }
    CHECK(allowed.calls == 6 && edgekit_session_position(session) == 8);
    allowed.result = 1;
    CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_CANCELLED);
    CHECK(edgekit_session_position(session) == 9);  // what was chosen before is part of the text
    edgekit_session_set_mask(session, nullptr, nullptr);
    CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_OK);
    CHECK(edgekit_session_position(session) == 9);
    // The same without a callback: the pass, then the choice.
    edgekit_info info{};
    info.struct_size = sizeof(info);
    CHECK(edgekit_model_info(model, &info, nullptr) == EDGEKIT_OK);
    std::vector<uint32_t> mask((info.vocab_size + 31) / 32);
    greedy.mask = mask.data();
    greedy.mask_words = static_cast<uint32_t>(mask.size());
    CHECK(edgekit_session_advance(session, nullptr) == EDGEKIT_OK && edgekit_session_position(session) == 10);
    CHECK(edgekit_session_advance(session, nullptr) == EDGEKIT_OK && edgekit_session_position(session) == 10);
    CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_INVALID_ARGUMENT);  // allows none
    mask[1] = 1u << 4;
    CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_OK && token == 36);
    CHECK(edgekit_session_position(session) == 10);
    edgekit_session_set_mask(session, allow_one, &allowed);  // the callback has the last word
    allowed.result = 0;
    CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_OK && token == allowed.token);
    greedy.mask_words = 1;
    CHECK(edgekit_session_next(session, &greedy, &token, nullptr) == EDGEKIT_INVALID_ARGUMENT);
    edgekit_session_destroy(session);
    edgekit_model_close(model);
  }
}
