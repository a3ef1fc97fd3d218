// The tokens of one forward pass.
#pragma once

#include <algorithm>
#include <atomic>

#include "select/selection_state.h"

namespace edgekit {

class KvCache;

constexpr uint32_t kMostTexts = 64;  // texts that one pass continues

// The next token of a text, in a pass that continues several texts by one token each.
struct NextToken {
  int32_t token = 0;
  uint32_t position = 0;  // where it is appended
  KvCache* cache = nullptr;
  const std::atomic<bool>* cancelled = nullptr;
  float* logits = nullptr;  // [vocab], to be filled
};

// Consecutive tokens of a text.
struct Input {
  const int32_t* tokens = nullptr;  // [count]
  uint32_t count = 0;
  const float* rows = nullptr;  // [count][hidden_size], in place of the tokens' embeddings; or null
  bool both_ways = false;       // each of them sees all of them
};

// A text that an encoder reads whole, in a pass over one or several of them.
struct Segment {
  uint32_t first = 0, count = 0;    // its tokens in the pass
  const int32_t* tokens = nullptr;  // [count]
  const uint8_t* types = nullptr;   // [count], or null: all 0
};

// The patches of a picture, in the order in which they are merged.
struct Patches {
  const float* values = nullptr;        // [count][columns]
  const uint32_t* positions = nullptr;  // [count]: rows of the table of positions; null without one
  uint32_t count = 0, columns = 0;
  const float* added = nullptr;  // [count][hidden_size], in place of those rows; or null
};

// Consecutive tokens of one text; or, when there are `texts`, the next token of each of them; or, when there are
// `segments`, all tokens of each of them.
struct Pass {
  uint32_t count = 0;     // tokens, at most the workspace's batch
  uint32_t position = 0;  // of the first of them
  uint32_t length = 0;    // of the sequence when the whole evaluation is over
  bool chooses = false;   // blocks compute only the neurons that the selection chooses for the one token
  SelectionState& selection;
  const int32_t* tokens = nullptr;  // [count]
  KvCache* cache = nullptr;         // null when feed-forward blocks alone are computed
  const std::atomic<bool>* stop = nullptr;
  const NextToken* texts = nullptr;  // [count], or null
  uint32_t drafted = 0;              // of the tokens of one text, the last that may turn out to be no text

  const Segment* segments = nullptr;  // [segment_count], or null
  uint32_t segment_count = 0;

  const float* rows = nullptr;  // [count][hidden_size]: what stands for the embeddings of the tokens; or null
  bool both_ways = false;       // the tokens of the one text see each other, whatever their order

  // The segment of a token, where there are segments.
  const Segment& segment_of(uint32_t t) const {
    const auto behind = [](uint32_t token, const Segment& s) { return token < s.first; };
    return *(std::upper_bound(segments, segments + segment_count, t, behind) - 1);
  }
  int32_t token_of(uint32_t t) const {
    if (segments != nullptr) return segment_of(t).tokens[t - segment_of(t).first];
    return texts != nullptr ? texts[t].token : tokens[t];
  }
  uint32_t type_of(uint32_t t) const {
    if (segments == nullptr || segment_of(t).types == nullptr) return 0;
    return segment_of(t).types[t - segment_of(t).first];
  }
  uint32_t position_of(uint32_t t) const {
    if (segments != nullptr) return t - segment_of(t).first;
    return texts != nullptr ? texts[t].position : position + t;
  }
  KvCache& cache_of(uint32_t t) const { return texts != nullptr ? *texts[t].cache : *cache; }
  // Whether nobody waits for the result any more.
  bool cancelled() const {
    if (texts == nullptr) return stop != nullptr && stop->load();
    return std::all_of(texts, texts + count, [](const NextToken& t) { return t.cancelled->load(); });
  }
};

}  // namespace edgekit
