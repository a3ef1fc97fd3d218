// Vectors and scores of texts.
#include <algorithm>
#include <mutex>

#include "model/engine.h"

namespace edgekit {

namespace {
Pooling::Mode mode_of(uint32_t given, const Manifest& m) {
  if (given != EDGEKIT_POOLING_BUNDLE) return static_cast<Pooling::Mode>(given);
  return m.pooling.mode != Pooling::none ? m.pooling.mode : Pooling::last;
}
}  // namespace

Outcome Session::check_text(const edgekit_embedding& text) const {
  const Manifest& m = model_.bundle->manifest();
  if (m.output == Output::image) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "this model reads pictures and no texts; use edgekit_session_encode");
  }
  if (text.tokens == nullptr || text.vector == nullptr) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "a text's tokens and vector must not be NULL");
  }
  if (text.count == 0) return fail(EDGEKIT_INVALID_ARGUMENT, "a text without tokens has no vector");
  if (text.count > model_.plan.context) {
    return fail(EDGEKIT_CONTEXT_FULL, "a text of " + std::to_string(text.count) + " tokens is longer than the " +
                                          std::to_string(model_.plan.context) +
                                          " of the context; cut it, or open with a larger context");
  }
  EK_TRY(check_vocabulary_of(text.tokens, text.count));
  const uint32_t types = m.token_types != kNone ? model_.weights->matrix(m.token_types).rows : 1;
  for (uint32_t t = 0; t < text.count && text.types != nullptr; ++t) {
    if (text.types[t] < types) continue;
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "token type " + std::to_string(text.types[t]) + " is none of the model's " + std::to_string(types));
  }
  if (text.pooling > EDGEKIT_POOLING_LAST || text.normalize > EDGEKIT_NORMALIZE_NO) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "pooling or normalize of a text is out of range");
  }
  if (m.output == Output::score && mode_of(text.pooling, m) != m.pooling.mode) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "the head of a reranker needs the pooling of its bundle");
  }
  if (text.types != nullptr && !m.bidirectional) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "only encoders have token types");
  }
  return Nothing{};
}

Outcome Session::embed(edgekit_embedding* texts, uint32_t count) {
  if (model_.settings.compute != EDGEKIT_COMPUTE_ALL) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "this model was opened for parts of it only, and cannot read texts");
  }
  for (uint32_t i = 0; i < count; ++i) EK_TRY(check_text(texts[i]));
  reset();
  std::lock_guard<Turns> turn(model_.turn);
  const Manifest& m = model_.bundle->manifest();
  auto outcome = m.bidirectional ? embed_together(texts, count) : embed_apart(texts, count);
  cache_.clear();
  if (!outcome.ok()) cancelled_.store(false);
  return outcome;
}

// As many texts in a pass as its tokens allow: each weight is read once for all of them.
Outcome Session::embed_together(edgekit_embedding* texts, uint32_t count) {
  for (uint32_t done = 0; done < count;) {
    Segment segments[kMostTexts];
    Pooled pooled[kMostTexts];
    uint32_t n = 0, tokens = 0;
    for (; done + n < count && n < kMostTexts; ++n) {
      const edgekit_embedding& text = texts[done + n];
      if (n > 0 && text.count > model_.plan.max_batch - tokens) break;
      segments[n] = {tokens, text.count, text.tokens, text.types};
      pooled[n] = pooled_of(text);
      tokens += text.count;
    }
    const Moment begin = now();
    EK_TRY(model_.decoder->forward_segments(segments, n, selection_, pooled, cancelled_));
    for (uint32_t i = 0; i < n; ++i) EK_TRY(finish(pooled[i], texts[done + i]));
    count_pass(begin, tokens, true);
    done += n;
  }
  return Nothing{};
}

// Decoders read a text in batches, with the keys and values of what came before.
Outcome Session::embed_apart(edgekit_embedding* texts, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    edgekit_embedding& text = texts[i];
    Pooled pooled = pooled_of(text);
    const Moment begin = now();
    cache_.clear();
    selection_.prompt = true;
    for (uint32_t done = 0; done < text.count;) {
      const uint32_t n = std::min(model_.plan.max_batch, text.count - done);
      EK_TRY(model_.decoder->forward_pooled(text.tokens + done, n, done, text.count, cache_, selection_, pooled,
                                            cancelled_));
      done += n;
    }
    EK_TRY(finish(pooled, text));
    count_pass(begin, text.count, true);
  }
  return Nothing{};
}

Pooled Session::pooled_of(const edgekit_embedding& text) const {
  Pooled out;
  out.mode = mode_of(text.pooling, model_.bundle->manifest());
  out.vector = text.vector;
  out.states = text.states;
  return out;
}

Outcome Session::finish(Pooled& pooled, edgekit_embedding& text) const {
  const Manifest& m = model_.bundle->manifest();
  const bool normalize =
      text.normalize == EDGEKIT_NORMALIZE_BUNDLE ? m.pooling.normalize : text.normalize == EDGEKIT_NORMALIZE_YES;
  pooled.finish(m.hidden_size, normalize);
  text.score = pooled.score;
  if (all_finite(text.vector, m.hidden_size) && all_finite(&text.score, 1)) return Nothing{};
  return fail(EDGEKIT_NOT_FINITE,
              "the vector of a text is not finite: the model's weights or activations overflow; "
              "convert a sound checkpoint");
}

// Models that read texts and write none.
Outcome Session::check_writes() const {
  const Manifest& m = model_.bundle->manifest();
  if (m.writes()) return Nothing{};
  return fail(EDGEKIT_INVALID_ARGUMENT,
              m.output == Output::image
                  ? "this model reads pictures and writes no text; use edgekit_session_encode"
                  : "this model gives vectors or scores of texts and writes none; use edgekit_session_embed");
}

}  // namespace edgekit
