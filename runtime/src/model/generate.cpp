// The generation loop, one token at a time, and its speculative form: tokens that are drafted, and evaluated several in
// one pass, which reads the weights once (arXiv 2211.17192; a drafted token becomes text when sampling from the model
// itself chooses it). Sampling happens token by token, so that the text may end anywhere.
#include <algorithm>
#include <mutex>

#include "model/engine.h"
#include "sampling/lookup.h"

namespace edgekit {

Session::~Session() {
  if (draft_ != nullptr) draft_->drives_ = nullptr;
  if (drives_ != nullptr) drives_->draft_ = nullptr;
}

Outcome Session::set_draft(Session* draft) {
  if (draft != nullptr) {
    if (draft_most_ == 0) return fail(EDGEKIT_INVALID_ARGUMENT, "the model was not opened with draft_tokens");
    if (draft == this || draft->vocab_ != vocab_) {
      return fail(EDGEKIT_INVALID_ARGUMENT, "the draft model's vocabulary has " + std::to_string(draft->vocab_) +
                                                " tokens, this model's " + std::to_string(vocab_));
    }
    if (draft->drives_ != nullptr && draft->drives_ != this) {
      return fail(EDGEKIT_INVALID_ARGUMENT, "this session drafts for another one already");
    }
  }
  if (draft_ != nullptr) draft_->drives_ = nullptr;
  draft_ = draft;
  if (draft_ != nullptr) draft_->drives_ = this;
  return Nothing{};
}

void Session::forget_next() {
  chosen_ = -1;
  drafted_ = evaluated_ = 0;
}

Result<int32_t> Session::next(const edgekit_sampling& sampling) {
  EK_TRY(check_vocabulary(sampling, vocab_));
  EK_TRY(check_writes());
  EK_TRY(advance());
  if (!has_logits_) return fail(EDGEKIT_INVALID_ARGUMENT, "nothing was evaluated yet, so there are no logits");
  Surroundings around{history(), position_, sampling.mask};
  if (mask_ != nullptr) {
    EK_ASSIGN(around.mask, mask(sampling.mask));
  }
  if (around.mask != nullptr && !allows_any(around.mask, vocab_)) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "the mask allows no token of the vocabulary");
  }
  if (!seeded_) random_ = Random(sampling.seed);
  seeded_ = true;
  const float* row = logits() + size_t{row_} * vocab_;
  chosen_ = static_cast<int32_t>(sample_token(row, vocab_, sampling, around, random_, candidates()));
  return chosen_;
}

Outcome Session::advance() {
  if (chosen_ >= 0) EK_TRY(append(chosen_));
  chosen_ = -1;
  return Nothing{};
}

void Session::set_mask(edgekit_mask_callback callback, void* user) {
  mask_ = callback;
  mask_user_ = user;
}

// The callback's mask of the token that is to be chosen, within `given` (NULL: all); [mask_words(vocab)].
Result<const uint32_t*> Session::mask(const uint32_t* given) {
  uint32_t* words = reinterpret_cast<uint32_t*>(history() + model_.plan.context);
  given != nullptr ? std::copy_n(given, mask_words(vocab_), words) : std::fill_n(words, mask_words(vocab_), ~0u);
  if (mask_(words, mask_words(vocab_), mask_user_) != 0) {
    return fail(EDGEKIT_CANCELLED, "the mask of the next token was not given");
  }
  return words;
}

Outcome Session::logprobs(float* chosen, int32_t* tokens, float* logprobs, uint32_t count) {
  if (chosen_ < 0 || !has_logits_) {  // a pass that failed overwrote what the token was chosen by
    return fail(EDGEKIT_INVALID_ARGUMENT, "no token was chosen last, so there is nothing to tell of it");
  }
  if (count > vocab_)
    return fail(EDGEKIT_INVALID_ARGUMENT, "there are no more than " + std::to_string(vocab_) + " tokens");
  const float* row = logits() + size_t{row_} * vocab_;
  const double total = find_best(row, vocab_, count, candidates());
  if (chosen != nullptr) *chosen = static_cast<float>(row[chosen_] - total);
  for (uint32_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<int32_t>(candidates()[i].token);
    logprobs[i] = static_cast<float>(candidates()[i].logit - total);
  }
  return Nothing{};
}

