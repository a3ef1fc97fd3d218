// Embeddings that a caller gives in place of tokens, as an encoder makes them of a picture.
#include <algorithm>

#include "model/engine.h"

namespace edgekit {

Outcome Session::eval_embeddings(const Input& input, uint32_t columns, float* last, float* all) {
  const Manifest& m = model_.bundle->manifest();
  EK_TRY(check_writes());
  if (columns != m.hidden_size) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "the embeddings have " + std::to_string(columns) + " values, this model's " +
                                              std::to_string(m.hidden_size));
  }
  if (input.both_ways && input.count > model_.plan.max_batch) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "embeddings that see each other are " + std::to_string(input.count) +
                                              ", more than a pass of " + std::to_string(model_.plan.max_batch) +
                                              " tokens holds; open with a larger max_batch");
  }
  if (!all_finite(input.rows, uint64_t{input.count} * columns)) {
    return fail(EDGEKIT_NOT_FINITE, "the embeddings are not finite");
  }
  return eval(input, last, all);
}

// Whether what a session evaluated between two positions were tokens, so that it can be evaluated again.
Outcome Session::check_tokens_alone(uint32_t begin, uint32_t end) const {
  if (given_end_ <= begin || given_begin_ >= end) return Nothing{};
  return fail(EDGEKIT_INVALID_ARGUMENT,
              "the session cannot go back to token " + std::to_string(end) +
                  ": it was given embeddings, as of a picture, before that; reset it and evaluate the text again");
}

void Session::note_given(uint32_t begin, uint32_t end) {
  if (given_end_ == 0) given_begin_ = begin;
  given_end_ = std::max(given_end_, end);
}

void Session::forget_given(uint32_t position) {
  given_end_ = std::min(given_end_, position);
  if (given_end_ <= given_begin_) given_begin_ = given_end_ = 0;
}

}  // namespace edgekit
