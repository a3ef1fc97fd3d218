// What a session holds between evaluations: kept in files, and taken back to an earlier token.
#include <algorithm>
#include <mutex>

#include "model/engine.h"
#include "model/session_file.h"

namespace edgekit {

void Session::reset() {
  cancelled_.store(false);
  forget_next();
  position_ = 0;
  forget_given(0);
  cache_.clear();
  checkpoints_.forget_behind(0);
  selection_.usage.clear();
  has_logits_ = seeded_ = false;
}

// What a file cannot hold, or what has nothing to hold.
Outcome Session::check_whole() const {
  if (model_.settings.compute != EDGEKIT_COMPUTE_ALL) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "this model was opened for parts of it only, and has no tokens");
  }
  EK_TRY(check_writes());
  if (model_.plan.select == EDGEKIT_SELECT_PROMPT) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "what selection by prompt learned from a prompt is not saved; use another selection");
  }
  return Nothing{};
}

Outcome Session::save(const std::string& path) {
  EK_TRY(check_whole());
  if (given_end_ > 0) {
    return fail(
        EDGEKIT_INVALID_ARGUMENT,
        "a session that was given embeddings, as of a picture, is not saved: its tokens alone do not tell them");
  }
  {
    std::lock_guard<Turns> turn(model_.turn);
    EK_TRY(recover());
    cache_.states().settle(position_, *model_.settings.kernels);
  }
  return save_session(path, model_.bundle->manifest(), model_.identity(), history(), position_, cache_, checkpoints_);
}

Outcome Session::restore(const std::string& path) {
  EK_TRY(check_whole());
  reset();
  uint32_t position;
  EK_ASSIGN(position,
            restore_session(path, model_.bundle->manifest(), model_.identity(), history(), cache_, checkpoints_));
  position_ = position;
  return Nothing{};
}

Outcome Session::rewind(uint32_t position) {
  if (position > position_) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "the session has " + std::to_string(position_) + " tokens, not " + std::to_string(position));
  }
  forget_next();
  seeded_ = false;
  if (position == position_) return Nothing{};
  if (!cache_.reaches(position)) {
    if (checkpoints_.serve() || cache_.recurrent()) return go_back(position);
    return fail(EDGEKIT_INVALID_ARGUMENT, "the session can go back to token " + std::to_string(cache_.earliest()) +
                                              ", not to " + std::to_string(position) +
                                              ": layers with a window keep only their window; reset the "
                                              "session and evaluate the text again");
  }
  checkpoints_.forget_behind(position);
  position_ = position;
  forget_given(position);
  has_logits_ = false;
  return Nothing{};
}

Outcome Session::copy_from(const Session& other, uint32_t position) {
  EK_TRY(check_whole());
  if (position > other.position_) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "the other session has " + std::to_string(other.position_) + " tokens, not " +
                                              std::to_string(position));
  }
  reset();
  if (position == 0) return Nothing{};
  {
    std::lock_guard<Turns> turn(model_.turn);
    cache_.copy_from(other.cache_);
    checkpoints_.copy_from(other.checkpoints_);
    std::copy_n(other.history(), other.position_, history());
    position_ = other.position_;
    given_begin_ = other.given_begin_;
    given_end_ = other.given_end_;
  }
  auto outcome = rewind(position);
  if (!outcome.ok()) reset();
  return outcome;
}

Outcome Session::go_back(uint32_t position) {
  std::lock_guard<Turns> turn(model_.turn);
  has_logits_ = false;
  uint32_t reached = 0;
  auto outcome = evaluate_again(position, reached);
  position_ = reached;
  forget_given(reached);
  return outcome;
}

// Takes the blocks to a position from the nearest checkpoint, by evaluating the tokens behind it again.
Outcome Session::evaluate_again(uint32_t position, uint32_t& reached) {
  const Moment begin = now();
  reached = checkpoints_.nearest(position);
  checkpoints_.restore(cache_, reached);
  EK_TRY(check_tokens_alone(reached, position));
  const uint32_t again = position - reached;
  selection_.prompt = true;
  while (reached < position) {
    const uint32_t n = std::min(model_.plan.max_batch, position - reached);
    if (checkpoints_.due(cache_)) checkpoints_.keep(cache_, reached);
    auto outcome = model_.decoder->forward({history() + reached, n}, reached, position, cache_, selection_, nullptr,
                                           nullptr, cancelled_);
    if (!outcome.ok()) {
      cancelled_.store(false);
      return outcome;
    }
    reached += n;
  }
  count_pass(begin, again, true);
  return Nothing{};
}

// Takes states that a failed pass left elsewhere to the end of the text. Within the model's turn.
Outcome Session::recover() {
  if (!cache_.recurrent() || cache_.reaches(position_)) return Nothing{};
  uint32_t reached = 0;
  return evaluate_again(position_, reached);
}

// What precedes a pass that sessions share.
Outcome Session::prepare_pass() {
  if (!cache_.recurrent()) return Nothing{};
  std::lock_guard<Turns> turn(model_.turn);
  EK_TRY(recover());
  keep_checkpoint(false);
  return Nothing{};
}

// Keeps a copy where a prompt begins, and wherever states have gone far beyond the last one.
void Session::keep_checkpoint(bool prompt) {
  if (position_ == 0 || (!prompt && !checkpoints_.due(cache_))) return;
  checkpoints_.keep(cache_, cache_.recurrent() ? cache_.states().position() : position_);
}

uint32_t Session::tokens(int32_t* out, uint32_t room) const {
  std::copy_n(history(), std::min(room, position_), out);
  return position_;
}

}  // namespace edgekit
