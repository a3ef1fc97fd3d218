// The work buffers of a forward pass; sized once, for the largest block, before weights are loaded.
#pragma once

#include "core/budget.h"
#include "format/manifest.h"

namespace edgekit {

// Rows decoded to floats at a time in passes of several tokens.
constexpr uint32_t kTileRows = 8;
constexpr uint32_t kFewTokens = 8;  // up to which unpacking a row for each four of them is faster than a tile of rows
constexpr uint32_t kTileNeurons = 16;
// Partial sums of an FFN in passes of one token, and the neurons that go to each in turn.
constexpr uint32_t kSlices = 16;
constexpr uint32_t kSliceRows = 32;

// Widths in floats, each a multiple of 32 with zeros past the real width.
struct Widths {
  uint32_t hidden = 0, embed = 0, q = 0, kv = 0, ffn = 0, experts = 0, top_k = 0, rope = 0, rank = 0;
  uint32_t widest = 0;  // the longest row of any matrix
  bool parallel = false;
};
Widths widths_of(const Manifest& manifest);

struct Workspace {
  Widths width;
  uint32_t batch = 0;
  Buffer x, before, normed, q, k, v, mixed, out;  // [batch][width]
  Buffer h;                                       // [batch][ffn]
  Buffer slices;                                  // [kSlices][hidden]
  Buffer embedded;                                // [batch][embed], only with a projection
  Buffer rope;                                    // [ropes][batch][2][rope]
  Buffer sums;                                    // [widest / 32]
  Buffer tiles;                                   // [threads][16][widest]
  Buffer scores;                                  // [threads][context]
  Buffer unit;                                    // one unit, for single rows of streamed matrices
  Buffer rank;                                    // [rank], only with predictors
  Buffer ahead_x, ahead, ahead_rows;              // [hidden], [ffn], uint32 [ffn]: a look at the next block
  Buffer rows, list;                              // uint32 [ffn]: selected neurons, and those that arrived
  Buffer at;                                      // [ffn] pointers to their rows
  Buffer router;                                  // [batch][experts]
  Buffer picked_x, picked_out;                    // [batch][hidden]: the tokens of one expert
};

uint64_t workspace_bytes(const Manifest& manifest, uint32_t batch, uint32_t context, uint32_t threads,
                         uint64_t unit_bytes);
Outcome allocate_workspace(Budget& budget, const Manifest& manifest, uint32_t batch, uint32_t context, uint32_t threads,
                           uint64_t unit_bytes, Workspace& out);

}  // namespace edgekit