Outcome Session::append(int32_t token) {
  if (evaluated_ == 0 || history()[position_] != token) return append_by_pass(token);
  EK_TRY(check_finite(logits() + size_t{row_ + 1} * vocab_, position_));
  std::lock_guard<Turns> turn(model_.turn);  // of the counters
  ++position_;
  ++row_;
  --evaluated_;
  ++stats_.generated_tokens;
  ++stats_.accepted_tokens;
  return Nothing{};
}

Outcome Session::append_by_pass(int32_t token) {
  EK_TRY(check(&token, 1));
  // Longer drafts while all of them become text, shorter ones while they do not.
  if (drafted_ > 0) {
    draft_length_ = evaluated_ == 0 ? std::min(draft_length_ + 2, draft_most_) : std::max(draft_length_ - 1, 1u);
  }
  drafted_ = evaluated_ = 0;
  int32_t tokens[1 + kMostDraft] = {token};
  uint32_t drafted = 0;
  if (draft_most_ > 0) {
    EK_ASSIGN(drafted, draft(token, tokens + 1));
  }
  std::lock_guard<Turns> turn(model_.turn);
  EK_TRY(recover());
  keep_checkpoint(false);
  const Moment begin = now();
  selection_.prompt = has_logits_ = false;
  float* rows = logits();  // [1 + drafted][vocab]
  auto outcome =
      model_.decoder->forward({tokens, 1 + drafted}, position_, position_ + 1 + drafted, cache_, selection_,
                              drafted == 0 ? rows : nullptr, drafted == 0 ? nullptr : rows, cancelled_, drafted);
  if (!outcome.ok()) {
    cancelled_.store(false);
    return outcome;
  }
  EK_TRY(check_finite(rows, position_));
  std::copy(tokens, tokens + 1 + drafted, history() + position_);
  count_pass(begin, 1, false);
  stats_.drafted_tokens += drafted;
  ++position_;
  drafted_ = evaluated_ = drafted;
  row_ = 0;
  has_logits_ = true;
  return Nothing{};
}

// Tokens that may follow one that was chosen; out [kMostDraft]. Returns how many.
Result<uint32_t> Session::draft(int32_t token, int32_t* out) {
  history()[position_] = token;  // in scratch behind the text
  const uint32_t count = position_ + 1;
  const uint32_t room = std::min({draft_length_, draft_most_, model_.plan.context - count});
  if (room == 0) return 0u;
  return draft_ != nullptr ? draft_->continue_text(history(), count, out, room)
                           : lookup_draft(history(), count, out, room);
}

// This session's own greedy continuation of a text.
Result<uint32_t> Session::continue_text(const int32_t* text, uint32_t count, int32_t* out, uint32_t room) {
  const uint32_t context = model_.plan.context;
  if (count > context) return 0u;
  const uint32_t known = std::min(position_, count - 1);  // the last token's logits are needed
  const uint32_t same = static_cast<uint32_t>(std::mismatch(text, text + known, history()).first - text);
  EK_TRY(rewind(cache_.reaches(same) || checkpoints_.serve() ? same : 0));
  EK_TRY(eval({text + position_, count - position_}, nullptr, nullptr));
  for (uint32_t n = 0;; ++n) {
    const float* row = logits();
    out[n] = static_cast<int32_t>(std::max_element(row, row + vocab_) - row);
    if (n + 1 == room || position_ == context) return n + 1;
    EK_TRY(eval({out + n, 1}, nullptr, nullptr));
  }
}

}  // namespace edgekit
