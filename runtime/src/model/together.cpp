// Several sessions of a model advanced in one pass: the weights are read once for all of them.
#include <mutex>

#include "model/engine.h"

namespace edgekit {

namespace {
// Part i of n of what was counted between two times; the parts add up to the whole.
uint64_t share(uint64_t from, uint64_t to, uint32_t i, uint32_t n) {
  return (to - from) * (i + 1) / n - (to - from) * i / n;
}
}  // namespace

// Choosing neurons is for one token, drafts make passes of several tokens, and who captures wants its own pass.
bool Session::shares_passes() const {
  const bool whole = model_.plan.select == EDGEKIT_SELECT_ALL || model_.plan.select == EDGEKIT_SELECT_ROUTER;
  return whole && draft_most_ == 0 && selection_.capture == nullptr;
}

void Session::advance_together(Session* const* sessions, uint32_t count, Error* errors) {
  uint32_t members[kMostTexts];  // of the next pass
  uint32_t waiting = 0;
  const auto advance_waiting = [&] {
    if (waiting == 1) errors[members[0]] = sessions[members[0]]->advance().error();
    if (waiting > 1) advance_by_one_pass(sessions, members, waiting, errors);
    waiting = 0;
  };
  for (uint32_t i = 0; i < count; ++i) {
    Session& s = *sessions[i];
    errors[i] = Error{};
    if (s.chosen_ < 0) continue;
    if (!s.shares_passes()) {
      errors[i] = s.advance().error();
      continue;
    }
    errors[i] = s.check(&s.chosen_, 1).error();
    if (errors[i].status == EDGEKIT_OK) errors[i] = s.prepare_pass().error();
    if (errors[i].status != EDGEKIT_OK) continue;
    members[waiting++] = i;
    if (waiting == s.model_.workspace.texts) advance_waiting();
  }
  advance_waiting();
}

// members [count]: which of the sessions.
void Session::advance_by_one_pass(Session* const* sessions, const uint32_t* members, uint32_t count, Error* errors) {
  Model& model = sessions[members[0]]->model_;
  NextToken texts[kMostTexts];
  std::lock_guard<Turns> turn(model.turn);
  const Moment from = sessions[members[0]]->now();
  for (uint32_t i = 0; i < count; ++i) {
    Session& s = *sessions[members[i]];
    s.selection_.prompt = s.has_logits_ = false;
    texts[i] = {s.chosen_, s.position_, &s.cache_, &s.cancelled_, s.logits()};
  }
  const auto outcome = model.decoder->forward_texts(texts, count);
  const Moment end = sessions[members[0]]->now();
  for (uint32_t i = 0; i < count; ++i) {
    Session& s = *sessions[members[i]];
    const bool cancelled = s.cancelled_.exchange(false);
    if (!outcome.ok()) {
      errors[members[i]] = outcome.error();
    } else if (cancelled) {
      errors[members[i]] = fail(EDGEKIT_CANCELLED, "the evaluation was cancelled");
    } else {
      Moment to = end;
      to.read = from.read + share(from.read, end.read, i, count);
      to.window.hits = from.window.hits + share(from.window.hits, end.window.hits, i, count);
      to.window.misses = from.window.misses + share(from.window.misses, end.window.misses, i, count);
      to.window.vain = from.window.vain + share(from.window.vain, end.window.vain, i, count);
      errors[members[i]] = s.take_pass(from, to).error();
    }
  }
}

// The chosen token is part of the text, and the logits behind it are known.
Outcome Session::take_pass(const Moment& from, const Moment& to) {
  EK_TRY(check_finite(logits(), position_));
  history()[position_] = chosen_;
  count_until(from, to, 1, false);
  ++position_;
  chosen_ = -1;
  row_ = drafted_ = evaluated_ = 0;
  has_logits_ = true;
  return Nothing{};
}

}  // namespace edgekit
