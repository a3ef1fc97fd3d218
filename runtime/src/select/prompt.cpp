// Selection by prompt: every token gets the neurons that the prompt used most (GRIFFIN, arXiv 2404.01365).
#include <algorithm>

#include "select/selection.h"

namespace edgekit {

namespace {

bool offered(const Block& b) { return b.kind == Block::ffn; }

uint32_t choose(const Choice& choice, uint32_t* rows) {
  choice.usage.keep_most_used(choice.manifest, choice.sparsity);
  const uint32_t* kept = choice.usage.kept(choice.block);
  std::copy(kept + 1, kept + 1 + kept[0], rows);
  return kept[0];
}

}  // namespace

const Selection kPromptSelection = {
    EDGEKIT_SELECT_PROMPT,
    Evidence::usage,
    false,
    false,
    "this bundle has no feed-forward blocks to choose neurons of",
    offered,
    choose,
};

}  // namespace edgekit
