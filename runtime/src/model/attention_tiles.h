// What query heads take from the positions that they see, a tile of positions at a time: softmax(q k) v with a running
// maximum and sum (Milakov and Gimelshein, arXiv 1805.02867), so that no row of scores of the whole text is needed
// (FlashAttention, arXiv 2205.14135). Rows of the cache become floats once for all heads that share them.
#pragma once

#include "format/manifest.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"

namespace edgekit {

constexpr uint32_t kTilePositions = 32;
constexpr uint32_t kTileQueries = 16;  // heads of one or several tokens that share a tile

// Query heads that share keys and values: `heads` of them for each of `tokens` consecutive tokens of one text.
struct Queries {
  uint32_t position = 0;           // of the first token
  uint32_t tokens = 1, heads = 1;  // tokens * heads <= kTileQueries
  const float* q = nullptr;        // the first token's first head [head_dim]; its others follow
  float* out = nullptr;            // likewise
  size_t stride = 0;               // floats from one token to the next, of q and of out
  uint32_t seen_until = 0;         // positions up to which all tokens see, also behind them; 0: none
  const float* sinks = nullptr;    // [heads]: scores that take weight and give nothing; or null
};

// Floats of work memory for heads of a size; a multiple of 32.
uint64_t attention_work(uint32_t head_dim);

// A token's result is the same to the bit whatever other tokens and heads come with it. work [attention_work(head_dim)]
void attend(const KernelSet& kernels, const Block& block, CacheType type, const HeadRows& keys, const HeadRows& values,
            const Queries& queries, float* work);

}  // namespace edgekit
