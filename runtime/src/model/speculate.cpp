// Generation, and its speculative form: tokens that are guessed, and checked several in one pass, which reads the
// weights once (arXiv 2211.17192; guesses are kept while sampling from the model itself agrees with them).
#include <algorithm>
#include <mutex>

#include "model/engine.h"
#include "sampling/lookup.h"

namespace edgekit {

Outcome Session::check_draft() const {
  if (draft_most_ == 0) return fail(EDGEKIT_INVALID_ARGUMENT, "the model was not opened with draft_tokens");
  const uint32_t select = model_.plan.select;
  if (select != EDGEKIT_SELECT_ALL && select != EDGEKIT_SELECT_ROUTER) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "drafts are checked by passes over all neurons: open with the selection 'all', or without drafts");
  }
  for (const Rope& rope : model_.bundle->manifest().ropes) {
    if (rope.switch_length != 0) {
      return fail(EDGEKIT_INVALID_ARGUMENT,
                  "this model's keys depend on the length of the text, so it takes no drafts");
    }
  }
  return Nothing{};
}

Outcome Session::set_draft(Session* draft) {
  if (draft != nullptr) EK_TRY(check_draft());
  if (draft != nullptr && (draft == this || draft->vocab_ != vocab_)) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "the draft model's vocabulary has " + std::to_string(draft->vocab_) +
                                              " tokens, this model's " + std::to_string(vocab_));
  }
  draft_ = draft;
  return Nothing{};
}

Result<uint32_t> Session::guess(int32_t token, int32_t* out, uint32_t room) {
  EK_TRY(check_draft());
  if (position_ == model_.plan.context) return 0u;
  history()[position_] = token;  // in scratch behind the text
  const uint32_t count = position_ + 1;
  room = std::min({room, draft_length_, draft_most_, model_.plan.context - count});
  if (room == 0) return 0u;
  return draft_ != nullptr ? draft_->propose(history(), count, out, room) : lookup_guess(history(), count, out, room);
}

// This session's own greedy continuation of a text.
Result<uint32_t> Session::propose(const int32_t* text, uint32_t count, int32_t* out, uint32_t room) {
  const uint32_t context = model_.plan.context;
  if (count > context) return 0u;
  const uint32_t known = std::min(position_, count - 1);  // the last token's logits are needed
  const uint32_t same = static_cast<uint32_t>(std::mismatch(text, text + known, history()).first - text);
  EK_TRY(rewind(same >= cache_.earliest() ? same : 0));
  EK_TRY(eval(text + position_, count - position_, nullptr, nullptr));
  for (uint32_t n = 0;; ++n) {
    const float* at = logits();
    out[n] = static_cast<int32_t>(std::max_element(at, at + vocab_) - at);
    if (n + 1 == room || position_ == context) return n + 1;
    EK_TRY(eval(out + n, 1, nullptr, nullptr));
  }
}

Outcome Session::verify(const int32_t* tokens, uint32_t count, const edgekit_sampling& how, uint32_t& kept,
                        int32_t& next) {
  EK_TRY(check_draft());
  EK_TRY(check(tokens, count));
  if (count > draft_most_ + 1) {
    return fail(EDGEKIT_INVALID_ARGUMENT, std::to_string(count - 1) + " guesses are more than draft_tokens allows");
  }
  {
    std::lock_guard<Turns> turn(model_.turn);
    const Moment begin = now();
    selection_.prompt = has_logits_ = false;
    auto outcome = model_.decoder->forward(tokens, count, position_, position_ + count, cache_, selection_, nullptr,
                                           logits(), cancelled_);
    if (!outcome.ok()) {
      cancelled_.store(false);
      return outcome;
    }
    std::copy(tokens, tokens + count, history() + position_);
    if (!seeded_) random_ = Random(how.seed);
    seeded_ = true;
    for (kept = 1;; ++kept) {
      const float* row = logits() + size_t{kept - 1} * vocab_;
      next = static_cast<int32_t>(sample_token(row, vocab_, how, history(), position_ + kept, random_, candidates()));
      if (kept == count || next != tokens[kept]) break;
    }
    note(begin, kept, false);
    stats_.drafted_tokens += count - 1;
    stats_.accepted_tokens += kept - 1;
  }
  const float* row = logits() + size_t{kept - 1} * vocab_;
  std::copy(row, row + vocab_, logits());
  has_logits_ = true;
  position_ += kept;
  // Longer guesses while all of them hold, shorter ones while they do not.
  if (count > 1)
    draft_length_ = kept == count ? std::min(draft_length_ + 2, draft_most_) : std::max(draft_length_ - 1, 1u);
  return Nothing{};
}

Outcome Session::generate(const int32_t* prompt, uint32_t prompt_count, uint32_t max_tokens, const int32_t* stop,
                          uint32_t stop_count, const edgekit_sampling& how, edgekit_token_callback callback,
                          void* user) {
  EK_TRY(eval(prompt, prompt_count, nullptr, nullptr));
  if (max_tokens == 0) return Nothing{};
  uint32_t given = 0;
  // Reports a token; false when it was the last.
  const auto give = [&](int32_t token) {
    if (std::find(stop, stop + stop_count, token) != stop + stop_count) return false;
    if (callback != nullptr && callback(token, user) != 0) return false;
    return ++given < max_tokens;
  };
  int32_t token, run[1 + kMostDraft];
  EK_ASSIGN(token, sample(how));
  while (give(token) && position_ < model_.plan.context) {
    if (draft_most_ == 0) {
      EK_TRY(eval(&token, 1, nullptr, nullptr));
      EK_ASSIGN(token, sample(how));
      continue;
    }
    run[0] = token;
    uint32_t guessed, kept;
    EK_ASSIGN(guessed, guess(token, run + 1, kMostDraft));
    EK_TRY(verify(run, 1 + guessed, how, kept, token));
    for (uint32_t i = 1; i < kept; ++i) {
      if (!give(run[i])) return rewind(position_ - (kept - i));
    }
  }
  return Nothing{};
}

}  // namespace edgekit
